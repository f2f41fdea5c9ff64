"""summary.json: what was found, how long it took, how it was made."""

import importlib.metadata
import json
import math
import platform
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app.export.sink import SINKS, ClosingSink, Recording, whole
from app.jitter import jitter_m_s3
from app.types import Scene, SmoothedMesh
from core.lens import default_focal_px

PACKAGES = ("torch", "openvino", "numpy", "mediapipe", "opencv-contrib-python", "av", "numba", "scipy", "safetensors")
LOWEST_MS, HIGHEST_MS = 1e-3, 1e6
BINS_PER_FACTOR_E = 100
JITTER_BINS = 240
JITTER_COLUMNS = ("time_s", "before", "after")


class RunningQuantiles:
    """Quantiles of positive numbers in bounded memory: a histogram with steps of one per cent, so right to half a per cent."""

    def __init__(self) -> None:
        self._counts = np.zeros(self._bin(HIGHEST_MS) + 1, np.int64)

    @staticmethod
    def _bin(value: float) -> int:
        return round(BINS_PER_FACTOR_E * math.log(min(max(value, LOWEST_MS), HIGHEST_MS) / LOWEST_MS))

    def add(self, value: float) -> None:
        """Count one value; values outside 1e-3 .. 1e6 count as the nearest of these."""
        self._counts[self._bin(value)] += 1

    def quantile(self, fraction: float) -> float:
        """The value below which `fraction` of the values lie; 0 when there are none."""
        total = int(self._counts.sum())
        if total == 0:
            return 0.0
        rank = np.searchsorted(np.cumsum(self._counts), max(1, math.ceil(fraction * total)))
        return LOWEST_MS * math.exp(float(rank) / BINS_PER_FACTOR_E)


@dataclass
class _PersonRecord:
    first_frame: int
    first_time_s: float
    last_frame: int = 0
    last_time_s: float = 0.0
    num_frames: int = 0
    score_sum: float = 0.0

    def add(self, frame_index: int, time_s: float, score: float) -> None:
        self.last_frame, self.last_time_s = frame_index, time_s
        self.num_frames += 1
        self.score_sum += score

    def as_json(self, track_id: int) -> dict[str, Any]:
        return {
            "track_id": track_id, "num_frames": self.num_frames, "first_frame": self.first_frame, "last_frame": self.last_frame,
            "first_time_s": round(self.first_time_s, 4), "last_time_s": round(self.last_time_s, 4),
            "mean_score": round(self.score_sum / self.num_frames, 4),
        }  # fmt: skip


@dataclass
class _StageRecord:
    quantiles: RunningQuantiles = field(default_factory=RunningQuantiles)
    total_ms: float = 0.0
    count: int = 0

    def add(self, time_ms: float) -> None:
        self.quantiles.add(time_ms)
        self.total_ms += time_ms
        self.count += 1

    def as_json(self) -> dict[str, float]:
        return {
            "median": round(self.quantiles.quantile(0.5), 3), "p90": round(self.quantiles.quantile(0.9), 3),
            "mean": round(self.total_ms / self.count, 3), "frames": self.count,
        }  # fmt: skip


class _JitterRecord:
    """Jitter of the joints around the pelvis before and after smoothing: means, and a curve over the video in a bounded number of bins."""

    def __init__(self) -> None:
        self._recent: dict[int, deque[tuple[float, np.ndarray, np.ndarray]]] = {}
        self._bins: list[np.ndarray] = []  # (4,) each: values, time, before, after; the last three are sums
        self._per_bin = 1

    def add(self, time_s: float, meshes: tuple[SmoothedMesh, ...]) -> None:
        """One frame; a third derivative needs four of the same person without a gap."""
        here = {mesh.track_id: mesh for mesh in meshes if mesh.raw_joints_m is not None}
        self._recent = {track_id: recent for track_id, recent in self._recent.items() if track_id in here}
        values = []
        for track_id, mesh in here.items():
            recent = self._recent.setdefault(track_id, deque(maxlen=4))
            recent.append((time_s, mesh.raw_joints_m, mesh.joints_m))
            times_s, before_m, after_m = (np.array(column) for column in zip(*recent, strict=True))
            if len(times_s) == 4 and (np.diff(times_s) > 0).all():
                values.append((time_s, jitter_m_s3(times_s, before_m).mean(), jitter_m_s3(times_s, after_m).mean()))
        if values:
            self._put(np.array([1.0, *np.mean(values, axis=0)]))

    def _put(self, value: np.ndarray) -> None:
        if self._bins and self._bins[-1][0] < self._per_bin:
            self._bins[-1] = self._bins[-1] + value
        else:
            self._bins.append(value)
        if len(self._bins) > JITTER_BINS:
            self._bins = [sum(self._bins[i : i + 2]) for i in range(0, len(self._bins), 2)]
            self._per_bin *= 2

    def as_json(self) -> dict[str, Any] | None:
        """None when nobody was seen for long enough."""
        if not self._bins:
            return None
        sums = np.array(self._bins)
        mean = sums[:, 2:].sum(axis=0) / sums[:, 0].sum()
        curve = (sums[:, 1:] / sums[:, :1]).T
        columns = {name: [round(float(value), 3) for value in column] for name, column in zip(JITTER_COLUMNS, curve, strict=True)}
        return {"before": round(float(mean[0]), 2), "after": round(float(mean[1]), 2), "curve": columns}


