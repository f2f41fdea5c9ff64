"""What smoothing does to real clips: how much calmer the joints get, and how late. `python -m app.jitter CLIP...` prints both.

Jitter is the mean norm of the joints' jerk, the third derivative of their place, as TransPose (Yi et al. 2021) and WHAM (Shin et al. 2024)
report it. Lag is the delay at which the smoothed path fits the unsmoothed one best, after the same symmetric low-pass on both: otherwise
the noise of the unsmoothed path would decide. The clip goes through the network once; the filters run on what it said.
"""

import argparse
import logging
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from app.config import LiveConfig
from app.distance import at_calm_distances, runs_of
from app.proportions import soundness
from app.smooth import MeshSmoother, RecordingSmoother
from app.types import Posture, Sample, Scene, SmoothedMesh
from core.errors import InputError

if TYPE_CHECKING:
    from core.bodies import Body

LOW_PASS_FRAMES = 2.0
"""Standard deviation of the symmetric kernel before lags are compared: what is left is motion below about 2.5 Hz at 30 frames/s."""
LAG_GRID_FRAMES = np.arange(-1.0, 6.0, 0.05)
MIN_FRAMES = 30
"""Shorter paths say nothing about lag."""
SIGNALS = {"pose": "joints around the pelvis", "picture": "joints as seen, metres at the person's distance", "distance": "from the camera"}


@dataclass(frozen=True)
class Path3d:
    """One person without gaps, before and after smoothing. times_s: (T,); before, after: signal -> (T, J, C) metres."""

    times_s: np.ndarray
    before: dict[str, np.ndarray]
    after: dict[str, np.ndarray]


@dataclass(frozen=True)
class Calm:
    """Of one signal: jitter in m/s^3 before and after smoothing; lag in frames of the clip."""

    before_m_s3: float
    after_m_s3: float
    lag_frames: float

    @property
    def ratio(self) -> float:
        """Jitter that is left."""
        return self.after_m_s3 / self.before_m_s3


@dataclass(frozen=True)
class ClipCalm:
    """A clip's result over all its people. signals: as SIGNALS names them; empty when nobody was followed long enough."""

    name: str
    num_paths: int
    num_frames: int
    fps: float
    signals: dict[str, Calm]

    def __str__(self) -> str:
        head = f"{self.name}: {self.num_paths} paths, {self.num_frames} frames of people at {self.fps:.3g} frames/s"
        if not self.signals:
            return f"{head}; nobody was followed for {MIN_FRAMES} frames"
        lines = [
            f"  {signal:<9} jitter {calm.before_m_s3:8.0f} -> {calm.after_m_s3:7.0f} m/s^3 ({calm.ratio:4.0%})   "
            f"lag {calm.lag_frames:5.2f} frames"
            for signal, calm in self.signals.items()
        ]
        return "\n".join([head, *lines])


def jitter_m_s3(times_s: np.ndarray, points_m: np.ndarray) -> np.ndarray:
    """(T - 3, J) norms of the jerk of points (T, J, C), by differences that heed the frames' own times."""
    values, times_s = points_m.astype(np.float64), times_s.astype(np.float64)
    for _ in range(3):
        values = np.diff(values, axis=0) / np.diff(times_s)[:, None, None]
        times_s = (times_s[1:] + times_s[:-1]) / 2
    return np.linalg.norm(values, axis=-1)


def lag_errors(times_s: np.ndarray, before_m: np.ndarray, after_m: np.ndarray) -> np.ndarray:
    """For each lag of LAG_GRID_FRAMES the sum of squares between `after_m` and `before_m` (T, J, C) delayed by it."""
    from scipy.interpolate import CubicSpline
    from scipy.ndimage import gaussian_filter1d

    even_s = np.linspace(times_s[0], times_s[-1], len(times_s))
    low_passed = []
    for points_m in (before_m, after_m):
        flat = points_m.reshape(len(points_m), -1)
        even = np.stack([np.interp(even_s, times_s, column) for column in flat.T], axis=1)
        low_passed.append(gaussian_filter1d(even, LOW_PASS_FRAMES, axis=0, mode="nearest"))
    path = CubicSpline(np.arange(len(even_s)), low_passed[0])
    inner = np.arange(int(LAG_GRID_FRAMES[-1]) + 2, len(even_s) - 2)
    return np.array([np.square(low_passed[1][inner] - path(inner - lag)).sum() for lag in LAG_GRID_FRAMES])


