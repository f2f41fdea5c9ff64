"""Visitors of the page: a secret cookie each, a folder of their own, and an end.

A visitor is there as long as the browser holds a request open (Gradio's page always holds one). Some seconds after the last
one ended their jobs are stopped and their folder is removed; all folders go when the page ends.
"""

import contextlib
import logging
import math
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from app.config import PageConfig
from app.page.uploads import Upload
from app.page.work import Job
from core.errors import InputError

log = logging.getLogger(__name__)

FOLDER_PREFIX = "fastmetro-live-page-"
MAX_SESSIONS = 64
"""Tabs of one visitor that are known at a time; Gradio names a tab anew each time that it is loaded."""
VISITOR_UPLOADS = 2
"""All uploads of one visitor together, in largest files."""

Removal = Callable[[], None]
T = TypeVar("T", Job, Upload, "Recorded")


@dataclass(frozen=True)
class Recorded:
    """A recording of the live camera that has ended. ended_s: on the monotonic clock."""

    path: Path
    ended_s: float = field(default_factory=time.monotonic)

    def remove(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)


@dataclass
class Visitor:
    """One browser. Only the server's event loop changes it.

    token: the cookie's value, known to that browser alone; folder: for uploads and results, made when first needed
    uploads, jobs: by id; recordings: of the live camera, by name; arriving_bytes: of each upload under way; open_requests: right now
    session_owners: the tabs of all visitors, as Gradio names them -> token, the one asked for last at the end
    """

    token: str
    folder: Path
    logged_in: bool = False
    uploads: dict[str, Upload] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    recordings: dict[str, Recorded] = field(default_factory=dict)
    arriving_bytes: list[int] = field(default_factory=list)
    session_owners: dict[str, str] = field(default_factory=dict)
    open_requests: int = 0
    last_seen_s: float = field(default_factory=time.monotonic)

    def make_folder(self, name: str) -> Path:
        """A folder of the visitor's, readable by nobody else on this machine."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        folder = self.folder / name
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    @property
    def needed_uploads(self) -> set[str]:
        """Ids of those that a job waits for or works on."""
        return {upload.id for job in self.jobs.values() if job.ended_s is None for upload in job.uploads}

    def remove_upload(self, upload_id: str) -> None:
        """Delete one that the visitor has done with; where a job needs it, at the next sweep after that."""
        upload = self.uploads.get(upload_id)
        if upload is None:
            return
        if upload_id in self.needed_uploads:
            self.uploads[upload_id] = replace(upload, time_s=-math.inf)
        else:
            self.uploads.pop(upload_id).remove()

    def keep_recording(self, path: Path) -> None:
        """A recording of the live camera, from its end on."""
        self.recordings[path.name] = Recorded(path)

    @contextlib.contextmanager
    def present(self) -> Iterator[None]:
        """While a request runs."""
        self.open_requests += 1
        try:
            yield
        finally:
            self.open_requests -= 1
            self.last_seen_s = time.monotonic()

    @property
    def has_something(self) -> bool:
        """True for who is here, or left something."""
        return bool(self.open_requests or self.uploads or self.jobs or self.recordings)

    def no_room_for(self, num_bytes: int, config: PageConfig) -> str:
        """Why one more upload cannot be taken, "" when it can. Those under way count in full from their start."""
        if len(self.uploads) + len(self.arriving_bytes) >= config.max_files:
            return f"{config.max_files} files are waiting already; make their meshes or remove some"
        there = sum(item.num_bytes for item in self.uploads.values()) + sum(self.arriving_bytes)
        if there + num_bytes > VISITOR_UPLOADS * config.max_upload_bytes:
            return "your files are too large together; remove some that are done"
        return ""

    @contextlib.contextmanager
    def receiving(self, num_bytes: int) -> Iterator[None]:
        """While an upload of at most so many bytes is under way."""
        self.arriving_bytes.append(num_bytes)
        try:
            yield
        finally:
            self.arriving_bytes.remove(num_bytes)

    def owns_session(self, session: str) -> bool:
        """True for a tab that is this visitor's, or nobody's until now; it is theirs then, and the oldest of too many is nobody's."""
        if self.session_owners.get(session, self.token) != self.token:
            return False
        self.session_owners.pop(session, None)
        own = [name for name, owner in self.session_owners.items() if owner == self.token]
        for name in own[: max(0, len(own) + 1 - MAX_SESSIONS)]:
            del self.session_owners[name]
        self.session_owners[session] = self.token
        return True

    def result_file(self, job_id: str, number: int, name: str) -> Path | None:
        """A file that a job of this visitor made, by names alone."""
        job = self.jobs.get(job_id)
        if job is None or not 0 <= number < len(job.results):
            return None
        return job.results[number].files.get(name)

    def animation(self, job_id: str, number: int) -> str | None:
        """Path of a result's GLB."""
        path = self.result_file(job_id, number, "people.glb")
        return None if path is None else str(path)

    def may_read(self, path: str) -> bool:
        """True when this very path, letter by letter, is a file that a job of this visitor made."""
        return any(path in job.files for job in self.jobs.values())


