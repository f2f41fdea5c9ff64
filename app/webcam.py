"""`--webcam`: a camera, a stream or a file, live in a window, or without one."""

import ctypes
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from app.camera import Camera
from app.config import LiveConfig
from app.governor import Governor
from app.hud import Hud, HudMeter
from app.liveloop import LiveLoop, Moment
from app.threads import Begun, usable_cores
from app.types import Scene
from core.errors import InputError
from core.stopping import stop_on_signal

if TYPE_CHECKING:
    from app.live import LivePipeline
    from app.session import SessionRecorder
    from core.bodies import Body

log = logging.getLogger(__name__)

TITLE = "FastMETRO Live"
RECORDING = "recording"
POLL_S = 1 / 60
LOADING_FPS = 8.0
"""Drawings a second while the network loads; more would only delay it."""
HUD_S = 0.25
"""The numbers change this often, to be readable."""
STATUS_S, TERMINAL_STATUS_S = 5.0, 0.5
MAX_DRAW_FAILURES = 5
TOO_EARLY = "no recording yet: the network is still loading"


class View(Protocol):
    """What sessions and replays need of app.viewer.window.Window."""

    @property
    def paused(self) -> bool:
        """Whether whoever watches has stopped the scene."""

    def set_body(self, body: "Body", joint_weights: object) -> None:
        """Once the network is loaded."""

    def show(self, scene: Scene, hud: Hud, source_state: str) -> None:
        """Draw."""

    def poll(self) -> bool:
        """False when closed."""

    def close(self) -> None:
        """Take it away."""


def run_webcam(address: str, config: LiveConfig, folder: Path) -> tuple[str, bool]:
    """Run until the window is closed, Ctrl-C, the file's end or --duration-s; returns the line to print, and whether all that was to be
    recorded is.

    folder: for screenshots and for recordings started by the key. Raises InputError when the source cannot be opened, the network is
    missing, or there is no display for the window.
    """
    config = config.for_camera()
    if not config.headless:
        check_display()
    loading = Begun("live-load", lambda: open_pipeline(config))  # beside the opening of the camera
    try:
        with stop_on_signal() as stop, Camera(address, config.loop, file_waits=True) as camera:
            meter, governor = HudMeter(), Governor(config.target_ms, draws=not config.headless)
            with LiveLoop(camera, loading, governor, meter, config.focal_px) as loop:
                attach_vmc(loop, config)
                recorder = Recorder(loop, config, folder)
                live = LiveSession(camera, loop, recorder, config, stop)
                live.run(None if config.headless else open_window(config, folder, recorder.toggle))
            loop.check()
            return f"{camera.address.shown}: {meter.summary(time.perf_counter())}{recorder.summary}", recorder.complete
    finally:
        loading.abandon(lambda pipeline: pipeline.close())


def attach_vmc(loop: LiveLoop, config: LiveConfig) -> None:
    """--vmc: send what the loop finds. Raises InputError for a host that is not known."""
    if config.vmc is None:
        return
    from app.export.vmc import VmcSender

    loop.attach("--vmc", VmcSender(config.vmc, lambda: loop.pipeline.body))


def check_display() -> None:
    """Raises NoDisplayError at once where there is none: Open3D would draw for nobody to see."""
    if not sys.platform.startswith("linux"):
        return
    if os.environ.get("DISPLAY"):
        x11 = ctypes.CDLL("libX11.so.6")
        x11.XOpenDisplay.restype, x11.XCloseDisplay.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        display = x11.XOpenDisplay(None)
        if display:
            x11.XCloseDisplay(display)
            return
    elif os.environ.get("WAYLAND_DISPLAY"):
        return
    raise NoDisplayError


class NoDisplayError(InputError):
    """No window can be opened."""

    def __init__(self) -> None:
        super().__init__("--webcam: there is no display for a window here; use --headless, or --page to see it in a browser")


def open_window(config: LiveConfig, folder: Path, record: Callable[[], None]) -> View:
    """The window. Raises NoDisplayError."""
    check_display()
    from app.viewer.window import Window, WindowError

    try:
        return Window(TITLE, folder, config.mirror, record, config.show_hidden)
    except WindowError as error:
        raise NoDisplayError from error


