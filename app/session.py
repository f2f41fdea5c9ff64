"""Live sessions on disk: SessionRecorder writes one while it runs, SessionReader gives its scenes back.

The file is an Arrow IPC stream (https://arrow.apache.org/docs/format/Columnar.html): every frame is a record batch of its own that is
handed to the system at once, so a killed process loses what waits in a short queue, less than a second, and the file opens. Any Arrow
library reads it: `pyarrow.ipc.open_stream(path).read_all()`; session_format.py says what the columns are.
"""

import contextlib
import logging
import math
import queue
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from itertools import chain
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
import pyarrow as pa

from app.files import check_file
from app.rate import rate_of
from app.session_format import (
    BACKGROUND_RGB,
    FORMAT,
    FORMAT_KEY,
    JPEG_QUALITY,
    SessionInfo,
    info_from,
    row_of,
    scene_of,
    schema_of,
)  # fmt: skip
from app.threads import Begun
from app.types import Intrinsics, Scene
from core.errors import InputError
from core.geometry import project_pinhole, translation_onto

log = logging.getLogger(__name__)

SUFFIX = ".arrows"
"""What the Arrow project calls a stream in a file."""
MAX_WAITING = 8
"""Frames that may wait for the disk: a quarter of a second at 30 frames/s."""
CLOSE_S = 5.0
"""A disk that needs longer than this for what waits is given up when the recording ends."""
END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
MAX_SIDE_PX = 1 << 14
_BROKEN = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, IndexError, MemoryError)
"""What reading a damaged file may raise; pyarrow's ArrowInvalid is a ValueError, its ArrowIOError an OSError."""


def new_session_path(folder: Path) -> Path:
    """A name in `folder` that is not taken, from the date and time."""
    stem = datetime.now().astimezone().strftime("session-%Y%m%d-%H%M%S")
    path, number = folder / f"{stem}{SUFFIX}", 2
    while path.exists():
        path, number = folder / f"{stem}-{number}{SUFFIX}", number + 1
    return path


class SessionRecorder:
    """Writes scenes to a new file, from a thread of its own: `write` never waits and never raises because of the disk.

    num_frames: on disk so far     num_dropped: frames that came faster than the disk took them
    problem: None, or a sentence about why nothing more is written; what was written until then stays
    """

    def __init__(self, path: Path, info: SessionInfo, pictures: bool = False) -> None:
        """pictures: keep those as well, as JPEG. Raises InputError when `path` exists already, OSError when it cannot be written."""
        self.path, self.num_frames, self.num_dropped = path, 0, 0
        self.problem: str | None = None
        self._closed = False
        self._info, self._pictures = info, pictures
        self._schema = schema_of(info, datetime.now(timezone.utc).isoformat(timespec="seconds"))
        self._file = _new_file(path)
        self._stream = pa.ipc.new_stream(self._file, self._schema)
        self._queue: queue.SimpleQueue[Scene | None] = queue.SimpleQueue()
        self._writing = Begun("session-recorder", self._run)

    def __enter__(self) -> "SessionRecorder":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def write(self, scene: Scene) -> None:
        """Add one frame; times must grow. Dropped when the disk is MAX_WAITING frames behind or has failed."""
        if self._queue.qsize() < MAX_WAITING:
            self._queue.put(scene)
        else:
            self.num_dropped += 1
            if self.num_dropped == 1:
                log.warning("%s: the disk is too slow, frames are left out of the recording", self.path)

    def close(self) -> None:
        """Write what waits and finish the file; when the disk does not take it within CLOSE_S, `problem` says so. Twice does nothing."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        if not self._writing.wait(CLOSE_S):
            self._give_up("the disk does not answer")

    def _run(self) -> None:
        while (scene := self._queue.get()) is not None:
            if self.problem is None:
                self._try(lambda scene=scene: self._write(scene))
        self._try(self._finish)

    def _write(self, scene: Scene) -> None:
        picture = _as_jpeg(scene.frame.image) if self._pictures else None
        self._stream.write_batch(row_of(scene, self._info, self._schema, picture, first=self.num_frames == 0))
        self.num_frames += 1

    def _finish(self) -> None:
        try:
            if self.problem is None:
                self._stream.close()
        finally:
            self._file.close()

    def _try(self, step: object) -> None:
        """Run a step; what goes wrong ends the recording, not the session."""
        try:
            step()
        except Exception as error:
            log.debug("recording failed", exc_info=True)
            self._give_up(error)

    def _give_up(self, reason: object) -> None:
        """Write nothing more; the first reason stands."""
        if self.problem is None:
            self.problem = f"the recording {self.path} stopped after {self.num_frames} frames: {reason}"
            log.warning("%s", self.problem)


def refuse_existing(path: Path) -> None:
    """Raises InputError when a recording may not be called so, before anything is started for it."""
    if path.exists():
        raise InputError(f"{path}: exists already and is not overwritten; give another name, or delete it first")


def _new_file(path: Path) -> pa.OSFile:
    """An empty file that was not there before; its folder is made when missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.open("xb").close()
    except FileExistsError:
        refuse_existing(path)
        raise
    return pa.OSFile(str(path), "wb")


