"""Stages in threads: order, bounds, errors, and that nothing is left running however it ends."""

import _thread
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from app.stages import Stages, each

ROOM = 6
BATCH = 3


def batched(items: Iterable[int]) -> Iterator[list[int]]:
    """Holds back up to BATCH items."""
    held: list[int] = []
    for item in items:
        held.append(item)
        if len(held) == BATCH:
            yield held
            held = []
    if held:
        yield held


def unbatched(batches: Iterable[list[int]]) -> Iterator[int]:
    return itertools.chain.from_iterable(batches)


STAGES = {"double": each(lambda item: 2 * item), "batch": batched, "unbatch": unbatched, "more": each(lambda item: item + 1)}


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


class Counted:
    """Numbers, as many as are asked for; notes how many were, and that it was closed."""

    def __init__(self, count: int | None = None) -> None:
        self.count, self.taken, self.closed = count, 0, False

    def __iter__(self) -> Iterator[int]:
        try:
            for item in itertools.count() if self.count is None else range(self.count):
                self.taken += 1
                yield item
        finally:
            self.closed = True


@pytest.mark.parametrize("count", [0, 1, BATCH, 200])
def test_everything_comes_out_in_order(count: int) -> None:
    with Stages(Counted(count), STAGES, ROOM) as results:
        assert list(results) == [2 * item + 1 for item in range(count)]


def test_stages_work_at_the_same_time() -> None:
    def slow(item: int) -> int:
        time.sleep(0.02)
        return item

    start_s = time.perf_counter()
    with Stages(range(20), {name: each(slow) for name in ("a", "b", "c", "d")}, 8) as results:
        assert list(results) == list(range(20))
    assert time.perf_counter() - start_s < 0.75 * 20 * 4 * 0.02


def test_no_more_than_the_room_is_under_way() -> None:
    source = Counted()
    with Stages(source, STAGES, ROOM) as results:
        for number, _ in enumerate(itertools.islice(results, 50), start=1):
            if number % 10 == 0:
                time.sleep(0.05)  # whoever takes is slow: the stages run into their bound
            assert source.taken <= number + ROOM
        assert source.taken >= 50
    assert source.closed


def test_what_is_done_with_is_let_go() -> None:
    class Item:
        alive = 0

        def __init__(self) -> None:
            Item.alive += 1

        def __del__(self) -> None:
            Item.alive -= 1

    go_on = threading.Event()

    def source() -> Iterator[Item]:
        for index in range(40):
            yield Item()
            if index == 19:
                go_on.wait()

    with Stages(source(), {"a": each(lambda item: item), "b": each(lambda item: item)}, ROOM) as results:
        taken = iter(results)
        for _ in range(20):
            next(taken)
        assert Item.alive <= 2, "the one just taken, and the one that the source still holds"
        go_on.set()
        del taken


@pytest.mark.parametrize("where", ["read", "double", "batch", "more"])
def test_an_error_comes_out_after_all_before_it_and_nothing_runs_on(where: str) -> None:
    def breaking(items: Iterable[int]) -> Iterator[int]:
        for number, item in enumerate(items):
            if number == 30:
                raise OSError(f"broken in {where}")
            yield item

    source = Counted()
    stages = dict(STAGES)
    if where in stages:
        stages[where] = lambda items, stage=stages[where]: stage(breaking(items)) if where != "more" else breaking(stage(items))
    results: list[int] = []
    with (
        pytest.raises(OSError, match=f"broken in {where}"),
        Stages(breaking(source) if where == "read" else source, stages, ROOM) as given,
    ):
        results += given
    count = source.taken
    time.sleep(0.05)
    assert source.taken == count <= 31 + 2 * ROOM
    assert results == [2 * item + 1 for item in range(len(results))]


def test_all_before_an_error_is_given() -> None:
    def source() -> Iterator[int]:
        yield from range(7)
        raise OSError("the disk went away")

    results: list[int] = []
    with pytest.raises(OSError, match="went away"), Stages(source(), {"more": each(lambda item: item + 1)}, ROOM) as given:
        results.extend(given)
    assert results == list(range(1, 8))


def test_leaving_early_ends_everything() -> None:
    source = Counted()
    with Stages(source, STAGES, ROOM) as results:
        next(iter(results))
    assert source.closed
    count = source.taken
    time.sleep(0.05)
    assert source.taken == count


def test_ctrl_c_ends_within_a_second_while_results_are_waited_for() -> None:
    def stuck(item: int) -> int:
        time.sleep(0.3)
        return item

    start_s = time.perf_counter()
    threading.Timer(0.2, _thread.interrupt_main).start()
    with pytest.raises(KeyboardInterrupt), Stages(Counted(), {"stuck": each(stuck), **STAGES}, ROOM) as results:
        list(results)
    assert time.perf_counter() - start_s < 1.2


class Look:
    """Takes its time in a stage, as a detector does; `ended` when it is through."""

    def __init__(self, takes_s: float) -> None:
        self.takes_s, self.begun, self.ended = takes_s, threading.Event(), threading.Event()

    def __call__(self, item: int) -> int:
        self.ended.clear()
        self.begun.set()
        time.sleep(self.takes_s)
        self.ended.set()
        return item


def interrupt_often(look: Look, times: int, every_s: float = 0.15) -> None:
    """Ctrl-C as the system gives it, from the first look on."""
    look.begun.wait()
    for _ in range(times):
        time.sleep(every_s)
        os.kill(os.getpid(), signal.SIGINT)


def test_a_second_ctrl_c_still_waits_for_the_threads(caplog: pytest.LogCaptureFixture) -> None:
    look, before = Look(1.0), signal.getsignal(signal.SIGINT)
    interrupting = threading.Thread(target=interrupt_often, args=(look, 2))
    interrupting.start()
    with pytest.raises(KeyboardInterrupt), Stages(Counted(), {"look": each(look)}, ROOM) as results:
        list(results)
    assert look.ended.is_set(), "what it looks with would be closed under it"
    interrupting.join()
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == ["ending"]
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_during_the_end_of_what_went_well_interrupts_afterwards() -> None:
    look = Look(0.5)

    def left_early() -> None:
        with Stages(Counted(), {"look": each(look)}, ROOM):
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            look.begun.wait()

    with pytest.raises(KeyboardInterrupt):
        left_early()
    assert look.ended.is_set()


def test_a_third_ctrl_c_kills_at_once(repository: Path) -> None:
    program = (
        "import signal, threading\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from app.stages import Stages, each\n"
        "from tests.app.test_stages import Counted, Look, interrupt_often\n"
        "look = Look(60.0)\n"
        "threading.Thread(target=interrupt_often, args=(look, 3), daemon=True).start()\n"
        "with Stages(Counted(), {'look': each(look)}, 2) as results:\n"
        "    list(results)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program], check=False, cwd=repository, capture_output=True, text=True, timeout=40)
    assert killed.returncode == -signal.SIGINT, killed.stderr
    assert "Traceback" not in killed.stderr


def test_busy_times_are_those_of_the_work_alone() -> None:
    def slow(item: int) -> int:
        time.sleep(0.02)
        return item

    with Stages(range(15), {"quick": each(abs), "slow": each(slow), "last": each(abs)}, ROOM) as results:
        list(results)
    assert 0.3 <= results.busy_s["slow"] < 1.5
    assert max(busy_s for name, busy_s in results.busy_s.items() if name != "slow") < 0.15, "who only waits is not busy"
    assert results.names == ("read", "quick", "slow", "last")
