"""Figures of a benchmark as pictures: horizontal bars for its rows, lines for how the cost grows."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from app.bench.report import Report, Row

OURS, OFFICIAL = "#3f7cac", "#b8bcc2"
P90 = "#1d3b53"


def draw_chart(report: "Report", path: Path) -> Path:
    """One plot a section, a bar a row with a mark at the 90th percentile, milliseconds."""
    from matplotlib.figure import Figure

    sections = [(name, [row for row in rows if not row.detail]) for name, rows, _ in report.sections()]
    sections = [(name, rows) for name, rows in sections if rows]
    heights = [len(rows) + 2.5 for _, rows in sections]
    figure = Figure(figsize=(9, 0.2 * sum(heights) + 0.5), dpi=110, layout="constrained")
    plots = figure.subplots(len(sections), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for plot, (name, rows) in zip(plots, sections, strict=True):
        draw_bars(plot, name, rows)
    figure.suptitle(f"{report.machine.cpu}, {report.machine.threads} threads{', ' + report.machine.gpu if report.machine.gpu else ''}")
    return _save(figure, path)


def draw_bars(plot: object, name: str, rows: Sequence["Row"]) -> None:
    """The official layout is grey."""
    places = range(len(rows))
    colours = [OFFICIAL if "official" in row.label else OURS for row in rows]
    plot.barh(places, [row.spread.median_ms for row in rows], color=colours, height=0.72)
    plot.plot([row.spread.p90_ms for row in rows], places, "|", color=P90, markersize=7)
    for place, row in zip(places, rows, strict=True):
        ratio = f"   {row.ratio:.1f}x" if row.ratio is not None and "official" not in row.label else ""
        plot.annotate(
            f"{_short(row.spread.median_ms)} ms{ratio}", (max(row.spread.median_ms, row.spread.p90_ms), place), (5, 0),
            textcoords="offset points", va="center", fontsize=7,
        )  # fmt: skip
    plot.set_yticks(list(places), [row.label for row in rows], fontsize=7)
    plot.set_xlim(0, 1.25 * max(row.spread.p90_ms for row in rows))
    plot.set_ylim(len(rows) - 0.4, -0.6)
    plot.tick_params(axis="x", labelsize=7)
    plot.set_title(f"{name}: median ms (| 90th percentile)", fontsize=9, loc="left")
    plot.spines[["top", "right"]].set_visible(False)


def draw_lines(path: Path, panels: Sequence[tuple[str, str, Sequence[float], dict[str, Sequence[float]], Sequence[str] | None]]) -> Path:
    """Panels side by side: title, x label, xs, label -> milliseconds at each x, and what to write at the xs (on a
    logarithmic axis).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(panels), 3.6), dpi=110, layout="constrained")
    for plot, (title, x_label, xs, lines, ticks) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for label, ys in lines.items():
            plot.plot(xs[: len(ys)], ys, marker="o", markersize=4, label=label)
        plot.axhline(1000 / 30, color="#999999", linestyle=":", linewidth=1)
        plot.annotate(
            "30 frames/s", (xs[-1], 1000 / 30), (0, 3), textcoords="offset points", ha="right", fontsize=7, color="#777777"
        )  # fmt: skip
        if ticks:
            plot.set_xscale("log")
        plot.minorticks_off()
        plot.set_xticks(list(xs), ticks or [f"{x:g}" for x in xs])
        plot.set_ylim(bottom=0)
        plot.set_title(title, fontsize=10)
        plot.set_xlabel(x_label)
        plot.set_ylabel("ms a frame, mean")
        plot.grid(alpha=0.3)
        plot.legend(fontsize=7)
    return _save(figure, path)


def _short(value: float) -> str:
    """Three digits, but no fewer than there are before the point."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _save(figure: "Figure", path: Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    figure.savefig(path, format="png")
    return path