def open_pipeline(config: LiveConfig) -> "LivePipeline":
    """Load network and detector; what takes long to import is imported here, so that the picture is there before."""
    import app.lean_torch  # noqa: F401  before all that import it
    import core.estimator
    import core.person_finder  # noqa: F401  both before there are two threads: threads that import meet each other's half-made modules
    from app.engine import open_detector
    from app.tiers import open_for_camera

    leave_a_core()  # first: the detector, too, is compiled for as many threads as PyTorch has
    detector = Begun("detector-load", lambda: open_detector(config))
    try:
        config, estimator = open_for_camera(config)
        from app.live import LivePipeline

        return LivePipeline(estimator, detector.result(), config, "beside")
    finally:
        detector.abandon(lambda opened: opened.close())


def leave_a_core() -> None:
    """For the camera, the detector and the window. The network's threads wait for one another without pause: one that has to share its
    core stops them all, and on two cores two are hardly quicker than one.
    """
    import torch

    torch.set_num_threads(max(1, min(torch.get_num_threads(), usable_cores() - 1)))


class Recorder:
    """Starts and stops the recording of a live session, by --record and by the key."""

    def __init__(self, loop: LiveLoop, config: LiveConfig, folder: Path) -> None:
        self._loop, self._config, self._folder = loop, config, folder
        self._current: SessionRecorder | None = None
        self._wanted, self._asked_early = config.record is not None, False
        self._recorders: list[SessionRecorder] = []

    @property
    def text(self) -> str:
        """For the HUD; "" while nothing is recorded, or why not when the key asked for it."""
        if self._current is None:
            return f"! {TOO_EARLY}" if self._asked_early and self._loop.pipeline is None else ""
        if self._current.problem:
            return f"! {self._current.problem}"
        return f"recording {self._current.path.name}, {self._current.num_frames} frames"

    @property
    def summary(self) -> str:
        """What was recorded, for the last line."""
        if self._wanted:
            return f"; nothing recorded to {self._config.record}: the session ended before the network was loaded"
        return f"; recorded {', '.join(map(_recorded, self._recorders))}" if self._recorders else ""

    @property
    def complete(self) -> bool:
        """Whether everything that was asked for is recorded."""
        return not self._wanted and not any(item.problem or item.num_dropped for item in self._recorders)

    def start_if_wanted(self) -> None:
        """--record: begin as soon as the network is loaded."""
        if self._wanted and self._loop.pipeline is not None:
            self._wanted = False
            self._start(self._config.record)

    def toggle(self) -> None:
        """The key. While the network loads it only says so."""
        if self._current is not None:
            self._loop.detach(RECORDING)
            self._current = None
        elif self._loop.pipeline is None:
            self._asked_early = True
            log.warning("%s", TOO_EARLY)
        else:
            from app.session import new_session_path

            self._folder.mkdir(parents=True, exist_ok=True)
            self._start(new_session_path(self._folder))

    def _start(self, path: Path) -> None:
        from app.session import SessionRecorder
        from app.session_format import SessionInfo

        config = self._config
        settings = {"checkpoint": self._loop.pipeline.checkpoint, "smoothing": config.smoothing, "focal_px": config.focal_px}
        info = SessionInfo.of(self._loop.pipeline.body, settings, config.parametric)
        self._current = SessionRecorder(path, info, config.record_pictures)
        self._recorders.append(self._current)
        self._loop.attach(RECORDING, self._current)


def _recorded(recorder: "SessionRecorder") -> str:
    """The file, and how much of the session is in it where that is not all."""
    num_frames, num_dropped = recorder.num_frames, recorder.num_dropped
    if recorder.problem:
        return f"{recorder.path} (only {num_frames} frames)"
    if num_dropped:
        return f"{recorder.path} ({num_frames} of {num_frames + num_dropped} frames: the disk was too slow)"
    return str(recorder.path)


