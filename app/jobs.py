"""The jobs of launch.py: recorded videos and pictures, from file to files, one input after the other."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.camera_turns import CameraTurns
from app.config import LiveConfig
from app.detect import Detector
from app.engine import NO_FACES, check_fits, open_detector, open_estimator
from app.export import GLB_SINK, OVERLAY_SINK, PICTURE_SINKS, VIDEO_SINKS, Parameters, Recording, SinkGroup
from app.export.motions import pattern_of
from app.files import distinct
from app.finished import already_done, file_version, given_settings
from app.parametric import shows_fitted
from app.pipeline import VideoPipeline, scene_of_picture
from app.progress import Cancelled, MakeProgress, Progress, ProgressBar
from app.settling import Settling
from app.sources import VideoSource, check_video, picture_files, picture_frame
from app.stages import Stage, Stages, each
from app.threads import cores_shared
from app.types import Scene
from app.visibility import body_joint_weights
from core.errors import InputError
from core.estimator import MeshEstimator

log = logging.getLogger(__name__)

UNDER_WAY_BYTES = 384 * 2**20
MAX_UNDER_WAY = 96
"""Frames between reading and writing, in memory; enough that a thorough look for people does not stop the others."""


Say = Callable[[str], None]


def _silent(_: str) -> None:
    pass


@dataclass(frozen=True)
class Engine:
    """What all inputs of a run share."""

    estimator: MeshEstimator
    detector: Detector
    config: LiveConfig
    make_progress: MakeProgress = ProgressBar

    @property
    def settings(self) -> dict[str, Any]:
        """What decides about the result, for summary.json."""
        estimator = self.estimator
        return given_settings(self.config) | {
            "body": estimator.body.name, "device": estimator.device, "precision": estimator.precision,
            "mesh": shown_mesh(estimator, self.config),
        }  # fmt: skip

    def noted(self, settings: dict[str, Any]) -> dict[str, Any]:
        """`settings` of a run that begins, with what `already_done` does not look at: how the network runs here, and the state."""
        return settings | {"precision_asked": self.config.precision, "network": self.estimator.description, "state": "failed"}


def shown_mesh(estimator: MeshEstimator, config: LiveConfig) -> str:
    """Which mesh results hold: "parametric" for fitted bodies, "free" for the network's vertices."""
    return "parametric" if shows_fitted(estimator.body, config) and not estimator.config.parametric else "free"


def video_sinks(config: LiveConfig) -> tuple[str, ...]:
    """Files of a video."""
    names = VIDEO_SINKS if config.overlay else tuple(name for name in VIDEO_SINKS if name != OVERLAY_SINK)
    names += (GLB_SINK,) if config.glb else ()
    return (*names, *map(pattern_of, config.motion))


@dataclass
class Report:
    """How a run went. done: one line per input; failed: one line per input that could not be read or written."""

    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


@contextmanager
def open_engine(config: LiveConfig, estimator: MeshEstimator | None = None) -> Iterator[Engine]:
    """The network, loaded now unless it is given, and the detector. Raises InputError when one is missing or does not fit the flags."""
    if estimator is None:
        estimator = open_estimator(config)
    else:
        check_fits(estimator, config)
    with closing(open_detector(config)) as detector:
        yield Engine(estimator, detector, config)


def run_videos(paths: list[Path], folder: Path, config: LiveConfig, say: Say = _silent) -> Report:
    """Every video into its own folder; one that fails is reported and the rest goes on. KeyboardInterrupt passes.

    say: is told a line for each video as soon as it is done
    """
    report = Report()
    pairs = zip(paths, result_folders(paths, folder), strict=True)
    there = [(path, target) for path, target in pairs if _accepted(report, lambda path=path: check_video(path))]
    if not there:
        return report
    with open_engine(config) as engine:
        for path, target in there:
            _attempt(report, path, lambda path=path, target=target: process_video(path, target, engine), say)
    return report


