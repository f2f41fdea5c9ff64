"""Files coming in, the worker, and the camera's session, with fakes for detector and network."""

import json
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import cv2
import numpy as np
import pytest

import app.jobs
from app.config import LiveConfig, PageConfig
from app.jobs import Engine
from app.page import live as live_module
from app.page.live import CameraSession, decoded, encoded
from app.page.models import SharedEstimator, known_models, models_for
from app.page.uploads import PICTURE, VIDEO, clean_name, examine, kind_of, receive_upload
from app.page.visitors import Visitor
from app.page.work import CANCELLED, DONE, FAILED, Job, Worker
from core.errors import InputError
from tests.app.fakes import RectangleDetector, TubeEstimator
from tests.app.media import write_video


async def chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def received(name: str, config: PageConfig, folder: Path, *pieces: bytes) -> Path:
    async def receiving() -> Path:
        return await receive_upload(name, chunks(*pieces), folder, config)

    return anyio.run(receiving)


def test_an_upload_stops_at_the_limit_and_leaves_nothing(tmp_path: Path) -> None:
    config = PageConfig(max_upload_mb=1)
    assert received("a.mp4", config, tmp_path, b"x" * 999_999, b"y").read_bytes()[-1:] == b"y"
    for pieces in ((b"x" * 600_000, b"x" * 600_000), ()):
        with pytest.raises(InputError, match=r"takes up to 1 MB|is empty"):
            received("b.mp4", config, tmp_path, *pieces)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a.mp4"]


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\x00\x00\x00\x20ftypisom", VIDEO), (b"\x1a\x45\xdf\xa3", VIDEO), (b"RIFF1234AVI LIST", VIDEO), (b"\xff\xd8\xff\xe0", PICTURE),
        (b"\x89PNG\r\n\x1a\n", PICTURE), (b"RIFF1234WEBPVP8", PICTURE), (b"G" + bytes(187) + b"G" + bytes(200), VIDEO),
        (b"#EXTM3U\nfile:///etc/passwd", None), (b"ffconcat version 1.0\nfile /etc/passwd", None), (b"v=0\no=- 0 0 IN IP4 1.2.3.4", None),
        (b"<svg xmlns=", None), (b"", None), (b"GIF89a", VIDEO),
        (b"\x00\x00\x00\x20ftypheic", PICTURE), (b"\x00\x00\x00\x20ftypqt  ", VIDEO),
    ],
)  # fmt: skip
def test_kinds_by_their_first_bytes(head: bytes, kind: str | None) -> None:
    assert kind_of(head) == kind


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("../../etc/passwd", "passwd"), ("C:\\a\\b.mp4", "b.mp4"), ("a\r\nb\".mp4", "a__b_.mp4"), ("", "upload"), ("..", "upload"),
        ("ö ü.mov", "ö ü.mov"),
    ],
)  # fmt: skip
def test_names_lose_what_is_dangerous(name: str, clean: str) -> None:
    assert clean_name(name) == clean


def test_files_are_examined(tmp_path: Path) -> None:
    config = PageConfig(max_video_s=1, max_side_px=200)
    taken = examine(write_video(tmp_path / "short.mp4"), config)
    assert (taken.kind, taken.size_px, taken.frames) == (VIDEO, (64, 48), 10)
    long = write_video(tmp_path / "long.mp4", times_s=[index / 10 for index in range(25)])
    cv2.imwrite(str(tmp_path / "wide.png"), np.zeros((10, 300, 3), np.uint8))
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    for path, said in (
        (long, "s long; this page takes up to 1 s"),
        (tmp_path / "wide.png", "300 x 10 pixels"),
        (text, "no video or picture"),
    ):
        with pytest.raises(InputError, match=said) as error:
            examine(path, config)
        assert not path.exists() and str(tmp_path) not in str(error.value)


class Networks:
    """Gives the fake; `gate` holds jobs back while it is closed."""

    def __init__(self) -> None:
        self.config = LiveConfig()

    def estimator(self, config: LiveConfig) -> TubeEstimator:
        return TubeEstimator()

    def for_camera(self, config: LiveConfig) -> tuple[LiveConfig, SharedEstimator]:
        return config, SharedEstimator(TubeEstimator())


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    opened = threading.Event()

    class Slow(TubeEstimator):
        def from_crops(self, crops: list) -> list:
            opened.wait(10)
            return super().from_crops(crops)

    @contextmanager
    def open_engine(config: LiveConfig, estimator: object) -> Iterator[Engine]:
        yield Engine(Slow(), RectangleDetector(), config)

    monkeypatch.setattr(app.jobs, "open_engine", open_engine)
    return opened


def upload(folder: Path, name: str = "clip.mp4", seconds: float = 2.0):
    path = folder / name
    return examine(write_video(path, (96, 64), [index / 30 for index in range(round(30 * seconds))]), PageConfig())


