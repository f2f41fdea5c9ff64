"""Whether what the network says of a body can be. Where it cannot tell front from back, it may say the one in this frame and the other in
the next, or something in between, a sliver; nobody turns about, or becomes flat, in a thirtieth of a second.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

import numpy as np

from app.types import Posture, Sample
from core.geometry import body_rotations, turned_deg
from core.registry import Registry

SLACK_DEG, RATE_DEG_S = 40.0, 600.0
"""A torso may turn so far between two frames: what the network errs, and faster than a pirouette. 60 degrees at 30 frames/s."""
PERSISTS_S = 0.2
"""What is said for so long is believed, however sudden it was."""
SOUND, HOLDS_S = 0.5, 0.4
"""Soundness (app.proportions) below which a mesh has collapsed, and how long after its last sound posture a body is shown in it."""


class Gate(Protocol):
    """Takes what the network says of one person in order of time."""

    def __call__(self, sample: Sample, coming: Iterable[Sample] = ()) -> Posture:
        """The posture, or what is to be taken for it. coming: of the same person, what a recording says next; looked at where
        there is a doubt.
        """


GATES: Registry[Callable[[], Gate]] = Registry("filter")
"""Name, as in app.smooth's FILTERS -> maker."""


@GATES.register("one-euro")
class BodyGate:
    """While a torso seems to have turned impossibly far, or a mesh has collapsed, the last posture that can be stands for it, where the
    person is now; for a collapsed one at most HOLDS_S.
    """

    def __init__(self) -> None:
        self._kept: tuple[np.ndarray, Posture] | None = None
        self._time_s = 0.0
        self._doubted: tuple[np.ndarray, float] | None = None

    def __call__(self, sample: Sample, coming: Iterable[Sample] = ()) -> Posture:
        """As Gate's."""
        if sample.soundness < SOUND:
            return self._collapsed(sample)
        torso, before_s, self._time_s = torso_of(sample), self._time_s, sample.time_s
        if self._kept is None or possible(self._kept[0], torso, sample.time_s - before_s) or self._persists(torso, before_s, coming):
            self._kept, self._doubted = (torso, sample.posture), None
            return sample.posture
        return replace(self._kept[1], translation_m=sample.posture.translation_m)

    def _collapsed(self, sample: Sample) -> Posture:
        """It says nothing of where the torso has turned to, so nothing is learned from it."""
        if self._kept is not None and sample.time_s - self._time_s <= HOLDS_S:
            return replace(self._kept[1], translation_m=sample.posture.translation_m)
        self._kept = self._doubted = None
        return sample.posture

    def _persists(self, torso: np.ndarray, before_s: float, coming: Iterable[Sample]) -> bool:
        """Whether the torso has been as it is now for long, or will have been."""
        now_s = self._time_s
        last, since_s = self._doubted or (torso, now_s)
        if not possible(last, torso, now_s - before_s):
            since_s = now_s
        self._doubted = torso, since_s
        for sample in coming:
            if sample.soundness < SOUND:
                continue
            follows = torso_of(sample)
            if now_s - since_s >= PERSISTS_S or not possible(torso, follows, sample.time_s - now_s):
                break
            torso, now_s = follows, sample.time_s
        return now_s - since_s >= PERSISTS_S


@GATES.register("none")
class NoGate:
    """Believes everything."""

    def __call__(self, sample: Sample, coming: Iterable[Sample] = ()) -> Posture:
        """The posture."""
        del coming
        return sample.posture


def torso_of(sample: Sample) -> np.ndarray:
    """(3, 3) axes of the torso."""
    return body_rotations(sample.joints_m[None].astype(np.float64))[0]


def possible(first: np.ndarray, second: np.ndarray, step_s: float) -> bool:
    """Whether a torso can turn from the one rotation (3, 3) to the other in this time."""
    return bool(turned_deg(first, second) <= SLACK_DEG + RATE_DEG_S * step_s)
