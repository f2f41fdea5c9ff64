"""Reading motion capture and retargeting it."""

import json

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from core.bodies import load_body
from core.errors import InputError
from core.rotations import unit
from core.training import mocap

ADULT = (0.5, 0.67, 0.5, 0.5, 0.5, 0.5)
LIMBS = (
    ("shoulder", "elbow", "upperarm01", "lowerarm01"), ("elbow", "wrist", "lowerarm01", "wrist"),
    ("hip", "knee", "upperleg01", "lowerleg01"), ("knee", "ankle", "lowerleg01", "foot"),
)  # fmt: skip


@pytest.fixture(scope="module")
def body():
    return load_body("anny")


@pytest.fixture(scope="module")
def reference(body):
    return mocap.Reference.of(body)


@pytest.fixture
def heads_of(body):
    """Bank rows -> posed bone heads (n, 104, 3) and world rotations of an average adult."""

    def posed(slots):
        bank = mocap.PoseBank(slots, ("clip",), np.zeros(len(slots), np.int32), body.bone_names)
        _, heads, alignments = body.rest(torch.tensor([ADULT]).repeat(len(slots), 1))
        rotations, placed = body.bone_transforms(bank.rotmats_of(np.arange(len(slots))), heads, alignments)
        return (rotations @ alignments.mT).numpy(), placed.numpy()

    return posed


def deepmimic_file(folder, frames):
    path = folder / "deepmimic" / "humanoid3d_made.txt"
    path.parent.mkdir()
    path.write_text(json.dumps({"Frames": np.asarray(frames).tolist()}))
    return path


def deepmimic_frame(knee=0.0, elbow=0.0):
    """A DeepMimic frame at rest but for both knees and both elbows (radians)."""
    frame, column = np.zeros(44), 4
    for name, _, _, size in mocap.DEEPMIMIC_JOINTS:
        frame[column : column + size] = {4: [1, 0, 0, 0], 1: [knee if name.startswith("knee") else elbow], 0: []}[size]
        column += size
    return frame


def test_limbs_of_random_skeletons_point_as_the_source(tmp_path, body, reference, heads_of, monkeypatch):
    monkeypatch.setattr(mocap, "LEAN_SHARE", 1.0)
    random = np.random.default_rng(0)
    frames = np.zeros((20, 44))
    column = 4
    for name, _, _, size in mocap.DEEPMIMIC_JOINTS:
        if size == 4:
            frames[:, column : column + 4] = Rotation.from_rotvec(random.normal(0, 0.5, (20, 3))).as_quat()[:, [3, 0, 1, 2]]
        elif size == 1:
            frames[:, column] = random.uniform(0.1, 2, 20) * (-1 if name.startswith("knee") else 1)
        column += size
    (motion,) = mocap.read_deepmimic(deepmimic_file(tmp_path, frames), 1)
    rotations, heads = heads_of(mocap.retarget(motion, reference))
    for start, end, bone, tip in LIMBS:
        for side in "LR":
            found = unit(heads[:, body.bone_index(f"{tip}.{side}")] - heads[:, body.bone_index(f"{bone}.{side}")])
            assert np.abs(found - motion.direction(f"{start}.{side}", f"{end}.{side}")).max() < 0.02
    for part, bone in (("head", "head"), ("ankle.L", "foot.L")):
        assert np.abs(rotations[:, body.bone_index(bone)] - motion.rotation(part)).max() < 1e-4
    for part, bone in (("pelvis", "root"), ("chest", "spine01")):
        torso = rotations[:, body.bone_index(bone)] @ reference.vectors["torso"]
        assert np.abs(torso - motion.rotation(part) @ motion.rest_torso()).max() < 1e-4


def test_a_bank_holds_the_clips_one_after_the_other(tmp_path, body, reference):
    path = deepmimic_file(tmp_path, [deepmimic_frame(knee=-0.1 * k) for k in range(5)])
    (long,), (short,) = mocap.read_deepmimic(path, 1), mocap.read_deepmimic(path, 2)
    bank = mocap.bank_of(iter((long, short)), reference, body.bone_names)
    assert bank.names == ("deepmimic/made", "deepmimic/made")
    assert bank.clip_index.tolist() == [0] * 5 + [1] * 3 and bank.clip_index.dtype == np.int32
    assert np.array_equal(bank.slots, np.concatenate([mocap.retarget(long, reference), mocap.retarget(short, reference)]))
    assert mocap.bank_of(iter(()), reference, body.bone_names) is None


def test_knees_bend_back_and_elbows_to_the_front(tmp_path, body, reference, heads_of):
    path = deepmimic_file(tmp_path, [deepmimic_frame(), deepmimic_frame(knee=-1.5, elbow=1.5)])
    (motion,) = mocap.read_deepmimic(path, 1)
    slots = mocap.retarget(motion, reference)
    rotations, heads = heads_of(slots)
    for side, sign in (("L", 1), ("R", -1)):
        thigh, knee, foot, elbow, wrist = (
            heads[:, body.bone_index(f"{bone}.{side}")] for bone in ("upperleg01", "lowerleg01", "foot", "lowerarm01", "wrist")
        )
        assert (sign * thigh[:, 0] > 0.05).all()
        assert np.allclose(unit(foot - knee)[1], (0, np.cos(1.5), np.sin(1.5)), atol=1e-3)
        assert np.allclose(unit(wrist - elbow)[1], (0, np.cos(1.5), -np.sin(1.5)), atol=0.02)
        upper = rotations[:, body.bone_index(f"upperleg01.{side}")]
        assert np.abs(upper[0] - upper[1]).max() < 1e-3  # a bent knee leaves the thigh alone
        assert (unit(foot - knee)[0, 1]) > 0.999


