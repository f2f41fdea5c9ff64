"""Cameras, streams, and video files played as a camera -> Frames. A thread reads, the newest frame wins, what breaks is tried again.

A read may block for seconds inside the system, so each connection reads in a thread of its own, and a supervisor watches:
a connection that falls silent counts as stalled, a new one is tried beside it, and the first one to give a picture is used.
"""

import logging
import math
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from app.lenses import focal_px_on, video_film_mm
from app.sources import VideoSource
from app.threads import Mailbox
from app.types import Frame
from core.errors import InputError
from core.lens import camera_focal_px

log = logging.getLogger(__name__)

OPEN_TIMEOUT_S = {"device": 30.0, "stream": 3.0, "file": 60.0}
"""Cameras need ten seconds and more on some Windows machines. A file opens or fails; on a cold disk, with the network loading beside it,
that takes a while.
"""
ALLOWED_BY = {
    "darwin": ". macOS asks once whether the terminal may use it (System Settings > Privacy & Security > Camera): allow it and start again",
    "win32": ". Settings > Privacy & security > Camera must let desktop apps use it",
}
"""Where a system keeps cameras from programs that nobody has allowed them to; sys.platform -> what to do."""
PATIENCE_S = 3.0
"""After which it is said that a source is waited for."""
READ_TIMEOUT_S = 2.0
STALL_S = 1.0
"""Silence after which a source counts as stalled and is tried again."""
RETRY_S = 1.0
POLL_S = 0.05
CLOSE_S = 0.5
MAX_CONNECTIONS = 4
"""Of one stream at once, while none of them gives a picture. A camera has only one."""
MAX_LAG_S = 0.25
"""A file that is decoded more slowly than it plays falls behind by this, then its clock waits."""


@dataclass(frozen=True)
class Captured:
    """A frame and when it was taken, seconds of time.perf_counter."""

    frame: Frame
    taken_s: float


@dataclass(frozen=True)
class SourceStatus:
    """state: opening, open, stalled, retrying or ended; text: one short line for the HUD."""

    state: str
    text: str


@dataclass(frozen=True)
class Address:
    """Where frames come from. kind: device (a number or /dev/video*), stream (a URL) or file."""

    kind: str
    value: str

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Raises InputError when it is neither a camera's number, nor a URL, nor a file."""
        text = text.strip()
        if text.isdigit() or text.startswith("/dev/video"):
            return cls("device", text)
        if re.match(r"[a-zA-Z][\w+.-]*://", text):
            return cls("stream", text)
        if Path(text).is_file():
            return cls("file", text)
        problem = "a folder" if text and Path(text).is_dir() else "no such file"
        raise InputError(f"--webcam {text}: {problem}; expected a camera's number (0), a URL (rtsp://, http://) or a video file")

    @property
    def shown(self) -> str:
        """For people: of a URL no more than can hold neither user nor password, wherever it has them."""
        if self.kind == "device":
            return f"camera {self.value}"
        if self.kind == "file":
            return Path(self.value).name
        scheme, rest = self.value.split("://", 1)
        place, *query = re.split(r"[?#]", rest, maxsplit=1)
        if any("@" in part for part in query):  # of a password with such a sign in it, or of the query: nobody can tell
            return f"{scheme}://..."
        place = place.rpartition("@")[2]  # passwords may have an @ or a / in them
        return f"{scheme}://{re.sub(r'/[^/]*=.*', '', place)}"  # rtsp://HOST/user=a&password=b is some cameras' way


Pictures = Iterator[tuple[np.ndarray, float | None]]
"""RGB (H, W, 3) uint8 with the source's own time in seconds, None for "now"."""


def read_capture(address: Address) -> Pictures:
    """OpenCV's reading of a camera or stream, until it ends or fails. Raises InputError when it cannot be opened.

    Counts, rates and times of streams are not used: HTTP MJPEG makes them up. The clock is that of the arrival.
    """
    import cv2

    if address.kind == "stream":
        open_ms, read_ms = int(1e3 * OPEN_TIMEOUT_S["stream"]), int(1e3 * READ_TIMEOUT_S)
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, open_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, read_ms]
        capture = cv2.VideoCapture(address.value, cv2.CAP_FFMPEG, limits)
    else:
        capture = cv2.VideoCapture(int(address.value) if address.value.isdigit() else address.value)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    try:
        if not capture.isOpened():
            raise InputError("cannot be opened")
        while True:
            ok, image = capture.read()
            if not ok or image is None or image.size == 0:
                return
            yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB if image.ndim == 3 else cv2.COLOR_GRAY2RGB), None
    finally:
        capture.release()


