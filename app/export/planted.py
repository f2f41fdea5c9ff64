"""Feet that stand stay where they are: of each person's ways the one near the measured one on which planted feet rest.

How far away somebody is follows from their size in the picture, and is wrong by some per cent, differently in every posture; so in three
dimensions people glide. When a foot is low and does not move across the picture it stands, and the rest of the body has to go by it.
"""

import numpy as np

from core.rotations import unit

LOW_M = 0.08
"""An ankle this far above the lowest that it gets is not planted any more; the weights fall off as a Gaussian."""
STILL_M_S = 0.3
"""An ankle that moves across the line of sight with this speed is not either."""
COMES_M_S = 1.0
"""The same along it, where speeds err by decimetres a second: so that a foot that swings towards the camera does not count."""
AROUND_S = 0.6
"""Before and after, in which the lowest is looked for."""
LOWEST_PERCENTILE = 15
CALM_FRAMES = 1.0
"""Deviation of the Gaussian through which speeds are seen."""
SLIP_M_S, SLIDES_M_S = 0.07, 0.8
"""Deviation of a planted foot's speed; and from where on it rather slides, as on a skateboard, than errs."""
BENT_M_S2 = 4.0
"""Deviation of the acceleration of what is added to somebody's way."""
ALONG, ACROSS_M = 0.015, 0.01
"""Deviation of the measured place along the line of sight, as a share of the distance, and across it."""
LEVEL_M, STEP_M = 0.02, 0.1
"""Deviation of a planted ankle's height; and from where on it rather stands on something."""
FOOT_M, FOOT_SLIP_M_S, FOOT_BENT_M_S2 = 0.012, 0.05, 6.0
"""As ACROSS_M, SLIP_M_S and BENT_M_S2, for a foot against its body: no stiffer, or knees that are nearly straight jerk."""
FARTHEST_M = 0.12
"""A leg makes up for no more; what is left slides."""
ALIKE_S = 0.3
"""Errors of places and heights last about so long."""
SHORTEST_S = 1e-3
"""Frames that follow each other sooner count as this far apart."""
BANDS = 7
"""Of the matrix, on and below its diagonal: accelerations couple a frame with the second next one, of three coordinates each."""
ROUNDS = 6
"""Of weighing and solving."""


