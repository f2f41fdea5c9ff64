"""The live loop: camera -> pipeline -> newest scene, in a thread. What draws and what records can fail without stopping it."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import psutil

from app.camera import Camera
from app.governor import Governor
from app.hud import Hud, HudMeter, network_line
from app.threads import Begun
from app.types import Scene, intrinsics_of

if TYPE_CHECKING:
    from app.live import LivePipeline

log = logging.getLogger(__name__)

FIRST_MESH = "first mesh"
"""How the line of log begins that says when the first person was there."""
TAKE_S = 0.03
"""How often a wait for the camera looks whether it should end, or whether the network is loaded."""
STOP_S = 0.7


class LiveSink(Protocol):
    """Takes every scene of a live session, from the loop's thread."""

    def write(self, scene: Scene) -> None:
        """One scene, in order of time."""

    def close(self) -> None:
        """The session or the recording ends."""


@dataclass(frozen=True)
class Moment:
    """A scene and when its frame was taken (time.perf_counter); estimated: False while the network is not loaded yet."""

    scene: Scene
    taken_s: float
    estimated: bool = True


class LiveLoop:
    """Use as a context manager. `newest` is the last scene; sinks that fail are let go with a warning."""

    def __init__(
        self,
        camera: Camera,
        loading: "Begun[LivePipeline]",
        governor: Governor,
        meter: HudMeter,
        focal_px: float | None = None,
    ) -> None:
        """While the network is loading the loop shows the camera's picture. A file that waits plays from then on."""
        self._camera, self._loading, self._focal_px = camera, loading, focal_px
        self.governor, self.meter = governor, meter
        self.pipeline: LivePipeline | None = None
        self.newest: Moment | None = None
        self._met_somebody = False
        self._sinks: dict[str, LiveSink] = {}
        self._stop, self._finished = threading.Event(), threading.Event()
        self._news, self._sinks_lock = threading.Condition(), threading.Lock()
        self._running: Begun[None]

    def __enter__(self) -> "LiveLoop":
        self._running = Begun("live-loop", self._run)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        ended = self._running.wait(STOP_S)
        for name in list(self._sinks):
            self.detach(name)
        if self.pipeline is not None and ended:
            self.pipeline.close()

    @property
    def finished(self) -> bool:
        """True when nothing more will come: a file is over, or something failed."""
        return self._finished.is_set()

    def check(self) -> None:
        """Raise what ended the loop, if it was a failure."""
        if self.finished:
            self._running.result()

    def wait_newer(self, than: Moment | None, timeout_s: float) -> Moment | None:
        """The newest moment once it is another than `than`; None when none came within the time."""
        with self._news:
            self._news.wait_for(lambda: self.newest is not than or self.finished, timeout_s)
            return None if self.newest is than else self.newest

    def attach(self, name: str, sink: LiveSink) -> None:
        """Give a sink every scene from now on."""
        with self._sinks_lock:
            self._sinks[name] = sink

    def detach(self, name: str) -> None:
        """Close a sink, which may take its time without stopping the loop; nothing happens when there is none of that name."""
        with self._sinks_lock:
            sink = self._sinks.pop(name, None)
        if sink is not None:
            self._guard(name, sink.close)

    def hud(self, recording: str = "") -> Hud:
        """What to show now."""
        how = "loading the network" if self.pipeline is None else network_line(self.pipeline.checkpoint, self.governor.text)
        return self.meter.read(time.perf_counter(), how, self._camera.status.text, recording)

    def _run(self) -> None:
        try:
            while not self._stop.is_set() and not self._camera.ended:
                if self.pipeline is not None:
                    self._step(self.pipeline)
                elif self._loading.wait(0.0):
                    self._start(self._loading.result())
                else:
                    self._show_picture()
        finally:
            self._finished.set()
            with self._news:
                self._news.notify_all()

    def _start(self, pipeline: "LivePipeline") -> None:
        self.pipeline = pipeline
        if pipeline.warning:
            self.meter.warn(pipeline.warning)
        self._camera.play()

    def _show_picture(self) -> None:
        captured = self._camera.take(TAKE_S)
        if captured is not None:
            self._publish(Moment(Scene(captured.frame, intrinsics_of(captured.frame, self._focal_px)), captured.taken_s, estimated=False))

    def _step(self, pipeline: "LivePipeline") -> None:
        """The newest frame through the pipeline, and on to whoever looks and records."""
        plan = self.governor.plan
        captured = self._camera.take(TAKE_S)
        if captured is None:
            return
        start_s = time.perf_counter()
        scene = pipeline.process(captured.frame, plan)
        now_s = time.perf_counter()
        self.governor.note(now_s, scene.timings_ms["total"], scene.timings_ms["detect"])
        self.meter.inferred(scene, now_s)
        self._publish(Moment(scene, captured.taken_s))
        if scene.meshes and not self._met_somebody:
            self._met_somebody = True
            log.info("%s %.1f s after the start", FIRST_MESH, time.time() - psutil.Process().create_time())
        self._write(scene)
        spare_s = plan.infer_interval_ms / 1e3 - (time.perf_counter() - start_s)
        if spare_s > 0:
            self._stop.wait(spare_s)

    def _publish(self, moment: Moment) -> None:
        with self._news:
            self.newest = moment
            self._news.notify_all()

    def _write(self, scene: Scene) -> None:
        with self._sinks_lock:
            failed = {name: sink for name, sink in self._sinks.items() if not self._guard(name, lambda sink=sink: sink.write(scene))}
            for name in failed:
                del self._sinks[name]
        for name, sink in failed.items():
            self._guard(name, sink.close)

    def _guard(self, name: str, step: Callable[[], None]) -> bool:
        """Run a sink's step; False when it failed, which is said once and shown."""
        try:
            step()
        except Exception as error:  # noqa: BLE001 - a sink never stops the loop
            text = f"{name} failed: {' '.join(str(error).split()) or type(error).__name__}"
            if self.meter.warn(text):
                log.warning("%s; the session goes on without it", text)
            return False
        return True