def run_pictures(paths: list[Path], folder: Path, config: LiveConfig, say: Say = _silent) -> Report:
    """Every picture of these files and folders into its own folder.

    say: is told a line for each picture at the end, however it comes: between them it would break the progress bar
    """
    report = Report()
    pictures: list[Path] = []
    for path in paths:
        _accepted(report, lambda path=path: pictures.extend(picture_files(path)))
    if not pictures:
        return report
    with open_engine(config) as engine:
        progress = engine.make_progress("pictures", len(pictures))
        try:
            for path, target in zip(pictures, result_folders(pictures, folder), strict=True):
                _attempt(report, path, lambda path=path, target=target: process_picture(path, target, engine))
                progress.update()
        finally:
            progress.close()
            for line in report.done:
                say(line)
    return report


def _accepted(report: Report, look: Callable[[], None]) -> bool:
    """Whether an input is what it should be, before the network is loaded; what is wrong goes into the report."""
    try:
        look()
    except InputError as error:
        report.failed.append(str(error))
        log.error("%s", error)
        return False
    return True


def _attempt(report: Report, path: Path, work: Callable[[], str], say: Say = _silent) -> None:
    try:
        report.done.append(work())
        say(report.done[-1])
    except (InputError, OSError) as error:
        line = str(error) if str(path) in str(error) else f"{path}: {error}"
        report.failed.append(line)
        log.error("%s", line)


def process_video(path: Path, folder: Path, engine: Engine) -> str:
    """One video into `folder`; returns the line to print. Ctrl-C, Cancelled and errors leave what is done, marked as not complete."""
    settings = engine.settings | file_version(path)
    finished = already_done(folder, settings, engine.config.overwrite)
    if finished:
        return f"{path}: {finished}"
    source = VideoSource(path)
    settings = engine.noted(settings)
    recording = _recording(engine, folder, source.size_px, settings, source.fps, path, source.expected_frames)
    start_s = time.perf_counter()
    with SinkGroup(recording, video_sinks(engine.config)) as sinks:
        num_frames, people = _run_pipeline(source, engine, sinks, settings)
        for warning in _video_warnings(source, people):
            sinks.warn(warning)
            log.warning("%s: %s", path, warning)
    elapsed_s = max(time.perf_counter() - start_s, 1e-6)
    files = ", ".join(item.name for item in sinks.paths)
    return f"{path}: {frames_phrase(num_frames)}, {people_phrase(len(people))}, {num_frames / elapsed_s:.1f} frames/s -> {folder}: {files}"


def _run_pipeline(source: VideoSource, engine: Engine, sinks: SinkGroup, settings: dict[str, Any]) -> tuple[int, set[int]]:
    """All frames into the sinks; number of frames and the ids of the people seen."""
    pipeline = VideoPipeline(engine.detector, engine.estimator, engine.config)
    progress = engine.make_progress(source.path.name, source.expected_frames)
    _warn_of_engine(engine, sinks)
    width, height = source.size_px
    room = max_under_way(source.size_px, pipeline.max_held_frames(width * height * 3))
    stages = pipeline.stages
    if engine.config.animated:
        stages["turns"] = each(CameraTurns())
    return write_scenes(source, stages, sinks, settings, progress, room, source.expected_frames)


def _warn_of_engine(engine: Engine, sinks: SinkGroup) -> None:
    """What is so for all inputs, and was logged when the engine was opened."""
    if not len(engine.estimator.body.faces):
        sinks.warn(NO_FACES)
    if engine.estimator.warning:
        sinks.warn(engine.estimator.warning)


