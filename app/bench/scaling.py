"""How the cost of a frame grows with people and with pixels; `--bench scaling` measures it and draws scaling.png."""

from collections.abc import Iterator
from pathlib import Path

from app.bench.chart import draw_lines
from app.bench.clips import Clip
from app.bench.flows import NO_OVERLAY, OVERLAY, Flow, flow_rows, live_times_ms, recorded_times_ms
from app.bench.report import Row
from app.bench.sections import SECTIONS, Bench

PEOPLE = (1, 2, 4, 8)
CROWD_PX = (1280, 720)
SIZES_PX = {"480p": (640, 480), "720p": (1280, 720), "1080p": (1920, 1080), "4K": (3840, 2160)}
MOST_FRAMES = 24
"""Of a clip held in memory: 600 MB at 4K."""
LIVE, CHART = "live", "scaling.png"


@SECTIONS.register("scaling")
def measure_scaling(bench: Bench) -> None:
    """More and more people in one picture; then one person, in pictures of all sizes."""
    sizes = [(CROWD_PX, people) for people in PEOPLE], [(size_px, 1) for size_px in SIZES_PX.values()]
    found: dict[Flow, list[float]] = {}
    for series in sizes:
        if not bench.interrupted:
            clips = [Clip(*size, min(MOST_FRAMES, bench.effort.frames)) for size in series]
            found |= live_times_ms(bench, "scaling", [Flow(clip, LIVE) for clip in clips])
        if not bench.interrupted:
            clips = [Clip(*size, bench.effort.frames) for size in series]
            flows = [Flow(clip, variant) for variant in (NO_OVERLAY, OVERLAY) for clip in clips]
            found |= recorded_times_ms(bench, "scaling", flows, bench.effort.rounds - 1, 0, 3 * bench.effort.budget_s)
    rows = flow_rows("scaling", found)
    bench.report.rows += rows
    for text in growth(rows):
        bench.report.note("scaling", text)
    bench.report.pictures[CHART] = lambda path: draw_scaling(path, rows)


def means_ms(rows: list[Row], variant: str, clips: list[Clip]) -> list[float]:
    """Of a frame; for as many clips as were measured."""
    means = {row.setting: 1e3 / row.frames_per_s for row in rows if row.what == variant and row.frames_per_s}
    return [means[clip.name] for clip in clips if clip.name in means]


def growth(rows: list[Row]) -> Iterator[str]:
    """What one more person costs, by the means of the smallest and the largest crowd."""
    crowds = [Clip(CROWD_PX, people, 1) for people in PEOPLE]
    for variant in (LIVE, NO_OVERLAY, OVERLAY):
        means = means_ms(rows, variant, crowds)
        if len(means) == len(crowds):
            extra_ms = (means[-1] - means[0]) / (PEOPLE[-1] - PEOPLE[0])
            yield f"{variant}: {means[0]:.1f} ms a frame with one person, and {extra_ms:.1f} ms for each further one"


def draw_scaling(path: Path, rows: list[Row]) -> Path:
    """Means of a frame over people, and over the size of the picture."""
    labels = {LIVE: "live, not drawn", NO_OVERLAY: "recorded, no overlay", OVERLAY: "recorded, with overlay"}

    def lines(clips: list[Clip]) -> dict[str, list[float]]:
        return {label: means_ms(rows, variant, clips) for variant, label in labels.items()}

    crowds = lines([Clip(CROWD_PX, people, 1) for people in PEOPLE])
    sizes = lines([Clip(size_px, 1, 1) for size_px in SIZES_PX.values()])
    megapixels = [width * height / 1e6 for width, height in SIZES_PX.values()]
    return draw_lines(
        path,
        (
            (f"People in {CROWD_PX[0]}x{CROWD_PX[1]}", "people", PEOPLE, crowds, None),
            ("One person, by resolution", "megapixels", megapixels, sizes, list(SIZES_PX)),
        ),
    )
