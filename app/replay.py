"""`--replay`: a recorded session is shown again in the window, or becomes the same files as a video."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from app.config import LiveConfig
from app.distance import at_calm_distances, max_held_scenes
from app.engine import NO_FACES
from app.export import Parameters, Recording, SinkGroup
from app.finished import already_done, drawing_settings
from app.hud import STAGES, Hud
from app.jobs import frames_phrase, max_under_way, people_phrase, result_folders, video_sinks, write_scenes
from app.progress import MakeProgress, ProgressBar
from app.session import SessionReader, covering
from app.session_format import SessionInfo
from app.settling import Settling
from app.shapes import TrackShapes
from app.spans import max_span_frames
from app.stages import each
from app.types import Intrinsics, Posture, Scene, SmoothedMesh
from app.webcam import POLL_S, NoDisplayError, View, check_display, open_window
from core.bodies import load_body
from core.errors import InputError
from core.fitters import FAITHFUL
from core.posing import posed_meshes
from core.stopping import stop_on_signal

if TYPE_CHECKING:
    from core.bodies import Body

log = logging.getLogger(__name__)

MAX_SKIP_S = 0.25
"""Time that late scenes may be left out for, one after the other."""

OpenView = Callable[[LiveConfig, Path, Callable[[], None]], View]
"""(config, folder for screenshots, what the record key does) -> a window."""


@dataclass(frozen=True)
class _RecordedLevels:
    """What the window asks of a body's mesh levels."""

    intermediate_ids: np.ndarray
    intermediate_faces: np.ndarray


@dataclass(frozen=True)
class _RecordedBody:
    """What the window asks of a body; the session brings it along, so no checkpoint is needed."""

    faces: np.ndarray
    levels: _RecordedLevels

    @classmethod
    def of(cls, info: SessionInfo) -> "_RecordedBody":
        return cls(info.faces, _RecordedLevels(info.kept_ids, np.zeros((0, 3), np.int32)))


def replay_in_window(path: Path, config: LiveConfig, open_view: OpenView = open_window) -> str:
    """Show a session at the speed it was recorded, once or with --loop for ever; returns the line to print.

    With --vmc the people of each scene that is shown are sent as well. Raises InputError when `path` is no session, there is no display,
    or nothing can be sent.
    """
    reader = SessionReader(path)
    if reader.warning:
        log.warning("%s", reader.warning)
    send = _sender(reader.info, config)
    try:
        if open_view is open_window:
            check_display()
        view = open_view(config, Path(), lambda: log.warning("a replay is recorded already: %s", path))
    except NoDisplayError as error:
        raise InputError("--replay: there is no display for a window here; give --out DIR to get files instead") from error
    try:
        view.set_body(_RecordedBody.of(reader.info), reader.info.vertex_joint_weights)
        with stop_on_signal() as stop:
            num_drawn = _Player(reader, view, stop, send).play(config.loop)
    finally:
        view.close()
    return f"{path}: {num_drawn} of {reader.num_frames} frames shown"


def _sender(info: SessionInfo, config: LiveConfig) -> Callable[[Scene], None] | None:
    """What --vmc does with each scene; None without it. Raises InputError for bodies without such bones and for unknown hosts."""
    if config.vmc is None:
        return None
    from app.export.vmc import VmcSender

    bodies = _Bodies.of(info)
    if bodies is None:
        raise InputError(f"--vmc: this session's body is {info.body!r}, expected one whose bones can be found ({', '.join(FAITHFUL)})")
    sender = VmcSender(config.vmc, lambda: bodies.body)
    return lambda scene: sender.write(bodies(scene))


class _Player:
    """Draws each scene when its time has come; where drawing is slower than the recording was, scenes are left out, never late.

    Where reading is slower, leaving out does not help: then its clock waits, so that something is drawn every MAX_SKIP_S.
    """

    def __init__(self, reader: SessionReader, view: View, stop: threading.Event, send: Callable[[Scene], None] | None = None) -> None:
        self._reader, self._view, self._stop, self._send = reader, view, stop, send
        self._position_s = 0.0
        self._clock_s = self._first_s = self._drawn_s = time.perf_counter()
        self._num_drawn = 0

    def play(self, forever: bool) -> int:
        """Until the end, or until the window is closed; number of scenes drawn."""
        while self._once() and forever:
            self._position_s = 0.0
        return self._num_drawn

    def _once(self) -> bool:
        """False when the window was closed or a signal came."""
        scenes = iter(self._reader)
        for scene, is_last in _with_last(scenes):
            while self._advance() < scene.frame.time_s:
                if self._stop.wait(POLL_S / 2) or not self._view.poll():
                    return False
            if is_last or not self._skips(scene):
                if self._send is not None:
                    self._send(scene)
                self._view.show(scene, self._hud(scene), "replay")
                self._num_drawn += 1
                self._drawn_s = time.perf_counter()
            if self._stop.is_set() or not self._view.poll():
                return False
        return True

    def _skips(self, scene: Scene) -> bool:
        """Whether a scene whose time has come is left out, for it is late. After MAX_SKIP_S without a drawing its time is now."""
        if self._position_s <= scene.frame.time_s + POLL_S:
            return False
        if self._clock_s - self._drawn_s < MAX_SKIP_S:
            return True
        self._position_s = scene.frame.time_s
        return False

    def _advance(self) -> float:
        """Seconds into the session: as time passes, except while the view is paused."""
        now_s = time.perf_counter()
        if not self._view.paused:
            self._position_s += now_s - self._clock_s
        self._clock_s = now_s
        return self._position_s

    def _hud(self, scene: Scene) -> Hud:
        shown_s = max(time.perf_counter() - self._first_s, 1e-3)
        source = f"{self._reader.path.name}  {scene.frame.time_s:.1f} of {self._reader.duration_s:.1f} s"
        stages_ms = {stage: value for stage, value in scene.timings_ms.items() if stage in STAGES}
        return Hud(
            infer_fps=self._reader.fps, draw_fps=self._num_drawn / shown_s, stages_ms=stages_ms, source=source, num_people=len(scene.meshes)
        )


