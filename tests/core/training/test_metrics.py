import numpy as np
import pytest

from core.joints import JOINT_NAMES, indices
from core.training.metrics import (
    Estimates,
    acceleration_error_m_s2,
    correct_keypoints,
    facing_errors_deg,
    jitter_m_s2,
    joint_distances_mm,
    mpjpe_mm,
    mpvpe_mm,
    pa_mpjpe_mm,
    pck,
    score,
)


def standing() -> np.ndarray:
    """(1, 14, 3) a person who faces the camera, arms down."""
    places = {
        "Ankle": (0.1, 0.85, 0.0), "Knee": (0.1, 0.45, -0.03), "Hip": (0.1, 0.0, 0.0),
        "Wrist": (0.3, 0.0, -0.1), "Elbow": (0.25, -0.25, 0.0), "Shoulder": (0.2, -0.5, 0.0),
    }  # fmt: skip
    joints = np.zeros((1, 14, 3))
    for k, name in enumerate(JOINT_NAMES):
        if name in ("Neck", "Head"):
            joints[0, k] = (0, -0.55 if name == "Neck" else -0.75, -0.02)
        else:
            x, y, z = places[name.split("_")[1]]
            joints[0, k] = (x if name[0] == "L" else -x, y, z)
    return joints


def turned(joints: np.ndarray, degrees: float, axis: int = 1) -> np.ndarray:
    """Joints turned about an axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = [k for k in range(3) if k != axis]
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return joints @ matrix.T


def test_mpjpe_is_centred_on_the_hips() -> None:
    true = standing()
    assert mpjpe_mm(true + np.array([0.3, -0.2, 1.0]), true) == pytest.approx([0], abs=1e-9)
    off = true.copy()
    off[0, indices(("Head",))] += [0.03, 0.04, 0]  # 50 mm in one of 14 joints
    assert mpjpe_mm(off, true) == pytest.approx([50 / 14])
    assert joint_distances_mm(off, true)[0, JOINT_NAMES.index("Head")] == pytest.approx(50)


def test_a_wrong_hip_moves_everything() -> None:
    true = standing()
    off = true.copy()
    off[0, JOINT_NAMES.index("L_Hip")] += [0, 0, 0.02]  # the centre moves by 10 mm, so 13 joints are off by 10 and the hip by 10
    assert mpjpe_mm(off, true) == pytest.approx([10])


def test_pa_mpjpe_forgives_a_similarity_but_no_mirror() -> None:
    true = standing()
    assert pa_mpjpe_mm(turned(true, 70) * 1.7 + [1, 2, 3], true) == pytest.approx([0], abs=1e-6)
    assert pa_mpjpe_mm(true * [-1, 1, 1], true) == pytest.approx(pa_mpjpe_mm(true * [1, 1, -1], true), abs=1e-3)
    lopsided = true.copy()
    lopsided[0, JOINT_NAMES.index("L_Wrist")] += [0.2, -0.3, -0.4]
    assert pa_mpjpe_mm(lopsided * [-1, 1, 1], lopsided)[0] > 20


def test_pa_mpjpe_by_hand() -> None:
    # Four points of a square, one diagonal longer: no rotation or scale helps but the mean scale s = <a, b> / <a, a>.
    source = np.zeros((1, 14, 3))
    source[0, :4, :2] = [[1, 0], [-1, 0], [0, 1], [0, -1]]
    target = source.copy()
    target[0, :2] *= 2
    scale = (2 + 2 + 1 + 1) / 4
    assert pa_mpjpe_mm(source, target) == pytest.approx([1000 * (2 * (2 - scale) + 2 * (scale - 1)) / 14])


def test_mpvpe_is_a_mean_distance() -> None:
    true = np.zeros((2, 4, 3))
    off = true.copy()
    off[1, 2] = (0.03, 0.0, 0.04)
    assert mpvpe_mm(off, true) == pytest.approx([0, 12.5])


@pytest.mark.parametrize("degrees", [0.0, 30.0, 90.0, 179.0])
def test_facing_error_is_the_turn(degrees: float) -> None:
    true = standing()
    assert facing_errors_deg(turned(true, degrees), true) == pytest.approx([degrees], abs=1e-4)
    assert facing_errors_deg(turned(true, degrees, axis=0), true) == pytest.approx([degrees], abs=1e-4)


def test_pck_measures_in_the_box_of_the_visible_keypoints() -> None:
    true = np.array([[[0.0, 0.0], [100.0, 0.0], [0.0, 50.0], [1000.0, 0.0]]])
    visible = np.array([[True, True, True, False]])  # the box is 100 x 50, so 10 px are allowed
    off = true + np.array([[[9.9, 0.0], [0.0, 10.1], [6.0, 8.0], [0.0, 0.0]]])
    assert correct_keypoints(off, true, visible).tolist() == [[True, False, True, False]]
    assert pck(off, true, visible) == pytest.approx(2 / 3)
    assert np.isnan(pck(off, true, np.zeros_like(visible)))


def test_pck_pools_keypoints_not_people() -> None:
    true = np.array([[[0.0, 0.0], [10.0, 0.0]], [[0.0, 0.0], [10.0, 0.0]]])
    off = true + np.array([[[0, 0], [0, 0]], [[5, 0], [5, 0]]])
    visible = np.array([[True, True], [True, False]])  # the second person: one keypoint, a box of no size
    assert pck(off, true, visible) == pytest.approx(2 / 3)


def test_acceleration_by_hand() -> None:
    t = np.arange(5) / 10
    track = np.zeros((5, 2, 3))
    track[:, 0, 0] = 0.5 * 3.0 * t**2  # one point under 3 m/s^2, the other at rest
    assert jitter_m_s2(track, 10) == pytest.approx(1.5)
    assert acceleration_error_m_s2(track, track + 0.2, 10) == pytest.approx(0)
    assert acceleration_error_m_s2(track, np.zeros_like(track), 10) == pytest.approx(1.5)


def test_score_collects_them() -> None:
    true = np.concatenate([standing()] * 2)
    predicted = np.concatenate([standing(), turned(standing(), 90)])
    crop = np.zeros((2, 14, 2))
    off = crop.copy()
    off[0, 0] = (3 / 112, 4 / 112)  # 5 px
    seen = np.zeros((2, 14))
    seen[0, :2] = 1
    scores = score(Estimates(predicted, predicted, off), Estimates(true, true, crop), seen)
    assert scores.num_people == 2
    assert scores.mpjpe_mm == pytest.approx(mpjpe_mm(predicted, true).mean())
    assert scores.pa_mpjpe_mm == pytest.approx(0, abs=1e-6)
    assert (scores.facing_over_60_deg, scores.facing_over_120_deg) == (0.5, 0.0)
    assert scores.projection_error_px == pytest.approx(2.5)
    assert "mpjpe_mm" in str(scores)
