"""Calms a person's mesh over time: FILTERS maps a name to a filter. Filters use the frames' own times, never an assumed rate."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np

from app.config import SmoothConfig
from app.gates import GATES
from app.types import Posture, Sample
from core.registry import Registry

if TYPE_CHECKING:
    from scipy.spatial.transform import Rotation

T = TypeVar("T")

REFERENCE_RATE_HZ = 30.0
"""The rate at which the cutoffs of SmoothConfig hold."""


class Filter(Protocol):
    """Takes samples of one signal in order of time."""

    def __call__(self, values: np.ndarray, time_s: float, metres_per_unit: float = 1.0) -> np.ndarray:
        """values: (..., C), the last axis being one point; returns the filtered values, a new array."""


FILTERS: Registry[Callable[[float, float, float, float], Filter]] = Registry("filter")
"""Name -> maker(min_cutoff_hz, beta_hz_per_m_s, derivative_cutoff_hz, previous_share)."""


@FILTERS.register("one-euro")
class OneEuroFilter:
    """The 1 Euro filter over any number of points at once; each point has its own speed and cutoff.

    A low-pass whose cutoff rises with speed: calm at rest, quick in motion. What it takes is the weighted mean of a sample and the
    one before, `previous_share` of that: the network errs anew in each frame, to and fro, and the mean takes most of that away at a lag
    of previous_share frames, where a low-pass alone would need twice the lag. A sample not later than the last one leaves the
    state as it is. Source: Casiez, Roussel, Vogel, "1 Euro Filter", CHI 2012; the mean and rate_factor are our additions.
    """

    def __init__(
        self, min_cutoff_hz: float, beta_hz_per_m_s: float, derivative_cutoff_hz: float = 1.0, previous_share: float = 0.0
    ) -> None:
        self._min_cutoff_hz, self._beta, self._derivative_cutoff_hz = min_cutoff_hz, beta_hz_per_m_s, derivative_cutoff_hz
        self._mean = _PreviousShare(previous_share)
        self._sample: np.ndarray | None = None
        self._time_s = -math.inf
        self._values: np.ndarray | None = None
        self._velocity: np.ndarray | None = None

    def __call__(self, values: np.ndarray, time_s: float, metres_per_unit: float = 1.0) -> np.ndarray:
        """values: (..., C) in units of which each is `metres_per_unit` long; C coordinates share one cutoff."""
        if self._values is None or self._velocity is None:
            self._values, self._velocity, self._time_s = values.copy(), np.zeros_like(values), time_s
            self._sample = values.copy()
            return values.copy()
        step_s = time_s - self._time_s
        if step_s <= 0:
            return self._values.copy()
        sample, self._sample = self._sample, values.copy()
        values = values + self._mean.share(step_s) * (sample - values)
        velocity = (values - self._values) / step_s
        self._velocity = self._velocity + smoothing_factor(self._derivative_cutoff_hz, step_s) * (velocity - self._velocity)
        squared = np.einsum("...c,...c->...", self._velocity, self._velocity)[..., None]  # a sum over three takes NumPy three times as long
        speed_m_s = np.sqrt(squared) * metres_per_unit
        factor = smoothing_factor(rate_factor(step_s) * (self._min_cutoff_hz + self._beta * speed_m_s), step_s)
        self._values = (self._values + factor * (values - self._values)).astype(values.dtype)
        self._time_s = time_s
        return self._values.copy()


@FILTERS.register("none")
class NoFilter:
    """Leaves everything as it is."""

    def __init__(
        self, min_cutoff_hz: float = 0.0, beta_hz_per_m_s: float = 0.0, derivative_cutoff_hz: float = 0.0, previous_share: float = 0.0
    ) -> None:
        del min_cutoff_hz, beta_hz_per_m_s, derivative_cutoff_hz, previous_share

    def __call__(self, values: np.ndarray, time_s: float, metres_per_unit: float = 1.0) -> np.ndarray:
        """The values."""
        del time_s, metres_per_unit
        return values.copy()


ROTATION_FILTERS: Registry[Callable[[float, float, float, float], Filter]] = Registry("rotation filter")
"""Name, as in FILTERS -> maker(min_cutoff_hz, beta_hz_per_rad_s, derivative_cutoff_hz, previous_share)."""


@ROTATION_FILTERS.register("one-euro")
class OneEuroRotationFilter:
    """The 1 Euro filter on SO(3): each bone moves along the shortest arc towards its sample, with a speed and a cutoff of its own."""

    def __init__(
        self, min_cutoff_hz: float, beta_hz_per_rad_s: float, derivative_cutoff_hz: float = 1.0, previous_share: float = 0.0
    ) -> None:
        self._min_cutoff_hz, self._beta, self._derivative_cutoff_hz = min_cutoff_hz, beta_hz_per_rad_s, derivative_cutoff_hz
        self._mean = _PreviousShare(previous_share)
        self._sample: Rotation | None = None
        self._time_s = -math.inf
        self._rotations: Rotation | None = None
        self._velocity: np.ndarray | None = None

    def __call__(self, values: np.ndarray, time_s: float, metres_per_unit: float = 1.0) -> np.ndarray:
        """values: (J, 3, 3) rotation matrices -> the same, smoothed."""
        del metres_per_unit
        from scipy.spatial.transform import Rotation

        rotations = Rotation.from_matrix(values)
        if self._rotations is None or self._velocity is None:
            self._rotations, self._velocity, self._time_s = rotations, np.zeros((len(values), 3)), time_s
            self._sample = rotations
            return values.copy()
        step_s = time_s - self._time_s
        if step_s > 0:
            sample, self._sample = self._sample, rotations
            back = Rotation.from_rotvec(self._mean.share(step_s) * (rotations.inv() * sample).as_rotvec())
            rotations = rotations * back
            arcs = (self._rotations.inv() * rotations).as_rotvec()
            self._velocity = self._velocity + smoothing_factor(self._derivative_cutoff_hz, step_s) * (arcs / step_s - self._velocity)
            speed_rad_s = np.linalg.norm(self._velocity, axis=-1, keepdims=True)
            factor = smoothing_factor(rate_factor(step_s) * (self._min_cutoff_hz + self._beta * speed_rad_s), step_s)
            self._rotations, self._time_s = self._rotations * Rotation.from_rotvec(factor * arcs), time_s
        return self._rotations.as_matrix().astype(values.dtype)


ROTATION_FILTERS.register("none")(NoFilter)


class _PreviousShare:
    """The share of the sample before in the mean of two: less after a step longer than the last one, for what was long ago says little."""

    def __init__(self, share: float) -> None:
        self._share, self._step_s = share, math.inf

    def share(self, step_s: float) -> float:
        """For the sample that comes `step_s` after the one before."""
        last_s, self._step_s = self._step_s, step_s
        return self._share * min(1.0, last_s / step_s)


def smoothing_factor(cutoff_hz: float | np.ndarray, step_s: float) -> float | np.ndarray:
    """Weight of the new sample in an exponential low-pass with this cutoff, for this step."""
    ratio = 2 * math.pi * cutoff_hz * step_s
    return ratio / (ratio + 1)


def rate_factor(step_s: float) -> float:
    """How much higher cutoffs are than at REFERENCE_RATE_HZ.

    The network errs anew in each frame, so at four times the rate there is a quarter of the noise in each Hz, and the cutoff that
    balances noise against lag is twice as high: the bandwidth of a Kalman filter on a random walk goes with the square root of the rate.
    """
    return math.sqrt(1 / (REFERENCE_RATE_HZ * step_s))


class PersonSmoother:
    """One person's filters: the body around its pelvis, the direction in which the pelvis is seen, its distance, and its parameters.

    Direction (x / z, y / z) and distance (ln z) apart, so that noise in the distance never moves the mesh in the picture.
    """

    def __init__(self, name: str, config: SmoothConfig) -> None:
        make, both = FILTERS[name], (config.derivative_cutoff_hz, config.previous_share)
        self._body = make(config.min_cutoff_hz, config.beta_hz_per_m_s, *both)
        self._direction = make(config.root_min_cutoff_hz, config.root_beta_hz_per_m_s, *both)
        self._distance = make(
            config.depth_min_cutoff_hz, config.depth_beta_hz_per_m_s, config.derivative_cutoff_hz, config.depth_previous_share
        )
        self._rotations = ROTATION_FILTERS[name](config.rotation_min_cutoff_hz, config.rotation_beta_hz_per_rad_s, *both)
        self._shape = make(config.shape_cutoff_hz, 0.0, *both)

    def __call__(self, posture: Posture, time_s: float) -> Posture:
        """The same, smoothed."""
        depth_m = float(posture.translation_m[2])
        direction = self._direction(np.asarray(posture.translation_m[:2] / depth_m), time_s, metres_per_unit=depth_m)
        smooth_depth_m = math.exp(float(self._distance(np.array([math.log(depth_m)]), time_s, metres_per_unit=depth_m)[0]))
        return Posture(
            self._body(posture.vertices_m, time_s),
            np.array([*(direction * smooth_depth_m), smooth_depth_m]),
            None if posture.rotmats is None else self._rotations(posture.rotmats, time_s),
            None if posture.shape is None else self._shape(posture.shape, time_s),
        )


class PerTrack(Generic[T]):
    """Something for each track, made anew for those unseen for longer than max_gap_s."""

    def __init__(self, make: Callable[[], T], max_gap_s: float) -> None:
        self._make, self._max_gap_s = make, max_gap_s
        self._kept: dict[int, tuple[float, T]] = {}

    def at(self, track_id: int, time_s: float) -> T:
        """A track's, which is seen now. Times of a track must not decrease."""
        last_s, kept = self._kept.get(track_id, (-math.inf, None))
        if kept is None or time_s - last_s > self._max_gap_s:
            kept = self._make()
        self._kept[track_id] = (time_s, kept)
        return kept

    def forget_before(self, time_s: float) -> None:
        """Drop everybody not seen within max_gap_s before `time_s`."""
        limit_s = time_s - self._max_gap_s
        self._kept = {track_id: entry for track_id, entry in self._kept.items() if entry[0] >= limit_s}

    def reset(self) -> None:
        """Forget everybody: a cut."""
        self._kept = {}

    def __len__(self) -> int:
        return len(self._kept)


