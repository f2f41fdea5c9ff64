"""One floor for all: how large people have to be to stand on it.

One eye cannot tell a small person nearby from a large one far away. Where the camera is above the floor, the floor can: whoever is a few
per cent larger and farther away looks the same in the picture, and stands lower.
"""

import numpy as np

LOWEST_SHARE = 0.2
"""The floor is near the level below which people stand for this share of all their time: low, and not for one odd person."""
SIZE = 0.15
"""People are at most so much larger or smaller, as a logarithm; who would have to be more stands on something, or is not understood."""
ABOVE_M = 0.5
"""A camera this little above people's feet cannot tell sizes, since everything is at its height at any distance."""
NEAR_M = 0.25
"""There people of levels as near as this stand on one floor."""


def one_floor(levels_m: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """Height of the floor above the camera, mostly negative, and factors (P,) of people's size and distance, with which they stand on it.

    levels_m: (P,) of what everybody stands on, above the camera, P >= 1; weights: (P,) for how long they were seen there
    """
    near = _near(levels_m, _quantile(levels_m, weights, LOWEST_SHARE))
    floor_m = _quantile(levels_m[near], weights[near], 0.5)
    near = _near(levels_m, floor_m)
    if floor_m > -ABOVE_M:
        return floor_m, np.ones(len(levels_m))
    return floor_m, floor_m / np.where(near, levels_m, floor_m)


def _near(levels_m: np.ndarray, level_m: float) -> np.ndarray:
    """(P,) bool."""
    if level_m < -ABOVE_M:
        return np.abs(np.log(np.maximum(levels_m / level_m, 1e-9))) < SIZE
    return np.abs(levels_m - level_m) < NEAR_M


def _quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """One of the values: the lowest below or at which lie so many of the weights."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, share * reached[-1])])