def write_scenes(
    source: Iterable[Any],
    stages: Mapping[str, Stage],
    sinks: SinkGroup,
    settings: dict[str, Any],
    progress: Progress,
    room: int,
    expected_frames: int | None,
) -> tuple[int, set[int]]:
    """What `stages` make of `source` (scenes) into the sinks, all of it overlapping; number of frames and the ids of the people seen.

    `settings` (summary.json writes them when it is closed) gets the state: complete, interrupted or failed. room: items under way at most
    """
    people: set[int] = set()
    stages = {**stages, **sinks.stages}
    running: Stages[Scene] = Stages(source, stages, room, progress.check)
    try:
        with cores_shared(len(stages)), running:
            for scene in running:
                people |= {mesh.track_id for mesh in scene.meshes}
                progress.update()
        settings["state"] = "complete"
    except (KeyboardInterrupt, Cancelled):
        settings["state"] = "interrupted"
        sinks.warn(f"interrupted after {sinks.num_scenes} of {expected_frames or 'an unknown number of'} frames")
        raise
    except Exception as error:
        sinks.warn(f"stopped after {sinks.num_scenes} frames by an error: {error}")
        raise
    finally:
        sinks.busy_s = running.busy_s
        progress.close()
    return sinks.num_scenes, people


def _video_warnings(source: VideoSource, people: set[int]) -> list[str]:
    warnings = [source.warning] if source.warning else []
    return warnings if people else [*warnings, "nobody was found"]


def process_picture(path: Path, folder: Path, engine: Engine) -> str:
    """One picture into `folder`; returns the line to print."""
    finished = already_done(folder, engine.settings, engine.config.overwrite)
    if finished:
        return f"{path}: {finished}"
    frame = picture_frame(path)
    settings = engine.noted(engine.settings)
    with SinkGroup(_recording(engine, folder, frame.size_px, settings, source=path), PICTURE_SINKS) as sinks:
        _warn_of_engine(engine, sinks)
        scene = scene_of_picture(frame, engine.detector, engine.estimator, engine.config)
        sinks.write(scene)
        settings["state"] = "complete"
        if not scene.meshes:
            sinks.warn("nobody was found")
            log.warning("%s: nobody was found", path)
    return f"{path}: {people_phrase(len(scene.meshes))} -> {folder}"


def result_folders(paths: list[Path], folder: Path) -> list[Path]:
    """A folder for each input: its name without suffix; inputs of the same name get their suffix or a number as well."""
    stems = [path.resolve().stem for path in paths]
    count = Counter(stems)
    names = (stem if count[stem] == 1 else f"{stem}-{path.suffix.lstrip('.')}" for stem, path in zip(stems, paths, strict=True))
    return [folder / name for name in distinct(names)]


def max_under_way(size_px: tuple[int, int], held: int = 1) -> int:
    """Frames that may be between reading and writing: what fits into UNDER_WAY_BYTES, but so many that stages which hold back `held`
    of them still overlap.
    """
    return max(held + held // 2 + 1, min(MAX_UNDER_WAY, UNDER_WAY_BYTES // (size_px[0] * size_px[1] * 3)))


def _recording(
    engine: Engine,
    folder: Path,
    size_px: tuple[int, int],
    settings: dict[str, Any],
    fps: float = 0.0,
    source: Path | None = None,
    expected_frames: int | None = None,
) -> Recording:
    body, config = engine.estimator.body, engine.config
    fitted_mesh = shown_mesh(engine.estimator, config) == "parametric"
    parameters = settle = None
    if config.parametric or (config.animated and fitted_mesh):  # skeletons are made of them
        parameters = Parameters.of(body)
        if not engine.estimator.config.parametric:
            settle = Settling(body, parameters, posed=fitted_mesh)
    return Recording(
        folder, body.faces, body_joint_weights(body), body.name, size_px, fps, source, expected_frames, settings, parameters,
        config.show_hidden, camera_turns=config.animated and fps > 0, settle=settle,
    )  # fmt: skip


def frames_phrase(count: int) -> str:
    """How many frames, in words."""
    return f"{count} frame{'s' * (count != 1)}"


def people_phrase(count: int) -> str:
    """How many people, in words."""
    return {0: "nobody", 1: "1 person"}.get(count, f"{count} people")