def read_file(address: Address, loop: bool) -> Pictures:
    """A video file once, or for ever."""
    source = VideoSource(address.value)
    start_s = 0.0
    while True:
        time_s = 0.0
        for frame in source:
            time_s = frame.time_s
            yield frame.image, start_s + time_s
        if source.warning:
            log.warning("%s: %s", address.shown, source.warning)
        if not loop:
            return
        start_s += time_s + 1 / source.fps


class Connection(threading.Thread):
    """One try at a source: hands pictures to `deliver` until it is cancelled, ends or fails. problem: what went wrong, if anything."""

    def __init__(self, pictures: Pictures, deliver: Callable[["Connection", np.ndarray, float | None], None]) -> None:
        super().__init__(name="camera-read", daemon=True)
        self._pictures, self._deliver = pictures, deliver
        self.cancelled = threading.Event()
        self.problem: str | None = None

    def run(self) -> None:
        """Read."""
        try:
            for image, time_s in self._pictures:
                if self.cancelled.is_set():
                    return
                self._deliver(self, image, time_s)
        except Exception as error:  # noqa: BLE001 - shown, and tried again
            self.problem = " ".join(str(error).split()) or type(error).__name__
        finally:
            self._pictures.close()


class Camera:
    """A live source. Use as a context manager: entering waits for the first picture, leaving ends all threads.

    `take` gives the newest frame that was not taken yet. Frame.time_s counts from the opening; frames have the size of the source.
    """

    def __init__(
        self, address: str, loop: bool = False, connect: Callable[[Address], Pictures] | None = None, file_waits: bool = False
    ) -> None:
        """loop: play a file again and again; connect: opens the source, for tests; file_waits: a file stands at its first picture until
        `play`. Raises InputError for an address that makes no sense.
        """
        self.address = Address.parse(address)
        self.is_file = self.address.kind == "file"
        self._film_mm = video_film_mm(Path(self.address.value)) if self.is_file else None
        self._connect = connect or (lambda where: read_file(where, loop) if where.kind == "file" else read_capture(where))
        self._mailbox: Mailbox[Captured] = Mailbox()
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._connections: list[Connection] = []
        self._current: Connection | None = None
        self._start_s = self._heard_s = self._tried_s = time.perf_counter()
        self._num_frames, self._last_time_s = 0, -math.inf
        self._file_start_s = math.nan
        self._first, self._playing = threading.Event(), threading.Event()
        if not file_waits:
            self._playing.set()
        self._status = SourceStatus("opening", f"opening {self.address.shown}")
        self._supervisor = threading.Thread(target=self._supervise, name="camera-watch", daemon=True)

    def __enter__(self) -> "Camera":
        if not self.is_file:
            import cv2  # noqa: F401  seconds on a cold disk, that are not the source's silence
        self._start_s = time.perf_counter()
        self._try()
        try:
            self._await_first()
        except BaseException:
            self.close()
            raise
        self._supervisor.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def take(self, timeout_s: float) -> Captured | None:
        """The newest frame not taken yet; None when none came within the time."""
        return self._mailbox.take(timeout_s)

    @property
    def status(self) -> SourceStatus:
        """How the source is now."""
        return self._status

    @property
    def ended(self) -> bool:
        """True once a file was played to its end and its last frame taken, or after `close`."""
        return self._mailbox.closed

    def play(self) -> None:
        """A file that waits goes on; nothing else changes."""
        self._playing.set()

    def close(self) -> None:
        """End all threads; one that is stuck in a read ends with its time-out."""
        self._stop.set()
        self._mailbox.close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.cancelled.set()
        deadline_s = time.perf_counter() + CLOSE_S
        for thread in (self._supervisor, *connections):
            if thread.is_alive():
                thread.join(max(0.0, deadline_s - time.perf_counter()))

    def _await_first(self) -> None:
        """Raises InputError when the source cannot be opened or gives no picture in time."""
        allowed_s, told = OPEN_TIMEOUT_S[self.address.kind], False
        while not self._first.wait(POLL_S):
            connection, waited_s = self._connections[0], time.perf_counter() - self._start_s
            if not connection.is_alive() and not self._first.is_set():
                raise InputError(f"--webcam: {self._reason(connection)}")
            if waited_s > allowed_s + 0.5:
                raise InputError(f"--webcam: {self.address.shown} gave no picture within {allowed_s:g} s; is the source running?")
            if waited_s > PATIENCE_S and not told and not self.is_file:
                told = True
                log.info("%s is slow to open; waiting for up to %g s", self.address.shown, allowed_s)

    def _reason(self, connection: Connection) -> str:
        hints = {
            "device": "is it plugged in, and not used by another program? Another number may be the right one"
            + ALLOWED_BY.get(sys.platform, ""),
            "stream": "check the address, and that the source is running",
        }
        if self.is_file and connection.problem:  # it names the file, and says what to do
            return connection.problem
        return f"{self.address.shown} {connection.problem or 'gave no picture'}; {hints.get(self.address.kind, 'check that it plays')}"

    def _try(self) -> None:
        connection = Connection(self._connect(self.address), self._deliver)
        with self._lock:
            if self._stop.is_set():  # closed while the supervisor was about to try again: nobody would end this one
                return
            self._connections = [item for item in self._connections if item.is_alive()] + [connection]
        self._tried_s = time.perf_counter()
        connection.start()

    def _deliver(self, connection: Connection, image: np.ndarray, time_s: float | None) -> None:
        if self.is_file and time_s is not None and not self._pace(connection, time_s):
            return
        now_s = time.perf_counter()
        with self._lock:
            if connection is not self._current:
                if self._current is not None and self._current.is_alive() and now_s - self._heard_s < STALL_S:
                    connection.cancelled.set()  # another one was quicker
                    return
                for other in self._connections:
                    if other is not connection:
                        other.cancelled.set()
                self._current = connection
            self._heard_s = now_s
            frame_s = time_s if self.is_file and time_s is not None else now_s - self._start_s
            frame_s = max(frame_s, math.nextafter(self._last_time_s, math.inf)) if self._num_frames else frame_s
            self._last_time_s = frame_s
            size_px = image.shape[1], image.shape[0]
            focal_px = focal_px_on(size_px, self._film_mm) if self.is_file else camera_focal_px(*size_px)
            frame = Frame(image, frame_s, self._num_frames, focal_px)
            self._num_frames += 1
            self._say("open", f"{self.address.shown} {frame.size_px[0]}x{frame.size_px[1]}")
            self._mailbox.put(Captured(frame, now_s))
        self._first.set()

    def _pace(self, connection: Connection, time_s: float) -> bool:
        """Wait until a file's picture is due; False when cancelled meanwhile."""
        if self._num_frames and not self._playing.is_set():
            while not self._playing.wait(POLL_S):
                if connection.cancelled.is_set():
                    return False
            self._file_start_s = math.nan
        now_s = time.perf_counter()
        if math.isnan(self._file_start_s):
            self._file_start_s = now_s - time_s
        late_s = now_s - (self._file_start_s + time_s)
        if late_s > MAX_LAG_S:
            self._file_start_s += late_s - MAX_LAG_S
        return not connection.cancelled.wait(max(0.0, -late_s)) if late_s < 0 else not connection.cancelled.is_set()

    def _say(self, state: str, text: str) -> None:
        before, self._status = self._status, SourceStatus(state, text)
        if before.state not in (state, "opening"):
            log.info("%s", text)

    def _supervise(self) -> None:
        while not self._stop.wait(POLL_S):
            now_s = time.perf_counter()
            with self._lock:
                alive = [item for item in self._connections if item.is_alive()]
                current, silent_s = self._current, now_s - self._heard_s
            lost = current is None or not current.is_alive()
            if self.is_file and lost:
                self._end_file(current)
                return
            if self.is_file or (not lost and silent_s < STALL_S):
                continue
            self._complain(lost, silent_s)
            room = len(alive) < (MAX_CONNECTIONS if self.address.kind == "stream" else 1)
            if room and now_s - self._tried_s >= RETRY_S:
                self._try()

    def _complain(self, lost: bool, silent_s: float) -> None:
        with self._lock:
            state = "retrying" if lost else "stalled"
            what = "is gone" if lost else "gives no pictures"
            since = f" for {silent_s:.0f} s" if silent_s >= 1 else ""
            self._say(state, f"{self.address.shown} {what}{since}; trying again")

    def _end_file(self, connection: Connection | None) -> None:
        problem = connection.problem if connection else None
        with self._lock:
            self._say("ended", f"{self.address.shown} {f'stopped: {problem}' if problem else 'is over'}")
        self._mailbox.close()
