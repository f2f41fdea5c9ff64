"""meshes.npz: one row per person per frame, readable by numpy.load without pickle.

An .npz is a zip of .npy files. The vertices, nearly all of the bytes, go straight into their place in the final zip while the
video runs; the few other numbers of each row wait in a file beside it. Closing fills in the headers and appends the rest, so
neither memory nor a second copy on disk grows with the length of the video.
"""

import errno
import io
import logging
import math
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from app.export.sink import SINKS, ClosingSink, Parameters, Recording, named
from app.types import Intrinsics, Scene, SmoothedMesh
from core.errors import InputError
from core.joints import JOINT_NAMES

log = logging.getLogger(__name__)

NUM_JOINTS = len(JOINT_NAMES)
ROW_DTYPE = np.dtype([
    ("frame_index", np.int32), ("track_id", np.int32), ("time_s", np.float64), ("score", np.float32), ("box_px", np.float32, (4,)),
    ("joints_m", np.float32, (NUM_JOINTS, 3)), ("joint_visibility", np.float32, (NUM_JOINTS,)), ("joints_px", np.float32, (NUM_JOINTS, 2)),
    ("camera", np.float32, (3,)), ("translation_m", np.float32, (3,)),
])  # fmt: skip
"""One row without its vertices and its body parameters."""
CAMERA_TURNS = "start_from_camera"
"""The column of Scene.start_from_camera."""
VIEW = "view"
"""The column of Scene.view."""

OPTIONAL = (CAMERA_TURNS, VIEW)
"""Of runs with --glb."""

NPY_HEADER_BYTES = 256
CHUNK_ROWS, SETTLED_ROWS = 4096, 64
CHUNK_BYTES = 1 << 20
ROOM_FOR_INDEX_BYTES = 1 << 16


