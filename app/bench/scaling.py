"""How the cost of a frame grows with people and with pixels; `--bench scaling` measures it and draws scaling.png."""

from pathlib import Path

from app.bench.chart import draw_lines
from app.bench.clips import Clip
from app.bench.flows import NO_OVERLAY, OVERLAY, Flow, flow_rows, live_times_ms, run_of
from app.bench.report import Row
from app.bench.sections import SECTIONS, Bench

PEOPLE = (1, 2, 4, 8)
GRID = (4, 2)
CROWD_PX = (1280, 720)
SIZES_PX = {"480p": (640, 480), "720p": (1280, 720), "1080p": (1920, 1080), "4K": (3840, 2160)}
MOST_FRAMES = 24
"""Of a clip held in memory: 600 MB at 4K."""
LIVE, CHART = "live", "scaling.png"


@SECTIONS.register("scaling")
def measure_scaling(bench: Bench) -> None:
    """People of one size in one picture; then one person, in pictures of all sizes."""
    frames = min(MOST_FRAMES, bench.effort.frames)
    crowds = [Clip(CROWD_PX, people, frames, GRID) for people in PEOPLE]
    sizes = [Clip(size_px, 1, frames) for size_px in SIZES_PX.values()]
    found: dict[Flow, list[float]] = {}
    for clips in (crowds, sizes):
        if bench.interrupted:
            break
        found |= live_times_ms(bench, "scaling", [Flow(clip, LIVE) for clip in clips])
        if bench.interrupted:
            break
        paths: dict[Clip, Path] = {}
        flows = [Flow(clip, variant) for variant in (NO_OVERLAY, OVERLAY) for clip in clips]
        runs = bench.turns({flow: run_of(bench, flow, paths) for flow in flows}, bench.effort.rounds - 1, 0, 2 * bench.effort.budget_s)
        found |= {flow: [ms / flow.clip.num_frames for ms in values] for flow, values in runs.items()}
    rows = flow_rows("scaling", found)
    bench.report.rows += rows
    notes_on_growth(bench, crowds, found)
    bench.report.pictures[CHART] = lambda path: draw_scaling(path, rows)


def notes_on_growth(bench: Bench, crowds: list[Clip], found: dict[Flow, list[float]]) -> None:
    """What one more person costs, by the means of the smallest and the largest crowd."""
    for variant in (LIVE, NO_OVERLAY, OVERLAY):
        ends = [found.get(Flow(clip, variant)) for clip in (crowds[0], crowds[-1])]
        if all(ends):
            means = [sum(values) / len(values) for values in ends]
            extra_ms = (means[1] - means[0]) / (PEOPLE[-1] - PEOPLE[0])
            bench.report.note(
                "scaling", f"{variant}: {means[0]:.1f} ms a frame with one person, and {extra_ms:.1f} ms for each further one"
            )


def draw_scaling(path: Path, rows: list[Row]) -> Path:
    """Means of a frame over people, and over the size of the picture."""

    def line(variant: str, names: list[str]) -> list[float]:
        means = {row.setting: 1e3 / row.frames_per_s for row in rows if row.what == variant and row.frames_per_s}
        return [means[name] for name in names if name in means]

    crowds = [Clip(CROWD_PX, people, 1, GRID).name for people in PEOPLE]
    sizes = [Clip(size_px, 1, 1).name for size_px in SIZES_PX.values()]
    variants = (LIVE, NO_OVERLAY, OVERLAY)
    labels = {LIVE: "live, not drawn", NO_OVERLAY: "recorded, no overlay", OVERLAY: "recorded, with overlay"}
    megapixels = [width * height / 1e6 for width, height in SIZES_PX.values()]
    return draw_lines(
        path,
        (
            (f"People in {CROWD_PX[0]}x{CROWD_PX[1]}", "people", PEOPLE, {labels[v]: line(v, crowds) for v in variants}, None),
            ("One person, by resolution", "megapixels", megapixels, {labels[v]: line(v, sizes) for v in variants}, list(SIZES_PX)),
        ),
    )
