"""Turns, warm-up, budget, and what an interrupt leaves, on a clock that the tasks move themselves."""

import pytest

from core import timing
from core.timing import Spread, spreads, take_turns


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s

    def takes(self, *seconds: float):
        """A task whose runs take these times, the last one for ever."""
        left = list(seconds)

        def run() -> None:
            self.now_s += left.pop(0) if len(left) > 1 else left[0]

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


def test_warm_up_does_not_count(clock: Clock) -> None:
    times_ms = take_turns({"a": clock.takes(9.0, 9.0, 0.001, 0.002, 0.003)}, repeats=3, warm_up=2)
    assert times_ms["a"] == pytest.approx([1, 2, 3])
    assert spreads(times_ms)["a"] == Spread(pytest.approx(2), pytest.approx(2.8), 3)


def test_tasks_take_turns_and_the_device_is_waited_for() -> None:
    order: list[str] = []
    tasks = {name: (lambda name=name: order.append(name)) for name in "ab"}
    take_turns(tasks, repeats=2, warm_up=1, wait=lambda: order.append("."))
    assert "".join(order) == ".a..b." * 3


def test_the_budget_ends_it_after_at_least_one_round(clock: Clock) -> None:
    tasks = {"a": clock.takes(1.0), "b": clock.takes(1.0)}
    assert len(take_turns(tasks, repeats=50, warm_up=0, budget_s=5.0)["b"]) == 3
    assert len(take_turns(tasks, repeats=50, warm_up=0, budget_s=0.0)["b"]) == 1
    assert len(take_turns(tasks, repeats=50, warm_up=9, budget_s=7.0)["b"]) == 2, "two of four rounds warm up"


def test_an_interrupt_leaves_what_was_measured(clock: Clock) -> None:
    tick, runs = clock.takes(0.001), []

    def interrupted() -> None:
        runs.append(tick())
        if len(runs) == 3:
            raise KeyboardInterrupt

    times_ms: dict[str, list[float]] = {}
    with pytest.raises(KeyboardInterrupt):
        take_turns({"a": tick, "b": interrupted}, repeats=9, warm_up=1, times_ms=times_ms)
    assert {key: len(values) for key, values in times_ms.items()} == {"a": 2, "b": 1}
    assert set(spreads(times_ms | {"c": []})) == {"a", "b"}
