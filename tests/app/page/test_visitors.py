"""What the page keeps for its visitors, and for how long."""

import asyncio
import errno
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

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


def test_an_upload_that_is_removed_goes_when_no_job_needs_it(visitors: Visitors, visitor: Visitor) -> None:
    used, unused = old_upload(visitor, "used"), old_upload(visitor, "unused")
    job = Job((used,), LiveConfig(), visitor.make_folder("jobs"))
    visitor.jobs[job.id] = job
    for upload in (used, unused):
        visitor.remove_upload(upload.id)
    visitor.remove_upload("never there")
    remove_all(visitors.sweep())
    assert used.path.exists() and not unused.path.exists()
    job.end(DONE)
    remove_all(visitors.sweep())
    assert not visitor.uploads and not used.path.exists()


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


class Uploads:
    """Sends files to the page's routes; each waits in the middle until `open` is set."""

    def __init__(self, visitor: Visitor, config: PageConfig) -> None:
        self.open, self.is_in_the_middle = asyncio.Event(), asyncio.Event()
        self._app, self._visitor = FastAPI(), visitor
        server.add_routes(self._app, config, None)

    async def send(self, num_bytes: int, announced: bool = True) -> httpx.Response:
        """num_bytes: of the file, in two halves; announced: as the Content-Length."""

        async def halves() -> AsyncIterator[bytes]:
            yield b"x" * (num_bytes // 2)
            self.is_in_the_middle.set()
            await self.open.wait()
            yield b"x" * (num_bytes - num_bytes // 2)

        headers = {"content-length": str(num_bytes)} if announced else {}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self._with_visitor), base_url="http://page") as client:
            return await client.post("/page/upload?name=a.mp4", content=halves(), headers=headers)

    async def _with_visitor(self, scope: dict, receive: object, send: object) -> None:
        scope["visitor"] = self._visitor
        await self._app(scope, receive, send)


@pytest.mark.parametrize(
    ("max_files", "sizes", "announced", "said"),
    [
        (1, [10, 10], True, "1 files are waiting"),
        (9, [900_000, 900_000, 900_000], True, "too large together"),
        (9, [10] * 3, False, "too large"),
    ],
)
def test_uploads_under_way_count(visitor: Visitor, max_files: int, sizes: list[int], announced: bool, said: str) -> None:
    async def sending() -> None:
        uploads = Uploads(visitor, PageConfig(max_upload_mb=1, max_files=max_files))
        *before, last = sizes
        tasks = []
        for size in before:
            uploads.is_in_the_middle.clear()
            tasks.append(asyncio.create_task(uploads.send(size, announced)))
            await asyncio.wait_for(uploads.is_in_the_middle.wait(), 10)
        refused = await asyncio.wait_for(uploads.send(last, announced), 10)
        assert refused.status_code == 429 and said in refused.json()["error"]
        uploads.open.set()
        assert {answer.status_code for answer in await asyncio.gather(*tasks)} == {422}, "no video"
        assert (await uploads.send(last, announced)).status_code == 422, "and there is room again"

    asyncio.run(sending())
    assert visitor.arriving_bytes == []


def test_an_upload_that_breaks_off_leaves_nothing_and_is_no_error(visitor: Visitor) -> None:
    app, answers = FastAPI(), []
    server.add_routes(app, PageConfig(), None)
    messages = [{"type": "http.request", "body": b"x", "more_body": True}, {"type": "http.disconnect"}]
    scope = {"type": "http", "method": "POST", "path": "/page/upload", "query_string": b"name=a.mp4", "headers": [], "visitor": visitor}

    async def receive() -> dict:
        return messages.pop(0)

    async def send(message: dict) -> None:
        answers.append(message)

    asyncio.run(app(scope, receive, send))
    assert answers[0]["status"] == 400
    assert not [path for path in visitor.folder.rglob("*") if path.is_file()] and visitor.arriving_bytes == []


def test_a_full_disk_refuses_an_upload_in_words(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: object) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device", "/page/secret")

    monkeypatch.setattr(server, "receive_upload", full)
    answer = asyncio.run(Uploads(visitor, PageConfig()).send(10))
    assert answer.status_code == 507
    assert "could not keep a.mp4 (No space left on device)" in answer.json()["error"] and "secret" not in answer.text
    assert visitor.arriving_bytes == []
