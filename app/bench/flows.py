"""End to end: recorded clips from file to files, the live loop frame by frame, each also with the network in the official layout."""

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from app.bench.clips import FPS, Clip
from app.bench.official import OFFICIAL
from app.bench.report import Row
from app.bench.sections import SECTIONS, Bench
from app.jobs import Engine, process_video
from app.live import LivePipeline
from app.progress import Progress
from app.types import Frame
from core.timing import Spread

if TYPE_CHECKING:
    from app.pipeline import Estimator

BURST = 15
"""Frames of a live clip in a row: half a second, in which the detector looks twice."""
SETTLE_S = 8.0
OVERLAY, NO_OVERLAY = "with overlay", "no overlay"


class NoProgress:
    """A clip of two seconds needs no bar."""

    def __init__(self, name: str, total: int | None) -> None:
        del name, total

    def check(self) -> None:
        """Nothing."""

    def update(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Flow:
    """A clip on its way through everything. variant: what is written; official: with the network in the official layout."""

    clip: Clip
    variant: str
    official: bool = False

    @property
    def setting(self) -> str:
        """For tables."""
        return f"{self.clip.name}, {OFFICIAL}" if self.official else self.clip.name


def recorded_flows(frames: int) -> list[Flow]:
    """What the section "recorded" runs."""
    clips = [Clip(size_px, people, frames) for size_px in ((640, 480), (1280, 720)) for people in (1, 2)]
    flows = [Flow(clip, variant) for variant in (NO_OVERLAY, OVERLAY) for clip in clips]
    return flows + [Flow(Clip((1280, 720), 1, frames), variant, official=True) for variant in (NO_OVERLAY, OVERLAY)]


@SECTIONS.register("recorded")
def measure_recorded(bench: Bench) -> None:
    """Milliseconds of a frame, file to files, the clip's length in frames being small: opening and closing the files counts."""
    flows = [flow for flow in recorded_flows(bench.effort.frames) if bench.official is not None or not flow.official]
    times_ms = recorded_times_ms(bench, "recorded", flows, bench.effort.rounds, 1, 2 * bench.effort.budget_s)
    bench.report.rows += flow_rows("recorded", times_ms)


def recorded_times_ms(
    bench: Bench, section: str, flows: list[Flow], repeats: int, warm_up: int, budget_s: float
) -> dict[Flow, list[float]]:
    """Milliseconds of a frame, each the mean of a whole run."""
    paths: dict[Clip, Path] = {}
    targets = {flow: bench.folder / f"{section}-{number}" for number, flow in enumerate(flows)}
    runs = {flow: run_of(bench, flow, paths, targets[flow]) for flow in flows}
    times_ms = bench.turns(runs, repeats, warm_up, budget_s)
    for flow in times_ms:
        summary = json.loads((targets[flow] / "summary.json").read_text(encoding="utf-8"))
        found = sum(person["num_frames"] for person in summary["people"])
        say_missed(bench, section, flow, found, summary["frames"])
    return {flow: [ms / flow.clip.num_frames for ms in values] for flow, values in times_ms.items()}


def run_of(bench: Bench, flow: Flow, paths: dict[Clip, Path], target: Path) -> Callable[[], object]:
    """One run of a recorded clip, from file to files."""
    clip = flow.clip
    if clip not in paths:
        paths[clip] = clip.write(bench.scenery, bench.folder / f"{target.name}.mp4")
    most = max(bench.config.max_people, clip.num_people)
    config = replace(bench.config, overwrite=True, max_people=most, overlay=flow.variant == OVERLAY)
    make_progress: Callable[[str, int | None], Progress] = NoProgress
    engine = Engine(bench.official if flow.official else bench.estimator, bench.detector, config, make_progress)
    return lambda: process_video(paths[clip], target, engine)


def say_missed(bench: Bench, section: str, flow: Flow, num_found: int, num_frames: int) -> None:
    """A note when people who are in the pictures were not found: their work was not done."""
    expected = num_frames * flow.clip.num_people
    if num_found < expected:
        name = f"{flow.variant}, {flow.setting}" if flow.variant else flow.setting
        bench.report.note(section, f"{name}: {1 - num_found / expected:.1%} of the people were missed")


@SECTIONS.register("live")
def measure_live(bench: Bench) -> None:
    """The loop of --webcam without drawing, as fast as it goes: the camera does not wait."""
    frames = bench.effort.frames
    clips = [Clip((640, 480), 1, frames), Clip((640, 480), 2, frames), Clip((1280, 720), 1, frames)]
    flows = [Flow(clip, "") for clip in clips] + [Flow(clips[0], "", official=True)] * (bench.official is not None)
    bench.report.rows += flow_rows("live", live_times_ms(bench, "live", flows))


def live_times_ms(bench: Bench, section: str, flows: list[Flow]) -> dict[Flow, list[float]]:
    """Milliseconds of a frame, each the mean of BURST in a row; threads are shared out as in a live session."""
    import torch

    from app.engine import open_estimator
    from app.tiers import loading_once, tier_for
    from app.webcam import leave_a_core

    threads = torch.get_num_threads()
    try:
        leave_a_core()
        once = loading_once(open_estimator)
        tier = tier_for(bench.config, once)
        official = bench.official_of(tier.checkpoint)
        bench.report.note(section, f"network of cameras on this machine: {tier}")
        with ExitStack() as stack:
            networks = {flow: official if flow.official else tier.open(bench.config, once)[1] for flow in flows}
            runs = {flow: live_run(bench, flow, network, stack) for flow, network in networks.items()}
            times_ms = bench.turns(runs, bench.effort.repeats, 2)
            for flow, run in runs.items():
                say_missed(bench, section, flow, run.num_found, run.num_frames)
    finally:
        torch.set_num_threads(threads)
    return {flow: [ms / BURST for ms in values] for flow, values in times_ms.items()}


class LiveRun:
    """The next BURST frames of a clip through a live pipeline, each time it is called; the pictures are ready before, the detector looks
    beside. num_found: people in all frames so far
    """

    def __init__(self, flow: Flow, pictures: list[Frame], pipeline: LivePipeline) -> None:
        """Shows the first picture until everybody is found, or SETTLE_S."""
        self._pipeline = pipeline
        self._frames = [*pictures, *pictures[-2:0:-1]]  # there and back
        self._number = 0
        end_s = time.perf_counter() + SETTLE_S
        while self._show(self._frames[0]) < flow.clip.num_people and time.perf_counter() < end_s:
            time.sleep(1 / FPS)
        self._first = self._number
        self.num_found = self.num_frames = 0

    def __call__(self) -> None:
        """BURST frames."""
        for _ in range(BURST):
            self.num_found += self._show(self._frames[(self._number - self._first) % len(self._frames)])
            self.num_frames += 1

    def _show(self, frame: Frame) -> int:
        scene = self._pipeline.process(replace(frame, time_s=self._number / FPS, index=self._number))
        self._number += 1
        return len(scene.meshes)


def live_run(bench: Bench, flow: Flow, estimator: "Estimator", stack: ExitStack) -> LiveRun:
    """With a detector of its own."""
    from app.engine import open_detector

    config = replace(bench.config, max_people=max(bench.config.max_people, flow.clip.num_people)).for_camera()
    pipeline = LivePipeline(estimator, open_detector(config), config, "beside")
    stack.callback(pipeline.close)
    return LiveRun(flow, flow.clip.frames(bench.scenery), pipeline)


def flow_rows(section: str, times_ms: dict[Flow, list[float]]) -> list[Row]:
    """Rates and ratios are of means, so that the frames at which the detector looks count in full."""
    means = {flow: float(np.mean(values)) for flow, values in times_ms.items()}
    rows = []
    for flow, values in times_ms.items():
        official = means.get(replace(flow, official=True))
        rows.append(
            Row(
                section, flow.variant, flow.setting, Spread.of(values), people_per_s=1e3 * flow.clip.num_people / means[flow],
                frames_per_s=1e3 / means[flow], ratio=None if official is None else official / means[flow],
            )
        )  # fmt: skip
    return rows