def test_a_job_runs_reports_and_hides_our_folders(tmp_path: Path, gate: threading.Event) -> None:
    gate.set()
    with Worker(Networks(), PageConfig()) as worker:
        job = Job((upload(tmp_path),), LiveConfig(), tmp_path)
        worker.submit(job)
        wait(lambda: job.ended_s)
    assert (job.state, job.problems) == (DONE, [])
    result = job.results[0]
    assert job.step.frame == job.step.frames == 60
    assert {"overlay.mp4", "meshes.npz", "summary.json"} <= set(result.files)
    assert str(tmp_path) not in result.files["summary.json"].read_text()
    assert job.files == {str(path) for path in result.files.values()}


def test_pictures_become_overlays_and_still_meshes(tmp_path: Path, gate: threading.Event) -> None:
    gate.set()
    image = np.zeros((240, 320, 3), np.uint8)
    image[60:180, 130:170] = 255
    for name, picture in (("full.png", image), ("empty.png", image * 0)):
        cv2.imwrite(str(tmp_path / name), picture)
    with Worker(Networks(), PageConfig()) as worker:
        job = Job(tuple(examine(tmp_path / name, PageConfig()) for name in ("full.png", "empty.png")), LiveConfig(), tmp_path)
        worker.submit(job)
        wait(lambda: job.ended_s)
    assert job.state == DONE, job.problems
    assert [("overlay.png" in result.files, "people.glb" in result.files) for result in job.results] == [(True, True), (True, False)]


def test_cancelling_frees_the_worker_and_waiting_jobs_end_at_once(tmp_path: Path, gate: threading.Event) -> None:
    with Worker(Networks(), PageConfig(max_waiting=1)) as worker:
        first, second, third = (Job((upload(tmp_path, f"{index}.mp4"),), LiveConfig(), tmp_path) for index in range(3))
        worker.submit(first)
        wait(lambda: first.state == "running")
        worker.submit(second)
        assert worker.ahead_of(second) == 1
        with pytest.raises(InputError, match="waiting already"):
            worker.submit(third)
        second.cancel()
        assert second.state == CANCELLED
        first.cancel()
        gate.set()
        wait(lambda: first.ended_s)
        assert first.state == CANCELLED
        worker.submit(third)
        wait(lambda: third.ended_s)
        assert third.state == DONE


def test_one_bad_file_does_not_stop_the_others_and_a_bug_not_the_worker(tmp_path: Path, gate: threading.Event) -> None:
    gate.set()
    good, bad = upload(tmp_path), upload(tmp_path, "bad.mp4")
    bad.path.write_bytes(b"gone bad")
    with Worker(Networks(), PageConfig()) as worker:
        job = Job((bad, good), LiveConfig(), tmp_path)
        worker.submit(job)
        wait(lambda: job.ended_s)
        assert job.state == DONE and len(job.results) == 1 and job.problems[0].startswith("bad.mp4")
        assert str(tmp_path) not in job.problems[0]
        broken = Job((None,), LiveConfig(), tmp_path)
        worker.submit(broken)
        wait(lambda: broken.ended_s)
        assert broken.state == FAILED and "not your file's fault" in broken.problems[0]
        again = Job((good,), LiveConfig(), tmp_path / "again")
        worker.submit(again)
        wait(lambda: again.ended_s)
        assert again.state == DONE


def test_leaving_the_worker_ends_a_running_job(tmp_path: Path, gate: threading.Event) -> None:
    with Worker(Networks(), PageConfig()) as worker:
        job = Job((upload(tmp_path, seconds=8.0),), LiveConfig(), tmp_path)
        worker.submit(job)
        wait(lambda: job.state == "running")
        gate.set()
    assert job.state == CANCELLED
    assert "page-worker" not in {thread.name for thread in threading.enumerate()}


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[CameraSession, list]]:
    monkeypatch.setattr(live_module, "open_detector", lambda config: RectangleDetector())
    sent: list = []
    visitor = Visitor("token", tmp_path)
    session = CameraSession(visitor, sent.append, visitor.keep_recording)
    session.open(Networks(), LiveConfig())
    yield session, sent
    session.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("camera-")]


def camera_jpeg(x: int = 130) -> bytes:
    image = np.zeros((240, 320, 3), np.uint8)
    image[60:180, x : x + 40] = 255
    return encoded(image)


def take(session: CameraSession, number: int) -> None:
    session.take(struct.pack("<Id", number, 40.0 * number) + camera_jpeg(120 + number))


def replies(sent: list) -> list[tuple[dict, bytes]]:
    found = []
    for message in sent:
        if isinstance(message, bytes):
            (length,) = struct.unpack_from("<I", message)
            found.append((json.loads(message[4 : 4 + length]), message[4 + length :]))
    return found


