"""The one worker of the page: jobs wait their turn, run, tell how far they are, and end when somebody says so."""

import contextlib
import json
import logging
import queue
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.config import LiveConfig, PageConfig
from app.page.uploads import VIDEO, Upload
from app.progress import Cancelled
from core.errors import InputError

if TYPE_CHECKING:
    from app.page.models import Networks

log = logging.getLogger(__name__)

WAITING, LOADING, RUNNING, DONE, CANCELLED, FAILED = "waiting", "loading", "running", "done", "cancelled", "failed"
ENDED = (DONE, CANCELLED, FAILED)
RATE_AFTER_FRAMES = 5
SPARE_FRAMES = 60
HIGHEST_FPS = 240
LONGEST_END_S = 15.0
"""A cancelled job writes what it holds, in well under a second; only loading a network, just after the start, cannot be cut short."""


@dataclass(frozen=True)
class Result:
    """What came out of one upload. files: name -> path; summary: of summary.json."""

    name: str
    kind: str
    files: dict[str, Path]
    summary: dict[str, Any]


@dataclass(frozen=True)
class Step:
    """How far a job is. item of items: the upload it is at; frame of frames (None when unknown); per_s: frames a second so far."""

    name: str = ""
    item: int = 0
    items: int = 0
    frame: int = 0
    frames: int | None = None
    per_s: float = 0.0


class Job:
    """Some uploads on their way to results. The worker changes it, the page reads it."""

    def __init__(self, uploads: tuple[Upload, ...], config: LiveConfig, folder: Path) -> None:
        self.id = secrets.token_hex(8)
        self.uploads, self.config, self.folder = uploads, config, folder / self.id
        self.state, self.step = WAITING, Step(items=len(uploads))
        self.results: list[Result] = []
        self.problems: list[str] = []
        self.files: frozenset[str] = frozenset()
        self.ended_s: float | None = None
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Ask it to end soon; one that still waits ends at once."""
        self._cancelled.set()
        if self.state == WAITING:
            self.end(CANCELLED)

    @property
    def is_cancelled(self) -> bool:
        """True once `cancel` was called."""
        return self._cancelled.is_set()

    def check(self) -> None:
        """Raise Cancelled when somebody asked for it."""
        if self._cancelled.is_set():
            raise Cancelled

    def remove(self) -> None:
        """Delete its files."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def end(self, state: str) -> None:
        """No more changes after this."""
        self.files = frozenset(str(path) for result in self.results for path in result.files.values())
        self.state, self.ended_s = state, time.monotonic()


class JobProgress:
    """Passes what app.jobs counts on to a job."""

    def __init__(self, job: Job, total: int | None, limit: int) -> None:
        self._job, self._limit, self._start_s = job, limit, time.perf_counter()
        self._show(Step(job.step.name, job.step.item, job.step.items, 0, total))

    def check(self) -> None:
        """Raise Cancelled when somebody asked for it."""
        self._job.check()

    def update(self) -> None:
        """One more frame. Raises Cancelled, and InputError for a video that is longer than it said."""
        self._job.check()
        step = self._job.step
        frame = step.frame + 1
        if frame > self._limit:
            raise InputError(f"{step.name} is longer than this page takes; cut it, or start with --max-video-s")
        elapsed_s = time.perf_counter() - self._start_s
        per_s = frame / elapsed_s if frame >= RATE_AFTER_FRAMES else 0.0
        self._show(Step(step.name, step.item, step.items, frame, step.frames, per_s))

    def close(self) -> None:
        """Nothing to take away."""

    def _show(self, step: Step) -> None:
        self._job.step = step


RunItem = Callable[[Upload, Path, Job], Result]


