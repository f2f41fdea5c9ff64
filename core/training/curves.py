"""Learning curves of a training run: RUN/log.jsonl -> a PNG.

python -m core.training.curves RUN [--out FILE.png]
"""

import argparse
import json
import logging
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import InputError, exit_code

log = logging.getLogger(__name__)

JOURNAL = "log.jsonl"
NOT_TERMS = {"samples", "epoch", "people", "elapsed_s", "samples_per_s", "lr", "gradient_norm", "loss", "broken", "broken_samples"}
"""Numbers of the log that are no terms of the loss."""
MILLION = 1e6


@dataclass(frozen=True)
class Axis:
    """One plot: label -> keys on the way to a number in a record, and its factor."""

    title: str
    lines: Mapping[str, tuple[tuple[str, ...], float]]


SCORE_AXES = (
    Axis(
        "validation, mm",
        {
            "MPJPE": (("synthetic", "mpjpe_mm"), 1),
            "PA-MPJPE": (("synthetic", "pa_mpjpe_mm"), 1),
            "MPVPE": (("synthetic", "mpvpe_mm"), 1),
        },
    ),
    Axis(
        "validation, %",
        {
            "facing off > 60 deg": (("synthetic", "facing_over_60_deg"), 100),
            "facing off > 120 deg": (("synthetic", "facing_over_120_deg"), 100),
            "PCK@0.1, photographs": (("keypoints", "pck"), 100),
        },
    ),
)


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The records of a log in order of samples. Raises InputError when there are none.

    A run that was taken up again from an older state repeats some samples: then the later lines count. A line cut by a crash is skipped.
    """
    if not path.is_file():
        raise InputError(f"curves: {path} is not there; give the folder of a training run")
    records: list[dict[str, Any]] = []
    broken = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            samples = record["samples"] + 0
        except (ValueError, KeyError, TypeError):
            broken += 1
            continue
        while records and records[-1]["samples"] > samples:
            records.pop()
        records.append(record)
    if broken:
        log.warning("%s: %d lines are damaged and were skipped", path, broken)
    if not records:
        raise InputError(f"curves: {path} holds no records; has the run begun?")
    return records


def series(records: Iterable[Mapping[str, Any]], place: tuple[str, ...], factor: float = 1.0) -> tuple[list[float], list[float]]:
    """Millions of samples and the number at `place`, where a record has it."""
    xs, ys = [], []
    for record in records:
        value: Any = record
        for key in place:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, int | float):
            xs.append(record["samples"] / MILLION)
            ys.append(value * factor)
    return xs, ys


def loss_terms(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of the terms of the loss, in the order of the log."""
    names = [name for record in records if "loss" in record for name, value in record.items() if isinstance(value, int | float)]
    return [name for name in dict.fromkeys(names) if name not in NOT_TERMS]


def draw_curves(records: list[dict[str, Any]], path: Path) -> None:
    """Loss and its terms, validation in millimetres and in percent, side by side. Raises InputError when it cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    terms = Axis("loss and its terms", {name: ((name,), 1) for name in ["loss", *loss_terms(records)]})
    found = [(axis, {label: series(records, *line) for label, line in axis.lines.items()}) for axis in (terms, *SCORE_AXES)]
    found = [(axis, {label: xy for label, xy in lines.items() if xy[0]}) for axis, lines in found]
    found = [(axis, lines) for axis, lines in found if lines]
    figure = Figure(figsize=(5.2 * len(found), 3.6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for plot, (axis, lines) in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        for label, (xs, ys) in lines.items():
            plot.plot(xs, ys, label=label, linewidth=2 if label == "loss" else 1.2, marker="." if len(xs) < 30 else None)
        if axis is terms:
            plot.set_yscale("log")
        plot.set_title(axis.title)
        plot.set_xlabel("million samples")
        plot.grid(alpha=0.3)
        plot.legend(fontsize=7, ncols=2 if len(lines) > 4 else 1)
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise InputError(f"curves: cannot write {path} ({error.strerror})") from error


def main(arguments: list[str] | None = None) -> int:
    """Command line entry point; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m core.training.curves", description="Draw the learning curves of a training run.")
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--out", type=Path, help="the PNG (default: RUN/curves.png)")
    options = parser.parse_args(arguments)
    return exit_code(lambda: draw(options.run, options.out or options.run / "curves.png"))


def draw(run: Path, path: Path) -> None:
    """The command: draw a run's curves, say where they are. Raises InputError."""
    draw_curves(read_journal(run / JOURNAL), path)
    print(path)


if __name__ == "__main__":
    sys.exit(main())
