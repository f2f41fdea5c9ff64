"""A worker of app.many in a process of its own, with a network that knows the answer: python -m tests.app.many.engine FOLDER OUT"""

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.config import LiveConfig
from app.jobs import Engine
from app.many.engines import run_worker
from app.many.plan import Plan
from app.many.videos import find_jobs
from core.runtimes import warn_once
from tests.app.fakes import RectangleDetector, TubeEstimator

DIES_WITH = (50, 38)
"""A video of this size takes its process with it."""


class SlowDetector(RectangleDetector):
    """Takes its time, and dies with some videos."""

    def detect(self, image: object, *arguments: object, **options: object) -> list:
        time.sleep(0.02)
        if image.shape[1::-1] == DIES_WITH:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().detect(image, *arguments, **options)


@contextmanager
def open_fake_engine(config: LiveConfig) -> Iterator[Engine]:
    """As app.jobs.open_engine."""
    yield Engine(TubeEstimator(), SlowDetector(), config)


@contextmanager
def open_slower_engine(config: LiveConfig) -> Iterator[Engine]:
    """The same where a quicker way to run the network fails."""
    warn_once("the network runs in PyTorch, which is slower")
    logging.getLogger("core.runtimes").info("a worker has its network")
    with open_fake_engine(config) as engine:
        yield engine


def plan_of(folder: Path, out: Path, **changes: object) -> Plan:
    """All videos of the folder."""
    return Plan(find_jobs([folder], out), LiveConfig(), **{"open_engine": open_fake_engine} | changes)


if __name__ == "__main__":
    run_worker(plan_of(Path(sys.argv[1]), Path(sys.argv[2])))
