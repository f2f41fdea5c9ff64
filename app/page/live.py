"""The browser's camera over a WebSocket: JPEG frames in, the same frames with meshes on them out.

A frame is a header (FRAME_HEADER) and a JPEG; at most two are under way, the newest wins. A reply is the length of a JSON text
(uint32), the text, and a JPEG or nothing where the governor left the drawing out. Text messages are JSON, both ways.
One connection has a LivePipeline and two threads of its own: one infers while the other draws the frame before.
"""

import asyncio
import contextlib
import io
import json
import logging
import math
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from app.config import LiveConfig, PageConfig
from app.engine import open_detector
from app.governor import Governor
from app.hud import HudMeter, network_line
from app.live import LivePipeline
from app.page.models import Networks
from app.page.visitors import Visitor, why_not_written
from app.pipeline import Estimator
from app.render import draw_overlay, draw_skeletons
from app.session import SessionRecorder, new_session_path
from app.session_format import SessionInfo
from app.threads import Mailbox
from app.types import Frame, Scene
from app.visibility import body_joint_weights
from core.errors import InputError
from core.lens import camera_focal_px

if TYPE_CHECKING:
    from fastapi import WebSocket

log = logging.getLogger(__name__)

FRAME_HEADER = struct.Struct("<Id")
"""Number of the frame, milliseconds on the browser's clock."""
MAX_SIDE_PX = 1280
JPEG_QUALITY = 82
LOWEST_FPS = 20.0
"""The governor draws and infers this often as long as the machine can: below it a picture of oneself is no mirror any more."""
HUD_EVERY_S = 0.5
LAST_WORDS_S = 5.0
"""What closing has to say, such as where the recording is, may take this long to reach the browser."""
NO_RECORDING = "The machine that serves this page could not start the recording"
TRY_AGAIN_LATER, NORMAL = 1013, 1000
MAX_REASON_BYTES = 123
"""Of a WebSocket's end, RFC 6455."""


@dataclass(frozen=True)
class Reply:
    """What goes back for a frame. jpeg: empty where nothing was drawn; hud: now and then."""

    number: int
    num_people: int
    jpeg: bytes = b""
    hud: dict[str, Any] | None = None

    def as_bytes(self) -> bytes:
        """As the page reads it."""
        facts = {"number": self.number, "people": self.num_people} | ({"hud": self.hud} if self.hud else {})
        text = json.dumps(facts).encode()
        return struct.pack("<I", len(text)) + text + self.jpeg


