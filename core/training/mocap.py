"""Recorded human motion as Anny poses: reads motion capture, and retargets it by the directions of the limbs.

Three sources are read from one folder: `cmu_expmap.npz` (CMU Graphics Lab Motion Capture Database, mocap.cs.cmu.edu),
`deepmimic/*.txt` (Peng et al. 2018) and `makehuman_cc0/*.bvh`. Everything ends in camera axes: x right, y down, z away;
a body at rest faces the camera, so its left side is at +x. Bones' lengths are the target's own: only rotations are kept.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.bodies.anny import AnnyBody
from core.errors import InputError
from core.rotations import about_z, frame, swing, unit
from core.training.poses import NECK, SIDES, SPINE, reference_heads

log = logging.getLogger(__name__)

SPREAD = {"spine": SPINE, "neck": NECK}  # one rotation shared by a chain of bones
SIDED = ("clavicle", "upperarm01", "lowerarm01", "upperleg01", "lowerleg01", "foot")
SLOTS = ("root", *SPREAD, *(f"{bone}.{side}" for bone in SIDED for side, _ in SIDES))
CMU_FRAMES_PER_DEEPMIMIC_FRAME = 4  # 120 Hz against 30 Hz
SURE_BEND_SINE = 0.4  # from this sine on (24 degrees) a bent limb alone says where its hinge lies
DOUBTFUL_TILT_DEGREES, BROKEN_TILT_DEGREES = 20.0, 45.0
LEAN_SHARE = 0.5  # CMU's hips lie 7 cm further before its spine: no correction tips bodies forward, a full one gives hollow backs
SHRUG_FROM_DEGREES, SHRUG_SHARE = 50.0, 0.22  # a raised arm lifts its shoulder, as in PoseSampler


@dataclass(frozen=True)
class PoseBank:
    """Poses of one body, stored as the rotations that move.

    slots: (n, len(SLOTS), 3, 3) float32 rotations relative to the parent; slot "spine" and "neck" hold one bone's share
    names: clip names such as "cmu/train/walking/walking_1"; clip_index: (n,) int32 index into names
    bone_names: the body's bones, in order
    """

    slots: np.ndarray
    names: tuple[str, ...]
    clip_index: np.ndarray
    bone_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.slots)

    def rotmats_of(self, rows: np.ndarray) -> Tensor:
        """(n,) row numbers -> (n, J, 3, 3) float32 rotations of each bone relative to its parent, the root first.

        Bone 0 keeps the recorded tilt and heading; a turn about y multiplied from the left gives another heading.
        """
        return spread_over_bones(self.slots[rows], self.bone_names)


def spread_over_bones(slots: np.ndarray, bone_names: tuple[str, ...]) -> Tensor:
    """(n, len(SLOTS), 3, 3) float32 -> (n, J, 3, 3) rotations of each bone relative to its parent."""
    rotmats = np.tile(np.eye(3, dtype=np.float32), (len(slots), len(bone_names), 1, 1))
    for number, slot in enumerate(SLOTS):
        for bone in SPREAD.get(slot, (slot,)):
            rotmats[:, bone_names.index(bone)] = slots[:, number]
    return torch.from_numpy(rotmats)


def load_pose_bank(folder: Path, body: AnnyBody, stride: int) -> PoseBank:
    """Read every clip of the folder and keep one frame in `stride` (at CMU's 120 Hz; slower sources are thinned alike).

    Raises InputError when the folder holds none of the sources, or a damaged file.
    """
    if stride < 1:
        raise InputError(f"stride {stride}: expected 1 or more frames")
    reference = Reference.of(body)
    bank = bank_of(read_motions(folder, reference, stride), reference, body.bone_names)
    if bank is None:
        raise InputError(f"motion capture folder {folder}: found no cmu_expmap.npz, deepmimic/*.txt or makehuman_cc0/*.bvh")
    return bank


@dataclass(frozen=True)
class Rig:
    """What to read off a source skeleton.

    camera_from_source: (3, 3) axes; its rest pose then stands upright and faces the camera
    joints: index by part: pelvis, chest, head (whose rotations count), and hip, knee, ankle, shoulder, elbow, wrist
            with .L or .R (whose positions count; also the rotations of hip, shoulder and ankle)
    hinges: rest axes in camera axes about which knee.L, knee.R, elbow.L and elbow.R bend, by the right hand rule
    """

    camera_from_source: np.ndarray
    joints: Mapping[str, int]
    hinges: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Motion:
    """One clip after forward kinematics, in camera axes.

    rotations: (N, J, 3, 3) of joints against their rest; positions: (N, J, 3); rest_positions: (J, 3)
    """

    name: str
    rig: Rig
    rotations: np.ndarray
    positions: np.ndarray
    rest_positions: np.ndarray

    def rotation(self, part: str) -> np.ndarray:
        """(N, 3, 3) rotation of a part against its rest."""
        return self.rotations[:, self.rig.joints[part]]

    def rest_torso(self) -> np.ndarray:
        """(3,) unit direction from between the hips to between the shoulders, at rest."""
        hips, shoulders = ([self.rig.joints[f"{part}.{side}"] for side, _ in SIDES] for part in ("hip", "shoulder"))
        return unit(self.rest_positions[shoulders].mean(0) - self.rest_positions[hips].mean(0))

    def direction(self, start: str, end: str) -> np.ndarray:
        """(N, 3) unit vectors from one joint to another."""
        return unit(self.positions[:, self.rig.joints[end]] - self.positions[:, self.rig.joints[start]])


@dataclass(frozen=True)
class Reference:
    """The target with identity rotations: unit vectors (3,) by name.

    Directions of "torso" (hips to shoulders), "arm.L", "forearm.L", "thigh.L", "shin.L", and hinge axes of "elbow.L" and
    "knee.L"; the same with .R
    """

    vectors: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, body: AnnyBody) -> "Reference":
        """Measure an average adult."""
        heads = reference_heads(body)
        tops, bottoms = (heads[[body.bone_index(f"{bone}.{side}") for side, _ in SIDES]] for bone in ("upperarm01", "upperleg01"))
        vectors = {"torso": unit(tops.mean(0) - bottoms.mean(0))}
        for side, _ in SIDES:
            shoulder, elbow, wrist = (heads[body.bone_index(f"{bone}.{side}")] for bone in ("upperarm01", "lowerarm01", "wrist"))
            hip, knee, ankle = (heads[body.bone_index(f"{bone}.{side}")] for bone in ("upperleg01", "lowerleg01", "foot"))
            vectors[f"arm.{side}"], vectors[f"forearm.{side}"] = unit(elbow - shoulder), unit(wrist - elbow)
            vectors[f"thigh.{side}"], vectors[f"shin.{side}"] = unit(knee - hip), unit(ankle - knee)
            vectors[f"elbow.{side}"] = unit(np.cross(elbow - shoulder, wrist - elbow))
            vectors[f"knee.{side}"] = np.array([1.0, 0, 0])
        return cls(vectors)


def retarget(motion: Motion, reference: Reference) -> np.ndarray:
    """(N, len(SLOTS), 3, 3) float32 rotations that point the target's limbs as the source's."""
    lean = fraction_of(swing(reference.vectors["torso"], motion.rest_torso()[None]), LEAN_SHARE)[0]
    pelvis, chest = motion.rotation("pelvis") @ lean, motion.rotation("chest") @ lean
    slots = {
        "root": pelvis,
        "spine": fraction_of(transpose(pelvis) @ chest, 1 / len(SPINE)),
        "neck": fraction_of(transpose(chest) @ motion.rotation("head"), 1 / len(NECK)),
    }
    for side, sign in SIDES:
        upper, lower = _limb(motion, reference, side, ("shoulder", "elbow", "wrist"), ("arm", "forearm"))
        shrug = _shrug(transpose(chest) @ motion.direction(f"shoulder.{side}", f"elbow.{side}")[..., None], sign)
        slots[f"clavicle.{side}"] = shrug
        slots[f"upperarm01.{side}"] = transpose(chest @ shrug) @ upper
        slots[f"lowerarm01.{side}"] = transpose(upper) @ lower
        upper, lower = _limb(motion, reference, side, ("hip", "knee", "ankle"), ("thigh", "shin"))
        slots[f"upperleg01.{side}"] = transpose(pelvis) @ upper
        slots[f"lowerleg01.{side}"] = transpose(upper) @ lower
        slots[f"foot.{side}"] = transpose(lower) @ motion.rotation(f"ankle.{side}")
    return np.stack([slots[name] for name in SLOTS], 1).astype(np.float32)


def bank_of(motions: Iterable[Motion], reference: Reference, bone_names: tuple[str, ...]) -> PoseBank | None:
    """Clips as poses of the body that `reference` was measured on; None for no clips."""
    names, parts = [], []
    for motion in motions:
        names.append(motion.name)
        parts.append(retarget(motion, reference))
    if not parts:
        return None
    clip_index = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
    return PoseBank(np.concatenate(parts), tuple(names), clip_index, bone_names)


def _limb(
    motion: Motion, reference: Reference, side: str, joints: tuple[str, str, str], bones: tuple[str, str]
) -> tuple[np.ndarray, np.ndarray]:
    """World rotations (N, 3, 3) of the upper and lower bone of an arm or a leg."""
    start, middle, end = (f"{joint}.{side}" for joint in joints)
    upper, lower = motion.direction(start, middle), motion.direction(middle, end)
    hinge = bend_axis(upper, lower, motion.rotation(start) @ motion.rig.hinges[middle])
    rest_hinge = reference.vectors[middle]
    return tuple(
        frame(direction, hinge) @ transpose(frame(reference.vectors[f"{bone}.{side}"], rest_hinge))
        for bone, direction in zip(bones, (upper, lower), strict=True)
    )


def bend_axis(upper: np.ndarray, lower: np.ndarray, hint: np.ndarray) -> np.ndarray:
    """Axis (N, 3) about which a limb bends: normal of its bend plane, and near straight (or bent backwards) the hint.

    upper, lower: (N, 3) unit directions of the two bones; hint: (N, 3) where the hinge would lie in the upper bone
    """
    normal = np.cross(upper, lower)
    sine = np.linalg.norm(normal, axis=-1, keepdims=True)
    weight = np.clip(sine / SURE_BEND_SINE, 0, 1) * ((normal * hint).sum(-1, keepdims=True) > 0)
    return unit((1 - weight) * hint + weight * normal / np.maximum(sine, 1e-9))


def _shrug(arm: np.ndarray, sign: float) -> np.ndarray:
    """Clavicle (N, 3, 3) of an upper arm that points along arm (N, 3, 1) in the chest's frame."""
    elevation = np.degrees(np.arccos(np.clip(arm[:, 1, 0], -1, 1)))
    return about_z(-sign * SHRUG_SHARE * np.maximum(elevation - SHRUG_FROM_DEGREES, 0))


def fraction_of(rotmats: np.ndarray, share: float) -> np.ndarray:
    """(N, 3, 3) -> rotations about the same axes by a share of the angle."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_rotvec(Rotation.from_matrix(rotmats).as_rotvec() * share).as_matrix()


def transpose(rotmats: np.ndarray) -> np.ndarray:
    """(..., 3, 3) inverse rotations."""
    return rotmats.swapaxes(-1, -2)


def forward_kinematics(name: str, rig: Rig, parents: np.ndarray, offsets: np.ndarray, local: np.ndarray) -> Motion:
    """parents: (J,) with -1 for the root; offsets: (J, 3) from the parent; local: (N, J, 3, 3) against the parent; source axes."""
    rotations, positions = np.empty_like(local), np.zeros(local.shape[:3])
    for joint, parent in enumerate(parents):
        rotations[:, joint] = local[:, joint] if parent < 0 else rotations[:, parent] @ local[:, joint]
        if parent >= 0:
            positions[:, joint] = positions[:, parent] + rotations[:, parent] @ offsets[joint]
    rest = np.zeros_like(offsets)
    for joint, parent in enumerate(parents[1:], start=1):
        rest[joint] = rest[parent] + offsets[joint]
    axes = rig.camera_from_source
    return Motion(name, rig, axes @ rotations @ axes.T, positions @ axes.T, rest @ axes.T)


def read_motions(folder: Path, reference: Reference, stride: int) -> Iterator[Motion]:
    """Every clip of every source there is, in a fixed order. Raises InputError when a file cannot be understood."""
    slow_stride = max(1, stride // CMU_FRAMES_PER_DEEPMIMIC_FRAME)
    sources: dict[str, Callable[[Path], Iterator[Motion]]] = {
        "cmu_expmap.npz": lambda path: read_cmu(path, stride),
        "deepmimic/*.txt": lambda path: read_deepmimic(path, slow_stride),
        "makehuman_cc0/*.bvh": lambda path: read_makehuman(path, reference),
    }
    for source, read in sources.items():
        paths = sorted(folder.glob(source))
        if not paths:
            log.warning("motion capture folder %s: no %s", folder, source)
        for path in paths:
            try:
                yield from read(path)
            except (ValueError, KeyError, IndexError, EOFError) as error:
                raise InputError(f"motion capture file {path}: cannot be read as {source} ({error}); fetch it anew") from error


# The skeleton of cgspeed's BVH conversion of CMU, in 5.6 cm units; the numbers as in the data_utils.py of
# "Learning Trajectory Dependencies for Human Motion Prediction" (Mao et al. 2019). Left is +x, y up, z to the front.
CMU_PARENTS = np.array([
    -1, 0, 1, 2, 3, 4, 5, 0, 7, 8, 9, 10, 11, 0, 13, 14, 15, 16, 17, 18, 15,
    20, 21, 22, 23, 24, 25, 23, 27, 15, 29, 30, 31, 32, 33, 34, 32, 36,
])  # fmt: skip
CMU_OFFSETS = {  # joints not listed sit on their parent
    2: (1.65674, -1.80282, 0.62477), 3: (2.5972, -7.13576, 0), 4: (2.49236, -6.8477, 0), 5: (0.19704, -0.54136, 2.14581),
    6: (0, 0, 1.11249), 8: (-1.6107, -1.80282, 0.62476), 9: (-2.59502, -7.12977, 0), 10: (-2.4678, -6.78024, 0),
    11: (-0.23024, -0.63258, 2.13368),
    12: (0, 0, 1.11569), 14: (0.01961, 2.0545, -0.14112), 15: (0.01021, 2.06436, -0.05921), 17: (0.00713, 1.56711, 0.14968),
    18: (0.03429, 1.56041, -0.10006), 19: (0.01305, 1.6256, -0.05265), 21: (3.54205, 0.90436, -0.17364), 22: (4.86513, 0, 0),
    23: (3.35554, 0, 0), 25: (0.66117, 0, 0), 26: (0.53306, 0, 0), 28: (0.5412, 0, 0.5412), 30: (-3.49802, 0.75994, -0.32616),
    31: (-5.02649, 0, 0), 32: (-3.36431, 0, 0), 34: (-0.73041, 0, 0), 35: (-0.58887, 0, 0), 37: (-0.59786, 0, 0.59786),
}  # fmt: skip
CMU_RIG = Rig(  # rests in a T-pose with the palms down: elbows bend to the front
    np.diag([1.0, -1, -1]),
    {"pelvis": 0, "chest": 15, "head": 18, "hip.L": 2, "knee.L": 3, "ankle.L": 4, "hip.R": 8, "knee.R": 9, "ankle.R": 10,
     "shoulder.L": 21, "elbow.L": 22, "wrist.L": 23, "shoulder.R": 30, "elbow.R": 31, "wrist.R": 32},
    {"knee.L": np.array([1.0, 0, 0]), "knee.R": np.array([1.0, 0, 0]), "elbow.L": np.array([0, 1.0, 0]), "elbow.R": np.array([0, -1.0, 0])},
)  # fmt: skip


def read_cmu(path: Path, stride: int) -> Iterator[Motion]:
    """Clips of (N, 117): root translation, then 38 exponential maps. They speak of row vectors: v R, hence the minus.

    The first frame of a clip is left out, since it is a T-pose and no motion, and so are frames with a broken root.
    """
    from scipy.spatial.transform import Rotation

    offsets = np.array([CMU_OFFSETS.get(joint, (0, 0, 0)) for joint in range(len(CMU_PARENTS))], float)
    with np.load(path, allow_pickle=False) as clips:
        for name in sorted(clips.files):
            clip = clips[name].astype(float)
            upright = upright_frames(Rotation.from_rotvec(-clip[:, 3:6]).as_matrix())
            rotvecs = clip[1::stride, 3:][upright[1::stride]].reshape(-1, 3)
            local = Rotation.from_rotvec(-rotvecs).as_matrix().reshape(-1, len(CMU_PARENTS), 3, 3)
            yield forward_kinematics(f"cmu/{name}", CMU_RIG, CMU_PARENTS, offsets, local)


def upright_frames(root: np.ndarray) -> np.ndarray:
    """(N,) bool, False where the root of an upright action is broken. root: (N, 3, 3), y up, at the full frame rate.

    Some clips were resampled as Euler angles: where the heading passes their pole, the body falls over while the feet
    stand. All of the actions are upright ones, and no sound frame tilts the pelvis by BROKEN_TILT_DEGREES.
    """
    from scipy.ndimage import label

    tilt = np.degrees(np.arccos(np.clip(root[:, 1, 1], -1, 1)))
    runs, _ = label(tilt > DOUBTFUL_TILT_DEGREES)
    return (runs == 0) | ~np.isin(runs, runs[tilt > BROKEN_TILT_DEGREES])


# DeepMimic's data/characters/humanoid3d.txt: joint, parent, offset in metres, numbers a frame. x to the front, y up, z right.
DEEPMIMIC_JOINTS = (
    ("pelvis", -1, (0, 0, 0), 4), ("chest", 0, (0, 0.236151, 0), 4), ("head", 1, (0, 0.223894, 0), 4),
    ("hip.R", 0, (0, 0, 0.084887), 4), ("knee.R", 3, (0, -0.421546, 0), 1), ("ankle.R", 4, (0, -0.40987, 0), 4),
    ("shoulder.R", 1, (-0.02405, 0.2435, 0.18311), 4), ("elbow.R", 6, (0, -0.274788, 0), 1), ("wrist.R", 7, (0, -0.258947, 0), 0),
    ("hip.L", 0, (0, 0, -0.084887), 4), ("knee.L", 9, (0, -0.421546, 0), 1), ("ankle.L", 10, (0, -0.40987, 0), 4),
    ("shoulder.L", 1, (-0.02405, 0.2435, -0.18311), 4), ("elbow.L", 12, (0, -0.274788, 0), 1), ("wrist.L", 13, (0, -0.258947, 0), 0),
)  # fmt: skip
DEEPMIMIC_RIG = Rig(  # rests with hanging arms
    np.array([[0, 0, -1.0], [0, -1, 0], [-1, 0, 0]]),
    {joint[0]: index for index, joint in enumerate(DEEPMIMIC_JOINTS)},
    {f"{joint}.{side}": np.array([sign, 0, 0]) for joint, sign in (("knee", 1.0), ("elbow", -1.0)) for side, _ in SIDES},
)


def read_deepmimic(path: Path, stride: int) -> Iterator[Motion]:
    """One clip of (N, 44): duration, root position, quaternions (w first) of ball joints, angles about z of hinges."""
    from scipy.spatial.transform import Rotation

    values = np.array(json.loads(path.read_text(encoding="utf-8"))["Frames"], float)[::stride]
    local = np.tile(np.eye(3), (len(values), len(DEEPMIMIC_JOINTS), 1, 1))
    column = 4
    for joint, (_, _, _, size) in enumerate(DEEPMIMIC_JOINTS):
        part = values[:, column : column + size]
        if size == 4:
            local[:, joint] = Rotation.from_quat(part[:, [1, 2, 3, 0]]).as_matrix()
        elif size == 1:
            local[:, joint] = about_z(np.degrees(part[:, 0]))
        column += size
    if column != values.shape[1]:
        raise ValueError(f"{values.shape[1]} numbers a frame, expected {column}")
    _, parents, offsets, _ = zip(*DEEPMIMIC_JOINTS, strict=True)
    name = f"deepmimic/{path.stem.removeprefix('humanoid3d_')}"
    yield forward_kinematics(name, DEEPMIMIC_RIG, np.array(parents), np.array(offsets, float), local)


MAKEHUMAN_PARTS = {"pelvis": "root", "chest": "spine01", "head": "head"}
MAKEHUMAN_SIDED = {
    "hip": "upperleg01", "knee": "lowerleg01", "ankle": "foot",
    "shoulder": "upperarm01", "elbow": "lowerarm01", "wrist": "wrist",
}  # fmt: skip


def read_makehuman(path: Path, reference: Reference) -> Iterator[Motion]:
    """Poses of the rig that Anny's comes from: six channels a joint; the positions of all but the root say nothing.

    Left is +x, z up, -y to the front; it rests as Anny does.
    """
    from scipy.spatial.transform import Rotation

    names, parents, offsets, channels, values = read_bvh(path)
    starts = np.concatenate([[0], np.cumsum([len(row) for row in channels])[:-1]]).astype(int)
    local = np.empty((len(values), len(names), 3, 3))
    for joint, (start, row) in enumerate(zip(starts, channels, strict=True)):
        turns = [number for number, channel in enumerate(row) if channel.endswith("rotation")]
        order = "".join(row[number][0] for number in turns)
        local[:, joint] = Rotation.from_euler(order, values[:, start + np.array(turns)], degrees=True).as_matrix() if turns else np.eye(3)
    joints = {part: names.index(bone) for part, bone in MAKEHUMAN_PARTS.items()}
    joints |= {f"{part}.{side}": names.index(f"{bone}.{side}") for part, bone in MAKEHUMAN_SIDED.items() for side, _ in SIDES}
    rig = Rig(np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]), joints, reference.vectors)
    yield forward_kinematics(f"makehuman/{path.stem}", rig, np.array(parents), np.array(offsets), local)


def read_bvh(path: Path) -> tuple[list[str], list[int], list[list[float]], list[list[str]], np.ndarray]:
    """Joint names, parents (-1 for the root), offsets, channel names, and values (frames, channels); end sites are left out."""
    names, parents, offsets, channels, stack = [], [], [], [], []
    tokens = iter(path.read_text(encoding="utf-8").split())
    for token in tokens:
        if token in ("ROOT", "JOINT"):
            parents.append(stack[-1] if stack else -1)
            names.append(" ".join(takewhile(lambda word: word != "{", tokens)))
            stack.append(len(names) - 1)
        elif token == "{":  # of an end site
            stack.append(-1)
        elif token == "}":
            stack.pop()
        elif token == "OFFSET":
            offset = [float(next(tokens)) for _ in range(3)]
            if stack[-1] >= 0:
                offsets.append(offset)
        elif token == "CHANNELS":
            channels.append([next(tokens) for _ in range(int(next(tokens)))])
        elif token == "Time:":
            break
    next(tokens, None)  # the frame time
    values = np.array([float(token) for token in tokens]).reshape(-1, sum(len(row) for row in channels))
    return names, parents, offsets, channels, values
