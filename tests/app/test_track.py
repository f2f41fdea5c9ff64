"""Ids over time: birth, loss, return, crossing, doubles."""

import numpy as np
import pytest

from app.config import TrackConfig
from app.track import Tracker
from app.types import Person

CONFIG = TrackConfig()
STEP_S = 0.25


def person(x: float, y: float = 200, width: float = 80, height: float = 200, score: float = 0.9) -> Person:
    """Centred at x, y."""
    return Person(np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2], np.float32), score)


def ids(tracker: Tracker, time_s: float) -> dict[int, float]:
    """Id -> x of those seen right now."""
    return {t.track_id: float(t.last.box_px[[0, 2]].mean()) for t in tracker.tracks if t.confirmed and t.observed_at(time_s)}


def test_birth_needs_two_sights_and_a_ghost_gets_no_id() -> None:
    tracker = Tracker(CONFIG, max_people=4)
    tracker.update(0.0, [person(100), person(600)])
    assert ids(tracker, 0.0) == {}
    tracker.update(STEP_S, [person(110)])
    assert ids(tracker, STEP_S) == {1: 110}
    for step in range(2, 6):
        tracker.update(step * STEP_S, [person(110)])
    assert len(tracker.tracks) == 1


def test_a_scene_of_one_look_shows_everybody() -> None:
    tracker = Tracker(CONFIG, max_people=2)
    tracker.update(0.0, [person(100, score=0.5), person(300), person(600)])
    tracker.confirm_all()
    assert sorted(ids(tracker, 0.0).values()) == [300, 600]


def test_death_and_new_id_after_long_absence() -> None:
    tracker = Tracker(CONFIG, max_people=4)
    times = np.arange(0, 1.01, STEP_S)
    for time_s in times:
        tracker.update(time_s, [person(100)])
    absent_until = 1.0 + CONFIG.forget_s + 2 * STEP_S
    for time_s in np.arange(1.0 + STEP_S, absent_until, STEP_S):
        tracker.update(time_s, [])
    assert tracker.tracks == ()
    for time_s in (absent_until, absent_until + STEP_S):
        tracker.update(time_s, [person(100)])
    assert list(ids(tracker, absent_until + STEP_S)) == [2]


def test_short_loss_keeps_the_id_along_the_motion() -> None:
    tracker = Tracker(CONFIG, max_people=4)
    for step in range(4):
        tracker.update(step * STEP_S, [person(100 + 40 * step)])
    for step in range(4, 7):
        tracker.update(step * STEP_S, [])
    tracker.update(7 * STEP_S, [person(100 + 40 * 7)])
    assert ids(tracker, 7 * STEP_S) == {1: 380}


def test_somebody_elsewhere_is_somebody_else() -> None:
    tracker = Tracker(CONFIG, max_people=4)
    for step in range(3):
        tracker.update(step * STEP_S, [person(100)])
    for step in range(3, 5):
        tracker.update(step * STEP_S, [person(900)])
    assert ids(tracker, 4 * STEP_S) == {2: 900}


def test_a_much_smaller_person_at_the_same_place_is_somebody_else() -> None:
    tracker = Tracker(CONFIG, max_people=4)
    for step in range(3):
        tracker.update(step * STEP_S, [person(100)])
    tracker.update(3 * STEP_S, [person(100, width=20, height=60)])
    tracker.update(4 * STEP_S, [person(100, width=20, height=60)])
    assert set(ids(tracker, 4 * STEP_S)) == {2}


@pytest.mark.parametrize("speed", [60.0, 100.0])
def test_crossing_people_keep_their_ids(speed: float) -> None:
    tracker = Tracker(CONFIG, max_people=4)
    for step in range(13):
        time_s = step * STEP_S
        left, right = 100 + speed * time_s, 100 + speed * 3 - speed * time_s
        people = [person(left), person(right, y=215)]
        if abs(left - right) < 20:
            people = people[1:]  # one hides the other
        tracker.update(time_s, people[:: 1 if step % 2 else -1])
        if step == 1:
            start = ids(tracker, time_s)
    end = ids(tracker, time_s)
    assert set(start) == set(end) == {1, 2}
    assert all((start[key] < 250) == (end[key] > 250) for key in start)


def test_a_followed_ghost_on_a_seen_person_is_dropped() -> None:
    tracker = Tracker(CONFIG, max_people=4)
    for step in range(2):
        tracker.update(step * STEP_S, [person(100), person(400)])
    ghost = next(track for track in tracker.tracks if track.last.box_px[0] > 200)
    tracker.update(0.5, [person(100)])
    for time_s in (0.5, 0.75):
        tracker.follow(ghost.key, time_s, person(102).box_px)
    tracker.update(0.75, [person(100)])
    assert [track.key for track in tracker.shown] == [track.key for track in tracker.tracks if track.key != ghost.key]
    assert len(tracker.shown) == 1


