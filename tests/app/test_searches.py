from app.searches import Searches


def looks(searches: Searches, count: int, new_at: tuple[int, ...] = ()) -> list[int]:
    """Numbers of those looks, from 0 on, that search."""
    searched = []
    for number in range(count):
        due = searches.due
        searched += [number] * due
        searches.looked(due, number in new_at)
    return searched


def test_searches_become_rarer_while_nobody_new_comes() -> None:
    assert looks(Searches(3, 8), 40, new_at=(0,)) == [0, 3, 9, 17, 25, 33]


def test_somebody_new_brings_them_back() -> None:
    assert looks(Searches(3, 8), 40, new_at=(0, 17)) == [0, 3, 9, 17, 20, 26, 34]  # found by a search
    assert looks(Searches(3, 8), 40, new_at=(0, 18)) == [0, 3, 9, 17, 21, 27, 35]  # found by a look between two


def test_a_search_out_of_turn_counts() -> None:
    searches = Searches(3, 8)
    searches.looked(True, True)
    searches.looked(False, False)
    searches.looked(True, False)  # fewer were found than before
    assert looks(searches, 12) == [5]


def test_a_new_scene_is_searched_at_once() -> None:
    searches = Searches(3, 8)
    looks(searches, 11)
    searches.start()
    assert looks(searches, 5, new_at=(0,)) == [0, 3]


def test_rarest_is_never_more_often_than_usual() -> None:
    assert looks(Searches(4, 2), 13) == [0, 4, 8, 12]
