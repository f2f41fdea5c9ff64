"""Motion capture of other people's rigs as Motions: BVH by the names of its joints, SMPL and SMPL-H sequences as AMASS keeps them."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from core.bodies.smpl_files import SMPL_JOINTS
from core.rotations import unit
from core.training.mocap import CMU_RIG, MAKEHUMAN_SIDED, Motion, Reference, Rig, forward_kinematics, read_bvh, read_makehuman
from core.training.poses import SIDES

FRAMES_PER_S = 30.0
"""Faster recordings are thinned to about this."""
BVH_NAMES = {  # part -> what rigs call it, lower case, without space, dot, underscore or prefix; {s} is left or right, l or r
    "pelvis": ("hips", "hip", "pelvis", "root"),
    "chest": ("spine3", "spine2", "chest3", "chest2", "chest", "spine1", "upperchest", "torso", "spine"),
    "head": ("head",),
    "hip": ("{s}upleg", "{s}hip", "{s}thigh", "{s}upperleg", "thigh{s}", "hip{s}"),
    "knee": ("{s}leg", "{s}knee", "{s}shin", "{s}lowerleg", "{s}calf", "calf{s}", "shin{s}", "knee{s}"),
    "ankle": ("{s}foot", "{s}ankle", "foot{s}", "ankle{s}"),
    "shoulder": ("{s}arm", "{s}upperarm", "{s}uparm", "{s}shoulder", "upperarm{s}", "shoulder{s}"),
    "elbow": ("{s}forearm", "{s}elbow", "{s}lowerarm", "{s}lowarm", "lowerarm{s}", "forearm{s}", "elbow{s}"),
    "wrist": ("{s}hand", "{s}wrist", "hand{s}", "wrist{s}"),
}
UNSIDED = ("pelvis", "chest", "head")
BIPED_PREFIX = r"^bip\d+"
"""3ds Max calls its Biped's bones Bip01 L Thigh, or Bip001_L_Thigh."""


def read_any_bvh(path: Path, reference: Reference) -> Iterator[Motion]:
    """One clip. Raises ValueError when the rig's joints cannot be told apart."""
    from scipy.spatial.transform import Rotation

    names, parents, offsets, channels, values = read_bvh(path)
    if {f"{bone}.L" for bone in MAKEHUMAN_SIDED.values()} <= set(names):
        yield from read_makehuman(path, reference)
        return
    joints = named_joints(names)
    rest = rest_positions(parents, np.array(offsets))
    axes = upright_axes(rest, joints)
    rig = Rig(axes, joints, _hinges(rest @ axes.T, joints))
    step = max(1, round(1 / (FRAMES_PER_S * bvh_frame_time_s(path))))
    starts = np.concatenate([[0], np.cumsum([len(row) for row in channels])[:-1]]).astype(int)
    values = values[::step]
    local = np.tile(np.eye(3), (len(values), len(names), 1, 1))
    for joint, (start, row) in enumerate(zip(starts, channels, strict=True)):
        turns = [number for number, channel in enumerate(row) if channel.lower().endswith("rotation")]
        if turns:
            order = "".join(row[number][0].upper() for number in turns)
            local[:, joint] = Rotation.from_euler(order, values[:, start + np.array(turns)], degrees=True).as_matrix()
    yield forward_kinematics(f"bvh/{path.stem}", rig, np.array(parents), np.array(offsets), local)


def named_joints(names: list[str]) -> dict[str, int]:
    """Part -> index by BVH_NAMES. Raises ValueError that says which part has no joint."""
    plain = [re.sub(BIPED_PREFIX, "", re.sub(r"[\s._\-]", "", name.rsplit(":", 1)[-1].lower())) for name in names]
    joints = {}
    for part, candidates in BVH_NAMES.items():
        for key, sides in ((part, ("",)),) if part in UNSIDED else ((f"{part}.L", ("left", "l")), (f"{part}.R", ("right", "r"))):
            known = [candidate.format(s=side) for candidate in candidates for side in sides]
            found = next((plain.index(name) for name in known if name in plain), None)
            if found is None:
                raise ValueError(f"no joint for the {key} among {', '.join(names[:8])}...; expected a name such as {known[0]!r}")
            joints[key] = found
    return joints


def rest_positions(parents: list[int], offsets: np.ndarray) -> np.ndarray:
    """(J, 3) where joints lie with identity rotations."""
    rest = np.zeros_like(offsets)
    for joint, parent in enumerate(parents):
        rest[joint] = offsets[joint] + (rest[parent] if parent >= 0 else 0)
    return rest


def upright_axes(rest: np.ndarray, joints: dict[str, int]) -> np.ndarray:
    """(3, 3) camera axes from a source whose rest pose stands: its axes nearest to up and to the body's left. Raises ValueError."""
    up = _nearest_axis(rest[joints["head"]] - rest[joints["pelvis"]])
    left = _nearest_axis(rest[joints["hip.L"]] - rest[joints["hip.R"]])
    if abs(up @ left) > 0.5:
        raise ValueError("its rest pose does not stand: head over hips, and left hip beside the right one")
    return np.stack([left, -up, np.cross(left, -up)])


def _nearest_axis(vector: np.ndarray) -> np.ndarray:
    axis = np.zeros(3)
    axis[np.abs(vector).argmax()] = np.sign(vector[np.abs(vector).argmax()])
    return axis


