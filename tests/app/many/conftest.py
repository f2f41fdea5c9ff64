"""A folder of small videos, and where their results go."""

import threading
from pathlib import Path

import pytest

from app.many.engines import ENGINES, Pool
from app.many.plan import Plan
from tests.app.many.working import NAMES, work
from tests.app.media import write_video


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six clips of 12 frames, and what is none."""
    for index, name in enumerate(NAMES):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, (96, 64 + 2 * index), [i / 30 for i in range(12)])
    for name in ("._a.mp4", "notes.txt", ".hidden/x.mp4"):
        path = tmp_path / "videos" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("nothing")
    return tmp_path / "videos"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> str:
    """An engine without processes of its own."""

    def run_here(plan: Plan, pool: Pool, stop: threading.Event) -> list[str]:
        work(plan, stop)
        return []

    monkeypatch.setitem(ENGINES._entries, "here", run_here)
    return "here"
