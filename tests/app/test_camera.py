"""Live sources: an HTTP camera that stalls, dies and comes back; files played as a camera; sources that do not open."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import app.camera
from app.camera import Address, Camera, Captured, Pictures, read_file
from app.threads import Mailbox
from core.errors import InputError
from tests.app.media import write_video
from tests.app.mjpeg import MjpegCamera


def until(camera: Camera, reached: Callable[[Captured | None], bool], limit_s: float = 40.0) -> float:
    """Take frames until something is true of camera or frame; the time it took."""
    start_s = time.perf_counter()
    while time.perf_counter() - start_s < limit_s:
        if reached(camera.take(0.02)):
            return time.perf_counter() - start_s
    raise AssertionError(f"not within {limit_s} s; the source is {camera.status}")


def camera_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("camera-")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    deadline_s = time.perf_counter() + 4
    while camera_threads() and time.perf_counter() < deadline_s:
        time.sleep(0.05)
    assert camera_threads() == []


def test_the_newest_frame_wins() -> None:
    mailbox: Mailbox[int] = Mailbox()
    for item in (1, 2, 3):
        mailbox.put(item)
    assert mailbox.take(0) == 3
    assert mailbox.take(0.01) is None
    threading.Timer(0.05, mailbox.close).start()
    start_s = time.perf_counter()
    assert mailbox.take(5) is None
    assert time.perf_counter() - start_s < 2
    assert mailbox.closed


def test_a_try_that_comes_after_closing_starts_no_thread() -> None:
    with MjpegCamera() as server, Camera(server.url) as camera:
        until(camera, lambda captured: captured is not None)
    camera._try()
    assert [connection for connection in camera._connections if connection.is_alive()] == []


def test_http_pictures_are_rgb_and_timed_by_their_arrival() -> None:
    with MjpegCamera() as server, Camera(server.url) as camera:
        frames = []
        until(camera, lambda captured: captured is not None and (frames.append(captured) or len(frames) == 10))
        assert camera.status.state == "open"
        image = frames[0].frame.image
        assert image.shape == (120, 160, 3)
        assert image[60, 20, 0] > 150, "red on the left"
        assert image[60, 20, 2] < 90
        assert image[60, 140, 2] > 150, "blue on the right"
        assert image[60, 140, 0] < 90
        times = np.array([captured.frame.time_s for captured in frames])
        assert (np.diff(times) > 0).all()
        assert np.diff(times).mean() == pytest.approx(0.04, rel=0.8)
        assert all(abs(captured.taken_s - time.perf_counter()) < 5 for captured in frames)


def test_a_stall_is_noticed_and_the_stream_goes_on_by_itself() -> None:
    with MjpegCamera() as server, Camera(server.url) as camera:
        until(camera, lambda captured: captured is not None)
        server.stalled = True
        time.sleep(0.1)
        camera.take(0)
        assert 0.5 < until(camera, lambda _: camera.status.state != "open") < 2.5
        assert "trying again" in camera.status.text
        server.stalled = False
        assert until(camera, lambda captured: captured is not None) < 2
        assert camera.status.state == "open"


def test_a_long_stall_is_tried_again_and_back_within_two_seconds() -> None:
    with MjpegCamera() as server, Camera(server.url) as camera:
        until(camera, lambda captured: captured is not None)
        server.stalled = True
        time.sleep(3.5)  # longer than the read time-out: the first connection is gone
        assert camera.status.state in ("stalled", "retrying")
        assert len(camera_threads()) <= 6
        server.stalled = False
        camera.take(0)
        assert until(camera, lambda captured: captured is not None) < 2


def test_a_dead_server_that_returns_is_found_again() -> None:
    with MjpegCamera() as server, Camera(server.url) as camera:
        until(camera, lambda captured: captured is not None)
        last = []
        server.die()
        until(camera, lambda captured: (captured and last.append(captured)) or camera.status.state == "retrying")
        time.sleep(1.5)
        with MjpegCamera(server.port):
            returned = []
            assert until(camera, lambda captured: captured is not None and not returned.append(captured)) < 2
            if last:
                assert returned[0].frame.index > last[-1].frame.index
                assert returned[0].frame.time_s > last[-1].frame.time_s + 1.4


def test_closing_while_stalled_is_quick() -> None:
    with MjpegCamera() as server:
        with Camera(server.url) as camera:
            until(camera, lambda captured: captured is not None)
            server.stalled = True
            until(camera, lambda _: camera.status.state == "stalled")
            start_s = time.perf_counter()
        assert time.perf_counter() - start_s < 1
        assert camera.ended


def test_a_server_that_never_answers_is_given_up_after_three_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start_s = time.perf_counter()
        with pytest.raises(InputError, match=r"--webcam: http://127.0.0.1:\d+/x"), Camera(f"http://127.0.0.1:{silent.getsockname()[1]}/x"):
            pass
        assert 1 < time.perf_counter() - start_s < 5


@pytest.mark.parametrize(("address", "said"), [
    ("http://127.0.0.1:9/none", "cannot be opened"), ("97", "camera 97 cannot be opened; is it plugged in"),
    ("nowhere.mp4", "no such file; expected a camera's number"), ("", "no such file"),
])  # fmt: skip
def test_sources_that_do_not_open_are_one_clear_line(address: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught, Camera(address):
        pass
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"nothing" * 100)
    with pytest.raises(InputError, match="not a readable video"), Camera(str(path)):
        pass


@pytest.mark.parametrize(("url", "shown"), [
    ("rtsp://10.0.0.1:554/stream/1", "rtsp://10.0.0.1:554/stream/1"),
    ("rtsp://user:secret@10.0.0.1/stream", "rtsp://10.0.0.1/stream"),
    ("rtsp://user:se@cret@10.0.0.1/stream", "rtsp://10.0.0.1/stream"),
    ("rtsp://user:se/cret@10.0.0.1/stream", "rtsp://10.0.0.1/stream"),
    ("rtsp://user:se?cret@10.0.0.1/stream", "rtsp://..."),
    ("rtsp://user:se#cret@10.0.0.1/stream", "rtsp://..."),
    ("http://10.0.0.1/video?user=a&pwd=secret", "http://10.0.0.1/video"),
    ("http://10.0.0.1/video?user=a&pwd=se@cret", "http://..."),
    ("http://user:secret@10.0.0.1/video#secret", "http://10.0.0.1/video"),
    ("rtsp://10.0.0.1:554/user=a&password=secret&channel=1/live", "rtsp://10.0.0.1:554"),
])  # fmt: skip
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    address = Address.parse(url)
    assert (address.kind, address.value, address.shown) == ("stream", url, shown)


def test_cameras_have_a_number_or_a_file() -> None:
    assert Address.parse("2").kind == Address.parse("/dev/video0").kind == "device"


def test_a_file_runs_at_its_own_rate_and_ends(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", times_s=[index / 20 for index in range(21)])
    start_s = time.perf_counter()
    with Camera(str(clip)) as camera:
        taken = []
        while not camera.ended:
            captured = camera.take(0.1)
            taken += [captured] if captured else []
        elapsed_s = time.perf_counter() - start_s
    assert 0.9 < elapsed_s < 3
    assert camera.status.state == "ended"
    assert len(taken) > 12
    for captured in taken:
        assert captured.frame.time_s == pytest.approx(captured.frame.index / 20, abs=0.002)


def test_a_file_that_is_slow_to_open_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(app.camera.OPEN_TIMEOUT_S, "stream", 0.1)
    clip = write_video(tmp_path / "clip.mp4", times_s=[index / 20 for index in range(5)])

    def connect(address: Address) -> Pictures:
        time.sleep(1.0)  # longer than a stream may take here
        yield from read_file(address, loop=False)

    with Camera(str(clip), connect=connect) as camera:
        assert camera.take(1.0) is not None


def test_a_slow_taker_gets_the_newest_frame_of_a_file(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", times_s=[index / 50 for index in range(60)])
    with Camera(str(clip)) as camera:
        time.sleep(0.6)
        assert camera.take(0.1).frame.time_s > 0.3


def test_a_file_in_a_loop_goes_on_with_growing_times(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", times_s=[index / 50 for index in range(10)])
    with Camera(str(clip), loop=True) as camera:
        times = []
        until(camera, lambda captured: captured is not None and (times.append(captured.frame.time_s) or times[-1] > 0.7))
        assert (np.diff(times) > 0).all()
        assert not camera.ended


def test_an_unplugged_camera_is_tried_until_it_returns() -> None:
    """A device that gives five pictures, is away for a second, and comes back; only one connection at a time."""
    plugged, open_now, most = threading.Event(), [], []
    plugged.set()

    def connect(_: Address) -> Iterator[tuple[np.ndarray, None]]:
        open_now.append(1)
        most.append(len(open_now))
        try:
            if not plugged.is_set():
                raise InputError("cannot be opened")
            for _ in range(1000):
                if not plugged.is_set():
                    return
                yield np.zeros((24, 32, 3), np.uint8), None
                time.sleep(0.02)
        finally:
            open_now.pop()

    with Camera("0", connect=connect) as camera:
        until(camera, lambda captured: captured is not None)
        plugged.clear()
        until(camera, lambda _: camera.status.state == "retrying")
        time.sleep(1.2)
        plugged.set()
        camera.take(0)
        assert until(camera, lambda captured: captured is not None) < 2
        assert camera.status.state == "open"
    assert max(most) == 1


def test_a_camera_that_is_slow_to_open_is_waited_for_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(app.camera, "PATIENCE_S", 0.2)

    def connect(_: Address) -> Pictures:
        time.sleep(0.6)
        yield np.zeros((24, 32, 3), np.uint8), None
        time.sleep(1)

    with caplog.at_level("INFO"), Camera("0", connect=connect) as camera:
        assert camera.take(0.1) is not None
    assert [line for line in caplog.messages if "slow" in line] == ["camera 0 is slow to open; waiting for up to 30 s"]
    monkeypatch.setitem(app.camera.OPEN_TIMEOUT_S, "device", 0.0)
    with pytest.raises(InputError, match="camera 0 gave no picture within 0 s"), Camera("0", connect=connect):
        pass


@pytest.mark.parametrize(
    ("system", "said"), [("darwin", "allow it and start again"), ("win32", "desktop apps"), ("linux", "the right one")]
)
def test_systems_that_keep_cameras_to_themselves_are_named(system: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.camera.sys, "platform", system)

    def connect(_: Address) -> Pictures:
        raise InputError("cannot be opened")
        yield

    with pytest.raises(InputError, match=f"camera 0 cannot be opened; .*{said}"), Camera("0", connect=connect):
        pass


def test_libraries_are_told_before_they_are_loaded() -> None:
    """OpenCV reads once how it is to open cameras on Windows."""
    program = (
        "import os, sys, launch\nassert 'cv2' not in sys.modules\nlaunch.run = lambda asked: print("
        "'cv2' in sys.modules, os.environ['OPENCV_VIDEOIO_MSMF_ENABLE_HW_TRANSFORMS']) or 0\nlaunch.main(['--webcam', '0'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "0"]
