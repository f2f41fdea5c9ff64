"""How far a job is: told to a person on a terminal or in a log, or to whoever else started it. Also the way to stop one."""

import logging
import sys
import time
from collections.abc import Callable
from typing import Protocol

from tqdm import tqdm

log = logging.getLogger(__name__)

LOG_EVERY_S = 5.0


class Cancelled(Exception):  # noqa: N818 - no error: somebody asked for it
    """Raised by `Progress.check` and `update` to end a job early; what was done until then is kept, marked as interrupted."""


class Progress(Protocol):
    """Counts frames or pictures of one input."""

    def check(self) -> None:
        """Called often, also while nothing is counted. May raise Cancelled."""

    def update(self) -> None:
        """One more. May raise Cancelled."""

    def close(self) -> None:
        """No more will come."""


MakeProgress = Callable[[str, int | None], Progress]
"""(name of the input, number of frames if known) -> its progress."""


class ProgressBar:
    """A bar with frames and rate on a terminal; elsewhere a line of log now and then."""

    def __init__(self, name: str, total: int | None) -> None:
        self._name, self._total, self._count = name, total, 0
        self._start_s = self._said_s = time.perf_counter()
        self._bar = tqdm(total=total, desc=name, unit="frame", leave=False) if sys.stderr.isatty() else None

    def check(self) -> None:
        """A bar ends nothing: on a terminal that is Ctrl-C's."""

    def update(self) -> None:
        """One more."""
        self._count += 1
        if self._bar is not None:
            self._bar.update()
        elif time.perf_counter() - self._said_s > LOG_EVERY_S:
            self._said_s = time.perf_counter()
            rate = self._count / (self._said_s - self._start_s)
            log.info("%s: %d of %s frames, %.1f frames/s", self._name, self._count, self._total or "?", rate)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