@SINKS.register("meshes.npz")
class NpzSink(ClosingSink):
    """The contract file. Closing early keeps every row written; so does a full disk, at the cost of the last few rows."""

    def __init__(self, recording: Recording) -> None:
        """Raises OSError when the folder cannot be written."""
        self.path = recording.folder / "meshes.npz"
        self.warnings: list[str] = []
        self._recording = recording
        self._partial = recording.folder / "meshes.partial.npz"
        self._rows_path = recording.folder / "meshes.rows.partial"
        self._intrinsics: Intrinsics | None = None
        self._num_rows, self._was_full = 0, False
        self._row_dtype = row_dtype(recording.parameters, recording.camera_turns)
        self._vertices_start = len(_entry("vertices_m", 0, 0, 0).FileHeader(zip64=True)) + NPY_HEADER_BYTES
        self._vertices: BinaryIO | None = self._partial.open("w+b", buffering=0)
        self._rows: BinaryIO = self._rows_path.open("w+b", buffering=0)
        self._vertices.seek(self._vertices_start)

    def write(self, scene: Scene) -> None:
        """Add a row for each mesh. Raises OSError when the disk is full."""
        if self._vertices is None:
            raise ValueError("meshes.npz is closed already")
        self._intrinsics = self._intrinsics or scene.intrinsics
        for mesh in scene.meshes:
            self._write_row(self._row(scene, mesh), mesh.vertices_m)

    def close(self) -> None:
        """Turn what was written into a finished .npz and give it its name. Raises OSError when rows had to go for want of room."""
        if self._vertices is None:
            return
        file, self._vertices = self._vertices, None
        try:
            lost = self._finish(file)
        finally:
            file.close()
            self._rows.close()
        self._partial.replace(self.path)
        self._rows_path.unlink()
        if lost is not None and not self._was_full:
            raise lost
        if lost is not None:
            self.warnings.append(lost.strerror)  # `write` has raised the error already

    def _row(self, scene: Scene, mesh: SmoothedMesh) -> np.ndarray:
        """() of the row's dtype. Raises ValueError when parameters are to be written and the mesh has none."""
        row = np.zeros((), self._row_dtype)
        row["frame_index"], row["time_s"] = scene.frame.index, scene.frame.time_s
        for name in ("track_id", "score", "box_px", "joints_m", "joint_visibility", "joints_px", "camera", "translation_m"):
            row[name] = getattr(mesh, name)
        if self._recording.camera_turns:
            row[CAMERA_TURNS], row[VIEW] = scene.start_from_camera, scene.view
        if self._recording.parameters is not None:
            if mesh.rotmats is None:
                raise ValueError("meshes.npz: body parameters are to be written, but a mesh came without them")
            for name, values in zip(self._recording.parameters.names, (mesh.rotmats, mesh.shape), strict=True):
                row[name] = values
        return row

    @property
    def _row_bytes(self) -> int:
        return self._recording.num_vertices * 3 * 4

    def _write_row(self, row: np.ndarray, vertices_m: np.ndarray) -> None:
        if len(vertices_m) != self._recording.num_vertices:
            raise ValueError(f"meshes.npz: got a mesh of {len(vertices_m)} vertices, expected {self._recording.num_vertices}")
        if self._vertices is None:
            raise RuntimeError("meshes.npz: written to before it was begun")
        try:
            _write_all(self._vertices, np.ascontiguousarray(vertices_m).view(np.uint8).reshape(-1))
            _write_all(self._rows, row.reshape(1).view(np.uint8))
        except OSError as error:
            self._was_full = True
            self._cut_to(self._vertices, self._num_rows)
            raise named(error, self._partial) from error
        except BaseException:  # Ctrl-C between the two files
            self._cut_to(self._vertices, self._num_rows)
            raise
        self._num_rows += 1

    def _cut_to(self, file: BinaryIO, num_rows: int) -> None:
        """Drop what lies behind the first `num_rows` rows."""
        self._num_rows = num_rows
        for handle, end in ((file, self._vertices_start + num_rows * self._row_bytes), (self._rows, num_rows * self._row_dtype.itemsize)):
            handle.truncate(end)
            handle.seek(end)

    def _finish(self, file: BinaryIO) -> OSError | None:
        """Finish the zip; on a full disk give up the last rows until the rest fits, and return an error that says so."""
        num_rows, full = self._num_rows, errno.ENOSPC
        try:
            self._settle(file)
        except Exception as error:
            log.debug("settling shapes failed", exc_info=True)
            self.warnings.append(f"meshes.npz: some rows keep the shape that a person had while they were written ({error})")
        while True:
            try:
                self._write_zip(file)
                break
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT) or self._num_rows == 0:
                    raise named(error, self._partial) from error
                full = error.errno
                needed_bytes = self._num_rows * self._row_dtype.itemsize + self._recording.faces.nbytes + ROOM_FOR_INDEX_BYTES
                self._cut_to(file, max(0, self._num_rows - 1 - needed_bytes // self._row_bytes))
        if self._num_rows == num_rows:
            return None
        return OSError(full, f"the disk is full: meshes.npz keeps {self._num_rows} of {num_rows} rows", str(self.path))

    def _settle(self, file: BinaryIO) -> None:
        """Everybody's last shape for all their rows."""
        recording, size = self._recording, self._row_dtype.itemsize
        if recording.settle is None or recording.parameters is None or self._intrinsics is None:
            return
        shape = recording.parameters.names[1]
        last = {row["track_id"]: row[shape].copy() for rows in self._row_chunks() for row in rows}
        start = 0
        for rows in self._row_chunks(SETTLED_ROWS):
            shapes = np.stack([last[track_id] for track_id in rows["track_id"]])
            early = np.flatnonzero((rows[shape] != shapes).any(axis=1))
            if len(early):
                settled, part = rows.copy(), rows[early]
                meshes = recording.settle(part, shapes[early], self._intrinsics)
                settled[early] = part
                for index, mesh in zip(early.tolist(), () if meshes is None else meshes, strict=meshes is not None):
                    file.seek(self._vertices_start + (start + index) * self._row_bytes)
                    _write_all(file, np.ascontiguousarray(mesh, np.float32).view(np.uint8).reshape(-1))
                self._rows.seek(start * size)
                _write_all(self._rows, settled.view(np.uint8))
            start += len(rows)

    def _row_chunks(self, most: int = CHUNK_ROWS) -> Iterator[np.ndarray]:
        """All rows, some at a time, to be read."""
        for start in range(0, self._num_rows, most):
            self._rows.seek(start * self._row_dtype.itemsize)
            count = min(most, self._num_rows - start)
            yield np.frombuffer(_read_exactly(self._rows, count * self._row_dtype.itemsize), self._row_dtype)

    def _write_zip(self, file: BinaryIO) -> None:
        num_rows = self._num_rows
        header = _npy_header((num_rows, self._recording.num_vertices, 3), np.dtype(np.float32), NPY_HEADER_BYTES)
        end = self._vertices_start + num_rows * self._row_bytes
        file.truncate(end)
        file.seek(self._vertices_start - NPY_HEADER_BYTES)
        _write_all(file, header)
        entry = _entry("vertices_m", NPY_HEADER_BYTES + num_rows * self._row_bytes, 0, 0)
        entry.CRC = _crc32(file, self._vertices_start - NPY_HEADER_BYTES, entry.file_size)
        file.seek(0)
        _write_all(file, entry.FileHeader(zip64=True))
        file.seek(end)
        with zipfile.ZipFile(_AllOrError(file), "w", zipfile.ZIP_STORED) as archive:
            archive.filelist.append(entry)
            archive.NameToInfo[entry.filename] = entry
            for name in self._row_dtype.names:
                self._write_column(archive, name)
            for name, value in self._constants().items():
                _write_array(archive, name, value)

    def _write_column(self, archive: zipfile.ZipFile, name: str) -> None:
        """One field of all rows, some thousand rows at a time."""
        field = np.empty(0, self._row_dtype)[name]
        with archive.open(_entry(name, 0, 0, None), "w", force_zip64=True) as file:
            file.write(_npy_header((self._num_rows, *field.shape[1:]), field.dtype))
            for rows in self._row_chunks():
                file.write(np.ascontiguousarray(rows[name]).tobytes())

    def _constants(self) -> dict[str, np.ndarray]:
        """What is the same for all rows. The camera is unknown (NaN) when there was no frame at all."""
        intrinsics = self._intrinsics or Intrinsics(float("nan"), (float("nan"), float("nan")))
        labels = self._recording.parameters.labels if self._recording.parameters else {}
        return {name: np.array(values) for name, values in labels.items()} | {
            "focal_px": np.float64(intrinsics.focal_px), "principal_px": np.array(intrinsics.principal_px, np.float64),
            "image_size_px": np.array(self._recording.size_px, np.int32), "fps": np.float64(self._recording.fps),
            "faces": self._recording.faces, "joint_names": np.array(JOINT_NAMES), "body": np.array(self._recording.body),
        }  # fmt: skip


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What goes wrong while a meshes.npz is read becomes an InputError that names it."""
    try:
        yield
    except InputError:
        raise
    except (OSError, KeyError, ValueError, EOFError) as error:
        raise InputError(f"{path}: not a meshes.npz of ours ({' '.join(str(error).split())})") from error


def map_rows(path: Path, name: str) -> np.ndarray:
    """An array of an .npz, read only where it is looked at if it lies there as NpzSink leaves it: not compressed.

    Raises OSError when the file cannot be read, KeyError when it has no such array.
    """
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(f"{name}.npy")
        with archive.open(entry) as member:
            version = np.lib.format.read_magic(member)
            if entry.compress_type == zipfile.ZIP_STORED and version == (1, 0):
                shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(member)
                start = _data_start(path, entry) + member.tell()
                if math.prod(shape):
                    return np.memmap(path, dtype, "r", start, shape, "F" if fortran_order else "C")
    with np.load(path, allow_pickle=False) as file:
        return file[name]


def _data_start(path: Path, entry: zipfile.ZipInfo) -> int:
    """Where an entry's bytes begin: behind its local header of 30 bytes, its name and its extra field (PKWARE's APPNOTE, 4.3.7)."""
    with path.open("rb") as file:
        file.seek(entry.header_offset + 26)
        return entry.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))


def columns_of(file: Mapping[str, np.ndarray], names: Iterable[str]) -> dict[str, np.ndarray]:
    """Those of a meshes.npz, and the OPTIONAL ones that it has."""
    return {name: file[name] for name in (*names, *(name for name in OPTIONAL if name in file))}


def row_dtype(parameters: Parameters | None, camera_turns: bool = False) -> np.dtype:
    """ROW_DTYPE, with the body's parameters and the turns of the camera where they are written."""
    extra = [(CAMERA_TURNS, np.float32, (3, 3)), (VIEW, np.int32)] if camera_turns else []
    if parameters is not None:
        rotations, shape = parameters.names
        extra += [(rotations, np.float32, (parameters.num_bones, 3, 3)), (shape, np.float32, (parameters.num_shape,))]
    return np.dtype(ROW_DTYPE.descr + extra)


class _AllOrError(io.RawIOBase):
    """A file whose write writes all or raises, as zipfile expects; a raw file may stop half-way on a full disk."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        _write_all(self._file, data)
        return len(data)

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        """Nothing is held back."""


def _entry(name: str, num_bytes: int, offset: int, crc: int | None) -> zipfile.ZipInfo:
    """The zip's record of `name`.npy, not compressed: vertices hardly shrink, and compressing them takes longer than estimating them."""
    entry = zipfile.ZipInfo(f"{name}.npy")
    entry.compress_type = zipfile.ZIP_STORED
    entry.external_attr = 0o644 << 16
    if crc is not None:
        entry.file_size = entry.compress_size = num_bytes
        entry.header_offset, entry.CRC = offset, crc
    return entry


def _npy_header(shape: tuple[int, ...], dtype: np.dtype, num_bytes: int | None = None) -> bytes:
    """The head of a .npy file of format 1.0, filled up with spaces to `num_bytes` so that it can be written again with another length."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
    header = stream.getvalue()
    if num_bytes is None:
        return header
    text = header[10:].rstrip(b"\n ")
    return header[:8] + (num_bytes - 10).to_bytes(2, "little") + text.ljust(num_bytes - 11) + b"\n"


def _write_array(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    with archive.open(_entry(name, 0, 0, None), "w", force_zip64=True) as file:
        np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)


def _write_all(file: BinaryIO, data: bytes | memoryview | np.ndarray) -> None:
    view = memoryview(data).cast("B")
    while len(view):
        view = view[file.write(view) :]


def _read_exactly(file: BinaryIO, num_bytes: int) -> bytes:
    parts = bytearray()
    while len(parts) < num_bytes:
        part = file.read(num_bytes - len(parts))
        if not part:
            raise OSError(errno.EIO, f"expected {num_bytes} bytes, got {len(parts)}")
        parts += part
    return bytes(parts)


def _crc32(file: BinaryIO, start: int, num_bytes: int) -> int:
    file.seek(start)
    crc = 0
    while num_bytes:
        chunk = _read_exactly(file, min(CHUNK_BYTES, num_bytes))
        crc = zlib.crc32(chunk, crc)
        num_bytes -= len(chunk)
    return crc