def test_two_people_found_apart_are_never_merged() -> None:
    tracker = Tracker(CONFIG, max_people=4)
    for step in range(4):
        tracker.update(step * STEP_S, [person(100), person(106)])
    assert set(ids(tracker, 3 * STEP_S)) == {1, 2}


def test_max_people_and_room_again() -> None:
    tracker = Tracker(CONFIG, max_people=2)
    for step in range(4):
        tracker.update(step * STEP_S, [person(100, score=0.8), person(400, score=0.95), person(700, score=0.9)])
    assert sorted(ids(tracker, 3 * STEP_S).values()) == [400, 700]
    tracker.lose(next(track.key for track in tracker.shown if track.last.box_px[0] > 600))
    for step in range(4, 10):
        tracker.update(step * STEP_S, [person(100, score=0.8), person(400)])
    assert sorted(ids(tracker, 9 * STEP_S).values()) == [100, 400]


def test_who_comes_back_needs_room() -> None:
    tracker = Tracker(CONFIG, max_people=1)
    for step in range(2):
        tracker.update(step * STEP_S, [person(100)])
    tracker.lose(tracker.tracks[0].key)
    for step in range(2, 5):
        tracker.update(step * STEP_S, [person(600)])
    assert [track.track_id for track in tracker.shown] == [2]
    tracker.update(5 * STEP_S, [person(600), person(100)])
    assert [track.track_id for track in tracker.shown] == [2]
    tracker.lose(tracker.shown[0].key)
    tracker.update(6 * STEP_S, [person(100)])
    assert [track.track_id for track in tracker.shown] == [1]


def test_who_comes_back_goes_before_who_is_new() -> None:
    tracker = Tracker(CONFIG, max_people=1)
    tracker.update(0.0, [person(100)])
    tracker.update(STEP_S, [person(100), person(600, score=0.95)])
    tracker.lose(tracker.shown[0].key)
    tracker.update(2 * STEP_S, [person(100), person(600, score=0.95)])
    assert [track.track_id for track in tracker.shown] == [1]


def test_those_without_room_are_not_on_trial() -> None:
    tracker = Tracker(CONFIG, max_people=1)
    tracker.update(0.0, [person(100), person(600, score=0.8)])
    assert len(tracker.on_trial) == 2
    tracker.update(STEP_S, [person(100), person(600, score=0.8), person(350, score=0.5)])
    assert [float(track.last.box_px[[0, 2]].mean()) for track in tracker.on_trial] == [350]


@pytest.mark.parametrize("look_s", [0.3, 1.0])
def test_somebody_followed_keeps_their_place_however_rare_the_looks_are(look_s: float) -> None:
    tracker = Tracker(CONFIG, max_people=4)
    for step in range(2):
        tracker.update(step * look_s, [person(100)])
    tracker.follow(0, 2 * look_s - 0.01, person(100).box_px)
    tracker.update(2 * look_s, [person(100), person(150, score=0.4)])  # once: nobody is there
    tracker.follow(0, 3 * look_s - 0.01, person(100).box_px)
    tracker.update(3 * look_s, [person(112)])
    assert ids(tracker, 3 * look_s) == {1: 112}


def test_boxes_between_and_after_two_sights() -> None:
    tracker = Tracker(CONFIG, max_people=1)
    tracker.update(0.0, [person(100)])
    tracker.update(1.0, [person(200)])
    track = tracker.tracks[0]
    assert track.box_at(0.25)[[0, 2]].mean() == pytest.approx(125)
    assert 200 < track.box_at(1.2)[[0, 2]].mean() < 221
    assert track.box_at(60.0)[[0, 2]].mean() < 290


def test_lost_people_are_shown_no_longer_but_may_return() -> None:
    tracker = Tracker(CONFIG, max_people=1)
    for step in range(2):
        tracker.update(step * STEP_S, [person(100)])
    tracker.lose(tracker.tracks[0].key)
    assert tracker.shown == ()
    tracker.update(2 * STEP_S, [person(100)])
    assert ids(tracker, 2 * STEP_S) == {1: 100}
    assert len(tracker.shown) == 1


def test_a_cut_forgets_everybody_but_not_the_numbers() -> None:
    tracker = Tracker(CONFIG, max_people=1)
    for step in range(2):
        tracker.update(step * STEP_S, [person(100)])
    tracker.reset()
    for step in range(2, 4):
        tracker.update(step * STEP_S, [person(100)])
    assert list(ids(tracker, 3 * STEP_S)) == [2]