class MeshSmoother:
    """Calms people as a camera sees them: each by what was before."""

    def __init__(self, name: str, config: SmoothConfig) -> None:
        FILTERS[name]  # an unknown name fails here, not at the first person
        self._people = PerTrack(lambda: (GATES[name](), PersonSmoother(name, config)), config.max_gap_s)

    def __call__(self, sample: Sample, coming: Sequence[Sample] = ()) -> Posture:
        """One person at one time, smoothed. coming: as a Gate's."""
        gate, person = self._people.at(sample.track_id, sample.time_s)
        return person(gate(sample, coming), sample.time_s)

    def forget_before(self, time_s: float) -> None:
        """As PerTrack's."""
        self._people.forget_before(time_s)

    def reset(self) -> None:
        """Forget everybody: a cut."""
        self._people.reset()

    def __len__(self) -> int:
        return len(self._people)


class RecordingSmoother:
    """Calms a recording's people, each by what comes before and after: filtered forward, then back from the end of what comes next.

    What the first pass makes late the second makes early by as much, so nothing is late, as in the zero-lag Butterworth filter of
    gait analysis (Winter, "Biomechanics and Motor Control of Human Movement"). Samples come in runs, a quarter of a second long or
    so. Each run waits for two more: one that shows which turns persist, and one to come back from.
    """

    def __init__(self, name: str, config: SmoothConfig) -> None:
        self._name, self._config = name, config.both_ways()
        self._people = MeshSmoother(name, self._config)
        self._said: list[Sample] | None = None
        self._calmed: list[Sample] | None = None

    def __call__(self, run: Sequence[Sample], starts_scene: bool = False) -> list[list[Posture]]:
        """Takes a run, in order of time; returns the smoothed postures of the runs that are finished, each in its order.

        starts_scene: nobody in this run has been seen before
        """
        done = self.rest() if starts_scene else self._step(run)
        self._said = list(run)
        return done

    def rest(self) -> list[list[Posture]]:
        """Of the last runs: nobody in them is seen again."""
        done = [*self._step([]), *self._step([])]
        self._people.reset()
        return done

    def _step(self, coming: Sequence[Sample]) -> list[list[Posture]]:
        """The last run goes forward, and the one before it back."""
        ahead = None if self._said is None else self._forward(self._said, coming)
        done = [] if self._calmed is None else [self._back(self._calmed, ahead or [])]
        self._said, self._calmed = None, ahead
        return done

    def _forward(self, run: list[Sample], coming: Sequence[Sample]) -> list[Sample]:
        later = [*run, *coming]
        found = []
        for number, sample in enumerate(run, start=1):
            own = [other for other in later[number:] if other.track_id == sample.track_id]
            found.append(replace(sample, posture=self._people(sample, own)))
        if run:
            self._people.forget_before(run[-1].time_s)
        return found

    def _back(self, run: list[Sample], coming: list[Sample]) -> list[Posture]:
        people = PerTrack(lambda: PersonSmoother(self._name, self._config), self._config.max_gap_s)
        found = [people.at(sample.track_id, -sample.time_s)(sample.posture, -sample.time_s) for sample in reversed([*run, *coming])]
        return found[::-1][: len(run)]
