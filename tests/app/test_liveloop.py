"""The loop with a fake camera and fake sinks, and --webcam without a window."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import app.webcam
from app.camera import Camera
from app.config import LiveConfig
from app.governor import Governor, Plan
from app.hud import Hud, HudMeter
from app.live import LivePipeline
from app.liveloop import LiveLoop, Moment
from app.session import SessionReader, SessionRecorder
from app.threads import Begun
from app.types import Scene
from app.webcam import LiveSession, Recorder, run_webcam
from core.errors import InputError
from tests.app.fakes import RectangleDetector, TubeEstimator
from tests.app.launching import outcome
from tests.app.media import mesh, scene, write_video
from tests.app.mjpeg import MjpegCamera
from tests.app.test_camera import camera_threads

CONFIG = LiveConfig(headless=True)


def pictures(fps: float = 60.0) -> Iterator[tuple[np.ndarray, None]]:
    """A person in the middle, for ever."""
    image = np.zeros((120, 160, 3), np.uint8)
    image[20:100, 60:90] = 255
    while True:
        yield image, None
        time.sleep(1 / fps)


def open_fake(estimator: TubeEstimator | None = None) -> LivePipeline:
    return LivePipeline(estimator or TubeEstimator(), RectangleDetector(), CONFIG)


def begun(open_pipeline: Callable[[], LivePipeline] = open_fake) -> Begun[LivePipeline]:
    return Begun("live-load", open_pipeline)


def fake_camera(fps: float = 60.0) -> Camera:
    return Camera("0", connect=lambda _: pictures(fps))


def until(reached: object, limit_s: float = 60.0) -> None:
    end_s = time.perf_counter() + limit_s
    while not reached():
        assert time.perf_counter() < end_s, "never happened"
        time.sleep(0.01)


def somebody(loop: LiveLoop) -> list[int]:
    """Ids of those in the newest scene."""
    return [] if loop.newest is None else [mesh.track_id for mesh in loop.newest.scene.meshes]


class Kept:
    """A sink that remembers; fails at the frame `breaks_at`."""

    def __init__(self, breaks_at: int | None = None) -> None:
        self.scenes: list[Scene] = []
        self.breaks_at, self.closed = breaks_at, False

    def write(self, scene: Scene) -> None:
        if len(self.scenes) == self.breaks_at:
            raise OSError("disk full")
        self.scenes.append(scene)

    def close(self) -> None:
        self.closed = True


class FakeWindow:
    """Draws nothing; fails for ever from the drawing `breaks_at` on; closes after `closes_at` drawings."""

    paused = False

    def __init__(self, breaks_at: int | None = None, closes_at: int | None = None) -> None:
        self.breaks_at, self.closes_at = breaks_at, closes_at
        self.drawn: list[tuple[Scene, Hud, str]] = []
        self.tried, self.num_polls, self.closed, self.body = 0, 0, False, None

    def set_body(self, body: object, joint_weights: np.ndarray) -> None:
        assert joint_weights.shape == (30, 14)
        self.body = body

    def show(self, scene: Scene, hud: Hud, source_state: str) -> None:
        self.tried += 1
        if self.breaks_at is not None and self.tried > self.breaks_at:
            raise RuntimeError("the graphics driver gave up")
        self.drawn.append((scene, hud, source_state))

    def poll(self) -> bool:
        self.num_polls += 1
        return self.closes_at is None or len(self.drawn) < self.closes_at

    def close(self) -> None:
        self.closed = True


def session(loop: LiveLoop, camera: Camera, tmp_path: Path, **changes: object) -> tuple[LiveSession, threading.Event]:
    stop, config = threading.Event(), replace(CONFIG, **changes)
    return LiveSession(camera, loop, Recorder(loop, config, tmp_path), config, stop), stop


def test_scenes_reach_the_sinks_in_order_and_all_ends() -> None:
    kept = Kept()
    with fake_camera() as camera, LiveLoop(camera, begun(), Governor(), HudMeter()) as loop:
        loop.attach("kept", kept)
        until(lambda: len(kept.scenes) > 20)
        start_s = time.perf_counter()
    assert time.perf_counter() - start_s < 1
    assert kept.closed
    times = [scene.frame.time_s for scene in kept.scenes]
    assert times == sorted(times)
    assert kept.scenes[-1].meshes[0].track_id == 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("live-", "camera-"))]


def test_a_failing_sink_is_told_once_and_the_loop_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    broken, kept = Kept(breaks_at=3), Kept()
    with fake_camera() as camera, LiveLoop(camera, begun(), Governor(), HudMeter()) as loop:
        loop.attach("broken", broken)
        loop.attach("kept", kept)
        until(lambda: len(kept.scenes) > 20)
        assert loop.hud().warnings == ("broken failed: disk full",)
        loop.check()
    assert broken.closed
    assert sum("disk full" in record.message for record in caplog.records) == 1


def test_a_sink_that_takes_long_to_close_does_not_stop_the_loop() -> None:
    class Slow(Kept):
        def close(self) -> None:
            self.closed = may_end.wait(60)

    slow, kept, may_end = Slow(), Kept(), threading.Event()
    with fake_camera() as camera, LiveLoop(camera, begun(), Governor(), HudMeter()) as loop:
        loop.attach("slow", slow)
        loop.attach("kept", kept)
        until(lambda: slow.scenes)
        detaching = threading.Thread(target=loop.detach, args=("slow",), daemon=True)
        detaching.start()
        try:
            until(lambda: len(kept.scenes) > len(slow.scenes) + 5, 20)
        finally:
            may_end.set()
        detaching.join(10)
    assert slow.closed


def test_a_failed_sink_that_takes_long_to_close_keeps_nobody_else_waiting() -> None:
    class Stuck(Kept):
        def close(self) -> None:
            closing.set()
            self.closed = may_end.wait(60)

    stuck, kept, closing, may_end = Stuck(breaks_at=0), Kept(), threading.Event(), threading.Event()
    with fake_camera() as camera, LiveLoop(camera, begun(), Governor(), HudMeter()) as loop:
        loop.attach("stuck", stuck)
        assert closing.wait(60)
        attaching = threading.Thread(target=loop.attach, args=("kept", kept), daemon=True)
        attaching.start()
        attaching.join(5)
        waited = attaching.is_alive()
        may_end.set()
        assert not waited
        until(lambda: kept.scenes)
    assert stuck.closed


def test_a_failing_model_ends_the_loop_and_reaches_the_main_thread() -> None:
    class Breaks(TubeEstimator):
        def from_crops(self, crops: list) -> list:
            raise RuntimeError("a bug in the model")

    with fake_camera() as camera, LiveLoop(camera, begun(lambda: open_fake(Breaks())), Governor(), HudMeter()) as loop:
        until(lambda: loop.finished)
        with pytest.raises(RuntimeError, match="a bug in the model"):
            loop.check()


def test_the_picture_is_shown_while_the_network_loads() -> None:
    loaded = threading.Event()

    def slowly() -> LivePipeline:
        assert loaded.wait(10)
        return open_fake()

    with fake_camera() as camera, LiveLoop(camera, begun(slowly), Governor(), HudMeter()) as loop:
        until(lambda: loop.newest is not None)
        assert not loop.newest.estimated
        assert loop.hud().governor == "loading the network"
        loaded.set()
        until(lambda: loop.newest.estimated and somebody(loop))
        assert loop.hud().governor.startswith("default  |  target"), "and which network it is"


def test_a_slow_network_drops_frames_instead_of_falling_behind() -> None:
    class Slow(TubeEstimator):
        def from_crops(self, crops: list) -> list:
            time.sleep(0.08)
            return super().from_crops(crops)

    ages = []
    with fake_camera(fps=100) as camera, LiveLoop(camera, begun(lambda: open_fake(Slow())), Governor(), HudMeter()) as loop:
        shown: Moment | None = None
        end_s = time.perf_counter() + 2
        while time.perf_counter() < end_s:
            moment = loop.wait_newer(shown, 0.1)
            if moment is not None and moment.estimated:
                ages.append(time.perf_counter() - moment.taken_s)
                shown = moment
        indices = [shown.scene.frame.index]
    assert np.median(ages[len(ages) // 2 :]) < 0.35, "the age of what is shown stays that of one frame's work"
    assert indices[0] > 2 * len(ages), "most frames were skipped"


def test_the_governor_slows_inference_down() -> None:
    class Slow(TubeEstimator):
        def from_crops(self, crops: list) -> list:
            time.sleep(0.015)
            return super().from_crops(crops)

    governor = Governor(target_ms=8.0)
    with fake_camera() as camera, LiveLoop(camera, begun(lambda: open_fake(Slow())), governor, HudMeter()) as loop:
        until(lambda: governor.plan.infer_interval_ms > 0, 20)
        assert "inference" in loop.hud().governor


def test_a_slower_way_to_run_the_network_is_shown() -> None:
    slow = TubeEstimator(warning="the network runs in PyTorch, which is slower")
    with fake_camera() as camera, LiveLoop(camera, begun(lambda: open_fake(slow)), Governor(), HudMeter()) as loop:
        until(lambda: loop.pipeline is not None and loop.hud().warnings)
        assert loop.hud().lines()[-1] == f"! {slow.warning}"


def test_a_failing_renderer_never_stops_inference(tmp_path: Path) -> None:
    window, kept, meter = FakeWindow(breaks_at=3), Kept(), HudMeter()
    never_in_time = 0.001  # ms
    with fake_camera() as camera, LiveLoop(camera, begun(), Governor(never_in_time), meter) as loop:
        loop.attach("kept", kept)
        live, _ = session(loop, camera, tmp_path, duration_s=2.0)
        live.run(window)
        loop.check()
        assert (loop.governor.target_ms, loop.governor.plan.draw_fps) == (never_in_time, Plan().draw_fps)
        assert loop.governor.plan.infer_interval_ms == 0, "the network does not rest for a window that is gone"
        assert loop.hud().warnings == ("drawing failed: the graphics driver gave up",)
    assert window.closed, "a window that keeps failing is given up"
    assert len(window.drawn) == 3
    assert kept.scenes[-1].frame.time_s > 1.5, "inference went on"


def test_a_window_that_does_not_take_the_body_at_once_is_told_again(tmp_path: Path) -> None:
    class Hesitates(FakeWindow):
        def set_body(self, body: object, joint_weights: np.ndarray) -> None:
            self.told = getattr(self, "told", 0) + 1
            if self.told == 1:
                raise RuntimeError("not now")
            super().set_body(body, joint_weights)

    window = Hesitates(closes_at=30)
    with fake_camera() as camera, LiveLoop(camera, begun(), Governor(), HudMeter()) as loop:
        live, _ = session(loop, camera, tmp_path)
        live.run(window)
        assert loop.hud().warnings == ("drawing failed: not now",)
    assert window.told == 2 and window.body is not None


def test_the_window_gets_body_scenes_numbers_and_closing_it_ends(tmp_path: Path) -> None:
    window, meter = FakeWindow(closes_at=30), HudMeter()
    with fake_camera() as camera, LiveLoop(camera, begun(), Governor(), meter) as loop:
        live, _ = session(loop, camera, tmp_path)
        live.run(window)
    assert window.closed
    assert window.body is not None
    assert {state for _, _, state in window.drawn} == {"open"}
    hud = window.drawn[-1][1]
    assert hud.source.startswith("camera 0 160x120")
    assert hud.infer_fps > 0.5
    assert 0 < hud.latency_ms < 5000
    assert hud.num_people == 1
    assert "glass to mesh" in meter.summary(time.perf_counter())


def test_drawing_keeps_to_the_plan(tmp_path: Path) -> None:
    window = FakeWindow()
    with fake_camera(fps=120) as camera, LiveLoop(camera, begun(), Governor(), HudMeter()) as loop:
        live, _ = session(loop, camera, tmp_path, duration_s=2.0)
        live.run(window)
    assert 5 < len(window.drawn) < 2 * 36, "30 a second and a little slack"
    assert window.num_polls < 2 * 150, "a loop that never pauses keeps Python's lock from the network"


def test_the_record_key_starts_and_stops(tmp_path: Path) -> None:
    with fake_camera() as camera, LiveLoop(camera, begun(), Governor(), HudMeter()) as loop:
        recorder = Recorder(loop, CONFIG, tmp_path / "sessions")
        until(lambda: somebody(loop))
        assert recorder.text == ""
        recorder.toggle()
        until(lambda: "recording session-" in recorder.text and "0 frames" not in recorder.text)
        recorder.toggle()
        assert recorder.text == ""
        recorder.toggle()
        time.sleep(0.2)
    paths = list((tmp_path / "sessions").iterdir())
    assert len(paths) == 2
    for path in paths:
        reader = SessionReader(path)
        scenes = list(reader)
        assert scenes
        assert scenes[-1].meshes[0].vertices_m.shape == (30, 3)


def test_the_record_key_says_when_it_is_too_early(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loaded = threading.Event()
    with fake_camera() as camera, LiveLoop(camera, begun(lambda: loaded.wait(60) and open_fake()), Governor(), HudMeter()) as loop:
        recorder = Recorder(loop, CONFIG, tmp_path / "sessions")
        assert recorder.text == ""
        recorder.toggle()
        assert recorder.text == "! no recording yet: the network is still loading"
        assert recorder.text[2:] in caplog.text
        loaded.set()
        until(lambda: somebody(loop))
        assert recorder.text == ""
    assert not (tmp_path / "sessions").exists()


def test_a_recording_that_stops_is_no_whole_one_in_the_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(recorder: SessionRecorder, scene: Scene) -> None:
        if recorder.num_frames == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(recorder, scene)

    write = SessionRecorder._write
    monkeypatch.setattr(SessionRecorder, "_write", full)
    path = tmp_path / "a.arrows"
    with fake_camera() as camera, LiveLoop(camera, begun(), Governor(), HudMeter()) as loop:
        recorder = Recorder(loop, replace(CONFIG, record=path), tmp_path)
        until(lambda: somebody(loop))
        recorder.start_if_wanted()
        until(lambda: "No space left" in recorder.text)
        assert recorder.text == f"! the recording {path} stopped after 3 frames: [Errno {errno.ENOSPC}] No space left on device"
    assert recorder.summary == f"; recorded {path} (only 3 frames)"
    assert SessionReader(path).num_frames == 3


def test_frames_that_a_recording_lacks_are_told_in_the_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = SessionRecorder._write
    monkeypatch.setattr(SessionRecorder, "_write", lambda recorder, scene: (time.sleep(0.2), write(recorder, scene)))
    path = tmp_path / "a.arrows"
    with fake_camera(fps=60) as camera, LiveLoop(camera, begun(), Governor(), HudMeter()) as loop:
        recorder = Recorder(loop, replace(CONFIG, record=path), tmp_path)
        until(lambda: somebody(loop))
        recorder.start_if_wanted()
        until(lambda: not recorder.complete)
    told = re.fullmatch(rf"; recorded {re.escape(str(path))} \((\d+) of (\d+) frames: the disk was too slow\)", recorder.summary)
    assert told and int(told[1]) == SessionReader(path).num_frames < int(told[2])


def test_hud_lines_and_dict() -> None:
    meter = HudMeter()
    for index in range(31):
        meter.inferred(scene(mesh(1), mesh(2)), index / 10)
        meter.drawn(index / 10, 12.0)
        meter.shown(index / 10, 50.0 + index)
    hud = meter.read(3.0, "target 33 ms: all as planned", "camera 0", "recording a.arrows")
    assert hud.infer_fps == pytest.approx(10, rel=0.05)
    assert (hud.latency_ms, hud.latency_p90_ms) == (65.0, 77.0)
    assert hud.stages_ms == {"detect": 1.0, "estimate": 5.0, "draw": 12.0}
    assert "2 people" in hud.lines()[0]
    assert any("65 ms (p90 77)" in line for line in hud.lines())
    assert json.loads(json.dumps(hud.as_dict()))["lines"] == hud.lines()
    assert meter.warn("x failed")
    assert not meter.warn("x failed")
    assert meter.read(100.0).infer_fps == 0
    assert meter.read(100.0).lines()[-1] == "! x failed"


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
        "from tests.app.test_liveloop import open_fake\n"
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
