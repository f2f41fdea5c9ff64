"""Sources of recorded poses: foreign rigs, SMPL sequences, and the distribution that ships."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from core.bodies import load_body
from core.errors import InputError
from core.training.fitted_poses import DATA_FILE, fit, load, mirrored, save
from core.training.mocap import SLOTS, PoseBank, Reference
from core.training.pose_files import BODY_JOINTS, named_joints, read_amass, read_any_bvh
from core.training.pose_sources import POSE_SOURCES, MixedPoses, kind_of_file, open_pose_source, open_pose_sources

MIXAMO = """HIERARCHY
ROOT mixamorig:Hips
{{ OFFSET 0 90 0 CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
 JOINT mixamorig:Spine {{ OFFSET 0 10 0 CHANNELS 3 Zrotation Xrotation Yrotation
  JOINT mixamorig:Spine1 {{ OFFSET 0 12 0 CHANNELS 3 Zrotation Xrotation Yrotation
   JOINT mixamorig:Head {{ OFFSET 0 25 0 CHANNELS 3 Zrotation Xrotation Yrotation End Site {{ OFFSET 0 15 0 }} }}
   {left_arm}
   {right_arm} }} }}
 {left_leg}
 {right_leg} }}
MOTION
Frames: {frames}
Frame Time: {time}
{values}
"""


def limb(names, offsets):
    """Nested joints of one limb."""
    opened = " ".join(
        f"JOINT mixamorig:{name} {{ OFFSET {x} {y} {z} CHANNELS 3 Zrotation Xrotation Yrotation"
        for name, (x, y, z) in zip(names, offsets, strict=True)
    )
    return opened + " End Site { OFFSET 0 0 5 }" + " }" * len(names)


def write_mixamo(path, turned, frames=4, time=1 / 30, corrupt=""):
    """A T-pose but for the joints in `turned`: name -> (z, x, y) degrees."""
    parts = {}
    for side, sign in (("Left", 1), ("Right", -1)):
        arm = ((sign * 15, 20, 0), (sign * 28, 0, 0), (sign * 25, 0, 0))
        parts[f"{side.lower()}_arm"] = limb([f"{side}{name}" for name in ("Arm", "ForeArm", "Hand")], arm)
        leg = ((sign * 9, -5, 0), (0, -42, 0), (0, -42, 0))
        parts[f"{side.lower()}_leg"] = limb([f"{side}{name}" for name in ("UpLeg", "Leg", "Foot")], leg)
    order = ["Hips", "Spine", "Spine1", "Head", "LeftArm", "LeftForeArm", "LeftHand", "RightArm", "RightForeArm", "RightHand",
             "LeftUpLeg", "LeftLeg", "LeftFoot", "RightUpLeg", "RightLeg", "RightFoot"]  # fmt: skip
    row = " ".join(["0 90 0", *(" ".join(map(str, turned.get(name, (0, 0, 0)))) for name in order)])
    path.write_text(MIXAMO.format(**parts, frames=frames, time=time, values="\n".join([row] * frames)) + corrupt)
    return path


@pytest.fixture(scope="module")
def body():
    return load_body("anny")


@pytest.fixture(scope="module")
def reference(body):
    return Reference.of(body)


def test_a_foreign_bvh_rig_is_understood_by_its_names(tmp_path, reference):
    path = write_mixamo(tmp_path / "clip.bvh", {"LeftLeg": (0, 60, 0), "LeftForeArm": (0, 0, -90), "Hips": (0, 0, 90)})
    (motion,) = read_any_bvh(path, reference)
    assert motion.direction("hip.L", "knee.L")[0] == pytest.approx([0, 1, 0], abs=1e-6)
    # the hips turned by 90 degrees to the body's left (the picture's right): its front, z, is now the picture's right
    forearm, shin = motion.direction("elbow.L", "wrist.L")[0], motion.direction("knee.L", "ankle.L")[0]
    assert forearm == pytest.approx([1, 0, 0], abs=1e-6)  # bent by 90 degrees to the front
    assert shin == pytest.approx([-np.sin(np.pi / 3), 0.5, 0], abs=1e-6)  # bent to the back
    for part in ("elbow.L", "elbow.R", "knee.L", "knee.R"):
        assert np.linalg.norm(motion.rig.hinges[part]) == pytest.approx(1)


def test_fast_bvh_files_are_thinned(tmp_path, reference):
    (motion,) = read_any_bvh(write_mixamo(tmp_path / "clip.bvh", {}, frames=40, time=1 / 120), reference)
    assert len(motion.positions) == 10


@pytest.mark.parametrize("prefix", ["Bip01 ", "Bip001_"])
def test_a_biped_is_understood_by_its_names(tmp_path, reference, prefix):
    path = write_mixamo(tmp_path / "clip.bvh", {"LeftLeg": (0, 60, 0)})
    text = path.read_text().replace("mixamorig:Hips", prefix + "Pelvis").replace("mixamorig:", prefix)
    for name, biped in (
        ("UpLeg", "Thigh"),
        ("ForeArm", "Forearm"),
        ("Arm", "UpperArm"),
        ("Leg", "Calf"),
        ("Foot", "Foot"),
        ("Hand", "Hand"),
    ):
        for side in ("Left", "Right"):
            text = text.replace(f"{prefix}{side}{name} ", f"{prefix}{side[0]}{prefix[-1]}{biped} ")
    path.write_text(text)
    (motion,) = read_any_bvh(path, reference)
    assert motion.direction("knee.L", "ankle.L")[0] == pytest.approx([0, 0.5, np.sin(np.pi / 3)], abs=1e-6)


def amass_file(path, world, columns=156, frames=8, rate=60.0, **turned):
    poses = np.zeros((frames, columns))
    poses[:, :3] = Rotation.from_matrix(world).as_rotvec()
    for name, rotvec in turned.items():
        joint = BODY_JOINTS.index(name)
        poses[:, 3 * joint : 3 * joint + 3] = rotvec
    np.savez(path, poses=poses, trans=np.zeros((frames, 3)), betas=np.zeros(16), mocap_framerate=rate)
    return path


@pytest.mark.parametrize("columns", [66, 72, 156, 165])
@pytest.mark.parametrize("up", ["z", "y", "-y"])
def test_smpl_sequences_in_any_world(tmp_path, columns, up):
    worlds = {"z": [[1, 0, 0], [0, 0, -1], [0, 1, 0]], "y": np.eye(3), "-y": np.diag([1, -1, -1])}
    path = amass_file(tmp_path / "a.npz", np.array(worlds[up], float), columns, L_Knee=(1.0, 0, 0), R_Elbow=(0, 1.2, 0))
    (motion,) = read_amass(path)
    assert len(motion.positions) == 4  # 60 Hz to 30
    assert motion.direction("pelvis", "head")[0][1] < -0.99
    assert motion.direction("hip.L", "knee.L")[0][1] > 0.98
    assert motion.direction("knee.L", "ankle.L")[0][2] > 0.7  # to the back
    assert motion.direction("elbow.R", "wrist.R")[0][2] < -0.8  # to the front
    assert motion.direction("shoulder.L", "elbow.L")[0][0] > 0.98


def test_an_amass_folder_is_read_as_it_is_unpacked(tmp_path, body):
    """SMPL-X files have another name for the rate; beside the motions of each subject lies a file of the shape alone."""
    folder = tmp_path / "ACCAD" / "Female1"
    folder.mkdir(parents=True)
    np.savez(folder / "walk_stageii.npz", poses=np.zeros((8, 165)), mocap_frame_rate=120.0)
    for name in ("shape.npz", "neutral_stagei.npz"):
        np.savez(folder / name, betas=np.zeros(16))
    assert len(open_pose_source(tmp_path, body).bank) == 2
    with pytest.raises(InputError, match="expected an array 'poses'"):
        open_pose_source(folder / "shape.npz", body)


def test_sources_are_mixed_and_seeded(tmp_path, body):
    amass_file(tmp_path / "a.npz", np.eye(3), L_Knee=(1.0, 0, 0))
    write_mixamo(tmp_path / "clip.bvh", {"Hips": (0, 0, 50)})
    source = open_pose_sources(["fitted", tmp_path], body)
    assert isinstance(source, MixedPoses) and open_pose_sources([], body) is None
    first, again = (source.sample(np.random.default_rng(1), 20) for _ in range(2))
    assert torch.equal(first, again)
    torch.testing.assert_close(first @ first.mT, torch.eye(3).expand_as(first), atol=1e-4, rtol=0)
    folder = open_pose_sources([tmp_path], body).sample(np.random.default_rng(0), 30)
    assert (folder[:, 0] @ torch.tensor([0, 0, -1.0]))[:, 2].max() < -0.98  # everybody faces the camera


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.bvh", b"HIERARCHY\nROOT a\n{", "cannot be read as bvh"),
        ("a.bvh", b"\x00\xff nonsense", "cannot be read as bvh"),
        ("a.npz", b"PK nonsense", "cannot be read as amass"),
        ("cmu_expmap.npz", b"", "cannot be read as cmu"),
        ("humanoid3d_x.txt", b"{}", "cannot be read as deepmimic"),
    ],
)
def test_broken_files_give_one_line(tmp_path, body, name, content, complaint):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=complaint) as caught:
        open_pose_sources([tmp_path], body)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_foreign_content_gives_one_line(tmp_path, body):
    for arrays, complaint in (({"x": np.zeros(3)}, "expected an array 'poses'"), ({"poses": np.zeros((4, 50))}, "66 or 72"),
                              ({"poses": np.full((4, 72), np.nan)}, "finite")):  # fmt: skip
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(InputError, match=complaint):
            open_pose_sources([tmp_path / "a.npz"], body)
    write_mixamo(tmp_path / "none.bvh", {}, frames=0)
    with pytest.raises(InputError, match="its 1 files hold no frame"):
        open_pose_sources([tmp_path / "none.bvh"], body)
    with pytest.raises(InputError, match="not found"):
        open_pose_sources([tmp_path / "nowhere"], body)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no motion capture in it"):
        open_pose_sources([tmp_path / "empty"], body)
    with pytest.raises(ValueError, match="no joint for the pelvis"):
        named_joints(["Bone", "Bone2"])
    assert {kind_of_file(tmp_path / name) for name in ("x.bvh", "y.npz", "cmu_expmap.npz", "humanoid3d_a.txt")} == set(POSE_SOURCES)


def test_the_shipped_distribution_is_small_licensed_and_human(body):
    assert DATA_FILE.stat().st_size < 1e6
    poses = load(body)
    assert {"walking", "running", "crawl", "poses"} <= set(poses.names)
    rotmats = poses.sample(np.random.default_rng(0), 300)
    torch.testing.assert_close(rotmats @ rotmats.mT, torch.eye(3).expand_as(rotmats), atol=1e-4, rtol=0)
    for side in "LR":  # knees bend one way only
        shins = rotmats[:, body.bone_index(f"lowerleg01.{side}")].numpy()
        bend = Rotation.from_matrix(shins).as_rotvec()[:, 0]
        assert np.degrees(np.percentile(bend, 1)) > -15 and np.degrees(np.percentile(bend, 90)) > 45
    upright = rotmats[:, 0, 1, 1]
    assert 0.5 < (upright > 0.8).float().mean() < 0.97


def test_a_fit_gives_back_what_it_was_fitted_to(tmp_path, body):
    random = np.random.default_rng(0)
    angles = random.normal(0.8, 0.2, 400)
    slots = np.tile(np.eye(3), (400, len(SLOTS), 1, 1))
    knee = SLOTS.index("lowerleg01.L")
    slots[:, knee] = Rotation.from_rotvec(np.stack([angles, 0 * angles, 0 * angles], 1)).as_matrix()
    bank = PoseBank(slots.astype(np.float32), ("cmu/train/walking/walking_1",), np.zeros(400, np.int32), body.bone_names)
    save(fit(bank, random), tmp_path / "poses.safetensors")
    found = load(body, tmp_path / "poses.safetensors").sample(random, 2000)
    bends = [Rotation.from_matrix(found[:, body.bone_index(f"lowerleg01.{side}")].numpy()).as_rotvec()[:, 0] for side in "LR"]
    bent = np.abs(np.stack(bends)).max(0)  # half of them are mirrored
    assert abs(bent.mean() - 0.8) < 0.05 and 0.12 < bent.std() < 0.3
    with pytest.raises(InputError, match="not found"):
        load(body, tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="damaged"):
        load(body, tmp_path / "bad.safetensors")


def test_a_mirrored_pose_is_the_mirror_image(body):
    poses = load(body)
    slots = poses.means[:40]
    twice = mirrored(mirrored(slots))
    np.testing.assert_allclose(twice, slots, atol=1e-12)
    left, right = (SLOTS.index(f"upperarm01.{side}") for side in "LR")
    np.testing.assert_allclose(mirrored(slots)[:, left, :, 0] * [1, -1, -1], slots[:, right, :, 0], atol=1e-12)
