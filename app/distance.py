"""How far people of a recording are, made plausible: on a line through what came before and comes after.

The distance follows from the body's size in the picture, and the network errs by some per cent anew with each posture. At seven metres
that is decimetres to and fro, several times a second, which nobody walks. The 1 Euro filter takes this speed for motion and lets it pass.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from app.config import SmoothConfig
from app.types import Scene, SmoothedMesh
from core.geometry import project_pinhole

NEAR_M = 5.0
"""Up to here depth_line_s holds. The network errs by a share of the distance, while people walk as fast far away as near: the time over
which error and change are alike grows with the distance's square root.
"""


class DistanceSmoother:
    """Takes the scenes of a recording in runs of a quarter of a second or so, and gives each back when the next one is there.

    Everybody moves along the ray in which they are seen, so they stay in their place in the picture.
    """

    def __init__(self, config: SmoothConfig) -> None:
        self._config = config
        self._before: list[Scene] = []
        self._waiting: list[Scene] = []

    def __call__(self, run: Sequence[Scene]) -> list[Scene]:
        """The run before, finished."""
        before, waiting = self._before, self._waiting
        self._before, self._waiting = waiting, list(run)
        factors = distance_factors([*before, *waiting, *run], self._config.depth_line_s, self._config.max_gap_s)
        own = iter(factors[sum(len(scene.meshes) for scene in before) :])
        return [replace(scene, meshes=tuple(moved_away(mesh, next(own), scene) for mesh in scene.meshes)) for scene in waiting]

    def rest(self) -> list[Scene]:
        """The last run, finished; who comes then has not been seen before."""
        done = self([])
        self._before = []
        return done


def at_calm_distances(scenes: Iterable[Scene], config: SmoothConfig, run_s: float, max_run_frames: int) -> Iterator[Scene]:
    """The scenes, of which it holds back max_held_scenes(max_run_frames); runs as in runs_of."""
    smoother = DistanceSmoother(config)
    for run in runs_of(scenes, run_s, max_run_frames):
        yield from smoother(run)
    yield from smoother.rest()


def max_held_scenes(max_run_frames: int) -> int:
    """How many scenes `at_calm_distances` holds back at most: those of two runs, and the one that shows that the second is complete."""
    return 2 * max_run_frames + 1


def runs_of(scenes: Iterable[Scene], duration_s: float, max_frames: int) -> Iterator[list[Scene]]:
    """Scenes that follow each other, so many seconds at a time, and at most `max_frames`."""
    run: list[Scene] = []
    for scene in scenes:
        if run and (scene.frame.time_s - run[0].frame.time_s >= duration_s or len(run) >= max_frames):
            yield run
            run = []
        run.append(scene)
    if run:
        yield run


def distance_factors(scenes: Sequence[Scene], line_s: float, max_gap_s: float) -> list[float]:
    """What the translations of everybody in these scenes, in this order, are to be multiplied by.

    line_s: as local_lines', of people at NEAR_M; max_gap_s: who is unseen for longer starts afresh
    """
    seen = [(mesh.track_id, scene.frame.time_s, float(mesh.translation_m[2])) for scene in scenes for mesh in scene.meshes]
    factors = np.ones(len(seen))
    for track_id in {track_id for track_id, _, _ in seen}:
        own = np.array([number for number, (other, _, _) in enumerate(seen) if other == track_id])
        times_s, logs = np.array([seen[number][1] for number in own]), np.log([seen[number][2] for number in own])
        for part in np.split(np.arange(len(own)), np.flatnonzero(np.diff(times_s) > max_gap_s) + 1):
            farther = np.exp(np.median(logs[part]) / 2) / NEAR_M**0.5
            factors[own[part]] = np.exp(local_lines(logs[part], times_s[part], line_s * max(1.0, farther)) - logs[part])
    return factors.tolist()


def moved_away(mesh: SmoothedMesh, factor: float, scene: Scene) -> SmoothedMesh:
    """The same person, so many times as far away in the same direction."""
    translation_m = mesh.translation_m * np.float32(factor)
    intrinsics = scene.intrinsics
    joints_px = project_pinhole(mesh.joints_m + translation_m, intrinsics.focal_px, intrinsics.principal_px).astype(np.float32)
    return replace(mesh, translation_m=translation_m, joints_px=joints_px)


def local_lines(values: np.ndarray, times_s: np.ndarray, deviation_s: float) -> np.ndarray:
    """(N,) at each time the value of a line through all values, with weights that fall off as a Gaussian of the time between.

    The ends keep their trend, unlike those of a mean. Source: Cleveland, "Robust Locally Weighted Regression", 1979, without its
    robust steps.
    """
    apart_s = times_s[None] - times_s[:, None]
    weights = np.exp(-0.5 * (apart_s / deviation_s) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    center_s = (weights * apart_s).sum(axis=1)
    mean = weights @ values
    spread = (weights * apart_s**2).sum(axis=1) - center_s**2
    slope = ((weights * apart_s) @ values - center_s * mean) / np.maximum(spread, 1e-12)
    return mean - slope * center_s
