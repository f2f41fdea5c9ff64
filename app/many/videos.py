"""Which videos there are and where the result of each goes. All bookkeeping is files beside the results; there is no database.

A video `day1/clip.mp4` of the folder given leaves `OUT/day1/clip.mp4/`, or `OUT/day1/clip.mp4.failed.json`. The suffix is kept so
that a name never depends on which other videos there are.
"""

import json
import logging
import os
import socket
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from core.errors import InputError

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset(
    ".3gp .asf .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .ts .vob .webm .wmv".split()  # noqa: SIM905
)
LIST_SUFFIX = ".txt"
BOOKKEEPING = ".many"
"""Folder within OUT of the claims and of what is not finished yet."""
OVERLAYS = ("overlay.mp4", "overlay.partial.mp4")
BESIDE_OVERLAYS = ("meshes.npz", "meshes.partial.npz", "summary.json")


@dataclass(frozen=True)
class Job:
    """One video. name: its path below the folder given; out: the folder of all results; num_bytes: its size, 0 when it cannot be read."""

    video: Path
    name: str
    out: Path
    num_bytes: int

    @property
    def folder(self) -> Path:
        """Where the finished result is."""
        return self.out / self.name

    @property
    def failure(self) -> Path:
        """Says why it failed; there only when it did."""
        return self.out / f"{self.name}.failed.json"

    @property
    def claim(self) -> Path:
        """Locked by the worker that has it."""
        return self.out / BOOKKEEPING / "claims" / f"{self.name}.lock"

    @property
    def work(self) -> Path:
        """What its worker has not finished yet."""
        return self.out / BOOKKEEPING / "work" / self.name

    def has_failed(self, wanted: Mapping[str, Any]) -> bool:
        """Whether a failure with these settings (as Plan.wanted) is on record."""
        return self._record().get("settings") == wanted

    def failed_because(self) -> str | None:
        """The error on record; None when there is none."""
        return self._record().get("error")

    def record_failure(self, error: str, wanted: Mapping[str, Any]) -> None:
        """Keep the error for --status and for other workers. wanted: the settings with which it failed, as Plan.wanted."""
        record = {
            "video": str(self.video), "settings": dict(wanted), "error": error,
            "worker": worker_name(), "time": f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}",
        }  # fmt: skip
        self.failure.parent.mkdir(parents=True, exist_ok=True)
        partial = self.failure.with_name(f"{self.failure.name}.{worker_name()}")
        partial.write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(self.failure)

    def _record(self) -> dict[str, Any]:
        """Of the last failure; empty when there is none."""
        try:
            return dict(json.loads(self.failure.read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
            return {}


def worker_name() -> str:
    """This process among those of all machines."""
    return f"{socket.gethostname()}-{os.getpid()}"


def find_jobs(sources: list[Path], out: Path) -> tuple[Job, ...]:
    """A job for each video of these folders, list files and videos, the largest first, so that no worker ends long after the others.

    Videos that are results of this app are left out, and said to be. Raises InputError when a folder or list is not there, there is no
    video, a list cannot be read, or two videos would get one name.
    """
    for source in sources:
        if not source.exists() and source.suffix.lower() not in VIDEO_SUFFIXES:  # a video that is gone fails alone
            raise InputError(
                f"{source}: no such file or folder; expected a folder of videos, a {LIST_SUFFIX} with one path a line, or a video"
            )
    out = Path(os.path.abspath(out))
    jobs: dict[str, Job] = {}
    results: list[Path] = []
    for video, name in (found for source in sources for found in _videos_of(Path(os.path.abspath(source)), out)):
        if is_result(video):
            results.append(video)
            continue
        other = jobs.setdefault(name, Job(video, name, out, _size(video)))
        if video == other.folder:
            raise InputError(f"--out {out}: the videos' own folder, whose files would be in the way; give another")
        if other.video != video:
            raise InputError(f"{other.video} and {video} would both become {out / name}; give the folder that holds both")
    if results:
        log.info("%d video(s) left out, which are results of this app: %s%s", len(results), results[0], ", ..." * (len(results) > 1))
    if not jobs:
        given = ", ".join(map(str, sources))
        found = "no videos but results of this app" if results else "no videos"
        raise InputError(
            f"{given}: {found}; expected files with one of {' '.join(sorted(VIDEO_SUFFIXES))}, or a {LIST_SUFFIX} with one path a line"
        )
    return tuple(sorted(jobs.values(), key=lambda job: (-job.num_bytes, job.name)))


def is_result(video: Path) -> bool:
    """Whether this app wrote it, or is about to: an overlay beside the meshes or the numbers that it shows."""
    return video.name in OVERLAYS and any((video.parent / name).exists() for name in BESIDE_OVERLAYS)


def shard(jobs: tuple[Job, ...], index: int, count: int) -> tuple[Job, ...]:
    """Those that fall to part `index`, 1 .. count; it hangs on the name alone, so parts may be listed at different times."""
    return tuple(job for job in jobs if zlib.crc32(job.name.encode()) % count == index - 1)


def _videos_of(source: Path, out: Path) -> Iterator[tuple[Path, str]]:
    """Each video with its name."""
    if source.is_dir():
        for folder, folders, files in os.walk(source):
            folders[:] = sorted(item for item in folders if not item.startswith(".") and Path(folder, item) != out)
            for path in (Path(folder, file) for file in files):
                if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith("."):
                    yield path, path.relative_to(source).as_posix()
    elif source.suffix.lower() == LIST_SUFFIX:
        yield from _videos_of_list(source)
    else:
        yield source, source.name


def _videos_of_list(source: Path) -> Iterator[tuple[Path, str]]:
    """One path a line, relative to the list's folder or absolute; empty lines and lines with # in front are left out."""
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()  # Windows' editors put a mark in front
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: not a text file in UTF-8, expected one path of a video a line") from error
    for line in map(str.strip, lines):
        if line and not line.startswith("#"):
            path = Path(os.path.normpath(source.parent / line))
            inside = path.is_relative_to(source.parent)
            yield path, path.relative_to(source.parent if inside else path.anchor).as_posix()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