def _hinges(rest: np.ndarray, joints: dict[str, int]) -> dict[str, np.ndarray]:
    """Axes about which elbows bend to the front and knees to the back, in camera axes, from the rest pose."""
    hinges = {}
    for side, _ in SIDES:
        for middle, start, towards in (("elbow", "shoulder", [0, 0, -1.0]), ("knee", "hip", [0, 0, 1.0])):
            bone = unit(rest[joints[f"{middle}.{side}"]] - rest[joints[f"{start}.{side}"]])
            axis = np.cross(bone, towards)
            hinges[f"{middle}.{side}"] = unit(axis) if np.linalg.norm(axis) > 0.2 else np.array([1.0, 0, 0])
    return hinges


def bvh_frame_time_s(path: Path) -> float:
    """Seconds a frame. Raises ValueError when the file does not say."""
    found = re.search(r"Frame Time:\s*([0-9.eE+-]+)", path.read_text(encoding="utf-8", errors="replace"))
    if found is None or not float(found.group(1)) > 0:
        raise ValueError("no 'Frame Time:' above 0 in it")
    return float(found.group(1))


BODY_JOINTS = SMPL_JOINTS[:22]
"""What SMPL, SMPL-H and SMPL-X share: the first 22 joints."""
SMPL_PARENTS = np.array([-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19])
SMPL_OFFSETS_M = {  # of the left side and the middle, to the centimetre; the model rests in a T-pose with y up, facing z
    "L_Hip": (0.06, -0.08, -0.02), "L_Knee": (0.04, -0.39, 0.01), "L_Ankle": (-0.01, -0.43, -0.04), "L_Foot": (0.04, -0.06, 0.12),
    "Spine1": (0, 0.12, -0.03), "Spine2": (0, 0.14, 0.03), "Spine3": (0, 0.05, 0), "Neck": (0, 0.21, -0.03), "Head": (0, 0.09, 0.05),
    "L_Collar": (0.07, 0.11, -0.02), "L_Shoulder": (0.12, 0.05, -0.02), "L_Elbow": (0.26, -0.01, -0.03), "L_Wrist": (0.25, 0.01, 0),
}  # fmt: skip
SMPL_PARTS = {"pelvis": "Pelvis", "chest": "Spine3", "head": "Head"} | {
    f"{part.lower()}.{side}": f"{side}_{part}" for part in ("Hip", "Knee", "Ankle", "Shoulder", "Elbow", "Wrist") for side in "LR"
}
SMPL_RIG = Rig(CMU_RIG.camera_from_source, {part: BODY_JOINTS.index(name) for part, name in SMPL_PARTS.items()}, CMU_RIG.hinges)
POSE_COLUMNS = (66, 72, 156, 165)
AMASS_RATES = ("mocap_framerate", "mocap_frame_rate")
"""What its SMPL-H and its SMPL-X files call frames a second."""


def read_amass(path: Path) -> Iterator[Motion]:
    """One clip of an npz with `poses` (T, 66, 72, 156 or 165) axis-angle, root first; one of AMASS_RATES may be there.

    Whether the world has z or y up, or y down as in a camera, is read off the bodies: most people stand most of the time.
    Raises ValueError.
    """
    from scipy.spatial.transform import Rotation

    with np.load(path, allow_pickle=False) as content:
        if "poses" not in content:
            raise ValueError(f"holds {', '.join(sorted(content.files)) or 'nothing'}, expected an array 'poses'")
        poses = np.asarray(content["poses"], float)
        rate = next((float(content[name]) for name in AMASS_RATES if name in content), FRAMES_PER_S)
    if poses.ndim != 2 or poses.shape[1] not in POSE_COLUMNS or len(poses) == 0:
        raise ValueError(f"poses of shape {poses.shape}, expected (frames, {' or '.join(map(str, POSE_COLUMNS))})")
    if not np.isfinite(poses).all() or not rate > 0:
        raise ValueError(f"poses or the frame rate ({rate}) are no finite numbers")
    poses = poses[:: max(1, round(rate / FRAMES_PER_S)), : 3 * len(BODY_JOINTS)]
    local = Rotation.from_rotvec(poses.reshape(-1, 3)).as_matrix().reshape(len(poses), len(BODY_JOINTS), 3, 3)
    local[:, 0] = _y_up_from_world(local[:, 0]) @ local[:, 0]
    offsets = np.array([_smpl_offset(name) for name in BODY_JOINTS])
    yield forward_kinematics(f"amass/{path.stem}", SMPL_RIG, SMPL_PARENTS, offsets, local)


def _smpl_offset(name: str) -> tuple[float, float, float]:
    x, y, z = SMPL_OFFSETS_M.get(name.replace("R_", "L_"), (0, 0, 0))
    return (-x if name.startswith("R_") else x, y, z)


def _y_up_from_world(root: np.ndarray) -> np.ndarray:
    """(3, 3) for a clip's root rotations (T, 3, 3): which of the world's axes heads point to, with z as AMASS has it when unsure."""
    up = root[:, :, 1].mean(0)
    if up[1] > 0.5:
        return np.eye(3)
    return np.diag([1.0, -1, -1]) if up[1] < -0.5 else np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
