"""--webcam without a window, as it is started."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

import app.webcam
from app.camera import Camera
from app.config import LiveConfig
from app.governor import Governor
from app.hud import HudMeter
from app.live import LivePipeline
from app.liveloop import LiveLoop
from app.session import SessionReader
from app.webcam import run_webcam
from core.errors import InputError
from tests.app.launching import outcome
from tests.app.live_fakes import CONFIG, begun, open_fake, somebody, until
from tests.app.media import write_video
from tests.app.mjpeg import MjpegCamera
from tests.app.test_camera import camera_threads


@pytest.fixture
def fake_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.webcam, "open_pipeline", lambda _: open_fake())


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A second, with somebody in it."""
    return write_video(tmp_path / "clip.mp4", (96, 64), [index / 30 for index in range(30)])


@pytest.mark.usefixtures("fake_network")
def test_a_file_without_a_window_is_recorded_to_its_end(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = outcome(capsys, "--webcam", clip, "--headless", "--record", tmp_path / "a.arrows")
    assert code == 0
    assert "clip.mp4: " in out
    assert "1 person" in out
    assert "recorded" in out
    assert len(list(SessionReader(tmp_path / "a.arrows"))) > 5
    until(lambda: not camera_threads())


def test_a_file_waits_for_the_network(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_slowly(_: LiveConfig) -> LivePipeline:
        time.sleep(1.5)  # longer than the clip
        return open_fake()

    monkeypatch.setattr(app.webcam, "open_pipeline", open_slowly)
    run_webcam(str(clip), replace(CONFIG, record=tmp_path / "a.arrows"), tmp_path)
    times_s = [scene.frame.time_s for scene in SessionReader(tmp_path / "a.arrows")]
    assert times_s[0] < 0.2  # frames are dropped on a busy machine
    assert times_s[-1] == pytest.approx(29 / 30, abs=0.1)


def test_a_session_that_ends_before_the_network_is_there_says_that_nothing_is_recorded(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    monkeypatch.setattr(app.webcam, "open_pipeline", lambda _: ended.wait(60) and open_fake())
    threading.Timer(0.3, signal.raise_signal, (signal.SIGINT,)).start()
    said, complete = run_webcam(str(clip), replace(CONFIG, record=tmp_path / "a.arrows"), tmp_path)
    ended.set()
    assert "nothing recorded to" in said
    assert not complete
    assert not (tmp_path / "a.arrows").exists()


def test_the_duration_begins_when_the_network_is_there(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_slowly(_: LiveConfig) -> LivePipeline:
        time.sleep(1.5)
        return open_fake()

    monkeypatch.setattr(app.webcam, "open_pipeline", open_slowly)
    _, complete = run_webcam(str(clip), replace(CONFIG, loop=True, record=tmp_path / "a.arrows", duration_s=1.0), tmp_path)
    assert complete
    assert len(list(SessionReader(tmp_path / "a.arrows"))) > 2


def test_a_network_that_fails_ends_a_file_that_waits(clip: Path) -> None:
    with pytest.raises(InputError, match="nosuchnetwork"):
        run_webcam(str(clip), replace(CONFIG, checkpoint="nosuchnetwork"), Path())
    until(lambda: not camera_threads())


def test_a_network_camera_that_dies_and_returns_keeps_its_people() -> None:
    with (
        MjpegCamera(size_px=(96, 64)) as server,
        Camera(server.url) as camera,
        LiveLoop(camera, begun(), Governor(), HudMeter()) as loop,
    ):
        until(lambda: somebody(loop))
        server.die()
        until(lambda: "trying again" in loop.hud().source)
        time.sleep(1.5)
        before = loop.newest
        with MjpegCamera(server.port, size_px=(96, 64)):
            until(lambda: loop.newest is not before and somebody(loop))
            assert somebody(loop) == [1]
            assert "trying again" not in loop.hud().source


@pytest.mark.usefixtures("fake_network")
def test_sources_that_do_not_open_exit_1(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = outcome(capsys, "--webcam", "nowhere.mp4", "--headless")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "no such file" in err


@pytest.mark.usefixtures("fake_network")
def test_no_display_is_one_line_and_1(clip: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux may be without a display")
    code, out, err = outcome(capsys, "--webcam", clip)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "no display" in err
    assert "--page" in err


def test_a_missing_network_is_one_line(clip: Path) -> None:
    with pytest.raises(InputError, match="nosuchnetwork"):
        run_webcam(str(clip), replace(CONFIG, checkpoint="nosuchnetwork", loop=True), Path())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_with_0_and_leaves_a_whole_recording(number: int, clip: Path, tmp_path: Path) -> None:
    program = (
        "import app.webcam, launch, sys\n"
        "from tests.app.live_fakes import open_fake\n"
        "app.webcam.open_pipeline = lambda config: open_fake()\n"
        "sys.exit(launch.main(sys.argv[1:]))\n"
    )
    path = tmp_path / "a.arrows"
    arguments = ["--webcam", str(clip), "--loop", "--headless", "--record", str(path)]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True, cwd=Path(app.webcam.__file__).parents[1]
    )
    try:
        until(lambda: (path.is_file() and path.stat().st_size > 20_000) or process.poll() is not None, 60)
        start_s = time.perf_counter()
        os.kill(process.pid, number)
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()  # on a machine so busy that it never began, it would run for ever
    assert process.returncode == 0
    assert time.perf_counter() - start_s < 15, "a second, but on a machine that is busy with other tests"
    assert " frames in " in out
    assert len(list(SessionReader(path))) > 2
    assert SessionReader(path).warning is None
