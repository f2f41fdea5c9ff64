import numpy as np
import pytest

from core.joints import JOINT_NAMES
from core.training.pose_kinds import pose_kinds
from tests.core.training.test_metrics import standing, turned


def bent(hip_deg: float, knee_deg: float) -> np.ndarray:
    """Somebody upright whose thighs go forward (towards the camera) by so much, shins back by so much against the thighs."""
    joints = standing()
    for side in "RL":
        hip, knee, ankle = (JOINT_NAMES.index(f"{side}_{part}") for part in ("Hip", "Knee", "Ankle"))
        thigh, shin = np.radians(hip_deg), np.radians(hip_deg - knee_deg)
        joints[0, knee] = joints[0, hip] + 0.45 * np.array([0, np.cos(thigh), -np.sin(thigh)])
        joints[0, ankle] = joints[0, knee] + 0.4 * np.array([0, np.cos(shin), -np.sin(shin)])
    return joints


def overhead() -> np.ndarray:
    joints = standing()
    joints[0, JOINT_NAMES.index("L_Wrist")] = (0.2, -0.95, 0)
    return joints


def bending() -> np.ndarray:
    joints = standing()
    head = JOINT_NAMES.index("Head")
    turned_up = next(t for t in (turned(joints, 90, axis=0), turned(joints, -90, axis=0)) if t[0, head, 2] < 0)  # towards the camera
    for k, name in enumerate(JOINT_NAMES):
        if "Ankle" not in name and "Knee" not in name:
            joints[0, k] = turned_up[0, k]
    return joints


@pytest.mark.parametrize(
    ("joints", "kind"),
    [
        (standing(), "upright"),
        (bent(20, 30), "upright"),
        (bent(90, 90), "sitting"),
        (bent(85, 20), "sitting"),
        (bent(110, 140), "crouching"),
        (overhead(), "reaching overhead"),
        (turned(standing(), 90, axis=0), "lying"),
        (turned(standing(), 90, axis=2), "lying"),
        (turned(standing(), 180, axis=0), "inverted"),
        (bending(), "bending"),
    ],
)
def test_kinds(joints: np.ndarray, kind: str) -> None:
    assert pose_kinds(joints) == [kind]
    assert pose_kinds(turned(joints, 137)) == [kind]  # whichever way they face


def test_each_person_has_a_kind() -> None:
    assert pose_kinds(np.concatenate([standing(), bent(90, 90)])) == ["upright", "sitting"]