class LiveSession:
    """The main thread's part: draws what is new, as often as the governor lets it, and looks whether to end."""

    def __init__(self, camera: Camera, loop: LiveLoop, recorder: Recorder, config: LiveConfig, stop: threading.Event) -> None:
        self._camera, self._loop, self._recorder, self._stop = camera, loop, recorder, stop
        self._duration_s = config.duration_s or math.inf
        self._end_s = math.inf
        self._shown: Moment | None = None
        self._drawn_s = self._hud_s = self._said_s = -1e9
        self._hud = Hud()
        self._num_failures = 0
        self._body_known = False

    def run(self, window: View | None) -> None:
        """Until something ends it; without a window (any more) with a line of status now and then."""
        try:
            while not self._ended():
                self._recorder.start_if_wanted()
                if window is None:
                    self._say_status()
                    self._note(self._loop.wait_newer(self._shown, POLL_S * 6))
                elif not self._draw(window):
                    return
                elif self._num_failures >= MAX_DRAW_FAILURES:
                    window = self._give_up(window)
        finally:
            if sys.stderr.isatty() and window is None:
                sys.stderr.write("\n")
            if window is not None:
                window.close()

    def _ended(self) -> bool:
        now_s = time.perf_counter()
        if math.isinf(self._end_s) and self._loop.pipeline is not None:
            self._end_s = now_s + self._duration_s
        return self._stop.is_set() or self._loop.finished or now_s >= self._end_s

    def _draw(self, window: View) -> bool:
        """Draw the newest scene if it is time to, and take keys; False when the window was closed. A failing renderer is only counted."""
        due_s = self._drawn_s + 1 / self._most_fps() - POLL_S / 4
        early_s = due_s - time.perf_counter()
        if early_s > 0:  # a wait for news would end at once, and a loop without pause keeps Python's lock from the network
            self._stop.wait(min(early_s, POLL_S))
        moment = self._loop.wait_newer(self._shown, POLL_S if early_s <= 0 else 0.0)
        start_s = time.perf_counter()
        stale = start_s - self._hud_s >= HUD_S
        if stale:
            self._hud, self._hud_s = self._loop.hud(self._recorder.text), start_s
        try:
            self._tell_body(window)
            newest = moment or (self._loop.newest if stale else None)
            if newest is not None and start_s >= due_s:
                self._drawn_s = start_s
                window.show(newest.scene, self._hud, self._camera.status.state)
                going_on = window.poll()
                self._count(newest, start_s)
                return going_on
            return window.poll()
        except Exception as error:  # noqa: BLE001 - what draws never stops what estimates
            self._num_failures += 1
            text = f"drawing failed: {' '.join(str(error).split()) or type(error).__name__}"
            if self._loop.meter.warn(text):
                log.warning("%s", text)
            return True

    def _most_fps(self) -> float:
        return self._loop.governor.plan.draw_fps if self._body_known else LOADING_FPS

    def _count(self, moment: Moment, start_s: float) -> None:
        self._num_failures = 0
        now_s = time.perf_counter()
        self._loop.meter.drawn(now_s, (now_s - start_s) * 1e3)
        self._note(moment)

    def _note(self, moment: Moment | None) -> None:
        """How late a mesh arrived, here or on the screen."""
        if moment is None:
            return
        if moment is not self._shown and moment.estimated:
            now_s = time.perf_counter()
            self._loop.meter.shown(now_s, (now_s - moment.taken_s) * 1e3)
        self._shown = moment

    def _tell_body(self, window: View) -> None:
        pipeline = self._loop.pipeline
        if pipeline is None or self._body_known:
            return
        from app.engine import NO_FACES
        from app.visibility import body_joint_weights

        if not len(pipeline.body.faces) and self._loop.meter.warn(NO_FACES):
            log.warning("%s", NO_FACES)
        window.set_body(pipeline.body, body_joint_weights(pipeline.body))
        self._body_known = True

    def _give_up(self, window: View) -> None:
        """Go on without a window that cannot draw; the network need not rest for it any more."""
        self._loop.governor = Governor(self._loop.governor.target_ms, draws=False)
        log.warning("the window is closed, the session goes on without it; Ctrl-C ends it")
        try:
            window.close()
        except Exception as error:  # noqa: BLE001 - it is broken anyway
            log.debug("closing the window: %s", error)

    def _say_status(self) -> None:
        """One line on stderr: rewritten on a terminal, now and then elsewhere."""
        now_s, terminal = time.perf_counter(), sys.stderr.isatty()
        if now_s - self._said_s < (TERMINAL_STATUS_S if terminal else STATUS_S):
            return
        self._said_s = now_s
        line = "  |  ".join(self._loop.hud(self._recorder.text).lines())
        if terminal:
            sys.stderr.write(f"\r\x1b[2K{line[: os.get_terminal_size(2).columns - 1]}")
            sys.stderr.flush()
        else:
            log.info("%s", line)
