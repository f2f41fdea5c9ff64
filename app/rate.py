"""Frames a second, from the times of the frames."""

from collections.abc import Sequence

import numpy as np

FALLBACK_FPS = 30.0
"""Of what has no rate: a picture, a single frame, a video that does not say."""


def rate_of(times_s: Sequence[float]) -> float:
    """Of frames at these times, in order: one over the median step, so that a pause does not count; FALLBACK_FPS where there is no step."""
    steps_s = np.diff(times_s)
    steps_s = steps_s[steps_s > 0]
    return float(1 / np.median(steps_s)) if len(steps_s) else FALLBACK_FPS
