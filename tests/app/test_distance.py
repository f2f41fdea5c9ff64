"""Distances of a recording's people: calm, never late, and everybody stays in their place in the picture."""

import math
from collections.abc import Iterator

import numpy as np
import pytest

from app.config import SmoothConfig
from app.distance import DistanceSmoother, at_calm_distances, local_lines, max_held_scenes
from app.types import Scene
from core.geometry import project_pinhole
from tests.app.media import FOCAL_PX, mesh, scene

CONFIG = SmoothConfig()
FPS = 30.0


def walk(depths_m: np.ndarray, others_m: np.ndarray | None = None) -> list[Scene]:
    """Person 1, a metre beside the axis at 5 metres, and person 2 where others_m is a number."""
    found = []
    for index, depth_m in enumerate(depths_m):
        people = [mesh(1, (depth_m / 5, 0.0, depth_m))]
        if others_m is not None and not math.isnan(others_m[index]):
            people.append(mesh(2, (0.0, 0.0, others_m[index])))
        found.append(scene(*people, index=index, time_s=index / FPS))
    return found


def smoothed(scenes: list[Scene], run: int = 10) -> list[Scene]:
    smoother = DistanceSmoother(CONFIG)
    done = [finished for first in range(0, len(scenes), run) for finished in smoother(scenes[first : first + run])]
    return done + smoother.rest()


def depths_of(scenes: list[Scene], track_id: int = 1) -> np.ndarray:
    return np.array([person.translation_m[2] for item in scenes for person in item.meshes if person.track_id == track_id])


def test_lines_pass_through_lines_at_any_times() -> None:
    times_s = np.sort(np.random.default_rng(0).uniform(0, 2, 40))
    np.testing.assert_allclose(local_lines(3 - 0.7 * times_s, times_s, 0.13), 3 - 0.7 * times_s, atol=1e-9)
    assert local_lines(np.array([2.5]), np.array([0.1]), 0.13) == pytest.approx(2.5)


def test_somebody_who_stands_wanders_by_a_quarter_at_most() -> None:
    noise = np.random.default_rng(1).normal(0, 0.02, 120)
    before = 5 * np.exp(noise)
    after = depths_of(smoothed(walk(before)))
    assert np.abs(np.diff(after)).mean() < 0.1 * np.abs(np.diff(before)).mean()
    assert np.abs(after - 5).mean() < 0.5 * np.abs(before - 5).mean()


def test_people_far_away_are_held_the_more_calmly() -> None:
    """They do not walk faster, but a share of their distance is more."""
    noise = np.random.default_rng(1).normal(0, 0.02, 240)
    near, far = (np.abs(np.diff(depths_of(smoothed(walk(depth_m * np.exp(noise)))) / depth_m)).mean() for depth_m in (5, 20))
    assert far < 0.5 * near


def test_a_walk_is_neither_late_nor_shorter() -> None:
    times_s = np.arange(150) / FPS
    depths_m = 6 + 1.5 * np.sin(2 * np.pi * times_s / 5)
    after = depths_of(smoothed(walk(depths_m)))
    assert np.abs(after - depths_m).max() < 0.08
    assert np.argmax(after) == pytest.approx(np.argmax(depths_m), abs=1)


def test_everybody_stays_on_their_ray_and_joints_are_where_they_are_seen() -> None:
    scenes = smoothed(walk(5 * np.exp(np.random.default_rng(2).normal(0, 0.05, 40))))
    for item in scenes:
        (person,) = item.meshes
        assert person.translation_m[0] / person.translation_m[2] == pytest.approx(0.2)
        seen_px = project_pinhole(person.joints_m + person.translation_m, FOCAL_PX, (32.0, 24.0))
        np.testing.assert_allclose(person.joints_px, seen_px, atol=1e-3)


def test_people_are_apart_and_start_afresh_after_a_gap() -> None:
    others_m = np.full(90, math.nan)
    others_m[:20], others_m[60:] = 3.0, 8.0
    scenes = smoothed(walk(np.full(90, 5.0), others_m))
    np.testing.assert_allclose(depths_of(scenes), 5.0, rtol=1e-6)
    np.testing.assert_allclose(depths_of(scenes, 2), [3.0] * 20 + [8.0] * 30, rtol=1e-6)


@pytest.mark.parametrize("run", [1, 3, 10, 200])
def test_every_scene_comes_back_once_and_in_order(run: int) -> None:
    assert [item.frame.index for item in smoothed(walk(np.full(25, 5.0)), run)] == list(range(25))


def test_scenes_one_by_one_are_what_runs_of_them_are() -> None:
    scenes = walk(5 * np.exp(np.random.default_rng(3).normal(0, 0.02, 35)))
    np.testing.assert_array_equal(depths_of(list(at_calm_distances(scenes, CONFIG, 0.33, 16))), depths_of(smoothed(scenes)))


def test_at_any_rate_only_so_many_scenes_are_held_back() -> None:
    times_s = np.cumsum([1 / 7.5] * 20 + [1 / 240] * 100)
    taken = []

    def scenes() -> Iterator[Scene]:
        for index, time_s in enumerate(times_s):
            taken.append(index)
            yield scene(index=index, time_s=time_s)

    held = [len(taken) - number for number, _ in enumerate(at_calm_distances(scenes(), CONFIG, 0.33, 8))]
    assert len(held) == 120
    assert max(held) == max_held_scenes(8)


def test_after_the_rest_nobody_is_remembered() -> None:
    smoother = DistanceSmoother(CONFIG)
    smoother(walk(np.full(5, 3.0)))
    smoother.rest()
    smoother(walk(np.full(5, 9.0)))
    np.testing.assert_allclose(depths_of(smoother.rest()), 9.0, rtol=1e-6)