def calm_of(paths: list[Path3d], signal: str) -> Calm:
    """One signal over all paths together."""
    jitters = [
        np.concatenate([jitter_m_s3(path.times_s, getattr(path, side)[signal]).ravel() for path in paths]).mean()
        for side in ("before", "after")
    ]
    errors = np.sum([lag_errors(path.times_s, path.before[signal], path.after[signal]) for path in paths], axis=0)
    return Calm(float(jitters[0]), float(jitters[1]), float(LAG_GRID_FRAMES[errors.argmin()]))


def samples_of(scene: Scene, body: "Body") -> list[Sample]:
    """What is smoothed of a scene's people."""
    return [
        Sample(
            mesh.track_id, scene.frame.time_s, Posture(mesh.vertices_m, mesh.translation_m.astype(np.float64)), mesh.joints_m,
            soundness(body, mesh.vertices_m, mesh.joints_m),
        )
        for mesh in scene.meshes
    ]  # fmt: skip


def smoothed_as_live(scenes: Iterable[Scene], body: "Body", config: LiveConfig) -> Iterator[tuple[Scene, list[Posture]]]:
    """Each scene with its people's smoothed postures."""
    smoother = MeshSmoother(config.smoothing, config.smooth)
    for scene in scenes:
        yield scene, [smoother(sample) for sample in samples_of(scene, body)]
        smoother.forget_before(scene.frame.time_s)


def smoothed_as_recorded(scenes: Iterable[Scene], body: "Body", config: LiveConfig) -> Iterator[tuple[Scene, list[Posture]]]:
    """The same in runs as long as the spans of a recording."""
    run_s, run_frames, said = config.detect.interval_s, config.detect.max_interval_frames, deque[Scene]()

    def calmed() -> Iterator[Scene]:
        smoother = RecordingSmoother(config.smoothing, config.smooth)
        held: deque[list[Scene]] = deque()
        for run in runs_of(scenes, run_s, run_frames):
            held.append(run)
            for postures in smoother([sample for scene in run for sample in samples_of(scene, body)]):
                yield from taken(held.popleft(), postures)
        for postures in smoother.rest():
            yield from taken(held.popleft(), postures)

    def taken(run: list[Scene], postures: list[Posture]) -> Iterator[Scene]:
        left = iter(postures)
        for scene in run:
            said.append(scene)
            meshes = zip(scene.meshes, islice(left, len(scene.meshes)), strict=True)
            yield replace(scene, meshes=tuple(_in_posture(mesh, posture) for mesh, posture in meshes))

    for scene in calmed() if config.smoothing == "none" else at_calm_distances(calmed(), config.smooth, run_s, run_frames):
        yield said.popleft(), [Posture(mesh.vertices_m, mesh.translation_m.astype(np.float64)) for mesh in scene.meshes]


def _in_posture(mesh: SmoothedMesh, posture: Posture) -> SmoothedMesh:
    return replace(mesh, vertices_m=posture.vertices_m, translation_m=posture.translation_m.astype(np.float32))


def paths_of(scenes: Iterable[Scene], body: "Body", config: LiveConfig, live: bool) -> list[Path3d]:
    """Smooth what the scenes of a run with smoothing "none" say, and keep both. Split where somebody was missing."""
    from app.placing import with_joints

    open_rows: dict[int, list[tuple]] = {}
    closed: list[list[tuple]] = []
    for scene, postures in (smoothed_as_live if live else smoothed_as_recorded)(scenes, body, config):
        present = {mesh.track_id for mesh in scene.meshes}
        closed += [open_rows.pop(track_id) for track_id in list(open_rows) if track_id not in present]
        for mesh, smooth in zip(scene.meshes, postures, strict=True):
            joints_m = with_joints(body, smooth.vertices_m[None])[0][1]
            row = scene.frame.time_s, mesh.joints_m, mesh.translation_m, joints_m, smooth.translation_m
            open_rows.setdefault(mesh.track_id, []).append(row)
    return [_path(rows) for rows in (*closed, *open_rows.values()) if len(rows) >= MIN_FRAMES]


def _path(rows: list[tuple]) -> Path3d:
    times_s, *columns = (np.array(column) for column in zip(*rows, strict=True))
    depth_m = float(np.median(columns[1][:, 2]))
    return Path3d(times_s, _signals(columns[0], columns[1], depth_m), _signals(columns[2], columns[3], depth_m))


