"""The governor on a pretended machine and a pretended clock."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from app.governor import Governor, Plan, ladder


@dataclass
class Machine:
    """Costs of a frame in ms; drawing slows everything down."""

    estimate_ms: float
    look_ms: float = 40.0
    draw_share: float = 0.0

    def frame_ms(self, plan: Plan, index: int) -> tuple[float, float]:
        """All, and the detector's part."""
        slower = 1 + self.draw_share * plan.draw_fps / 30
        look_ms = self.look_ms * slower if index % plan.detect_stride == 0 else 0.0
        return self.estimate_ms * slower + look_ms, look_ms


def run(governor: Governor, machine: Callable[[float], Machine], duration_s: float, start_s: float = 0.0) -> list[tuple[float, int, float]]:
    """(time, rung, milliseconds of the frame against what is allowed) of each frame."""
    now_s, index, steps = start_s, 0, []
    while now_s < start_s + duration_s:
        plan = governor.plan
        frame_ms, look_ms = machine(now_s).frame_ms(plan, index)
        now_s += max(frame_ms, plan.infer_interval_ms, 1000 / 30) / 1e3
        governor.note(now_s, frame_ms, look_ms)
        steps.append((now_s, governor.rung, frame_ms / max(governor.target_ms, plan.infer_interval_ms)))
        index += 1
    return steps


def test_each_rung_changes_one_thing_and_costs_less() -> None:
    plans = ladder(33.0)
    assert plans[0] == Plan()
    kinds = []
    for fuller, leaner in itertools.pairwise(plans):
        changed = [name for name in ("detect_stride", "draw_fps", "infer_interval_ms") if getattr(fuller, name) != getattr(leaner, name)]
        assert len(changed) == 1
        kinds += changed
        assert leaner.detect_stride >= fuller.detect_stride
        assert leaner.draw_fps <= fuller.draw_fps
        assert leaner.infer_interval_ms >= fuller.infer_interval_ms
    assert kinds == sorted(kinds, key=["detect_stride", "draw_fps", "infer_interval_ms"].index), "first looks, then drawing, then inference"


def test_where_nobody_draws_there_is_no_rung_for_it_and_the_network_does_not_rest() -> None:
    assert {plan.draw_fps for plan in ladder(33.0, draws=False)} == {Plan().draw_fps}
    assert {plan.infer_interval_ms for plan in ladder(33.0, draws=False)} == {0.0}
    assert "drawing" not in governed_text(Governor(33.0, draws=False))
    assert "drawing" in governed_text(Governor(33.0))


def governed_text(governor: Governor) -> str:
    run(governor, lambda _: Machine(70.0), 10.0)
    return governor.text


def test_a_frame_a_little_too_slow_costs_little() -> None:
    """38 ms against 33: with all else held back, 25 frames a second and not 20."""
    governor = Governor(33.0)
    run(governor, lambda _: Machine(38.0, look_ms=0.0), 40.0)
    assert 38 <= governor.plan.infer_interval_ms <= 41


def test_a_fast_machine_is_left_alone() -> None:
    governor = Governor(33.0)
    assert {rung for _, rung, _ in run(governor, lambda _: Machine(15.0), 20.0)} == {0}
    assert governor.text == "target 33 ms: all as planned"


@pytest.mark.parametrize(("machine", "rungs"), [
    (Machine(29.0, look_ms=80.0), (1, 2)),
    (Machine(20.0, look_ms=30.0, draw_share=1.0), (3, 5)),
    (Machine(60.0), (6, 9)),
])  # fmt: skip
def test_it_stops_at_the_first_rung_that_holds(machine: Machine, rungs: tuple[int, int]) -> None:
    governor = Governor(33.0)
    steps = run(governor, lambda _: machine, 40.0)
    late = [load for now_s, _, load in steps if now_s > 10]
    assert sum(late) / len(late) < 1.1, "the target holds on average"
    assert rungs[0] <= governor.rung <= rungs[1]
    changes = sum(before[1] != after[1] for before, after in itertools.pairwise(steps) if after[0] > 10)
    assert changes <= 4, "it does not swing to and fro"


def test_it_gives_back_when_the_load_is_gone() -> None:
    governor = Governor(33.0)
    run(governor, lambda _: Machine(70.0), 10.0)
    assert governor.plan.infer_interval_ms > 0
    assert "inference" in governor.text
    steps = run(governor, lambda _: Machine(12.0), 60.0, start_s=10.0)
    assert governor.rung == 0
    assert next(now_s for now_s, rung, _ in steps if rung == 0) < 45


def test_a_try_that_fails_is_not_repeated_soon() -> None:
    """At the edge, where the fuller plan just does not hold: fewer and fewer tries."""
    governor = Governor(33.0)
    steps = run(governor, lambda _: Machine(19.5, look_ms=0.0, draw_share=0.9), 240.0)
    changes = [after[0] for before, after in itertools.pairwise(steps) if before[1] != after[1]]
    first, last = sum(now_s < 60 for now_s in changes), sum(now_s > 180 for now_s in changes)
    assert last <= max(first // 2, 2)


def test_what_is_out_of_reach_is_said() -> None:
    governor = Governor(33.0)
    run(governor, lambda _: Machine(900.0), 60.0)
    assert governor.rung == len(ladder(33.0)) - 1
    assert "out of reach" in governor.text
    assert "ms)" in governor.text


def test_single_spikes_change_nothing() -> None:
    governor = Governor(33.0)
    steps = run(governor, lambda now_s: Machine(15.0 if int(now_s * 30) % 90 else 150.0), 20.0)
    assert max(rung for _, rung, _ in steps) == 0