class Worker:
    """Runs jobs one after the other in a thread of its own. Use as a context manager: leaving it cancels and ends."""

    def __init__(self, networks: "Networks", config: PageConfig) -> None:
        self.networks, self.config = networks, config
        self._waiting: queue.Queue[Job | None] = queue.Queue()
        self._queued: list[Job] = []
        self._lock, self._warm = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="page-worker", daemon=True)

    def __enter__(self) -> "Worker":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            for job in self._queued:
                job.cancel()
        self._waiting.put(None)
        if self._warm.is_set():  # a network that is only being loaded has nothing to finish
            self._thread.join(LONGEST_END_S)

    def submit(self, job: Job) -> None:
        """Queue a job. Raises InputError when too many wait."""
        with self._lock:
            if sum(other.state not in ENDED for other in self._queued) > self.config.max_waiting:
                raise InputError(f"{self.config.max_waiting} jobs are waiting already; try again in a minute")
            self._queued.append(job)
        self._waiting.put(job)

    def ahead_of(self, job: Job) -> int:
        """Jobs before this one, the running one among them."""
        with self._lock:
            before = self._queued[: self._queued.index(job)] if job in self._queued else []
            return sum(other.state not in ENDED for other in before)

    def _run(self) -> None:
        self._warm_up()
        self._warm.set()
        while (job := self._waiting.get()) is not None:
            try:
                self._do(job)
            finally:
                with self._lock:
                    self._queued.remove(job)

    def _warm_up(self) -> None:
        """Load the default network while the visitor still looks around."""
        try:
            self.networks.estimator(self.networks.config)
        except Exception as error:  # noqa: BLE001 - the first job says so again, to somebody who can do something about it
            log.warning("the network could not be loaded: %s", error)

    def _do(self, job: Job) -> None:
        try:
            job.check()
            job.state = LOADING
            self._do_all(job)
            job.end(DONE if job.results else FAILED)
        except Cancelled:
            job.end(CANCELLED)
        except (InputError, OSError) as error:
            job.problems.append(str(error))
            job.end(FAILED)
        except Exception:
            log.exception("a job of the page failed")
            job.problems.append("Something went wrong here, and it is not your file's fault; the terminal says more")
            job.end(FAILED)

    def _do_all(self, job: Job) -> None:
        """Every upload in turn; one that fails is told and the rest goes on."""
        from app.jobs import open_engine

        with open_engine(job.config, self.networks.estimator(job.config)) as engine:
            job.state = RUNNING
            for index, upload in enumerate(job.uploads):
                job.check()
                job.step = Step(upload.name, index, len(job.uploads), 0, upload.frames or 1)
                try:
                    job.results.append(self._do_one(job, upload, index, engine))
                except (InputError, OSError) as error:
                    log.warning("%s: %s", upload.name, error)
                    line = str(error).replace(str(upload.path), upload.name)
                    job.problems.append(line if upload.name in line else f"{upload.name}: {line}")

    def _do_one(self, job: Job, upload: Upload, index: int, engine: Any) -> Result:
        from app.export.glb import write_glb
        from app.export.motions import write_motion
        from app.jobs import process_picture, process_video

        folder = job.folder / f"{index + 1}-{upload.path.stem}"
        if upload.kind == VIDEO:
            limit = self.config.max_video_s * HIGHEST_FPS if upload.seconds is None else (upload.frames or 0) * 2 + SPARE_FRAMES
            process_video(upload.path, folder, replace(engine, make_progress=lambda _, total: JobProgress(job, total, limit)))
        else:
            process_picture(upload.path, folder, engine)
            with contextlib.suppress(InputError):  # nobody in it
                write_glb(folder / "meshes.npz", folder / "people.glb", show_hidden=job.config.show_hidden)
        with contextlib.suppress(InputError):  # nobody in it, or a body without such bones
            write_motion(folder / "meshes.npz", folder / "motion.zip")
        return collect(upload, folder)


def collect(upload: Upload, folder: Path) -> Result:
    """The files of a finished run; what they say about this machine's folders is taken out."""
    summary_path = folder / "summary.json"
    summary = json.loads(summary_path.read_text(encoding="utf-8"))
    summary["input"] = upload.name
    summary_path.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file() and ".partial" not in path.name}
    return Result(upload.name, upload.kind, files, summary)
