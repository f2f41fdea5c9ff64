"""One worker: takes the next video that nobody has, does it, and ends when none is left to take.

A claim is a lock of the operating system on a file in OUT, so it ends with the process that holds it, whatever ends that. A result
is made in a folder of its own and moved to its place when it is complete: what is there is whole, also where locks do not work.
"""

import errno
import logging
import multiprocessing
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from app.many.plan import Plan
from app.many.videos import Job, worker_name
from app.progress import Cancelled, MakeProgress, Progress
from core.errors import InputError

if TYPE_CHECKING:
    from app.jobs import Engine

log = logging.getLogger(__name__)

MAX_TRIES = 3
"""Times that a video may take its worker's process with it (memory, a decoder's crash), before it counts as failed."""
MAX_UNEXPECTED = 3
"""Unexpected errors in a row after which the fault is rather the machine's than the videos'."""
SUMMARY = "summary.json"
TRIES = "tries"
BEATEN = "%s: finished by another worker in the meantime; locks do not reach from one to the other on this disk"
DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@contextmanager
def claimed(job: Job) -> Iterator[bool]:
    """Whether nobody else has this video; until the block is left it is ours then."""
    job.claim.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(job.claim, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


class Worker:
    """Does videos of a plan until nothing is left to take or `stop` is set. progress: shows one video's frames, where somebody looks."""

    def __init__(self, plan: Plan, stop: threading.Event, progress: MakeProgress | None = None) -> None:
        self._plan, self._stop, self._progress = plan, stop, progress
        self._engine: Engine | None = None
        self._unexpected = 0

    def run(self) -> None:
        """Raises InputError when the network or the disk is not fit for any video, and the third unexpected error in a row."""
        with ExitStack() as stack:
            while self._pass(stack):
                pass

    def _pass(self, stack: ExitStack) -> bool:
        """Once through all videos; whether there was one to do."""
        worked = False
        for job in self._plan.jobs:
            if self._stop.is_set():
                return False
            if not self._plan.is_open(job):
                continue
            with claimed(job) as mine:
                if mine and self._plan.is_open(job):
                    engine = self._opened(stack)
                    if self._stop.is_set():  # while the network was being loaded
                        return False
                    self._do(job, engine)
                    worked = True
        return worked

    def _opened(self, stack: ExitStack) -> "Engine":
        """Loaded for the first video, so that a worker without work is quick."""
        if self._engine is None:
            from app.jobs import open_engine

            engine = stack.enter_context((self._plan.open_engine or open_engine)(self._plan.config))
            self._engine = replace(engine, make_progress=self._watched)
        return self._engine

    def _watched(self, name: str, total: int | None) -> Progress:
        return _StopProgress(self._stop, self._progress(name, total) if self._progress else None)

    def _do(self, job: Job, engine: "Engine") -> None:
        """Finish the video or put its failure on record; interrupted, leave nothing."""
        tries = _count_try(job)
        if tries > MAX_TRIES:
            self._fail(job, f"{MAX_TRIES} workers died with it (out of memory, or a crash in a native library)")
            shutil.rmtree(job.work)
            return
        from app.jobs import process_video

        target = job.work / worker_name()
        try:
            line = process_video(job.video, target, engine)
            publish(target, job, self._plan)
        except Cancelled:
            log.info("%s: interrupted; it will be done from its start", job.video)
        except InputError as error:
            self._fail(job, str(error))
        except OSError as error:
            if error.errno in DISK_TROUBLE:
                raise InputError(f"{job.out}: {os.strerror(error.errno)}; this worker ends, the same command goes on") from error
            self._fail(job, f"{type(error).__name__}: {error}")
        except Exception as error:
            log.exception("%s: an unexpected error", job.video)
            self._fail(job, f"unexpected {type(error).__name__}: {error}")
            self._unexpected += 1
            if self._unexpected >= MAX_UNEXPECTED:
                raise
        else:
            self._unexpected = 0
            job.failure.unlink(missing_ok=True)
            shutil.rmtree(job.work, ignore_errors=True)  # with what workers left that died on other machines
            log.info("%s", line.replace(str(target), str(job.folder)))
        finally:
            shutil.rmtree(target, ignore_errors=True)
            (job.work / TRIES).unlink(missing_ok=True)
            with suppress(OSError):
                job.work.rmdir()

    def _fail(self, job: Job, error: str) -> None:
        """Put the failure on record."""
        if not self._plan.is_open(job):
            log.warning(BEATEN, job.video)
            return
        line = " ".join(error.split())
        job.record_failure(line, self._plan.wanted(job))
        log.error("%s", line if str(job.video) in line else f"{job.video}: {line}")


class _StopProgress:
    """Counts on, and ends the video when the worker is asked to stop or whoever started it has died."""

    def __init__(self, stop: threading.Event, shown: Progress | None) -> None:
        self._stop, self._shown = stop, shown
        self._starter = multiprocessing.parent_process()

    def check(self) -> None:
        if self._starter is not None and not self._starter.is_alive():
            self._stop.set()
        if self._stop.is_set():
            raise Cancelled

    def update(self) -> None:
        self.check()
        if self._shown is not None:
            self._shown.update()

    def close(self) -> None:
        if self._shown is not None:
            self._shown.close()


def _count_try(job: Job) -> int:
    """The how many-th try this is; those before ended with their process, and what they left on this machine's name is cleared away."""
    counter = job.work / TRIES
    try:
        tries = int(counter.read_text(encoding="ascii")) + 1
    except (FileNotFoundError, ValueError):
        tries = 1
    for left in job.work.glob(f"{socket.gethostname()}-*"):
        shutil.rmtree(left, ignore_errors=True)
    job.work.mkdir(parents=True, exist_ok=True)
    counter.write_text(str(tries), encoding="ascii")
    return tries


def publish(made: Path, job: Job, plan: Plan) -> None:
    """Move a complete result to its place, in one step where nothing is there; where another worker was quicker, theirs stays."""
    for path in made.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())  # so that a power cut leaves no empty file in a finished folder
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    if not job.folder.exists():
        with suppress(FileExistsError):
            made.rename(job.folder)
            return
    if not plan.is_open(job):
        log.warning(BEATEN, job.video)
        return
    from app.export import SINKS, remove_results

    remove_results(job.folder, sorted(SINKS, key=lambda name: name != SUMMARY))
    for path in sorted(made.iterdir(), key=lambda path: path.name == SUMMARY):
        path.replace(job.folder / path.name)