class Cameras:
    """All connections. Use as a context manager: leaving it ends them."""

    def __init__(self, networks: Networks, config: PageConfig) -> None:
        self._networks, self._config = networks, config
        self._open: set[CameraSession] = set()

    def __enter__(self) -> "Cameras":
        return self

    def __exit__(self, *_: object) -> None:
        for session in list(self._open):
            session.close()

    async def connect(self, websocket: "WebSocket") -> None:
        """One connection, from accepting it to its end."""
        from starlette.websockets import WebSocketDisconnect

        with contextlib.suppress(WebSocketDisconnect):  # who has left hears no more
            await websocket.accept()
            if len(self._open) >= self._config.max_live:
                problem = f"{self._config.max_live} cameras are live already; try again when one has stopped"
            else:
                problem = await self._converse(websocket)
            if problem:
                await say_goodbye(websocket, problem)

    async def _converse(self, websocket: "WebSocket") -> str:
        """Until the browser goes away, or until something is wrong, which is returned in words."""
        outbox: asyncio.Queue[bytes | str | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        visitor: Visitor = websocket.scope["visitor"]
        send, keep = (partial(loop.call_soon_threadsafe, what) for what in (outbox.put_nowait, visitor.keep_recording))
        session = CameraSession(visitor, send, keep)
        self._open.add(session)
        sender = asyncio.create_task(_send_all(websocket, outbox))
        problem = ""
        try:
            config = self._networks.config_for(websocket.query_params.get("model", self._networks.config.checkpoint)).for_camera()
            await asyncio.to_thread(session.open, self._networks, config)
            outbox.put_nowait(json.dumps({"ready": True}))
            await _receive_all(websocket, session)
        except InputError as error:
            problem = str(error)
        finally:
            await asyncio.to_thread(session.close)
            self._open.discard(session)
            outbox.put_nowait(None)
            await asyncio.wait([sender], timeout=LAST_WORDS_S)
            sender.cancel()
        return problem


async def say_goodbye(websocket: "WebSocket", reason: str) -> None:
    """Tell why, and close."""
    await websocket.send_text(json.dumps({"error": reason}))
    await websocket.close(TRY_AGAIN_LATER, reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore"))


async def _receive_all(websocket: "WebSocket", session: "CameraSession") -> None:
    """Until the browser goes away. Raises InputError for what no page of ours sends."""
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return
        if message.get("bytes") is not None:
            session.take(message["bytes"])
        elif message.get("text") is not None:
            await asyncio.to_thread(session.command, message["text"])  # files are opened and closed


async def _send_all(websocket: "WebSocket", outbox: "asyncio.Queue[bytes | str | None]") -> None:
    """Until there is None in the outbox, or nobody to hear it."""
    from starlette.websockets import WebSocketDisconnect

    with contextlib.suppress(WebSocketDisconnect):
        while (message := await outbox.get()) is not None:
            if isinstance(message, bytes):
                await websocket.send_bytes(message)
            else:
                await websocket.send_text(message)


class CameraSession:
    """One camera: what came in waits in a mailbox, goes through the pipeline, is drawn and sent.

    send, keep: get what the browser shall have, and recordings that have ended; called from threads of the session's own
    """

    def __init__(self, visitor: Visitor, send: Callable[[bytes | str], object], keep: Callable[[Path], object]) -> None:
        self._visitor, self._send, self._keep = visitor, send, keep
        self._received: Mailbox[tuple[int, float, bytes]] = Mailbox()
        self._estimated: Mailbox[tuple[int, Scene]] = Mailbox()
        self._governor, self._meter = Governor(lowest_fps=LOWEST_FPS), HudMeter()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._guarded, args=(run,), name=f"camera-{run.__name__.strip('_')}", daemon=True)
            for run in (self._infer_all, self._draw_all)
        ]
        self._pipeline: LivePipeline | None = None
        self._recorder: SessionRecorder | None = None
        self._recorder_lock = threading.Lock()
        self._estimator: Estimator
        self._last_ms, self._num_frames = -math.inf, 0
        self._drawn_s = self._hud_s = 0.0

    def open(self, networks: Networks, config: LiveConfig) -> None:
        """Load what is needed and start. Raises InputError."""
        config, self._estimator = networks.for_camera(config)
        self._pipeline = LivePipeline(self._estimator, open_detector(config), config, "beside")
        if self._pipeline.warning:
            self._meter.warn(self._pipeline.warning)
        self._governor = Governor(config.target_ms, LOWEST_FPS)
        self._config, self._weights = config, None if config.show_hidden else body_joint_weights(self._estimator.body)
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the threads, the recording and the detector. Calling it twice does nothing."""
        self._stop.set()
        self._received.close()
        self._estimated.close()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        self._end_recording()
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            pipeline.close()

    def take(self, message: bytes) -> None:
        """A frame from the browser. Raises InputError when it is none."""
        if len(message) <= FRAME_HEADER.size:
            raise InputError("the camera's message holds no picture")
        number, time_ms = FRAME_HEADER.unpack_from(message)
        if not math.isfinite(time_ms) or time_ms <= self._last_ms:
            self._send(Reply(number, 0).as_bytes())  # late: of no use any more
            return
        self._last_ms = time_ms
        self._received.put((number, time_ms / 1e3, message[FRAME_HEADER.size :]))

    def command(self, text: str) -> None:
        """What the page's buttons say: {"record": true, "pictures": false}. Writes to the disk. Raises InputError."""
        try:
            wanted = json.loads(text)
            record, pictures = bool(wanted["record"]), bool(wanted.get("pictures"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError("the page sent something that is no command") from error
        if record:
            self._begin_recording(pictures)
        else:
            self._end_recording()

    def _guarded(self, run: Callable[[], None]) -> None:
        """An error in a thread ends the session and is told."""
        try:
            run()
        except InputError as error:
            self._send(json.dumps({"error": str(error)}))
        except Exception:
            log.exception("a live camera of the page failed")
            self._send(json.dumps({"error": "something went wrong here; the terminal says more"}))

    def _infer_all(self) -> None:
        next_s = 0.0
        while (item := self._received.take()) is not None:
            if self._stop.wait(max(0.0, next_s - time.perf_counter())):
                return
            start_s = time.perf_counter()
            plan = self._governor.plan
            number, time_s, jpeg = item
            image = decoded(jpeg)
            frame = Frame(image, time_s, self._num_frames, camera_focal_px(image.shape[1], image.shape[0]))
            scene = self._pipeline.process(frame, plan)
            self._num_frames += 1
            now_s = time.perf_counter()
            next_s = start_s + plan.infer_interval_ms / 1e3
            self._governor.note(now_s, scene.timings_ms["total"], scene.timings_ms["detect"])
            self._meter.inferred(scene, now_s)
            with self._recorder_lock:
                if self._recorder is not None:
                    self._recorder.write(scene)
            self._estimated.put((number, scene))

    def _draw_all(self) -> None:
        while (item := self._estimated.take()) is not None and not self._stop.is_set():
            number, scene = item
            start_s = time.perf_counter()
            jpeg = b""
            if start_s - self._drawn_s > 0.8 / self._governor.plan.draw_fps:
                self._drawn_s = start_s
                jpeg = encoded(self._draw(scene))
                now_s = time.perf_counter()
                self._meter.drawn(now_s, (now_s - start_s) * 1e3)
            self._send(Reply(number, len(scene.meshes), jpeg, self._hud()).as_bytes())

    def _draw(self, scene: Scene) -> np.ndarray:
        """What draws may fail; the plain picture is shown then, and why."""
        try:
            if len(self._estimator.body.faces):
                return draw_overlay(scene, self._estimator.body.faces, self._weights)
            return draw_skeletons(scene.frame.image, scene.meshes, self._config.show_hidden)
        except Exception as error:
            if self._meter.warn(f"the overlay could not be drawn: {error}"):
                log.warning("live camera: the overlay could not be drawn", exc_info=True)
            return scene.frame.image

    def _hud(self) -> dict[str, Any] | None:
        """A reading, now and then."""
        now_s = time.perf_counter()
        if now_s - self._hud_s < HUD_EVERY_S:
            return None
        self._hud_s = now_s
        recorder = self._recorder
        recording = "" if recorder is None else problem_of(recorder) or f"recording: {recorder.num_frames} frames"
        how = network_line(self._pipeline.checkpoint, self._governor.text)
        return self._meter.read(now_s, how, "", recording).as_dict()

    def _begin_recording(self, pictures: bool) -> None:
        """Start a recording unless there is one; where that cannot be, say why, and the camera goes on."""
        with self._recorder_lock:
            if self._recorder is not None or self._stop.is_set():
                return
            settings = {"checkpoint": self._pipeline.checkpoint, "smoothing": self._config.smoothing}
            info = SessionInfo.of(self._estimator.body, settings, self._config.parametric)
            try:
                path = new_session_path(self._visitor.make_folder("recordings"))
                self._recorder = SessionRecorder(path, info, pictures)
            except OSError as error:
                log.warning("live camera: no recording could be started: %s", error)
                problem = f"{NO_RECORDING} ({why_not_written(error)}); make room there, then press Record again."
                self._send(json.dumps({"not_recorded": problem}))

    def _end_recording(self) -> None:
        """End the recording, if there is one, and say where it can be had."""
        with self._recorder_lock:
            recorder, self._recorder = self._recorder, None
        if recorder is None:
            return
        recorder.close()
        path = recorder.path
        self._keep(path)
        facts = {"name": path.name, "frames": recorder.num_frames, "bytes": path.stat().st_size, "problem": problem_of(recorder)}
        self._send(json.dumps({"recorded": facts}))


def problem_of(recorder: SessionRecorder) -> str | None:
    """Why nothing more is written, without our folders; None where all is well."""
    return recorder.problem and recorder.problem.replace(str(recorder.path), recorder.path.name)


def decoded(jpeg: bytes) -> np.ndarray:
    """(H, W, 3) uint8 RGB. Raises InputError when it is no JPEG, or larger than a camera's need be."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as picture:
            size_px = picture.size
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise InputError("the camera's message holds no JPEG") from error
    if max(size_px) > MAX_SIDE_PX:
        raise InputError(f"the camera's picture is {size_px[0]} x {size_px[1]} pixels; at most {MAX_SIDE_PX} a side are taken")
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError("the camera's picture cannot be read")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def encoded(image: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB -> JPEG."""
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