@SINKS.register("summary.json")
class SummarySink(ClosingSink):
    """Counts while the video runs; writes once, when closed.

    Whoever closes it puts the run's warnings into `warnings` before, into `busy_s` the seconds that each of its threads has worked, and
    into `complete` whether the other files are; a run is not where they are not.
    """

    def __init__(self, recording: Recording) -> None:
        self.path = recording.folder / "summary.json"
        self.warnings: list[str] = []
        self.busy_s: Mapping[str, float] = {}
        self.complete = True
        self._recording = recording
        self._people: dict[int, _PersonRecord] = {}
        self._stages: dict[str, _StageRecord] = {}
        self._jitter = _JitterRecord()
        self._lens: dict[str, Any] = {}
        self._num_frames = self._num_frames_with_people = self._max_people_at_once = 0
        self._start_s = time.perf_counter()
        self._closed = False

    def write(self, scene: Scene) -> None:
        """Count one frame."""
        index, time_s = scene.frame.index, scene.frame.time_s
        self._num_frames += 1
        self._num_frames_with_people += bool(scene.meshes)
        self._max_people_at_once = max(self._max_people_at_once, len(scene.meshes))
        self._jitter.add(time_s, scene.meshes)
        self._lens = self._lens or _lens_of(scene, self._recording.settings.get("focal_px"))
        for mesh in scene.meshes:
            self._people.setdefault(mesh.track_id, _PersonRecord(index, time_s)).add(index, time_s, mesh.score)
        for stage, time_ms in scene.timings_ms.items():
            self._stages.setdefault(stage, _StageRecord()).add(time_ms)

    def close(self) -> None:
        """Write the file."""
        if self._closed:
            return
        self._closed = True
        with whole(self.path) as partial:
            partial.write_text(json.dumps(self._as_json(), indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")

    def _as_json(self) -> dict[str, Any]:
        recording, elapsed_s = self._recording, time.perf_counter() - self._start_s
        return {
            "input": str(recording.source) if recording.source else None,
            "image_size_px": list(recording.size_px),
            "fps": recording.fps,
            **self._lens,
            "frames": self._num_frames,
            "expected_frames": recording.expected_frames,
            "frames_with_people": self._num_frames_with_people,
            "max_people_at_once": self._max_people_at_once,
            "people": [record.as_json(track_id) for track_id, record in sorted(self._people.items())],
            "seconds": round(elapsed_s, 3),
            "frames_per_s": round(self._num_frames / elapsed_s, 3) if elapsed_s > 0 else 0.0,
            "real_time_factor": round(self._num_frames / recording.fps / elapsed_s, 3) if elapsed_s > 0 and recording.fps > 0 else None,
            "ms_per_stage": {stage: record.as_json() for stage, record in self._stages.items()},
            "threads": {name: self._thread_as_json(busy_s, elapsed_s) for name, busy_s in self.busy_s.items()},
            "jitter_m_s3": self._jitter.as_json(),
            "body": recording.body,
            "settings": dict(recording.settings) | ({} if self.complete else {"state": "failed"}),
            "versions": installed_versions(),
            "warnings": list(self.warnings),
        }

    def _thread_as_json(self, busy_s: float, elapsed_s: float) -> dict[str, float]:
        """Threads overlap: each is at work for a share of the time, and the one nearest to 1 sets the pace."""
        return {"ms_per_frame": round(busy_s * 1e3 / max(self._num_frames, 1), 3), "busy": round(busy_s / max(elapsed_s, 1e-9), 3)}


def _lens_of(scene: Scene, given_px: float | None) -> dict[str, Any]:
    """The focal length of a frame and who said so. given_px: as a setting of the run"""
    focal_px = scene.intrinsics.focal_px
    sources = {"setting": given_px, "file": scene.frame.focal_px, "diagonal": default_focal_px(*scene.frame.size_px)}
    said_by = next((name for name, value in sources.items() if value and math.isclose(value, focal_px)), "session")
    return {"focal_px": round(focal_px, 3), "focal_px_from": said_by}


def installed_versions() -> dict[str, str]:
    """Versions of Python, the system and the packages that shape a result; packages that are not installed are left out."""
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
