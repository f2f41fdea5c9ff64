"""What the live view says about itself: rates, latency, milliseconds per stage, the governor, the source. Data, no drawing."""

import threading
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from app.types import Scene

WINDOW_S = 3.0
"""Rates and latencies are of the last seconds."""
MAX_LATENCIES = 100_000
"""Of a whole session, for its last line; the latest ones where there are more."""
STAGES = ("detect", "track", "crop", "estimate", "smooth", "draw")


def network_line(checkpoint: str, governor: str) -> str:
    """Which network is at work, and what the governor says of it."""
    return "  |  ".join(filter(None, (checkpoint, governor)))


@dataclass(frozen=True)
class Hud:
    """One reading.

    infer_fps, draw_fps: inferences and drawings a second   latency_ms, latency_p90_ms: glass to mesh, None before the first drawing
    stages_ms: stage -> mean milliseconds a frame           governor, source, recording: one short sentence each, "" for nothing
    num_people: shown now                                   warnings: what failed, once each
    """

    infer_fps: float = 0.0
    draw_fps: float = 0.0
    latency_ms: float | None = None
    latency_p90_ms: float | None = None
    stages_ms: dict[str, float] = field(default_factory=dict)
    governor: str = ""
    source: str = ""
    recording: str = ""
    num_people: int = 0
    warnings: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """A few short lines of text."""
        latency = "-" if self.latency_ms is None else f"{self.latency_ms:.0f} ms (p90 {self.latency_p90_ms:.0f})"
        people = "nobody" if not self.num_people else f"{self.num_people} {'person' if self.num_people == 1 else 'people'}"
        lines = [f"{self.infer_fps:.0f} fps  |  drawing {self.draw_fps:.0f} fps  |  {people}", f"glass to mesh {latency}"]
        if self.stages_ms:
            lines.append("  ".join(f"{stage} {value:.0f}" for stage, value in self.stages_ms.items()) + " ms")
        lines += [line for line in (self.governor, self.source, self.recording) if line]
        return lines + [f"! {warning}" for warning in self.warnings]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"lines": self.lines()}


class HudMeter:
    """Gathers what happened, from any thread; `read` makes a Hud of the last seconds. Times are of one clock, in seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inferred: deque[tuple[float, dict[str, float]]] = deque()
        self._drawn: deque[tuple[float, float]] = deque()
        self._latencies: deque[tuple[float, float]] = deque()
        self._num_people, self._num_frames, self._ids = 0, 0, set()
        self._all_latencies: deque[float] = deque(maxlen=MAX_LATENCIES)
        self._start_s: float | None = None
        self._warnings: list[str] = []

    def inferred(self, scene: Scene, now_s: float) -> None:
        """A frame went through the pipeline."""
        with self._lock:
            self._inferred.append((now_s, scene.timings_ms))
            self._num_people = len(scene.meshes)
            self._num_frames += 1
            self._ids |= {mesh.track_id for mesh in scene.meshes}
            self._start_s = now_s if self._start_s is None else self._start_s

    def drawn(self, now_s: float, draw_ms: float) -> None:
        """A picture was drawn."""
        with self._lock:
            self._drawn.append((now_s, draw_ms))

    def shown(self, now_s: float, latency_ms: float) -> None:
        """A mesh appeared for the first time, this long after its frame was taken."""
        with self._lock:
            self._latencies.append((now_s, latency_ms))
            self._all_latencies.append(latency_ms)

    def warn(self, text: str) -> bool:
        """Show a warning from now on; True the first time."""
        with self._lock:
            if text in self._warnings:
                return False
            self._warnings.append(text)
            return True

    def read(self, now_s: float, governor: str = "", source: str = "", recording: str = "") -> Hud:
        """The last WINDOW_S seconds."""
        with self._lock:
            for entries in (self._inferred, self._drawn, self._latencies):
                while entries and entries[0][0] < now_s - WINDOW_S:
                    entries.popleft()
            stages = {name: [times.get(name, 0.0) for _, times in self._inferred] for name in STAGES}
            stages["draw"] = [draw_ms for _, draw_ms in self._drawn]
            stages_ms = {name: float(np.mean(values)) for name, values in stages.items() if values and max(values) > 0}
            latencies = [latency_ms for _, latency_ms in self._latencies]
            middle, high = np.percentile(latencies, (50, 90)).tolist() if latencies else (None, None)
            return Hud(
                _rate(self._inferred, now_s), _rate(self._drawn, now_s), middle, high, stages_ms, governor, source, recording,
                self._num_people, tuple(self._warnings),
            )  # fmt: skip

    def summary(self, now_s: float) -> str:
        """The whole session in one line."""
        with self._lock:
            elapsed_s = max(now_s - (now_s if self._start_s is None else self._start_s), 1e-3)
            people = {0: "nobody", 1: "1 person"}.get(len(self._ids), f"{len(self._ids)} people")
            line = f"{self._num_frames} frames in {elapsed_s:.1f} s, {self._num_frames / elapsed_s:.1f} frames/s, {people}"
            if not self._all_latencies:
                return line
            middle, high = np.percentile(self._all_latencies, (50, 90))
            return f"{line}, glass to mesh {middle:.0f} ms (p90 {high:.0f})"


def _rate(entries: deque, now_s: float) -> float:
    """Entries a second, from the first one in the window until now."""
    if len(entries) < 2:
        return 0.0
    return (len(entries) - 1) / max(now_s - entries[0][0], 1e-3)
