"""Joint visibility."""

import numpy as np
import pytest

from app.visibility import FADE_S, SHOWN_ABOVE, VisibilityFilter, joint_visibility, vertex_visibility, visibility_in_frame, with_smooth_edge

SIZE_PX = (640, 480)


def test_outside_is_hidden_and_inside_is_seen() -> None:
    joints_px = np.array([[320, 240], [-40, 240], [320, 600], [700, 100], [5, 5]], np.float32)
    seen = visibility_in_frame(joints_px, SIZE_PX, side_px=100)
    assert seen.dtype == np.float32
    assert seen.tolist() == [1, 0, 0, 0, 1]


def test_the_edge_is_a_ramp_that_scales_with_the_person() -> None:
    on_edge = np.array([[320.0, 480.0]])
    for side_px in (50.0, 500.0):
        assert visibility_in_frame(on_edge, SIZE_PX, side_px)[0] == np.float32(0.5)
    just_inside = np.array([[320.0, 474.0]])
    assert visibility_in_frame(just_inside, SIZE_PX, 100)[0] == 1
    assert 0.5 < visibility_in_frame(just_inside, SIZE_PX, 800)[0] < 1


def test_a_half_body_hides_what_the_detector_did_not_see() -> None:
    joints_px = np.full((14, 2), 200, np.float32)
    evidence = np.array([0.02] * 6 + [0.9] * 8, np.float32)
    seen = joint_visibility(joints_px, SIZE_PX, 200, evidence)
    assert (seen[:6] == 0).all()
    assert (seen[6:] == 1).all()


def test_without_evidence_the_frame_decides_and_trust_counts() -> None:
    joints_px = np.full((14, 2), 200, np.float32)
    assert (joint_visibility(joints_px, SIZE_PX, 200, None) == 1).all()
    assert np.allclose(joint_visibility(joints_px, SIZE_PX, 200, None, trust=0.25), 0.25)


def _over_time(measured: np.ndarray, fps: float = 30.0) -> np.ndarray:
    """(T,) of one joint -> what the filter says, (T,)."""
    calm = VisibilityFilter()
    return np.array([calm(np.full(14, value, np.float32), 7 + i / fps)[0] for i, value in enumerate(measured)])


def test_a_joint_at_the_edge_does_not_flicker() -> None:
    flickering = 0.45 + 0.12 * np.sign(np.sin(np.arange(120) * 2.1))
    for start in (1.0, 0.0):
        calm = _over_time(np.concatenate([np.full(30, start), flickering]))[45:]
        assert np.ptp(calm) < 1e-6
        assert (calm[0] >= SHOWN_ABOVE) == bool(start)


@pytest.mark.parametrize("fps", [10.0, 30.0, 120.0])
def test_joints_fade_in_and_out_in_time(fps: float) -> None:
    half = int(2 * fps)
    calm = _over_time(np.concatenate([np.ones(half), np.zeros(half), np.ones(half)]), fps)
    assert np.abs(np.diff(calm)).max() <= 1 / fps / FADE_S + 1e-6
    assert calm[half - 1] == calm[-1] == 1
    assert calm[half + int(np.ceil(FADE_S * fps))] == 0
    assert _over_time(np.zeros(3))[0] == 0


def test_a_vertex_follows_the_joints_around_it() -> None:
    weights = np.zeros((3, 14), np.float32)
    weights[0, 0] = weights[2, 8] = 1
    weights[1, [0, 8]] = 0.5
    joints = np.array([0] * 6 + [1] * 8, np.float32)
    alpha = vertex_visibility(joints, weights)
    assert alpha.tolist() == [0, pytest.approx(0.741, abs=1e-3), 1]
    steps = np.diff([vertex_visibility(np.full(14, value, np.float32), weights)[0] for value in np.linspace(0, 1, 101)])
    assert (steps >= 0).all()
    assert steps.max() < 0.06


def test_the_edge_of_what_is_shown_is_a_line() -> None:
    """A flat net of triangles that is hidden below a slanted line: what remains ends on that line, not in steps."""
    x, y = np.meshgrid(np.arange(30) / 30, np.arange(30) / 30)
    points = np.stack([x.ravel(), y.ravel(), np.zeros(900)], axis=1)
    corner = (np.arange(29)[:, None] * 30 + np.arange(29)).ravel()
    faces = np.concatenate([np.stack([corner, corner + 1, corner + 31], 1), np.stack([corner, corner + 31, corner + 30], 1)])
    depth = 0.6 - points[:, 1] + 0.3 * points[:, 0]  # 0 on the line, in the net's own units
    seen = np.clip(0.45 + depth, 0, 1)
    moved, shown = with_smooth_edge(points, faces, seen)
    depth_after = 0.6 - moved[:, 1] + 0.3 * moved[:, 0]
    assert depth_after[shown].min() > -0.002
    new = shown & (seen <= 0.45)
    assert new.sum() > 20
    assert np.abs(depth_after[new]).max() < 0.002
    np.testing.assert_array_equal(moved[seen > 0.45], points[seen > 0.45])


def test_all_or_nothing_shown_moves_nothing() -> None:
    points, faces = np.eye(3), np.array([[0, 1, 2]])
    for value in (0.0, 1.0):
        moved, shown = with_smooth_edge(points, faces, np.full(3, value))
        assert moved is points
        assert shown.tolist() == [bool(value)] * 3
