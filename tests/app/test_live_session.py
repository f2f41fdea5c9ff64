"""A live session with a window, as far as it needs none: drawing, keys, recordings, numbers."""

import errno
import json
import re
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.governor import Governor, Plan
from app.hud import HudMeter
from app.liveloop import LiveLoop
from app.session import SessionReader, SessionRecorder
from app.types import Scene
from app.webcam import Recorder
from tests.app.live_fakes import CONFIG, FakeWindow, Kept, begun, fake_camera, open_fake, session, somebody, until
from tests.app.media import mesh, scene


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
