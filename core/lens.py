"""What is known of a camera without torch."""

import math


def default_focal_px(width_px: int, height_px: int) -> float:
    """Focal length of a camera that nobody described: the picture's diagonal, about 55 degrees across it.

    Source: CLIFF, Li et al. 2022
    """
    return math.hypot(width_px, height_px)