def planted(ankles_m: np.ndarray, seen: np.ndarray, rays: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """(T, 2) how surely each ankle belongs to a foot that stands, 0 to 1.

    ankles_m: (T, 2, 3) with y up; seen: (T, 2) bool; rays: (T, 3) unit, the line of sight; times_s: (T,) of T >= 2 frames
    """
    from scipy.ndimage import gaussian_filter1d, percentile_filter

    around = max(1, round(AROUND_S / float(np.median(np.diff(times_s)))))
    lower_m = np.where(seen, ankles_m[..., 1], np.inf).min(1)
    lower_m = np.where(np.isfinite(lower_m), lower_m, ankles_m[..., 1].min(1))
    lowest_m = percentile_filter(lower_m, LOWEST_PERCENTILE, size=2 * around + 1, mode="nearest")
    lowest_m = gaussian_filter1d(lowest_m, around / 3, mode="nearest")
    above_m = np.maximum(ankles_m[..., 1] - lowest_m[:, None], 0)
    speeds = np.gradient(gaussian_filter1d(ankles_m, CALM_FRAMES, axis=0, mode="nearest"), times_s, axis=0)
    along = (speeds * rays[:, None]).sum(-1)
    across = np.linalg.norm(speeds - along[..., None] * rays[:, None], axis=-1)
    return seen * np.exp(-((above_m / LOW_M) ** 2) - (across / STILL_M_S) ** 2 - (along / COMES_M_S) ** 2)


def way_moves_m(ankles_m: np.ndarray, weights: np.ndarray, places_m: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """(T, 3) what to add to somebody's places. ankles_m: (T, 2, 3); weights: (T, 2) of `planted`; places_m: (T, 3), the camera at 0."""
    if len(times_s) < 3 or not weights.any():
        return np.zeros_like(places_m)
    distances_m = np.maximum(np.linalg.norm(places_m, axis=1), 1e-6)
    rays = unit(places_m)
    along = rays[:, :, None] * rays[:, None]
    stiffness = (np.eye(3) - along) / ACROSS_M**2 + along / (ALONG * distances_m[:, None, None]) ** 2
    level_m = float(np.average(ankles_m[..., 1], weights=weights))
    return _held(ankles_m, weights, stiffness, times_s, SLIP_M_S, BENT_M_S2, level_m)


def foot_moves_m(ankle_m: np.ndarray, weights: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """(T, 3) what to add to one ankle (T, 3) after that, for a leg to make up for; weights: (T,)"""
    if len(times_s) < 3 or not weights.any():
        return np.zeros_like(ankle_m)
    stiffness = np.broadcast_to(np.eye(3) / FOOT_M**2, (len(ankle_m), 3, 3))
    moves_m = _held(ankle_m[:, None], weights[:, None], stiffness, times_s, FOOT_SLIP_M_S, FOOT_BENT_M_S2)
    return moves_m * np.minimum(1, FARTHEST_M / np.maximum(np.linalg.norm(moves_m, axis=1, keepdims=True), 1e-9))


def _held(
    points_m: np.ndarray, weights: np.ndarray, stiffness: np.ndarray, times_s: np.ndarray, slip_m_s: float, bent_m_s2: float,
    level_m: float | None = None,
) -> np.ndarray:  # fmt: skip
    """(T, 3) moves, small and smooth, with which points (T, K, 3) rest where they should: least squares, solved in turns with the weights
    of Welsch for what does not fit.

    weights: (T, K); stiffness: (T, 3, 3) inverse covariance of a move; level_m: height of points that rest, None for any
    """
    from scipy.linalg import solveh_banded
    from scipy.sparse import bsr_array, diags_array, eye_array, kron

    steps_s = np.maximum(np.diff(times_s), SHORTEST_S)
    alike = max(ALIKE_S / float(np.median(steps_s)), 1.0)
    count = len(points_m)
    step = diags_array([-1.0, 1.0], offsets=[0, 1], shape=(count - 1, count))
    speed = diags_array(1 / steps_s) @ step
    bend = diags_array(2 / (steps_s[1:] + steps_s[:-1])) @ diags_array([-1.0, 1.0], offsets=[0, 1], shape=(count - 2, count - 1)) @ speed
    near = bsr_array((stiffness / alike, np.arange(count), np.arange(count + 1)))
    constant = kron(bend.T @ bend, eye_array(3)) / bent_m_s2**2 + near
    both, slips_m = np.minimum(weights[1:], weights[:-1]), np.diff(points_m, axis=0)
    moves_m = np.zeros((count, 3))
    for _ in range(ROUNDS):
        speeds = np.linalg.norm(slips_m + np.diff(moves_m, axis=0)[:, None], axis=-1) / steps_s[:, None]
        rest = both * _fitting(speeds, SLIDES_M_S) / (slip_m_s * steps_s[:, None]) ** 2
        matrix = constant + kron(step.T @ diags_array(rest.sum(1)) @ step, eye_array(3))
        pull = -(step.T @ (rest[..., None] * slips_m).sum(1))
        if level_m is not None:
            above_m = points_m[..., 1] - level_m
            stand = weights * _fitting(above_m + moves_m[:, None, 1], STEP_M) / LEVEL_M**2 / alike
            matrix = matrix + kron(diags_array(stand.sum(1)), diags_array([0.0, 1.0, 0.0]))
            pull[:, 1] -= (stand * above_m).sum(1)
        matrix = matrix.todia()
        bands = np.stack([np.append(matrix.diagonal(-k), np.zeros(k)) for k in range(BANDS)])
        moves_m = solveh_banded(bands, pull.ravel(), lower=True).reshape(count, 3)
    return moves_m


def _fitting(misfits: np.ndarray, scale: float) -> np.ndarray:
    """Weight of what misses by so much: 1 for little, soon 0 for much. Source: Holland, Welsch: Robust regression, 1977."""
    return np.exp(-((misfits / scale) ** 2))
