"""How far the videos are: while they run, at the end, and for whoever asks with --status."""

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping

from app.many.plan import Plan, State
from app.many.videos import Job

log = logging.getLogger(__name__)

FIRST_S, SHARE_OF_TIME = 10.0, 0.02
"""Seconds between two looks, and how much of the time looking may take where the disk is slow."""
MAX_LISTED = 20

States = Mapping[Job, State]


def survey(plan: Plan) -> dict[Job, State]:
    """The state of every video."""
    return {job: plan.state(job) for job in plan.jobs}


class Watch(threading.Thread):
    """Says now and then how many videos are done and how long the rest will take, whoever does them. Use as a context manager."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(name="watch", daemon=True)
        self._plan = plan
        self._open = [job for job in plan.jobs if plan.is_open(job)]
        self._total, self._total_bytes = len(self._open), sum(job.num_bytes for job in self._open)
        self._ended = threading.Event()
        self._start_s = time.perf_counter()

    def __enter__(self) -> "Watch":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        """Look, and say so when there is news."""
        wait_s = FIRST_S
        while not self._ended.wait(wait_s):
            before, look_s = len(self._open), time.perf_counter()
            self._open = [job for job in self._open if self._plan.is_open(job)]
            if len(self._open) < before:
                log.info("%s", self._line())
            wait_s = max(FIRST_S, (time.perf_counter() - look_s) / SHARE_OF_TIME)

    def _line(self) -> str:
        elapsed_s = time.perf_counter() - self._start_s
        left_bytes = sum(job.num_bytes for job in self._open)
        done = (self._total_bytes - left_bytes) / max(self._total_bytes, 1)
        rest = f", about {duration(elapsed_s / done * (1 - done))} left" if 0 < done < 1 else ""
        return f"{self._total - len(self._open)} of {self._total} videos, {done:.0%} of their bytes, {duration(elapsed_s)}{rest}"


def table(before: States, after: States, elapsed_s: float | None = None) -> str:
    """The counts and the failures. elapsed_s: of the run between `before` and `after`, where there was one."""
    count = Counter(after.values())
    new = [job for job, state in after.items() if state is State.FINISHED and before[job] is not State.FINISHED]
    now = f"  ({len(new)} now, {num_finished(after) - len(new)} before)" if elapsed_s is not None else ""
    lines = [f"{'videos':<10}{len(after):>8,}", f"{'finished':<10}{num_finished(after):>8,}{now}"]
    if count[State.CHANGED]:
        lines.append(f"{'':<10}{count[State.CHANGED]:>8,} of them with other settings or of another version: --redo-changed")
    begun = sum(job.work.exists() for job, state in after.items() if state is State.LEFT)
    lines.append(f"{'failed':<10}{count[State.FAILED]:>8,}")
    lines.append(f"{'left':<10}{count[State.LEFT]:>8,}" + (f"  ({begun} begun)" if begun else ""))
    if new and elapsed_s is not None:
        frames = sum(_frames(job) for job in new)
        lines.append(f"{'frames now':<10}{frames:>8,}  in {duration(elapsed_s)}: {frames / elapsed_s:.1f} frames/s")
    failed = [job for job, state in after.items() if state is State.FAILED]
    lines += [f"failed: {job.name}: {job.failed_because() or 'tried again by now'}" for job in failed[:MAX_LISTED]]
    if len(failed) > MAX_LISTED:
        lines.append(f"... and {len(failed) - MAX_LISTED:,} more; each has its .failed.json")
    return "\n".join(lines)


def num_finished(states: States) -> int:
    """Complete results, also those with other settings."""
    return sum(state in (State.FINISHED, State.CHANGED) for state in states.values())


def _frames(job: Job) -> int:
    """Of the result; 0 for one that somebody is making anew just now."""
    try:
        return json.loads((job.folder / "summary.json").read_text(encoding="utf-8"))["frames"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def duration(time_s: float) -> str:
    """In the two largest units that matter."""
    minutes, seconds = divmod(round(time_s), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