def _signals(joints_m: np.ndarray, places_m: np.ndarray, depth_m: float) -> dict[str, np.ndarray]:
    placed_m = joints_m + places_m[:, None]
    return {"pose": joints_m, "picture": placed_m[..., :2] / placed_m[..., 2:] * depth_m, "distance": places_m[:, None, 2:]}


def measure(name: str, scenes: Iterable[Scene], body: "Body", config: LiveConfig, live: bool = False) -> ClipCalm:
    """The clip's result for the filter of `config`, used as live or as in recordings. scenes: of a run with smoothing "none"."""
    paths = paths_of(scenes, body, config, live)
    if not paths:
        return ClipCalm(name, 0, 0, 0.0, {})
    steps_s = np.concatenate([np.diff(path.times_s) for path in paths])
    num_frames = sum(len(path.times_s) for path in paths)
    return ClipCalm(name, len(paths), num_frames, 1 / float(np.median(steps_s)), {signal: calm_of(paths, signal) for signal in SIGNALS})


def measure_clips(files: list[Path], config: LiveConfig, live: bool = False) -> Iterator[ClipCalm]:
    """Videos through the network, recorded or live, and meshes.npz files of runs with `--smoothing none --mesh free`. Raises InputError."""
    from app.jobs import open_engine
    from app.live import LivePipeline
    from app.pipeline import VideoPipeline
    from app.sources import VideoSource
    from core.bodies import load_body

    raw = replace(config, smoothing="none", mesh="free")
    for file in files:
        if file.suffix == ".npz":
            scenes, body_name = read_scenes(file)
            yield measure(str(file), scenes, load_body(body_name, config.mesh_dir), config, live)
            continue
        source = VideoSource(file)
        with open_engine(raw) as engine:
            if live:
                pipeline = LivePipeline(engine.estimator, engine.detector, raw)
                scenes = (pipeline.process(frame) for frame in source)
            else:
                scenes = VideoPipeline(engine.detector, engine.estimator, raw).scenes(source)
            yield measure(str(file), scenes, engine.estimator.body, config, live)


def read_scenes(path: Path) -> tuple[Iterator[Scene], str]:
    """The scenes of a meshes.npz (without pictures), and the body's name. Raises InputError when it is none."""
    from app.export.npz import map_rows, reading
    from app.types import Frame, Intrinsics

    names = ("frame_index", "time_s", "track_id", "score", "box_px", "joints_m", "joints_px", "joint_visibility", "camera", "translation_m")
    with reading(path):
        with np.load(path, allow_pickle=False) as file:
            table = {name: file[name] for name in names}
            body, focal_px, principal_px = str(file["body"]), float(file["focal_px"]), tuple(file["principal_px"].tolist())
        vertices_m = map_rows(path, "vertices_m")
    blank = np.zeros((1, 1, 3), np.uint8)

    def scenes() -> Iterator[Scene]:
        known, time_s = np.unique(table["frame_index"]), 0.0
        for index in range(known[0], known[-1] + 1) if len(known) else ():
            rows = np.flatnonzero(table["frame_index"] == index)
            if not len(rows):  # nobody there: whoever comes after it is another path
                yield Scene(Frame(blank, time_s, index), Intrinsics(focal_px, principal_px))
                continue
            time_s = float(table["time_s"][rows[0]])
            meshes = tuple(_mesh(table, row, np.array(vertices_m[row])) for row in rows)
            frame = Frame(blank, time_s, index)
            yield Scene(frame, Intrinsics(focal_px, principal_px), meshes)

    return scenes(), body


def _mesh(table: dict[str, np.ndarray], row: int, vertices_m: np.ndarray) -> SmoothedMesh:
    fields = {name: values[row] for name, values in table.items() if name not in ("frame_index", "time_s", "track_id", "score")}
    return SmoothedMesh(track_id=int(table["track_id"][row]), score=float(table["score"][row]), vertices_m=vertices_m, **fields)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m app.jitter", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="CLIP", help="videos, or meshes.npz of runs with --smoothing none --mesh free"
    )
    parser.add_argument("--smoothing", default="one-euro", help="the filter to measure (default: one-euro)")
    parser.add_argument("--live", action="store_true", help="follow and smooth people as live sessions do, not as recordings")
    flags = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        for result in measure_clips(flags.files, LiveConfig(smoothing=flags.smoothing), flags.live):
            print(result, flush=True)
    except InputError as error:
        print(f"app.jitter: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