def _as_jpeg(image: np.ndarray) -> bytes:
    encoded_well, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not encoded_well:
        raise OSError("a picture could not be encoded")
    return data.tobytes()


class SessionReader:
    """A recorded session. Iterating gives its Scenes in order, each new loop from the start; nothing is held in memory.

    Frames are numbered from 0 and times start at 0, whatever the live source called them. Where no pictures were recorded, scenes
    lie on a plain background. Those of another size than the first are fitted into it, as its camera would see them.

    info: what all frames share          size_px: width, height of the first frame
    num_frames, duration_s               fps: as rate_of, whatever pauses there are
    has_pictures
    warning: None, or one sentence about how the file ends early
    """

    def __init__(self, path: Path | str) -> None:
        """Open the file and see how far it goes. Raises InputError when it is no session or holds not one frame."""
        self.path = Path(path)
        check_file(self.path, "a file of --record")
        with self._rows() as rows:
            first = next(rows, None)
            if first is None:
                raise InputError(f"{self.path}: a recording that was cut off before its first frame; there is nothing to show")
            try:
                self.info = info_from(first.schema, first)
            except _BROKEN as error:
                raise InputError(f"{self.path}: not a recording that this version can read ({_line(error)})") from error
            self.size_px: tuple[int, int] = _size_px(first)
            self._intrinsics = Intrinsics(first.column("focal_px")[0].as_py(), tuple(first.column("principal_px")[0].as_py()))
            self.has_pictures: bool = first.column("picture_jpeg")[0].is_valid
            times_s = [row.column("time_s")[0].as_py() for row in chain((first,), rows)]
        self.num_frames, self._start_s = len(times_s), times_s[0]
        self.duration_s: float = max(times_s[-1] - times_s[0], 0.0)
        self.fps = rate_of(times_s)
        ended_well = _last_bytes(self.path) == END_OF_STREAM
        self.warning = None if ended_well else f"{self.path.name}: ends early after {self.num_frames} frames; it was not closed, or was cut"

    def __len__(self) -> int:
        return self.num_frames

    def __iter__(self) -> Iterator[Scene]:
        background = np.full((*self.size_px[::-1], 3), BACKGROUND_RGB, np.uint8)
        with self._rows() as rows:
            for index, row in enumerate(rows):
                try:
                    scene = self._scene(row, index, background)
                except _BROKEN as error:
                    self.warning = f"{self.path.name}: damaged at frame {index}, which is where it ends now ({_line(error)})"
                    return
                yield scene

    def _scene(self, row: pa.RecordBatch, index: int, background: np.ndarray) -> Scene:
        size_px, image = _size_px(row), _picture(row)
        if image is None:
            image = background if size_px == self.size_px else np.full((*size_px[::-1], 3), BACKGROUND_RGB, np.uint8)
        scene = scene_of(row, self.info, image, index, row.column("time_s")[0].as_py() - self._start_s)
        return scene if scene.frame.size_px == self.size_px else fitted(scene, self.size_px, self._intrinsics)

    @contextlib.contextmanager
    def _rows(self) -> Iterator[Iterator[pa.RecordBatch]]:
        """Batches of one row as far as the file goes. Mapped, so that what is not looked at is not read."""
        with pa.memory_map(str(self.path), "r") as file:
            try:
                stream = pa.ipc.open_stream(file)
            except _BROKEN as error:
                raise InputError(
                    f"{self.path}: not a recorded session, or nothing but the beginning of one; expected a file of --record"
                ) from error
            if (stream.schema.metadata or {}).get(FORMAT_KEY) != FORMAT.encode():
                raise InputError(f"{self.path}: an Arrow file, but not a recorded session; expected a file of --record")
            yield _whole_rows(stream)


