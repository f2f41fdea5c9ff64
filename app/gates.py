"""Whether what the network says of a body can be. Where it cannot tell front from back, it may say the one in this frame and the other in
the next, or something in between, a sliver; and now and then it takes somebody for half as large again. Nobody turns about, becomes flat or
comes nearer by metres in a thirtieth of a second.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

import numpy as np

from app.types import Posture, Sample
from core.geometry import body_rotations, turned_deg
from core.registry import Registry

T = TypeVar("T")

SLACK_DEG, RATE_DEG_S = 40.0, 600.0
"""A torso may turn so far between two frames: what the network errs, and faster than a pirouette. 60 degrees at 30 frames/s."""
SLACK_SHARE, SPEED_M_S = 0.2, 10.0
"""A distance may change by such a share between two frames, what the network errs, and by a sprint."""
PERSISTS_S = 0.2
"""What is said for so long is believed, however sudden it was."""
SOUND, HOLDS_S = 0.5, 0.4
"""Soundness (app.proportions) below which a mesh has collapsed, and how long after its last sound posture a body is shown in it."""


class Gate(Protocol):
    """Takes what the network says of one person in order of time."""

    def __call__(self, sample: Sample, coming: Sequence[Sample] = ()) -> Posture:
        """The posture, or what is to be taken for it. coming: of the same person, what a recording says next; looked at where
        there is a doubt.
        """


GATES: Registry[Callable[[], Gate]] = Registry("filter")
"""Name, as in app.smooth's FILTERS -> maker."""


class _Belief(Generic[T]):
    """Something that is said of one person in each frame, and believed unless it changes faster than it can.

    said: what a sample says of it; possible: (first, second, time between) -> whether the one can become the other
    kept: what was believed last
    """

    def __init__(self, said: Callable[[Sample], T], possible: Callable[[T, T, float], bool]) -> None:
        self._said, self._possible = said, possible
        self.kept: T | None = None
        self._time_s = 0.0
        self._doubted: tuple[T, float] | None = None

    def holds(self, sample: Sample, coming: Sequence[Sample]) -> bool:
        """Whether a sample is believed, which comes after those before."""
        said, before_s, self._time_s = self._said(sample), self._time_s, sample.time_s
        if self.kept is None or self._possible(self.kept, said, sample.time_s - before_s) or self._persists(said, before_s, coming):
            self.kept, self._doubted = said, None
            return True
        return False

    def _persists(self, said: T, before_s: float, coming: Sequence[Sample]) -> bool:
        """Whether it has been as it is now for long, or will have been."""
        now_s = self._time_s
        last, since_s = self._doubted or (said, now_s)
        if not self._possible(last, said, now_s - before_s):
            since_s = now_s
        self._doubted = said, since_s
        for sample in coming:
            if sample.soundness < SOUND:
                continue
            follows = self._said(sample)
            if now_s - since_s >= PERSISTS_S or not self._possible(said, follows, sample.time_s - now_s):
                break
            said, now_s = follows, sample.time_s
        return now_s - since_s >= PERSISTS_S


class BodyGate:
    """While a torso seems to have turned impossibly far, or a mesh has collapsed, the last posture that can be stands for it, where the
    person is now; for a collapsed one at most HOLDS_S.
    """

    def __init__(self) -> None:
        self._torso = _Belief(torso_of, possible)
        self._kept: Posture | None = None
        self._time_s = 0.0

    def __call__(self, sample: Sample, coming: Sequence[Sample] = ()) -> Posture:
        """As Gate's."""
        if sample.soundness < SOUND:
            return self._collapsed(sample)
        self._time_s = sample.time_s
        if self._torso.holds(sample, coming):
            self._kept = sample.posture
            return sample.posture
        return replace(self._kept, translation_m=sample.posture.translation_m)

    def _collapsed(self, sample: Sample) -> Posture:
        """It says nothing of where the torso has turned to, so nothing is learned from it."""
        if self._kept is not None and sample.time_s - self._time_s <= HOLDS_S:
            return replace(self._kept, translation_m=sample.posture.translation_m)
        self._kept, self._torso = None, _Belief(torso_of, possible)
        return sample.posture


class DistanceGate:
    """While somebody seems to have come nearer or gone away impossibly far, they stay at the last distance that can be. What a collapsed
    mesh says of it is believed as little.
    """

    def __init__(self) -> None:
        self._distance = _Belief(distance_of, possible_way)

    def __call__(self, sample: Sample, coming: Sequence[Sample] = ()) -> float:
        """What the person's place is to be multiplied by."""
        if sample.soundness >= SOUND:
            self._distance.holds(sample, coming)
        return 1.0 if self._distance.kept is None else self._distance.kept / distance_of(sample)


@GATES.register("one-euro")
class PersonGate:
    """Both: a body that can be, at a distance that can be, where the person is seen now."""

    def __init__(self) -> None:
        self._body, self._distance = BodyGate(), DistanceGate()

    def __call__(self, sample: Sample, coming: Sequence[Sample] = ()) -> Posture:
        """As Gate's."""
        posture, factor = self._body(sample, coming), self._distance(sample, coming)
        return posture if factor == 1 else replace(posture, translation_m=posture.translation_m * factor)


@GATES.register("none")
class NoGate:
    """Believes everything."""

    def __call__(self, sample: Sample, coming: Sequence[Sample] = ()) -> Posture:
        """The posture."""
        del coming
        return sample.posture


def torso_of(sample: Sample) -> np.ndarray:
    """(3, 3) axes of the torso."""
    return body_rotations(sample.joints_m[None].astype(np.float64))[0]


def possible(first: np.ndarray, second: np.ndarray, step_s: float) -> bool:
    """Whether a torso can turn from the one rotation (3, 3) to the other in this time."""
    return bool(turned_deg(first, second) <= SLACK_DEG + RATE_DEG_S * step_s)


def distance_of(sample: Sample) -> float:
    """Along the camera's axis, in metres."""
    return float(sample.posture.translation_m[2])


def possible_way(first_m: float, second_m: float, step_s: float) -> bool:
    """Whether somebody can get from the one distance to the other in this time."""
    return abs(math.log(second_m / first_m)) <= SLACK_SHARE + SPEED_M_S * step_s / min(first_m, second_m)