def test_bend_axis_takes_the_hint_when_straight_or_bent_backwards():
    down, back = np.array([[0, 1.0, 0]]), unit(np.array([[0, 1.0, 1.0]]))
    hint = unit(np.array([[1.0, 0, 0.3]]))
    assert np.allclose(mocap.bend_axis(down, down, hint), hint)
    assert np.allclose(mocap.bend_axis(down, back, hint), [[1, 0, 0]])
    assert np.allclose(mocap.bend_axis(down, back * [1, 1, -1], hint), hint)


def test_cmu_rotations_are_read_as_row_vector_ones(tmp_path, reference):
    clip = np.zeros((3, 117), np.float32)
    clip[1:, 3 + 3 * 2 + 0] = 0.5  # left thigh about the source's x, which points left: v R swings it back for a plus
    np.savez(tmp_path / "cmu_expmap.npz", walking=clip)
    (motion,) = mocap.read_cmu(tmp_path / "cmu_expmap.npz", 1)
    assert len(motion.positions) == 2  # the first frame is a T-pose
    left, right = (motion.direction(f"hip.{side}", f"knee.{side}")[0] for side in "LR")
    assert left[2] < -0.3 and abs(right[2]) < 1e-6
    assert left[0] > 0 > right[0] and left[1] > 0.5


def test_broken_runs_are_left_out():
    def tilted(degrees):
        return Rotation.from_euler("x", degrees[:, None], degrees=True).as_matrix()

    tilts = np.array([0, 10, 30, 60, 85, 30, 10, 0, 25, 40, 25, 0.0])
    expected = [1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert mocap.upright_frames(tilted(tilts)).tolist() == [bool(value) for value in expected]


def test_bvh_reader_skips_end_sites(tmp_path):
    path = tmp_path / "pose.bvh"
    path.write_text(
        "HIERARCHY\nROOT a\n{\n OFFSET 0 0 0\n CHANNELS 3 Xrotation Yrotation Zrotation\n JOINT b\n {\n  OFFSET 1 2 3\n"
        "  CHANNELS 3 Xrotation Yrotation Zrotation\n  End Site\n  {\n   OFFSET 9 9 9\n  }\n }\n}\n"
        "MOTION\nFrames: 1\nFrame Time: 0.04\n1 2 3 4 5 6\n"
    )
    names, parents, offsets, _, values = mocap.read_bvh(path)
    assert names == ["a", "b"] and parents == [-1, 0] and offsets == [[0, 0, 0], [1, 2, 3]]
    assert values.tolist() == [[1, 2, 3, 4, 5, 6]]


def test_bad_folders_and_files_are_named(tmp_path, body):
    with pytest.raises(InputError, match="found no"):
        mocap.load_pose_bank(tmp_path, body, 8)
    with pytest.raises(InputError, match="stride 0"):
        mocap.load_pose_bank(tmp_path, body, 0)
    path = deepmimic_file(tmp_path, np.ones((2, 40)))
    with pytest.raises(InputError, match=path.name):
        mocap.load_pose_bank(tmp_path, body, 8)


@pytest.fixture(scope="module")
def bank(body, request):
    shared = request.getfixturevalue("shared")
    if not (shared / "data" / "mocap").is_dir():
        pytest.skip("needs ../shared/data/mocap")
    return mocap.load_pose_bank(shared / "data" / "mocap", body, 32)


def test_recorded_poses_are_rotations(bank, body):
    assert len(bank) > 2000 and len(bank.clip_index) == len(bank)
    assert {name.split("/")[0] for name in bank.names} == {"cmu", "deepmimic", "makehuman"}
    rotmats = bank.rotmats_of(np.arange(0, len(bank), 97))
    assert rotmats.shape[1:] == (len(body.bone_names), 3, 3) and rotmats.dtype == torch.float32
    assert torch.allclose(rotmats @ rotmats.mT, torch.eye(3).expand_as(rotmats), atol=1e-5)
    assert torch.linalg.det(rotmats).min() > 0.999


def test_walkers_swing_opposite_arms_and_legs(bank, body, heads_of):
    clips = [index for index, name in enumerate(bank.names) if "walking/walking" in name]
    slots = bank.slots[np.isin(bank.clip_index, clips)].copy()
    assert (slots[:, 0, 1, 1] > 0.9).all()  # upright
    slots[:, 0] = np.eye(3)
    heads = heads_of(slots)[1]
    left_arm, left_leg, right_leg = (-heads[:, body.bone_index(bone), 2] for bone in ("wrist.L", "foot.L", "foot.R"))
    assert np.corrcoef(left_arm, right_leg)[0, 1] > 0.5
    assert np.corrcoef(left_arm, left_leg)[0, 1] < -0.5