class Visitors:
    """All visitors. `root` holds their folders; use as a context manager, leaving it removes everything."""

    def __init__(self, config: PageConfig) -> None:
        self._config = config
        self._visitors: dict[str, Visitor] = {}
        self._leaving: list[Visitor] = []
        self._session_owners: dict[str, str] = {}
        self._removals: list[Removal] = []
        remove_leftovers()
        self.root = Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-")).resolve()

    def __enter__(self) -> "Visitors":
        return self

    def __exit__(self, *_: object) -> None:
        for visitor in (*self._visitors.values(), *self._leaving):
            for job in visitor.jobs.values():
                job.cancel()
        shutil.rmtree(self.root, ignore_errors=True)

    def find(self, token: str | None) -> Visitor | None:
        """The visitor of a cookie."""
        return self._visitors.get(token) if token else None

    def stranger(self) -> Visitor:
        """A visitor nobody knows, until `admit`."""
        return Visitor(secrets.token_urlsafe(32), self.root / secrets.token_hex(16), session_owners=self._session_owners)

    def admit(self, visitor: Visitor) -> None:
        """Know a visitor from now on. When all places are taken, one who has nothing here loses theirs; raises InputError without any."""
        if visitor.token in self._visitors:
            return
        if len(self._visitors) >= self._config.max_visitors:
            self._let_go()
        if len(self._visitors) >= self._config.max_visitors:
            idle = [other for other in self._visitors.values() if not other.has_something]
            if not idle:
                self._forget_sessions(visitor)
                raise InputError(f"{self._config.max_visitors} visitors are here already; try again in a minute")
            self.leave(min(idle, key=lambda other: other.last_seen_s))
        self._visitors[visitor.token] = visitor

    def new(self) -> Visitor:
        """A visitor nobody knew, admitted. Raises InputError when there are too many."""
        visitor = self.stranger()
        self.admit(visitor)
        return visitor

    def leave(self, visitor: Visitor) -> None:
        """Stop a visitor's jobs and forget them; `sweep` removes the folder once nothing writes there."""
        if self._visitors.pop(visitor.token, None) is None:
            return
        for job in visitor.jobs.values():
            job.cancel()
        self._forget_sessions(visitor)
        self._leaving.append(visitor)

    def _forget_sessions(self, visitor: Visitor) -> None:
        for session in [name for name, owner in self._session_owners.items() if owner == visitor.token]:
            del self._session_owners[session]

    def sweep(self) -> list[Removal]:
        """Let go of those who left, and of what is old. What is returned deletes it, see `remove_all`. Called every few seconds."""
        self._let_go()
        removals, self._removals = self._removals, []
        return removals

    def _let_go(self) -> None:
        now_s = time.monotonic()
        for visitor in list(self._visitors.values()):
            if not visitor.open_requests and now_s - visitor.last_seen_s > self._config.keep_after_leaving_s:
                self.leave(visitor)
            else:
                self._let_go_of_old(visitor, now_s - self._config.keep_s)
        for visitor in list(self._leaving):
            if all(job.ended_s is not None for job in visitor.jobs.values()):
                self._leaving.remove(visitor)
                self._removals.append(partial(shutil.rmtree, visitor.folder, ignore_errors=True))

    def _let_go_of_old(self, visitor: Visitor, limit_s: float) -> None:
        """What ended or came before `limit_s`; not what a job still needs."""
        needed = visitor.needed_uploads
        self._drop(visitor.jobs, lambda job: job.ended_s is not None and job.ended_s < limit_s)
        self._drop(visitor.uploads, lambda upload: upload.time_s < limit_s and upload.id not in needed)
        self._drop(visitor.recordings, lambda recorded: recorded.ended_s < limit_s)

    def _drop(self, kept: dict[str, T], is_old: Callable[[T], bool]) -> None:
        for name in [name for name, item in kept.items() if is_old(item)]:
            self._removals.append(kept.pop(name).remove)


def why_not_written(error: OSError) -> str:
    """For a visitor: the error's own words name our folders."""
    return os.strerror(error.errno) if error.errno else "its disk does not take it"


def remove_all(removals: Iterable[Removal]) -> None:
    """Delete what `sweep` let go of, which may take a while. What cannot be deleted goes with its visitor's folder."""
    for remove in removals:
        try:
            remove()
        except OSError as error:
            log.warning("a file of the page could not be removed: %s", error)


def remove_leftovers() -> None:
    """Remove folders of pages that were killed before they could do so themselves."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        process = folder.name[len(FOLDER_PREFIX) :].partition("-")[0]
        if process.isdigit() and not _is_running(int(process)):
            shutil.rmtree(folder, ignore_errors=True)
            log.debug("removed %s, left by a page that was killed", folder)


def _is_running(process_id: int) -> bool:
    """True when in doubt."""
    if os.name != "posix":
        return True
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
