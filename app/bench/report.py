"""What a benchmark found: rows, and the ways to show them."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from app.bench.machine import Machine
from core.timing import Spread

FORMAT = "fastmetro-live/bench/1"
COLUMNS = ("what", "median ms", "p90 ms", "people/s", "frames/s", "official / this", "memory MB")


@dataclass(frozen=True)
class Row:
    """One thing measured.

    section: of the table; what: the thing; setting: in which way or on which clip; model: the network in it, "" for none
    spread: of many runs; people_per_s, frames_per_s: None where they make no sense
    ratio: time of the official layout of the same network, run eagerly in the same run, over this one's; None where there is none
    memory_mb: the most that the process held, where it had one of its own
    detail: too fine for a README
    """

    section: str
    what: str
    setting: str
    spread: Spread
    model: str = ""
    people_per_s: float | None = None
    frames_per_s: float | None = None
    ratio: float | None = None
    memory_mb: float | None = None
    detail: bool = False

    @property
    def label(self) -> str:
        """For tables."""
        return ", ".join(part for part in (self.model, self.what, self.setting) if part)

    def cells(self) -> tuple[str, ...]:
        """As COLUMNS names them."""
        rates = ("" if rate is None else f"{rate:.1f}" for rate in (self.people_per_s, self.frames_per_s))
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}x"
        memory = "" if self.memory_mb is None else f"{self.memory_mb:.0f}"
        return self.label, f"{self.spread.median_ms:.2f}", f"{self.spread.p90_ms:.2f}", *rates, ratio, memory

    def as_json(self) -> dict[str, Any]:
        """For the file."""
        values = asdict(self)
        return values | values.pop("spread")


@dataclass
class Report:
    """Grows while a benchmark runs.

    state: running, complete or interrupted         notes: section -> sentences below its table
    skipped: section or row -> why it was not measured   facts: section -> what is no row, for the file
    pictures: file name -> what draws it, beside bench.png
    """

    machine: Machine
    settings: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, Callable[[Path], object]] = field(default_factory=dict)
    state: str = "running"
    peak_memory_mb: float | None = None
    peak_gpu_memory_mb: float | None = None
    seconds: float = 0.0

    def note(self, section: str, text: str) -> None:
        """A sentence below a section's table."""
        self.notes.setdefault(section, []).append(text)

    def sections(self) -> Iterator[tuple[str, list[Row], list[str]]]:
        """In the order in which they were begun: name, rows, notes."""
        names = dict.fromkeys([*(row.section for row in self.rows), *self.notes])
        for name in names:
            yield name, [row for row in self.rows if row.section == name], self.notes.get(name, [])

    def ending(self) -> list[str]:
        """Lines below everything."""
        lines = [f"not measured: {name}: {reason}" for name, reason in self.skipped.items()]
        if self.state != "complete":
            lines.append(f"{self.state} after {self.seconds:.0f} s: this is what was measured until then")
        gpu = "" if self.peak_gpu_memory_mb is None else f", {self.peak_gpu_memory_mb:.0f} MB on the GPU"
        if self.peak_memory_mb is not None:
            lines.append(f"{self.seconds:.0f} s; at most {self.peak_memory_mb:.0f} MB of memory{gpu}, with everything that was compared")
        return lines

    def text(self) -> str:
        """For a terminal."""
        lines = [*self.machine.lines()]
        for name, rows, notes in self.sections():
            used = _used(rows)
            table = [(name, *(COLUMNS[column] for column in used[1:]))] + [tuple(row.cells()[column] for column in used) for row in rows]
            widths = [max(len(cells[place]) for cells in table) for place in range(len(used))]
            lines.append("")
            lines += ["  ".join(_aligned(cells, widths)).rstrip() for cells in table]
            lines += notes
        return "\n".join([*lines, "", *self.ending()])

    def markdown(self) -> str:
        """For a README: without what is too fine for one."""
        parts = [*(f"{line}  " for line in self.machine.lines())]
        for name, all_rows, notes in self.sections():
            rows = [row for row in all_rows if not row.detail]
            parts += ["", f"**{name[:1].upper()}{name[1:]}**", ""]
            used = _used(rows)
            if rows:
                parts += [f"| {' | '.join(COLUMNS[column] for column in used)} |", f"|{'---|' * len(used)}"]
                parts += [f"| {' | '.join(row.cells()[column] for column in used)} |" for row in rows]
            if notes:
                parts += [*([""] if rows else []), *(f"- {note}" for note in notes)]
        return "\n".join([*parts, "", *(f"{line}  " for line in self.ending())]) + "\n"

    def as_json(self) -> dict[str, Any]:
        """For the file."""
        return {
            "format": FORMAT, "state": self.state, "seconds": round(self.seconds, 1), "machine": self.machine.as_json(),
            "settings": self.settings, "rows": [row.as_json() for row in self.rows], "notes": self.notes, "skipped": self.skipped,
            "facts": self.facts, "peak_memory_mb": self.peak_memory_mb, "peak_gpu_memory_mb": self.peak_gpu_memory_mb,
        }  # fmt: skip

    def write(self, folder: Path) -> list[Path]:
        """bench.json and bench.md, and bench.png where there is something to draw; returns their paths."""
        from app.bench.chart import draw_chart

        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / "bench.json", folder / "bench.md"]
        paths[0].write_text(json.dumps(self.as_json(), indent=1) + "\n", encoding="utf-8")
        paths[1].write_text(self.markdown(), encoding="utf-8")
        if self.rows:
            paths.append(draw_chart(self, folder / "bench.png"))
        for name, draw in self.pictures.items():
            draw(folder / name)
            paths.append(folder / name)
        return paths


def _used(rows: list[Row]) -> list[int]:
    """Columns that at least one row fills."""
    return [0, *(column for column in range(1, len(COLUMNS)) if any(row.cells()[column] for row in rows))]


def _aligned(cells: tuple[str, ...], widths: list[int]) -> Iterator[str]:
    """Names to the left, figures to the right."""
    for place, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        yield cell.rjust(width) if place else cell.ljust(width)
