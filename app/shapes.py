"""One shape for each person: nobody grows or ages while they are watched."""

import numpy as np

MAX_TRACKS = 64
OUTLIER_DEVIATIONS = 1.0
"""A shape further than this from the mean so far counts less, in standard deviations of the population (root mean square)."""


class TrackShapes:
    """The shape of each track: a running mean over its life in which outliers count less. Of the last MAX_TRACKS tracks."""

    def __init__(self) -> None:
        self._means: dict[int, tuple[np.ndarray, float]] = {}

    def add(self, track_id: int, shape: np.ndarray, weight: float, deviation: np.ndarray) -> None:
        """Take in a sample. shape, deviation: (S,), the latter of the population; weight: 0..1, how far it is to be trusted."""
        mean, total = self._means.pop(track_id, (shape, 0.0))
        distance = float(np.sqrt(np.square((shape - mean) / deviation).mean()))
        weight = max(weight, 1e-3) * min(1.0, OUTLIER_DEVIATIONS / max(distance, 1e-9))
        total += weight
        self._means[track_id] = (mean + weight / total * (shape - mean), total)
        while len(self._means) > MAX_TRACKS:
            self._means.pop(next(iter(self._means)))

    def of(self, track_id: int) -> np.ndarray:
        """(S,) float32; KeyError for a track without a sample."""
        return self._means[track_id][0].astype(np.float32)