def _with_last(scenes: Iterator[Scene]) -> Iterator[tuple[Scene, bool]]:
    """Each scene, and whether it is the last."""
    before = next(scenes, None)
    for scene in scenes:
        yield before, False
        before = scene
    if before is not None:
        yield before, True


def replay_to_files(path: Path, folder: Path, config: LiveConfig, make_progress: MakeProgress = ProgressBar) -> str:
    """The session's files into a folder of its own within `folder`; returns the line to print. The meshes are as they were recorded, but
    with --glb or --motion, where there are to be skeletons, those of bodies fitted to them, at distances smoothed again (app.distance).

    Raises InputError when `path` is no session, OSError when the folder cannot be written.
    """
    reader = SessionReader(path)
    target = result_folders([path], folder)[0]
    bodies = _Bodies.of(reader.info) if config.animated else None
    settings = dict(reader.info.settings) | drawing_settings(config) | ({"mesh": "parametric"} if bodies else {})
    finished = already_done(target, settings, config.overwrite)
    if finished:
        return f"{path}: {finished}"
    settings["state"] = "failed"
    info = reader.info
    recording = Recording(
        target, info.faces, info.vertex_joint_weights, info.body, reader.size_px, reader.fps, expected_frames=reader.num_frames,
        settings=settings, parameters=bodies.parameters if bodies else info.parameters, show_hidden=config.show_hidden,
        settle=bodies.settle if bodies else None,
    )  # fmt: skip
    stages, held = {}, 1
    if bodies:
        stages["fit"] = each(bodies)
        width, height = reader.size_px
        run_frames = max_span_frames(width * height * 3, config.detect.max_interval_frames)
        stages["distance"] = lambda scenes: at_calm_distances(scenes, config.smooth, config.detect.interval_s, run_frames)
        held = max_held_scenes(run_frames)
    start_s = time.perf_counter()
    with SinkGroup(recording, video_sinks(config)) as sinks:
        if not len(info.faces):
            sinks.warn(NO_FACES)
        progress = make_progress(path.name, reader.num_frames)
        num_frames, people = write_scenes(reader, stages, sinks, settings, progress, max_under_way(reader.size_px, held), reader.num_frames)
        for warning in (reader.warning, None if people else "nobody was found"):
            if warning:
                sinks.warn(warning)
                log.warning("%s: %s", path, warning)
    rate = num_frames / max(time.perf_counter() - start_s, 1e-6)
    files = ", ".join(item.name for item in sinks.paths)
    return f"{path}: {frames_phrase(num_frames)}, {people_phrase(len(people))}, {rate:.1f} frames/s -> {target}: {files}"


class _Bodies:
    """Gives recorded people the body that its parameters pose: those that were recorded, else fitted to the recorded meshes.

    settle: as of Recording
    """

    def __init__(self, body: "Body") -> None:
        self.body, self._shapes = body, TrackShapes()
        self.parameters = Parameters.of(body)
        self.settle = Settling(body, self.parameters, posed=True)

    @classmethod
    def of(cls, info: SessionInfo) -> "_Bodies | None":
        """None for bodies that cannot be fitted well, whose meshes are shown as they are."""
        body = load_body(info.body) if info.body in FAITHFUL else None
        return cls(body) if body is not None and len(body.levels.template_m) == len(info.vertex_joint_weights) else None

    def __call__(self, scene: Scene) -> Scene:
        recorded = bool(scene.meshes) and scene.meshes[0].rotmats is not None
        postures = [_posture(mesh) for mesh in scene.meshes] if recorded else self._fitted(scene)
        return replace(scene, meshes=self._posed(scene, postures)) if postures else scene

    def _fitted(self, scene: Scene) -> list[Posture]:
        from app.parametric import Sighting, fitted

        sightings = [
            Sighting(mesh.track_id, _posture(mesh), mesh.joints_m, float(mesh.joint_visibility.mean()), scene.intrinsics)
            for mesh in scene.meshes
        ]
        return fitted(sightings, self._shapes, self.body, LiveConfig(parametric=True, mesh="free"))  # posed by _posed, once

    def _posed(self, scene: Scene, postures: list[Posture]) -> tuple[SmoothedMesh, ...]:
        rotmats, shapes = np.stack([one.rotmats for one in postures]), np.stack([one.shape for one in postures])
        vertices_m, joints_m = posed_meshes(self.body, rotmats, shapes)
        return tuple(
            _covering(mesh, replace(posture, vertices_m=vertices), joints, scene.intrinsics)
            for mesh, posture, vertices, joints in zip(scene.meshes, postures, vertices_m, joints_m, strict=True)
        )


def _posture(mesh: SmoothedMesh) -> Posture:
    return Posture(mesh.vertices_m, mesh.translation_m, mesh.rotmats, mesh.shape)


def _covering(mesh: SmoothedMesh, posture: Posture, joints_m: np.ndarray, intrinsics: Intrinsics) -> SmoothedMesh:
    """The mesh in another posture, where it covers the one before in the picture."""
    place = covering(joints_m, mesh.joints_px, intrinsics, posture.translation_m)
    return replace(mesh, vertices_m=posture.vertices_m, joints_m=joints_m, rotmats=posture.rotmats, shape=posture.shape, **place)
