"""How long things take: all in turn, so that a noisy machine is noisy to all of them; medians and 90th percentiles."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

K = TypeVar("K")

WARM_UP = 3


@dataclass(frozen=True)
class Spread:
    """What many runs of one thing took, milliseconds."""

    median_ms: float
    p90_ms: float
    num_runs: int

    @classmethod
    def of(cls, times_ms: list[float]) -> "Spread":
        """Of one run or more."""
        median_ms, p90_ms = np.quantile(times_ms, (0.5, 0.9)).tolist()
        return cls(median_ms, p90_ms, len(times_ms))


def take_turns(
    tasks: Mapping[K, Callable[[], object]],
    repeats: int,
    warm_up: int = WARM_UP,
    wait: Callable[[], object] | None = None,
    budget_s: float = float("inf"),
    times_ms: dict[K, list[float]] | None = None,
) -> dict[K, list[float]]:
    """Run all tasks one after the other, again and again: key -> milliseconds of its runs, oldest first.

    repeats: rounds that count, after `warm_up` that do not     wait: what a device needs to be done, before and after each run
    budget_s: no round begins later than this after the first, and none that does not count later than half of it; one that counts
        is always run
    times_ms: filled as it goes, so that an interrupt leaves there what was measured
    """
    times_ms = {} if times_ms is None else times_ms
    wait = wait or (lambda: None)
    begin_s = time.perf_counter()
    num_warm = num_counted = 0
    while num_counted < repeats:
        spent_s = time.perf_counter() - begin_s
        if num_counted and spent_s > budget_s:
            break
        counts = num_warm == warm_up or spent_s > budget_s / 2
        for key, run in tasks.items():
            wait()
            start_s = time.perf_counter()
            run()
            wait()
            if counts:
                times_ms.setdefault(key, []).append((time.perf_counter() - start_s) * 1e3)
        num_counted, num_warm = num_counted + counts, num_warm + (not counts)
    return times_ms


def spreads(times_ms: Mapping[K, list[float]]) -> dict[K, Spread]:
    """Key -> median and 90th percentile, for all that ran."""
    return {key: Spread.of(values) for key, values in times_ms.items() if values}
