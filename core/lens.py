"""What is known of a camera without torch."""

import math


def default_focal_px(width_px: int, height_px: int) -> float:
    """Focal length of a camera that nobody described: the picture's diagonal, about 55 degrees across it.

    Source: CLIFF, Li et al. 2022
    """
    return math.hypot(width_px, height_px)


CAMERA_VIEW_DEG = 70.0
"""From corner to corner of a webcam's picture. Makers name 60 to 90 degrees; 78 of 16:9 become 67 of the 4:3 cut out of it."""


def camera_focal_px(width_px: int, height_px: int) -> float:
    """Focal length of a webcam that nobody described: 0.71 of the picture's diagonal."""
    return math.hypot(width_px, height_px) / 2 / math.tan(math.radians(CAMERA_VIEW_DEG) / 2)
