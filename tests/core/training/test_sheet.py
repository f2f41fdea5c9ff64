from pathlib import Path

import cv2
import numpy as np
import pytest

from core.errors import InputError
from core.joints import JOINT_NAMES
from core.training.metrics import hip_centred
from core.training.sheet import FOUND_COLOR, TRUE_COLOR, Panel, panel_drawn, side_drawn, write_sheet
from core.types import MeshEstimate
from tests.core.training.test_metrics import standing
from tests.toy import ToyBody

BODY = ToyBody()
CAMERA = np.array([0.9, 0.0, 0.1], np.float32)


def panel(joints_m: np.ndarray, true_m: np.ndarray | None = None) -> Panel:
    """Somebody whose estimated joints are given; hips need not be at 0, as the pelvis of some bodies is not between them."""
    estimate = MeshEstimate(
        BODY.levels.template_m, joints_m.astype(np.float32), np.zeros((14, 2), np.float32), CAMERA, np.eye(3)[:2].copy()
    )  # fmt: skip
    return Panel(np.zeros((224, 224, 3), np.uint8), estimate, np.full((14, 2), 112.0), np.ones(14, bool), 1.0, "somebody", true_m)


def pixels(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """(n, 2) x, y of the pixels of a colour."""
    return np.argwhere((picture == color).all(-1))[:, ::-1]


def test_what_is_far_away_is_on_the_right_from_the_side() -> None:
    joints = standing()[0]
    joints[[JOINT_NAMES.index("L_Wrist"), JOINT_NAMES.index("L_Elbow")], 2] += 0.6  # an arm stretched away from the camera
    red = pixels(side_drawn(panel(joints), np.zeros((0, 3), np.int32)), FOUND_COLOR)
    assert red[:, 0].max() > 112 + 0.5 * 0.9 * 112
    assert red[:, 0].min() > 112 - 0.3 * 0.9 * 112
    assert not len(pixels(side_drawn(panel(joints), BODY.faces), TRUE_COLOR))


def test_true_joints_stand_where_the_estimated_hips_are() -> None:
    joints = standing()[0] + np.array([0.0, -0.1, 0.15])
    same = side_drawn(panel(joints, hip_centred(joints)), np.zeros((0, 3), np.int32))
    assert len(pixels(same, FOUND_COLOR)) > 200
    assert len(pixels(same, TRUE_COLOR)) < 5  # hidden behind the red ones
    other = hip_centred(joints)
    other[JOINT_NAMES.index("Head"), 2] += 0.3
    assert len(pixels(side_drawn(panel(joints, other), np.zeros((0, 3), np.int32)), TRUE_COLOR)) > 20


def test_a_body_without_faces_is_drawn_as_a_skeleton() -> None:
    assert panel_drawn(panel(standing()[0]), np.zeros((0, 3), np.int32)).shape == (242, 672, 3)


def test_panels_fill_rows_of_three(tmp_path: Path) -> None:
    write_sheet(tmp_path / "a.png", [panel(standing()[0])] * 4, BODY.faces)
    assert cv2.imread(str(tmp_path / "a.png")).shape == (2 * 242, 3 * 672, 3)
    with pytest.raises(InputError, match="cannot write"):
        write_sheet(tmp_path / "no" / "a.png", [panel(standing()[0])], BODY.faces)
