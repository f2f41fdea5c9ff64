"""Which looks search."""

from collections.abc import Container

from app.searches import Searches


def looks(searches: Searches, count: int, new_at: Container[int] = (), nobody_at: Container[int] = ()) -> list[int]:
    """Numbers of those looks, from 0 on, that search."""
    searched = []
    for number in range(count):
        due = searches.due
        searched += [number] * due
        searches.looked(due, somebody_new=number in new_at, nobody=number in nobody_at)
    return searched


def test_searches_become_rarer_while_nobody_new_comes() -> None:
    assert looks(Searches(3, 8), 40, new_at=(0,)) == [0, 3, 9, 17, 25, 33]


def test_somebody_new_brings_them_back() -> None:
    assert looks(Searches(3, 8), 40, new_at=(0, 17)) == [0, 3, 9, 17, 20, 26, 34]  # found by a search
    assert looks(Searches(3, 8), 40, new_at=(0, 18)) == [0, 3, 9, 17, 21, 27, 35]  # found by a look between two


def test_while_nobody_is_there_they_stay_as_they_are() -> None:
    assert looks(Searches(3, 8), 20, nobody_at=range(20)) == [0, 3, 6, 9, 12, 15, 18]
    assert looks(Searches(3, 8), 30, new_at=(13,), nobody_at=range(13)) == [0, 3, 6, 9, 12, 15, 21, 29]


def test_a_search_out_of_turn_counts() -> None:
    searches = Searches(3, 8)
    searches.looked(True, somebody_new=True, nobody=False)
    searches.looked(False, somebody_new=False, nobody=False)
    searches.looked(True, somebody_new=False, nobody=False)  # fewer were found than before
    assert looks(searches, 12) == [5]


def test_a_new_scene_is_searched_at_once() -> None:
    searches = Searches(3, 8)
    looks(searches, 11)
    searches.start()
    assert looks(searches, 5, new_at=(0,)) == [0, 3]


def test_rarest_is_never_more_often_than_usual() -> None:
    assert looks(Searches(4, 2), 13) == [0, 4, 8, 12]