def _whole_rows(stream: pa.RecordBatchStreamReader) -> Iterator[pa.RecordBatch]:
    while True:
        try:
            batch = stream.read_next_batch()
            batch.validate(full=True)
            for row in range(batch.num_rows):
                _check_row(batch.slice(row, 1))
        except StopIteration:
            return
        except _BROKEN as error:
            log.debug("reading stopped: %s", error)
            return
        for row in range(batch.num_rows):
            yield batch.slice(row, 1)


def _last_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(END_OF_STREAM)))
        return file.read()


def _check_row(row: pa.RecordBatch) -> None:
    """Raises ValueError or TypeError when the row's numbers make no frame."""
    width, height = _size_px(row)
    if not 0 < min(width, height) <= max(width, height) <= MAX_SIDE_PX:
        raise ValueError(f"a frame of {width} x {height} pixels")
    if not (math.isfinite(row.column("time_s")[0].as_py()) and 0 < row.column("focal_px")[0].as_py() < math.inf):
        raise ValueError("a frame without time or camera")


def _size_px(row: pa.RecordBatch) -> tuple[int, int]:
    width, height = row.column("image_size_px")[0].as_py()
    return width, height


def _picture(row: pa.RecordBatch) -> np.ndarray | None:
    """(H, W, 3) uint8 RGB; None where there is none, or it cannot be read."""
    data = row.column("picture_jpeg")[0].as_py()
    image = None if not data else cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def fitted(scene: Scene, size_px: tuple[int, int], intrinsics: Intrinsics) -> Scene:
    """The scene in a frame of another size and another camera: scaled as a whole and centred, with bars where the shape differs.

    People stand where that camera sees them at the same place of the picture.
    """
    width, height = scene.frame.size_px
    scale = min(size_px[0] / width, size_px[1] / height)
    inner = (min(size_px[0], max(1, round(width * scale))), min(size_px[1], max(1, round(height * scale))))
    x0, y0 = (size_px[0] - inner[0]) // 2, (size_px[1] - inner[1]) // 2
    image = np.full((size_px[1], size_px[0], 3), BACKGROUND_RGB, np.uint8)
    image[y0 : y0 + inner[1], x0 : x0 + inner[0]] = cv2.resize(scene.frame.image, inner, interpolation=cv2.INTER_AREA)
    shift = np.array([x0, y0], np.float32)
    further = (1, 1, intrinsics.focal_px / (scene.intrinsics.focal_px * scale))
    meshes = tuple(
        replace(
            mesh,
            box_px=(mesh.box_px * scale + np.tile(shift, 2)).astype(np.float32),
            **covering(mesh.joints_m, mesh.joints_px * scale + shift, intrinsics, mesh.translation_m * further),
        )
        for mesh in scene.meshes
    )
    return replace(scene, frame=replace(scene.frame, image=image), intrinsics=intrinsics, meshes=meshes)


def covering(joints_m: np.ndarray, target_px: np.ndarray, intrinsics: Intrinsics, start_m: np.ndarray) -> dict[str, np.ndarray]:
    """SmoothedMesh's translation_m (3,) with which joints_m (14, 3) come nearest to target_px (14, 2), and its joints_px (14, 2) there.

    start_m: as of translation_onto
    """
    camera = intrinsics.focal_px, intrinsics.principal_px
    translation_m = translation_onto(joints_m, target_px, *camera, start_m).astype(np.float32)
    return {"translation_m": translation_m, "joints_px": project_pinhole(joints_m + translation_m, *camera).astype(np.float32)}


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
