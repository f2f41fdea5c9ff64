"""What the tests of workers share."""

import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

from app.many.plan import Plan, State
from app.many.report import survey
from app.many.worker import Worker

NAMES = ("a.mp4", "a.mov", "day 1/b.mp4", "day 1/c.mkv", "day 2/b.mp4", "ü.avi")
PATIENCE_S = 300.0


def work(plan: Plan, stop: threading.Event | None = None) -> None:
    Worker(plan, stop or threading.Event()).run()


def start_worker(folder: Path, out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.app.many.engine", str(folder), str(out)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])


def times_done(said: str) -> Counter:
    return Counter(re.findall(r"^(.+): \d+ frames, ", said, re.MULTILINE))


def wait_for(condition: object) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.005)


def check_all_finished(plan: Plan) -> None:
    assert {job.name: state for job, state in survey(plan).items()} == dict.fromkeys((job.name for job in plan.jobs), State.FINISHED)
    for job in plan.jobs:
        assert {path.name for path in job.folder.iterdir()} == {"overlay.mp4", "meshes.npz", "summary.json"}
        assert not job.work.exists()
        with np.load(job.folder / "meshes.npz") as rows:
            assert rows["frame_index"].tolist() == list(range(12))
