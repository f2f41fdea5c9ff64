"""Feet that rest, on people of sticks whose distance errs."""

import numpy as np
import pytest

from app.export.planted import FARTHEST_M, foot_moves_m, planted, way_moves_m
from app.export.sink import UP_FROM_CAMERA
from core.joints import ANKLES
from tests.app.stick_people import FPS, Seen, walker

ALL = np.ones(2, bool)


def before_camera(person: Seen) -> tuple[np.ndarray, np.ndarray]:
    """Ankles (T, 2, 3) and pelvis (T, 3) of somebody before a level camera, y up."""
    return person.joints_m[:, ANKLES] * UP_FROM_CAMERA, person.pelvis_m * UP_FROM_CAMERA


def gliding(person: Seen, share: float, period_s: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
    """The same with distances that err by this share."""
    ankles_m, places_m = before_camera(person)
    error_m = share * np.sin(2 * np.pi * person.times_s / period_s)[:, None] * places_m
    return ankles_m + error_m[:, None], places_m + error_m


def weights_of(ankles_m: np.ndarray, places_m: np.ndarray, times_s: np.ndarray, seen: np.ndarray = ALL) -> np.ndarray:
    rays = places_m / np.linalg.norm(places_m, axis=1, keepdims=True)
    return planted(ankles_m, np.broadcast_to(seen, (len(times_s), 2)), rays, times_s)


def speed_m_s(ankles_m: np.ndarray, stands: np.ndarray) -> float:
    """Of feet that stand, on average."""
    return float((np.linalg.norm(np.diff(ankles_m, axis=0), axis=-1) * FPS)[stands].mean())


def standing(person: Seen) -> np.ndarray:
    """(T - 1, 2) bool: which feet do, in truth."""
    return np.linalg.norm(np.diff(person.world_m[:, ANKLES], axis=0), axis=-1) < 1e-6


@pytest.mark.parametrize("heading_deg", [0, 60, 90])
def test_feet_that_stand_are_told_from_those_that_swing(heading_deg: int) -> None:
    person = walker(heading_deg=heading_deg)
    found, stands = weights_of(*gliding(person, 0.01), person.times_s)[1:] > 0.5, standing(person)
    assert 0.4 < stands.mean() < 0.6
    assert (found & stands).sum() > 0.8 * stands.sum()
    assert (found & stands).sum() > 0.85 * found.sum()


@pytest.mark.parametrize("speed", [0.0, 1.2])
@pytest.mark.parametrize("heading_deg", [0, 45])
def test_people_go_by_their_planted_feet(speed: float, heading_deg: int) -> None:
    person = walker(speed, heading_deg)
    truth_m, stands = before_camera(person)[1], standing(person)
    ankles_m, places_m = gliding(person, 0.02)
    moves_m = way_moves_m(ankles_m, weights_of(ankles_m, places_m, person.times_s), places_m, person.times_s)
    assert speed_m_s(ankles_m + moves_m[:, None], stands) < 0.35 * speed_m_s(ankles_m, stands)
    before_m, after_m = (np.linalg.norm(np.diff(places - truth_m, axis=0), axis=1).mean() for places in (places_m, places_m + moves_m))
    assert after_m < 0.5 * before_m, "and are nearer to how they moved"
    rays = places_m / np.linalg.norm(places_m, axis=1, keepdims=True)
    across_m = np.linalg.norm(moves_m - (moves_m * rays).sum(1, keepdims=True) * rays, axis=1)
    assert across_m.max() < 0.02, "where they are in the picture stays"


def test_what_is_right_stays() -> None:
    person = walker(heading_deg=30)
    ankles_m, places_m = before_camera(person)
    moves_m = way_moves_m(ankles_m, weights_of(ankles_m, places_m, person.times_s), places_m, person.times_s)
    assert np.abs(moves_m).max() < 0.06


def test_who_rolls_towards_the_camera_is_not_held_back() -> None:
    person = walker(0.0)
    ankles_m, places_m = before_camera(person)
    way_m = np.array([0, 0, 2.5]) * person.times_s[:, None] - (0, 0, 4)
    ankles_m, places_m = ankles_m + way_m[:, None], places_m + way_m
    moves_m = way_moves_m(ankles_m, weights_of(ankles_m, places_m, person.times_s), places_m, person.times_s)
    came_m = (places_m + moves_m)[-1, 2] - (places_m + moves_m)[0, 2]
    assert came_m == pytest.approx(2.5 * 4, rel=0.06)


def test_feet_that_nobody_sees_say_nothing() -> None:
    person = walker()
    ankles_m, places_m = gliding(person, 0.02)
    weights = weights_of(ankles_m, places_m, person.times_s, np.zeros(2, bool))
    assert not way_moves_m(ankles_m, weights, places_m, person.times_s).any()
    assert not foot_moves_m(ankles_m[:, 0], weights[:, 0], person.times_s).any()


def test_two_frames_are_no_motion() -> None:
    person = walker(seconds=2 / FPS)
    ankles_m, places_m = before_camera(person)
    weights = weights_of(ankles_m, places_m, person.times_s)
    assert not way_moves_m(ankles_m, weights, places_m, person.times_s).any()


def test_a_leg_makes_up_for_what_is_left_and_no_more() -> None:
    times_s = np.arange(60) / FPS
    random = np.random.default_rng(0)
    trembling = np.cumsum(random.normal(0, 0.003, (60, 3)), axis=0)
    moves_m = foot_moves_m(trembling, np.ones(60), times_s)
    before_m, after_m = (np.linalg.norm(np.diff(ankle_m, axis=0), axis=1).mean() for ankle_m in (trembling, trembling + moves_m))
    assert after_m < 0.2 * before_m
    leaving = np.linspace(0, 1.5, 60)[:, None] * (1, 0, 0)
    assert np.linalg.norm(foot_moves_m(leaving, np.ones(60), times_s), axis=1).max() <= FARTHEST_M + 1e-9
    swinging = foot_moves_m(trembling, (times_s < 1).astype(float), times_s)
    assert np.linalg.norm(swinging[-5:], axis=1).max() < 0.01, "a foot that swings is where it was"


def test_frames_may_come_unevenly() -> None:
    person = walker(0.0)
    kept = np.arange(len(person.times_s)) % 7 < 4
    ankles_m, places_m = (values[kept] for values in gliding(person, 0.02))
    times_s = person.times_s[kept]
    weights = weights_of(ankles_m, places_m, times_s)
    moved_m = ankles_m + way_moves_m(ankles_m, weights, places_m, times_s)[:, None]
    slip_m, before_m = (np.linalg.norm(np.diff(points, axis=0), axis=-1).sum() for points in (moved_m, ankles_m))
    assert slip_m < 0.15 * before_m
    crowded_s = np.arange(60) * 1e-4
    assert np.isfinite(way_moves_m(ankles_m[:60], weights[:60], places_m[:60], crowded_s)).all()


def test_a_foot_that_nobody_sees_does_not_keep_the_other_from_standing() -> None:
    person = walker(0.0)
    ankles_m, places_m = before_camera(person)
    ankles_m = ankles_m - np.array([[0, 0.3, 0], [0, 0, 0]])
    weights = weights_of(ankles_m, places_m, person.times_s, np.array([False, True]))
    assert weights[:, 1].min() > 0.9
    assert not weights[:, 0].any()
