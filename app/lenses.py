"""What a file says of the lens that took it: photographs in EXIF, videos of iPhones in Apple's metadata. Screens, messengers and most
editors drop it.

Focal lengths are given as those of a 35 mm film camera that sees as much. Source: CIPA DCG-001 (EXIF's tag 0xA405), by the diagonal.
"""

import contextlib
import io
import math
import struct
import warnings
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from app import heif

FILM_DIAGONAL_MM = math.hypot(36, 24)
WIDEST_MM, LONGEST_MM = 5.0, 3000.0
"""What is outside is no lens: 0 says that it is not known."""
EXIF_IFD, FOCAL_ON_FILM, EXIF_WIDTH, EXIF_HEIGHT = 0x8769, 0xA405, 0xA002, 0xA003
ASPECT_MISS, WIDEST_ASPECT = 0.02, 2.4
"""A picture whose aspect is off by more from what the camera wrote has been cropped, one that is wider is a panorama: its lens is not
known. That the middle was cut out in the same shape is not seen.
"""
APPLE_FOCAL_ON_FILM = b"com.apple.quicktime.camera.focal_length.35mm_equivalent"
MAX_METADATA_BYTES, MAX_BOXES = 1 << 20, 10_000
NUMBERS = {23: ">f", 24: ">d"}
"""Apple's types of values: big-endian floating point; 1 is text, 21 and 22 are integers of any length with and without sign."""
TEXT, INTEGERS = 1, {21: True, 22: False}


def focal_px_on(size_px: tuple[int, int], film_mm: float | None) -> float | None:
    """Focal length in pixels of a picture of this width and height, whichever way it is turned; None where the lens is not known."""
    return None if film_mm is None else film_mm / FILM_DIAGONAL_MM * math.hypot(*size_px)


def picture_film_mm(path: Path, size_px: tuple[int, int]) -> float | None:
    """A picture's focal length on 35 mm film; None where it does not say, or was cropped. size_px: of the picture as it is shown"""
    from PIL import Image

    heif.make_known()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF, and of large pictures
            with Image.open(path) as image:
                exif = dict(image.getexif().get_ifd(EXIF_IFD))
    except Exception:  # noqa: BLE001 - Pillow raises a dozen kinds for what is damaged; the picture itself has been read
        return None
    is_panorama = max(size_px) > WIDEST_ASPECT * min(size_px)
    return None if is_panorama or _is_cropped(exif, size_px) else _plausible(exif.get(FOCAL_ON_FILM))


def _is_cropped(exif: Mapping[int, object], size_px: tuple[int, int]) -> bool:
    try:
        written = sorted((float(exif[EXIF_WIDTH]), float(exif[EXIF_HEIGHT])))  # before it is turned upright
        return abs(written[1] / written[0] / (max(size_px) / min(size_px)) - 1) > ASPECT_MISS
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return False


def video_film_mm(path: Path) -> float | None:
    """A video's focal length on 35 mm film, as the first track that knows it says; None where none does.

    Source of the format: Apple, QuickTime File Format, "Metadata Structure". FFmpeg reads metadata of the whole file alone.
    """
    with contextlib.suppress(OSError, struct.error, UnicodeDecodeError, ValueError), path.open("rb") as file:
        for metadata in _metadata_boxes(file, path.stat().st_size):
            film_mm = _plausible(_apple_value(metadata, APPLE_FOCAL_ON_FILM))
            if film_mm is not None:
                return film_mm
    return None


def _metadata_boxes(file: BinaryIO, num_bytes: int) -> Iterator[bytes]:
    """Contents of the boxes `meta` of the file and its tracks."""
    for movie in _boxes_of(b"moov", file, 0, num_bytes):
        tracks = _boxes_of(b"trak", file, *movie)
        for begin, finish in (place for parent in (movie, *tracks) for place in _boxes_of(b"meta", file, *parent)):
            if finish - begin <= MAX_METADATA_BYTES:
                file.seek(begin)
                yield file.read(finish - begin)


def _boxes_of(wanted: bytes, file: BinaryIO, start: int, end: int) -> list[tuple[int, int]]:
    """Begin and end of the contents of all boxes of one kind, among the first ones of a part of a file."""
    return [(begin, finish) for kind, begin, finish in islice(_boxes(file, start, end), MAX_BOXES) if kind == wanted]


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, begin and end of the contents of the boxes in a part of a file, as far as they make sense."""
    while start + 8 <= end:
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        begin = start + 8
        if size == 1:
            (size,), begin = struct.unpack(">Q", file.read(8)), start + 16
        finish = end if size == 0 else start + size
        if not begin <= finish <= end:
            return
        yield kind, begin, finish
        start = finish


def _apple_value(metadata: bytes, wanted: bytes) -> object:
    """The value of a key in the contents of a box `meta`; None where it is not there."""
    metadata = metadata.removeprefix(bytes(4))  # version and flags: MP4 has them, QuickTime has not
    file = io.BytesIO(metadata)
    boxes = {kind: (begin, finish) for kind, begin, finish in _boxes(file, 0, len(metadata))}
    if b"keys" not in boxes or b"ilst" not in boxes:
        return None
    begin, finish = boxes[b"keys"]
    names = [metadata[first:last] for _, first, last in _boxes(file, begin + 8, finish)]
    for number, first, last in _boxes(file, *boxes[b"ilst"]):
        index = int.from_bytes(number, "big")
        if not 1 <= index <= len(names) or names[index - 1] != wanted:
            continue
        for kind, value_begin, value_end in _boxes(file, first, last):
            if kind == b"data":
                return _decoded(int.from_bytes(metadata[value_begin : value_begin + 4], "big"), metadata[value_begin + 8 : value_end])
    return None


def _decoded(kind: int, value: bytes) -> object:
    if kind == TEXT:
        return value.decode()
    if kind in INTEGERS:
        return int.from_bytes(value, "big", signed=INTEGERS[kind])
    return struct.unpack(NUMBERS[kind], value)[0] if kind in NUMBERS else None


def _plausible(film_mm: object) -> float | None:
    """A focal length, if it is one; text may end in mm."""
    try:
        value = float(film_mm.removesuffix("mm") if isinstance(film_mm, str) else film_mm)
    except (TypeError, ValueError, OverflowError):
        return None
    return value if WIDEST_MM <= value <= LONGEST_MM else None
