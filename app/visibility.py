"""How far each joint can be seen: in the picture at all, and by the detector's evidence."""

import numpy as np

MARGIN_SIDES = 0.03
"""Width of the ramp at the frame's edge, in box sides: half of it inside, half outside."""
HIDDEN_BELOW, SEEN_ABOVE = 0.1, 0.5
"""Detector's visibility below which a joint counts as hidden, above which as seen."""


def visibility_in_frame(joints_px: np.ndarray, size_px: tuple[int, int], side_px: float) -> np.ndarray:
    """(14,) float32: 1 well inside the frame, 0 outside. joints_px: (14, 2); size_px: width, height; side_px: of the person's box."""
    ramp_px = max(MARGIN_SIDES * side_px, 1.0)
    inside_px = np.minimum(joints_px, np.asarray(size_px) - joints_px).min(axis=-1)
    return np.clip(inside_px / ramp_px + 0.5, 0, 1).astype(np.float32)


def evidence(landmark_visibility: np.ndarray | None) -> np.ndarray | float:
    """(14,) 0..1 from the detector's visibility; 1 when it did not look."""
    if landmark_visibility is None:
        return 1.0
    return np.clip((landmark_visibility - HIDDEN_BELOW) / (SEEN_ABOVE - HIDDEN_BELOW), 0, 1)


def joint_visibility(
    joints_px: np.ndarray, size_px: tuple[int, int], side_px: float, landmark_visibility: np.ndarray | None, trust: float = 1.0
) -> np.ndarray:
    """(14,) float32 0..1: in the frame, seen by the detector, and `trust` (falls while somebody is only followed)."""
    return (visibility_in_frame(joints_px, size_px, side_px) * evidence(landmark_visibility) * trust).astype(np.float32)
