"""Runs that end before their time: Ctrl-C, a polite kill, a full disk, a failing network. What was done is kept, and no thread is left."""

import _thread
import errno
import json
import os
import signal
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

import app.jobs
from app.config import LiveConfig
from app.export.npz import NpzSink
from app.export.overlay import OverlaySink
from app.jobs import Engine, process_video
from app.progress import Cancelled
from app.types import Scene
from tests.app.fakes import RectangleDetector, TubeEstimator
from tests.app.launching import outcome
from tests.app.media import write_video


def test_ctrl_c_ends_a_run_within_a_second_and_leaves_no_thread(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    class Slow(TubeEstimator):
        def from_crops(self, crops: list) -> list:
            time.sleep(0.2)
            return super().from_crops(crops)

    clip = write_video(tmp_path / "long.mp4", (96, 64), [index / 30 for index in range(600)])
    monkeypatch.setattr(app.jobs, "open_engine", lambda config: nullcontext(Engine(Slow(), RectangleDetector(), config)))
    before, began = set(threading.enumerate()), []

    def interrupt() -> None:
        began.append(time.perf_counter())
        _thread.interrupt_main()

    timer = threading.Timer(2.0, interrupt)
    timer.start()
    code, _, err = outcome(capsys, "--video", clip, "--out", tmp_path / "out")
    took_s = time.perf_counter() - began[0]
    timer.join()
    assert code == 1
    assert err.strip().splitlines()[-1] == "launch.py: interrupted; what was done until then is kept"
    assert took_s < 1
    assert set(threading.enumerate()) <= before
    summary = json.loads((tmp_path / "out" / "long" / "summary.json").read_text())
    assert summary["settings"]["state"] == "interrupted"
    assert 0 < summary["frames"] < 600
    with np.load(tmp_path / "out" / "long" / "meshes.npz") as rows:
        assert len(rows["frame_index"]) == summary["frames"]


@pytest.mark.usefixtures("fake_engine")
def test_a_full_disk_ends_a_run_with_one_line_and_leaves_no_thread(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(sink: object, scene: Scene) -> None:
        if scene.frame.index == 12:
            raise OSError(errno.ENOSPC, "No space left on device", "here")
        write(sink, scene)

    def unfinished(sink: OverlaySink) -> None:
        close(sink)
        raise OSError(errno.ENOSPC, "No space left on device", "there")

    write, close, before = NpzSink.write, OverlaySink.close, set(threading.enumerate())
    monkeypatch.setattr(NpzSink, "write", full)
    monkeypatch.setattr(OverlaySink, "close", unfinished)
    code, _, err = outcome(capsys, "--video", clip, "--out", tmp_path / "out")
    assert code == 1
    assert [line for line in caplog.messages if "No space" in line] == [f"{clip}: [Errno {errno.ENOSPC}] No space left on device: 'here'"]
    assert "Traceback" not in err
    assert set(threading.enumerate()) <= before
    summary = json.loads((tmp_path / "out" / "clip" / "summary.json").read_text())
    assert summary["settings"]["state"] == "failed"
    assert "stopped after 12 frames" in summary["warnings"][0]


def test_ctrl_c_keeps_what_is_done_and_the_next_run_does_it_again(
    fake_engine: RectangleDetector, capsys: pytest.CaptureFixture[str], clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detect = fake_engine.detect

    def interrupted(*arguments: object, **options: object) -> list:
        if fake_engine.looks == 3:
            raise KeyboardInterrupt
        return detect(*arguments, **options)

    monkeypatch.setattr(fake_engine, "detect", interrupted)
    arguments = ("--video", clip, "--out", tmp_path / "out")
    code, _, err = outcome(capsys, *arguments)
    assert code == 1
    assert "interrupted" in err
    assert "Traceback" not in err
    folder = tmp_path / "out" / "clip"
    with np.load(folder / "meshes.npz") as rows:
        assert 0 < len(rows["frame_index"]) < 30
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["settings"]["state"] == "interrupted"
    assert "interrupted" in summary["warnings"][0]
    monkeypatch.setattr(fake_engine, "detect", detect)
    code, out, _ = outcome(capsys, *arguments)
    assert code == 0
    assert "30 frames" in out


def test_a_failing_model_keeps_its_traceback_and_the_results_so_far(clip: Path, tmp_path: Path) -> None:
    class Breaks(TubeEstimator):
        def from_crops(self, crops: list) -> list:
            if len(self.batches) == 2:
                raise RuntimeError("a bug")
            return super().from_crops(crops)

    with pytest.raises(RuntimeError, match="a bug"):
        process_video(clip, tmp_path / "out", Engine(Breaks(), RectangleDetector(), LiveConfig()))
    with np.load(tmp_path / "out" / "meshes.npz") as rows:
        assert len(rows["frame_index"]) > 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["settings"]["state"] == "failed"


def test_an_error_before_the_first_frame_is_not_hidden_by_closing(clip: Path, tmp_path: Path) -> None:
    class Breaks(TubeEstimator):
        def from_crops(self, crops: list) -> list:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        process_video(clip, tmp_path / "out", Engine(Breaks(), RectangleDetector(), LiveConfig()))
    assert not list((tmp_path / "out").glob("*.partial*"))


def test_a_cancelled_job_keeps_what_was_done_and_says_so(tmp_path):
    clip = write_video(tmp_path / "clip.mp4", times_s=[i / 30 for i in range(60)])

    class StopAfterTen:
        def __init__(self, name, total):
            assert (name, total) == ("clip.mp4", 60)
            self.count, self.closed = 0, False

        def check(self):
            pass

        def update(self):
            self.count += 1
            if self.count == 10:
                raise Cancelled

        def close(self):
            self.closed = True

    with pytest.raises(Cancelled):
        process_video(clip, tmp_path / "out", Engine(TubeEstimator(), RectangleDetector(), LiveConfig(), StopAfterTen))
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["settings"]["state"] == "interrupted"
    assert 10 <= summary["frames"] < 60 and f"interrupted after {summary['frames']} of 60 frames" in summary["warnings"]


def test_a_job_is_cancelled_before_its_first_frame_is_through(tmp_path: Path) -> None:
    class Slow(TubeEstimator):
        def from_crops(self, crops: list) -> list:
            time.sleep(0.5)
            return super().from_crops(crops)

    class StopAtOnce:
        def __init__(self, name: str, total: int) -> None:
            pass

        def check(self) -> None:
            raise Cancelled

        def update(self) -> None:
            pytest.fail("a frame came out before anybody was asked")

        def close(self) -> None:
            pass

    clip = write_video(tmp_path / "clip.mp4", times_s=[i / 30 for i in range(60)])
    with pytest.raises(Cancelled):
        process_video(clip, tmp_path / "out", Engine(Slow(), RectangleDetector(), LiveConfig(), StopAtOnce))
    assert "interrupted after 0 of 60 frames" in json.loads((tmp_path / "out" / "summary.json").read_text())["warnings"]


def test_each_video_is_told_when_it_is_done(
    fake_engine: RectangleDetector, capsys: pytest.CaptureFixture[str], clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path, *others: object) -> str:
        if path.name == "second.mp4":
            raise KeyboardInterrupt
        return process_video(path, *others)

    monkeypatch.setattr(app.jobs, "process_video", interrupted)
    second = tmp_path / "second.mp4"
    second.write_bytes(clip.read_bytes())
    code, out, err = outcome(capsys, "--video", clip, second, "--out", tmp_path / "out")
    assert code == 1
    assert "30 frames" in out
    assert "interrupted; what was done until then is kept" in err


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_polite_kill_keeps_what_is_done(
    fake_engine: RectangleDetector,
    capsys: pytest.CaptureFixture[str],
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    once = iter([getattr(signal, name)])

    def killed(*_: object, **__: object) -> list[object]:
        for number in once:
            os.kill(os.getpid(), number)
        time.sleep(0.3)
        return []

    before = signal.signal(getattr(signal, name), signal.SIG_DFL)
    monkeypatch.setattr(RectangleDetector, "detect", killed)
    try:
        code, _, err = outcome(capsys, "--video", clip, "--out", tmp_path / "out")
    finally:
        signal.signal(getattr(signal, name), before)
    assert code == 1
    assert "interrupted; what was done until then is kept" in err
    summary = json.loads(next((tmp_path / "out").glob("*/summary.json")).read_text())
    assert summary["settings"]["state"] == "interrupted"