def test_frames_come_back_with_meshes_and_are_recorded(session: tuple[CameraSession, list], tmp_path: Path) -> None:
    camera, sent = session
    for number in range(1, 30):
        take(camera, number)
        wait(lambda number=number: replies(sent) and replies(sent)[-1][0]["number"] == number)
        if number == 15:
            camera.command('{"record": true}')
    facts, jpeg = next(item for item in reversed(replies(sent)) if item[1])
    assert facts["people"] == 1
    drawn = decoded(jpeg).astype(int)
    assert (np.ptp(drawn, axis=2) > 40).sum() > 500, "nothing coloured was drawn over the white rectangle"
    assert any("hud" in facts for facts, _ in replies(sent))
    camera.command('{"record": false}')
    recorded = json.loads(next(message for message in sent if isinstance(message, str)))["recorded"]
    assert recorded["frames"] >= 10 and (tmp_path / "recordings" / recorded["name"]).stat().st_size == recorded["bytes"]


def test_a_slower_way_to_run_the_network_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SharedEstimator(TubeEstimator(warning="the network runs in PyTorch, which is slower"))
    networks = Networks()
    monkeypatch.setattr(networks, "for_camera", lambda config: (config, slow))
    monkeypatch.setattr(live_module, "open_detector", lambda config: RectangleDetector())
    sent: list = []
    visitor = Visitor("token", tmp_path)
    camera = CameraSession(visitor, sent.append, visitor.keep_recording)
    camera.open(networks, LiveConfig())
    take(camera, 1)
    wait(lambda: replies(sent))
    camera.close()
    assert replies(sent)[0][0]["hud"]["warnings"] == [slow.warning]


@pytest.mark.parametrize("show_hidden", [False, True])
def test_hidden_parts_are_drawn_for_a_camera_when_the_flag_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, show_hidden: bool
) -> None:
    drawn_whole = []
    monkeypatch.setattr(live_module, "open_detector", lambda config: RectangleDetector())
    monkeypatch.setattr(live_module, "draw_overlay", lambda scene, _, weights: drawn_whole.append(weights is None) or scene.frame.image)
    visitor = Visitor("token", tmp_path)
    camera = CameraSession(visitor, list, visitor.keep_recording)
    camera.open(Networks(), LiveConfig(show_hidden=show_hidden))
    take(camera, 1)
    wait(lambda: drawn_whole)
    camera.close()
    assert drawn_whole == [show_hidden]


def test_the_newest_frame_wins(session: tuple[CameraSession, list]) -> None:
    camera, sent = session
    for number in range(1, 60):
        take(camera, number)
    wait(lambda: replies(sent) and replies(sent)[-1][0]["number"] == 59)
    assert len(replies(sent)) < 59


@pytest.mark.parametrize(
    "message",
    [b"", b"123", struct.pack("<Id", 1, 5.0) + b"no jpeg", struct.pack("<Id", 1, 5.0) + encoded(np.zeros((8, 2000, 3), np.uint8))],
)
def test_what_is_no_camera_picture_ends_the_session_in_words(session: tuple[CameraSession, list], message: bytes) -> None:
    camera, sent = session
    try:
        camera.take(message)
        wait(lambda: any(isinstance(item, str) and "camera's" in item for item in sent))
    except InputError as error:
        assert "camera's" in str(error)  # noqa: PT017 - told at once, or by the thread


def test_models_say_what_they_may_be_used_for() -> None:
    models = known_models(LiveConfig())
    assert models["default"].body == "anny" and models["default"].commercial_use == "yes" and "Apache-2.0" in models["default"].licence
    assert models_for(models, "auto")[0] == "default" and "default" not in models_for(models, "smpl")


def wait(ready: Callable[[], object], timeout_s: float = 20.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < end_s, "waited too long"
        time.sleep(0.01)


def test_leaving_does_not_wait_for_a_network_that_is_being_loaded() -> None:
    class Slow(Networks):
        def estimator(self, config: LiveConfig) -> TubeEstimator:
            loading.set()
            assert released.wait(30)
            return super().estimator(config)

    loading, released = threading.Event(), threading.Event()
    with Worker(Slow(), PageConfig()) as worker:
        assert loading.wait(10)
        start_s = time.perf_counter()
    took_s = time.perf_counter() - start_s
    released.set()
    worker._thread.join(10)
    assert took_s < 1
    assert not worker._thread.is_alive(), "and it ends by itself"


def test_photographs_of_iphones_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "uploads" / "IMG_0001.HEIC"
    path.parent.mkdir()
    path.write_bytes((Path(__file__).parents[1] / "person.heic").read_bytes())
    taken = examine(path, PageConfig())
    assert (taken.kind, taken.size_px) == (PICTURE, (160, 120))
    with pytest.raises(InputError, match="this page takes up to 100 a side"):
        examine(path, PageConfig(max_side_px=100))
