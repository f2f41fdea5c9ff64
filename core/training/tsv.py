"""TSV files as METRO and FastMETRO keep their data: one row a line, columns between tabs, rows found by byte offset.

Beside NAME.tsv lies NAME.lineidx with the byte at which each row begins, one number a line; it is made where it is missing.
Source of the format: microsoft/MeshTransformer and postech-ami/FastMETRO
"""

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from core.errors import InputError
from core.training.samples import BrokenSample

log = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 24
NEWLINE = ord("\n")
METRO_GUIDE = "https://github.com/microsoft/MeshTransformer/blob/main/docs/DOWNLOAD.md"
METRO_ARCHIVES = ("Tax-H36m-coco40k-Muco-UP-Mpii", "human3.6m", "coco_smpl", "muco", "up3d", "mpii", "3dpw", "freihand")
"""Folders of METRO's data, each unpacked from an archive of its name."""


class TsvFile:
    """Rows of one TSV file by their number. May be used by several threads, before and after a fork, and pickled for a spawned process."""

    def __init__(self, path: Path) -> None:
        """Read the index, or make it. Raises InputError for a file that is missing, empty or not readable."""
        if not path.is_file():
            raise InputError(f"{path}: not there; {where_to_get(path)}")
        self.path = path
        self._file: BinaryIO | None = None
        try:
            self._size = path.stat().st_size
            self._offsets = read_index(path) if index_path(path).is_file() else make_index(path)
        except OSError as error:
            raise InputError(f"{path}: not readable ({error.strerror})") from error
        if not len(self._offsets):
            raise InputError(f"{path}: it is empty, expected a row for each picture; {where_to_get(path)}")

    def __len__(self) -> int:
        return len(self._offsets)

    def row(self, number: int) -> list[bytes]:
        """The columns of a row, white space around them removed. Raises BrokenSample when the file has become shorter."""
        start = int(self._offsets[number])
        end = int(self._offsets[number + 1]) if number + 1 < len(self) else self._size
        line = self._read(start, end - start)
        if len(line) < end - start:
            raise BrokenSample(f"{self.path.name} ends at {start + len(line)} bytes, expected {end}")
        return [column.strip() for column in line.split(b"\t")]

    def _read(self, start: int, length: int) -> bytes:
        if not hasattr(os, "pread"):  # Windows: a handle of its own for each read, as a shared one has one position for all threads
            with self.path.open("rb") as file:
                file.seek(start)
                return file.read(length)
        file = self._file  # held while it is used: where two threads open the file at once, the handle that loses closes after its read
        if file is None:
            file = self._file = self.path.open("rb", buffering=0)
        return os.pread(file.fileno(), length, start)  # knows no position, so children of a fork may share the handle

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


def where_to_get(path: Path) -> str:
    """What to do about a missing file, in words: which archive of METRO holds it and where that is to be unpacked."""
    known = next((place for place in reversed(path.parents) if place.name in METRO_ARCHIVES), None)
    if known is None:
        return f"METRO's data sets come as {METRO_GUIDE} says (section about data sets); for your own see docs/training-data.md"
    return f"get {known.name}.tar as {METRO_GUIDE} says (research licences) and unpack it so that {known} is there"


def index_path(path: Path) -> Path:
    """a/train.img.tsv -> a/train.img.lineidx"""
    return path.with_suffix(".lineidx")


def read_index(path: Path) -> np.ndarray:
    """(rows,) int64 from the .lineidx; one that does not fit its TSV is made again, with a warning."""
    try:
        offsets = np.array(index_path(path).read_bytes().split(), np.int64)
    except ValueError:
        offsets = np.zeros(0, np.int64)
    if not _fits(path, offsets):
        log.warning("%s does not fit %s (another version?); it is made again", index_path(path), path.name)
        return make_index(path)
    return offsets


def _fits(path: Path, offsets: np.ndarray) -> bool:
    """Whether rows begin at the first, a middle and the last offset, and the last row ends the file."""
    size = path.stat().st_size
    if not len(offsets) or offsets[0] != 0 or (np.diff(offsets) <= 0).any() or offsets[-1] >= size:
        return size == 0 and not len(offsets)
    with path.open("rb") as file:
        for offset in offsets[[len(offsets) // 2, -1]]:
            file.seek(max(int(offset) - 1, 0))
            if offset and file.read(1) != b"\n":
                return False
        file.seek(int(offsets[-1]))
        file.readline()
        return not file.read(CHUNK_BYTES).strip()


def make_index(path: Path) -> np.ndarray:
    """(rows,) int64 byte offsets of a TSV's rows, written beside it where that is allowed.

    The file appears whole or not at all, so that processes that start together do not disturb each other.
    """
    log.info("%s: counting rows", path)
    offsets = row_offsets(path)
    target = index_path(path)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text("".join(f"{offset}\n" for offset in offsets))
        os.replace(unfinished, target)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        log.warning("%s cannot be written (%s); the index of %d rows is kept in memory", target, error.strerror, len(offsets))
    return offsets


def row_offsets(path: Path) -> np.ndarray:
    """(rows,) int64, where each line begins; a last line without a newline counts, an empty rest of the file does not."""
    starts, position = [np.zeros(1, np.int64)], 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            starts.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == NEWLINE) + position + 1)
            position += len(chunk)
    offsets = np.concatenate(starts)
    return offsets[offsets < position]
