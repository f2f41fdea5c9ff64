"""A function begun in a thread: its value, its error, and who clears away what nobody took; a mailbox that was closed."""

import threading

import pytest

from app.threads import Begun, Mailbox


def test_the_value_and_the_error_come_back() -> None:
    assert Begun("a", lambda: 42).result() == 42

    def fails() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Begun("b", fails).result()


def test_waiting_says_whether_it_has_ended() -> None:
    go = threading.Event()
    begun = Begun("f", lambda: go.wait(10))
    assert not begun.wait(0.01)
    go.set()
    assert begun.wait(10)
    assert begun.wait(0)


@pytest.mark.parametrize("late", [True, False])
def test_what_nobody_took_is_cleared_away_once(late: bool) -> None:
    go, disposed, cleared = threading.Event(), [], threading.Event()

    def dispose(value: str) -> None:
        disposed.append(value)
        cleared.set()

    def work() -> str:
        go.wait(10)
        return "opened"

    begun = Begun("c", work)
    if not late:
        go.set()
        begun._thread.join(10)
    begun.abandon(dispose)
    assert disposed == ([] if late else ["opened"])
    go.set()
    assert cleared.wait(10)
    begun.abandon(dispose)
    begun._thread.join(10)
    assert disposed == ["opened"]


def test_what_was_taken_is_left_alone() -> None:
    begun, disposed = Begun("d", lambda: "opened"), []
    assert begun.result() == "opened"
    begun.abandon(disposed.append)
    assert disposed == []


def test_a_failure_leaves_nothing_to_clear_away() -> None:
    disposed = []

    def fails() -> None:
        raise OSError("gone")

    begun = Begun("e", fails)
    begun.abandon(disposed.append)
    begun._thread.join(10)
    assert disposed == []


def test_a_closed_mailbox_takes_no_more() -> None:
    mailbox: Mailbox[int] = Mailbox()
    mailbox.put(1)
    mailbox.close()
    mailbox.put(2)
    assert mailbox.take(0) == 1
    assert mailbox.closed
    mailbox.put(3)
    assert mailbox.closed
    assert mailbox.take(0) is None
