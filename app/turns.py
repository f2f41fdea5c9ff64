"""Whether a body can have turned as it seems to have. Where the network cannot tell front from back, it may say the one in this frame and
the other in the next; nobody turns about in a thirtieth of a second.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np

from app.types import Posture
from core.registry import Registry
from core.training.metrics import body_rotations

SLACK_DEG, RATE_DEG_S = 40.0, 600.0
"""A torso may turn so far between two frames: what the network errs, and faster than a pirouette. 60 degrees at 30 frames/s."""
PERSISTS_S = 0.2
"""What is said for so long is believed, however sudden it was."""


class Gate(Protocol):
    """Takes what the network says of one person in order of time."""

    def __call__(self, posture: Posture, joints_m: np.ndarray, time_s: float) -> Posture:
        """The posture, or what is to be taken for it. joints_m: (14, 3) of it, in the same axes."""


GATES: Registry[Callable[[], Gate]] = Registry("filter")
"""Name, as in app.smooth's FILTERS -> maker."""


@GATES.register("one-euro")
class TurnGate:
    """While a torso seems to have turned impossibly far, its last possible posture stands for it, where the person is now."""

    def __init__(self) -> None:
        self._kept: tuple[np.ndarray, Posture] | None = None
        self._time_s = 0.0
        self._doubted: tuple[np.ndarray, float] | None = None

    def __call__(self, posture: Posture, joints_m: np.ndarray, time_s: float) -> Posture:
        """As Gate's."""
        torso = body_rotations(joints_m[None].astype(np.float64))[0]
        possible_deg = SLACK_DEG + RATE_DEG_S * (time_s - self._time_s)
        self._time_s = time_s
        if self._kept is None or angle_deg(self._kept[0], torso) <= possible_deg or self._persists(torso, time_s, possible_deg):
            self._kept, self._doubted = (torso, posture), None
            return posture
        return replace(self._kept[1], translation_m=posture.translation_m)

    def _persists(self, torso: np.ndarray, time_s: float, possible_deg: float) -> bool:
        last, since_s = self._doubted or (torso, time_s)
        if angle_deg(last, torso) > possible_deg:
            since_s = time_s
        self._doubted = torso, since_s
        return time_s - since_s >= PERSISTS_S


@GATES.register("none")
class NoGate:
    """Believes everything."""

    def __call__(self, posture: Posture, joints_m: np.ndarray, time_s: float) -> Posture:
        """The posture."""
        del joints_m, time_s
        return posture


def angle_deg(first: np.ndarray, second: np.ndarray) -> float:
    """Between two rotations (3, 3), 0..180."""
    return float(np.degrees(np.arccos(np.clip((np.trace(first.T @ second) - 1) / 2, -1, 1))))
