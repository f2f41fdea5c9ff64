"""Files that a visitor sends: streamed to disk, never larger than allowed, and only what we know by its first bytes.

The first bytes decide because FFmpeg would believe a playlist that calls itself .mp4, and open what the playlist names.
"""

import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from app import heif
from app.config import PageConfig
from app.sources import PICTURE_SUFFIXES, VideoSource, read_picture
from core.errors import InputError

VIDEO, PICTURE = "video", "picture"
VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".ts", ".wmv", ".flv", ".ogv", ".3gp")
HEAD_BYTES = 400
MAX_NAME = 80


@dataclass(frozen=True)
class Upload:
    """A file that was taken. name: as the visitor calls it; path: ours; size_px: width, height; frames, seconds: of a video."""

    name: str
    path: Path
    kind: str
    size_px: tuple[int, int]
    frames: int | None = None
    seconds: float | None = None
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    time_s: float = field(default_factory=time.monotonic)

    @property
    def num_bytes(self) -> int:
        """Of the file."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def remove(self) -> None:
        """Delete the file."""
        discard(self.path)

    def as_json(self) -> dict[str, Any]:
        """What the page shows."""
        width, height = self.size_px
        return {"name": self.name, "kind": self.kind, "width": width, "height": height, "frames": self.frames, "seconds": self.seconds}


def limits_text(config: PageConfig) -> str:
    """What is taken, in a line for the page."""
    return f"Videos up to {config.max_upload_mb} MB and {duration_text(config.max_video_s)}, or up to {config.max_files} pictures"


def duration_text(seconds: float) -> str:
    """12 s, 1 min 30 s, 10 min."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    return f"{minutes} min" + (f" {rest} s" if rest else "")


async def receive_upload(name: str, chunks: AsyncIterator[bytes], folder: Path, config: PageConfig) -> Path:
    """Stream a file into `folder` under its own name. Raises InputError when it is too large, empty or no video or picture."""
    name = clean_name(name)
    path = folder / secrets.token_hex(8) / name
    path.parent.mkdir(mode=0o700)
    limit, num_bytes = config.max_upload_bytes, 0
    try:
        with path.open("xb") as file:
            async for chunk in chunks:
                num_bytes += len(chunk)
                if num_bytes > limit:
                    raise InputError(too_large(name, None, config))
                file.write(chunk)
        if not num_bytes:
            raise InputError(f"{name} is empty; choose another file")
    except BaseException:
        discard(path)
        raise
    return path


def too_large(name: str, num_bytes: int | None, config: PageConfig) -> str:
    """The message for a file beyond the limit."""
    size = f"is {num_bytes / 1e6:.0f} MB" if num_bytes else "is too large"
    return f"{name} {size}; this page takes up to {config.max_upload_mb} MB. Cut or compress it, or start with --max-upload-mb"


def examine(path: Path, config: PageConfig) -> Upload:
    """What a file is. Raises InputError, in words for the visitor, when it cannot be used or is too long; it is removed then."""
    try:
        with path.open("rb") as file:
            kind = kind_of(file.read(HEAD_BYTES))
        if kind == VIDEO:
            return _examined_video(path, config)
        if kind == PICTURE:
            return _examined_picture(path, config)
        raise InputError(
            f"{path.name} is no video or picture that is known here; take {', '.join((*VIDEO_SUFFIXES[:6], *PICTURE_SUFFIXES))}"
        )
    except InputError as error:
        discard(path)
        raise InputError(str(error).replace(str(path), path.name)) from error


def discard(path: Path) -> None:
    """Remove an upload and its folder."""
    path.unlink(missing_ok=True)
    if path.parent.is_dir() and not any(path.parent.iterdir()):
        path.parent.rmdir()


def _examined_video(path: Path, config: PageConfig) -> Upload:
    source = VideoSource(path)
    seconds = source.duration_s or (source.expected_frames or 0) / source.fps
    if seconds > config.max_video_s:
        raise InputError(
            f"{path.name} is {duration_text(seconds)} long; this page takes up to {duration_text(config.max_video_s)}. "
            "Cut it, or start with --max-video-s"
        )
    _check_size(path, source.size_px, config)
    return Upload(path.name, path, VIDEO, source.size_px, source.expected_frames, round(seconds, 2) if seconds else None)


def _examined_picture(path: Path, config: PageConfig) -> Upload:
    size_px = picture_size_px(path)
    if size_px is not None:
        _check_size(path, size_px, config)  # before it is unpacked
    height, width = read_picture(path).shape[:2]
    _check_size(path, (width, height), config)
    return Upload(path.name, path, PICTURE, (width, height))


def _check_size(path: Path, size_px: tuple[int, int], config: PageConfig) -> None:
    if max(size_px) > config.max_side_px:
        raise InputError(f"{path.name} is {size_px[0]} x {size_px[1]} pixels; this page takes up to {config.max_side_px} a side")


def picture_size_px(path: Path) -> tuple[int, int] | None:
    """Width, height from the header alone, None where it does not say."""
    from PIL import Image, UnidentifiedImageError

    heif.make_known()
    try:
        with Image.open(path) as picture:
            return picture.size
    except Image.DecompressionBombError as error:
        raise InputError(f"{path.name} has too many pixels") from error
    except (UnidentifiedImageError, OSError, ValueError):
        return None


def kind_of(head: bytes) -> str | None:
    """VIDEO, PICTURE or None, by the first bytes of a file."""
    pictures = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM")
    if head.startswith(pictures) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP") or heif.is_heif(head):
        return PICTURE
    starts = (b"\x1a\x45\xdf\xa3", b"OggS", b"FLV\x01", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3", b"\x30\x26\xb2\x75", b"GIF8")
    boxes = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
    is_transport_stream = any(
        len(head) > start + 188 and head[start] == head[start + 188 + (4 if start else 0)] == 0x47 for start in (0, 4)
    )
    if head.startswith(starts) or head[4:8] in boxes or (head[:4] == b"RIFF" and head[8:12] == b"AVI ") or is_transport_stream:
        return VIDEO
    return None


def clean_name(name: str) -> str:
    """A file name without folders or anything that a shell, a header or a file system minds."""
    name = PurePosixPath(PureWindowsPath(name).name).name
    name = "".join(letter if letter.isalnum() or letter in " ._-()" else "_" for letter in name).strip(" .")
    stem, dot, suffix = name.rpartition(".")
    return f"{stem[:MAX_NAME]}{dot}{suffix[:8]}" if stem else (suffix[:MAX_NAME] or "upload")
