"""One shape for each person: nobody grows or ages while they are watched."""

from dataclasses import dataclass

import numpy as np

MAX_TRACKS = 64
"""Tracks that are remembered, where no more people are in the picture."""
OUTLIER_DEVIATIONS = 1.0
"""A shape further than this from the mean so far counts less, in standard deviations of the population (root mean square)."""
FIRST, ONE_IN = 8, 4
"""Of a person's sightings the first ones and then one in so many tell their shape: finding it takes three times as long as the pose."""
ENOUGH = 80.0
"""Weight of all samples from which on no more are taken, and nobody changes: ten seconds at 30 frames/s of somebody who is seen well."""


@dataclass
class _Known:
    """Of one track. mean: (S,), None before the first sample; weight: of all samples; sightings: so far."""

    mean: np.ndarray | None = None
    weight: float = 0.0
    sightings: int = 0


class TrackShapes:
    """The shape of each track: a running mean over its life in which outliers count less."""

    def __init__(self) -> None:
        self._tracks: dict[int, _Known] = {}

    def wants(self, track_id: int) -> bool:
        """To be asked once for each sighting: whether a sample should be taken from it."""
        known = self._known(track_id)
        known.sightings += 1
        due = known.mean is None or known.sightings <= FIRST or known.sightings % ONE_IN == 0
        return due and known.weight < ENOUGH

    def add(self, track_id: int, shape: np.ndarray, weight: float, deviation: np.ndarray) -> None:
        """Take in a sample. shape, deviation: (S,), the latter of the population; weight: 0..1, how far it is to be trusted."""
        known = self._known(track_id)
        mean = shape if known.mean is None else known.mean
        distance = float(np.sqrt(np.square((shape - mean) / deviation).mean()))
        weight = max(weight, 1e-3) * min(1.0, OUTLIER_DEVIATIONS / max(distance, 1e-9))
        known.weight += weight
        known.mean = mean + weight / known.weight * (shape - mean)

    def of(self, track_id: int) -> np.ndarray:
        """(S,) float32; KeyError for a track without a sample."""
        mean = self._tracks[track_id].mean
        if mean is None:
            raise KeyError(track_id)
        return mean.astype(np.float32)

    def forget_old(self, num_present: int) -> None:
        """Forget the tracks that were sighted before the last MAX_TRACKS, but none of the last `num_present`."""
        while len(self._tracks) > max(MAX_TRACKS, num_present):
            self._tracks.pop(next(iter(self._tracks)))

    def __len__(self) -> int:
        return len(self._tracks)

    def _known(self, track_id: int) -> _Known:
        """A track, now the last to be forgotten."""
        self._tracks[track_id] = self._tracks.pop(track_id, None) or _Known()
        return self._tracks[track_id]
