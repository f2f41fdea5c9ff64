"""Joint visibility."""

import numpy as np

from app.visibility import joint_visibility, visibility_in_frame

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
