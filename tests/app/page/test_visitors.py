"""What the page keeps for its visitors, and for how long."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.config import LiveConfig, PageConfig
from app.page import server
from app.page.uploads import VIDEO, Upload
from app.page.visitors import Recorded, Visitor, Visitors, remove_all
from app.page.work import DONE, Job

KEEP_S = 60.0
OLD_S = time.monotonic() - 2 * KEEP_S


@pytest.fixture
def visitors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Visitors]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Visitors(PageConfig(keep_s=KEEP_S, max_visitors=5)) as visitors:
        yield visitors


@pytest.fixture
def visitor(visitors: Visitors) -> Iterator[Visitor]:
    visitor = visitors.new()
    with visitor.present():
        yield visitor


def file_in(visitor: Visitor, folder: str, name: str = "x") -> Path:
    path = visitor.make_folder(folder) / name / "file"
    path.parent.mkdir()
    path.write_bytes(b"x")
    return path


def old_upload(visitor: Visitor, name: str) -> Upload:
    upload = Upload(name, file_in(visitor, "uploads", name), VIDEO, (1, 1), time_s=OLD_S)
    visitor.uploads[upload.id] = upload
    return upload


def test_uploads_of_jobs_that_wait_or_run_are_kept(visitors: Visitors, visitor: Visitor) -> None:
    used, unused = old_upload(visitor, "used"), old_upload(visitor, "unused")
    job = Job((used,), LiveConfig(), visitor.make_folder("jobs"))
    visitor.jobs[job.id] = job
    remove_all(visitors.sweep())
    assert set(visitor.uploads) == {used.id} and used.path.exists() and not unused.path.exists()
    job.end(DONE)
    remove_all(visitors.sweep())
    assert not visitor.uploads and not used.path.exists()
    assert set(visitor.jobs) == {job.id}, "its results have just been made"


def test_old_recordings_go_while_their_visitor_stays(visitors: Visitors, visitor: Visitor) -> None:
    old, fresh, running = (file_in(visitor, "recordings", name) for name in ("old", "fresh", "running"))
    visitor.recordings |= {"old": Recorded(old, OLD_S), "fresh": Recorded(fresh)}
    remove_all(visitors.sweep())
    assert set(visitor.recordings) == {"fresh"}
    assert not old.exists() and fresh.exists() and running.exists()


def test_what_cannot_be_removed_does_not_keep_the_rest(visitors: Visitors, visitor: Visitor) -> None:
    folder = file_in(visitor, "recordings").parent
    other = file_in(visitor, "recordings", "other")
    visitor.recordings |= {"a folder": Recorded(folder, OLD_S), "other": Recorded(other, OLD_S)}
    remove_all(visitors.sweep())
    assert not other.exists() and not visitor.recordings


def test_the_sweeper_goes_on_after_an_error_and_thinks_in_the_loops_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SWEEP_EVERY_S", 0.001)
    thinking, deleting = [], []

    class Broken:
        def sweep(self) -> list:
            thinking.append(threading.current_thread())
            if len(thinking) == 1:
                raise RuntimeError("dictionary changed size during iteration")
            return [lambda: deleting.append(threading.current_thread())]

    async def sweeping() -> None:
        task = asyncio.create_task(server._sweep(Broken()))
        while not deleting and not task.done():
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(sweeping())
    assert len(thinking) > 1 and set(thinking) == {threading.main_thread()}
    assert deleting and threading.main_thread() not in deleting
