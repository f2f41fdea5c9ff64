"""The door: exit codes, messages, imports, interrupted and repeated runs."""

import _thread
import ast
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import app.jobs
import launch
from app.config import LiveConfig
from app.export.npz import NpzSink
from app.export.overlay import OverlaySink
from app.export.pictures import write_picture
from app.jobs import Engine, process_picture, process_video, result_folders, run_videos
from app.progress import Cancelled
from app.types import Scene
from tests.app.fakes import RectangleDetector, TubeEstimator, rectangle_frame
from tests.app.media import write_video

HEAVY = ("gradio", "fastapi", "torch", "cv2", "mediapipe", "av", "numba", "scipy", "numpy")


@pytest.fixture
def fake_engine(monkeypatch: pytest.MonkeyPatch) -> RectangleDetector:
    """Runs of launch.main use a detector and a network that know the answer."""
    detector = RectangleDetector()

    @contextmanager
    def opened(config: LiveConfig) -> Iterator[Engine]:
        yield Engine(TubeEstimator(), detector, config)

    monkeypatch.setattr(app.jobs, "open_engine", opened)
    return detector


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """30 frames with somebody in the middle (write_video draws a red quarter, which is bright in the red channel)."""
    return write_video(tmp_path / "clip.mp4", (96, 64), [index / 30 for index in range(30)])


def outcome(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of launch.py."""
    try:
        code = launch.main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = end.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("arguments", [
    ("--out", "x"), ("--video",), ("--video", "a.mp4"), ("--images", "a.jpg"), ("--bogus",), ("--demo", "--check"),
    ("--check", "--out", "x"), ("--bench", "everything"),
    ("--demo", "--max-people", "0"), ("--demo", "--focal-px", "-3"), ("--demo", "--device", "tpu"), ("--demo", "--smoothing", "kalman"),
    ("--demo", "--record", "x.arrows"), ("--demo", "--record-pictures"),
    ("--auth", "nobody"),
    ("--auth", ":x"), ("--port", "70000"), ("--demo", "--port", "7000"), ("--max-upload-mb", "0"),
])  # fmt: skip
def test_usage_errors_are_2(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    code, out, err = outcome(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert "usage:" in err


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = outcome(capsys, "--help")
    assert code == 0
    for flag in ("--video", "--images", "--demo", "--check", "--out", "--checkpoint", "--max-people", "--smoothing"):
        assert flag in out


def test_help_imports_nothing_heavy() -> None:
    program = "import sys, launch\ntry: launch.main(['--help'])\nexcept SystemExit: pass\n"
    program += f"print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(launch.__file__).parent)
    assert done.stdout.splitlines()[-1] == "[]"


def test_an_old_python_is_named_in_one_line() -> None:
    program = "import sys; sys.version_info = (3, 9, 18); import launch"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=Path(launch.__file__).parent)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "3.10 or newer" in done.stderr


def test_video_to_files(fake_engine: RectangleDetector, capsys: pytest.CaptureFixture[str], clip: Path, tmp_path: Path) -> None:
    code, out, _ = outcome(capsys, "--video", clip, "--out", tmp_path / "out")
    assert code == 0
    assert "30 frames, 1 person" in out
    folder = tmp_path / "out" / "clip"
    assert {path.name for path in folder.iterdir()} == {"overlay.mp4", "meshes.npz", "summary.json"}
    with np.load(folder / "meshes.npz") as rows:
        assert rows["frame_index"].tolist() == list(range(30))
        assert set(rows["track_id"].tolist()) == {1}
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["settings"]["state"] == "complete"
    assert summary["settings"]["network"] == "tube"  # how it ran
    assert "openvino" in summary["versions"]
    assert list(summary["threads"]) == ["read", "look", "estimate", "place", "draw", "write"]
    assert all(0 <= thread["busy"] <= 1 for thread in summary["threads"].values())
    assert {"detect", "crop", "estimate", "smooth", "draw", "overlay.mp4", "meshes.npz"} <= set(summary["ms_per_stage"])
    assert summary["real_time_factor"] == pytest.approx(1 / summary["seconds"], rel=0.01)  # 30 frames at 30 frames/s


def test_a_flag_without_effect_is_said_and_the_work_done(
    fake_engine: RectangleDetector, capsys: pytest.CaptureFixture[str], clip: Path, tmp_path: Path
) -> None:
    code, _, err = outcome(capsys, "--video", clip, "--out", tmp_path, "--headless", "--loop")
    assert code == 0
    assert "launch.py: --headless, --loop: without effect with --video\n" in err
    assert "without effect" not in outcome(capsys, "--video", clip, "--out", tmp_path, "--overwrite", "--max-people", "2")[2]


def test_no_overlay_leaves_out_that_file_and_nothing_else(
    fake_engine: RectangleDetector, capsys: pytest.CaptureFixture[str], clip: Path, tmp_path: Path
) -> None:
    assert outcome(capsys, "--video", clip, "--out", tmp_path / "with")[0] == 0
    assert outcome(capsys, "--video", clip, "--out", tmp_path / "without", "--no-overlay")[0] == 0
    folders = [tmp_path / name / "clip" for name in ("with", "without")]
    assert {path.name for path in folders[1].iterdir()} == {"meshes.npz", "summary.json"}
    with np.load(folders[0] / "meshes.npz") as rows, np.load(folders[1] / "meshes.npz") as others:
        for name in rows.files:
            np.testing.assert_array_equal(rows[name], others[name])
    assert "draw" not in json.loads((folders[1] / "summary.json").read_text())["threads"]
    said = outcome(capsys, "--video", clip, "--out", tmp_path / "without")[1]
    assert "another overlay; use --overwrite" in said


def test_no_overlay_of_an_earlier_run_stays_beside_other_meshes(
    fake_engine: RectangleDetector, capsys: pytest.CaptureFixture[str], clip: Path, tmp_path: Path
) -> None:
    assert outcome(capsys, "--video", clip, "--out", tmp_path)[0] == 0
    assert outcome(capsys, "--video", clip, "--out", tmp_path, "--no-overlay", "--overwrite")[0] == 0
    assert {path.name for path in (tmp_path / "clip").iterdir()} == {"meshes.npz", "summary.json"}


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


def test_a_second_run_says_so_and_skips(
    fake_engine: RectangleDetector, capsys: pytest.CaptureFixture[str], clip: Path, tmp_path: Path
) -> None:
    arguments = ("--video", clip, "--out", tmp_path / "out")
    outcome(capsys, *arguments)
    looks = fake_engine.looks
    code, out, _ = outcome(capsys, *arguments)
    assert code == 0
    assert "already done" in out
    assert "--overwrite" in out
    assert fake_engine.looks == looks
    code, out, _ = outcome(capsys, *arguments, "--smoothing", "none")
    assert code == 0
    assert "another smoothing" in out
    assert fake_engine.looks == looks
    code, out, _ = outcome(capsys, *arguments, "--overwrite")
    assert code == 0
    assert "30 frames" in out
    assert fake_engine.looks > looks


def test_another_video_of_the_same_name_is_not_taken_for_done(
    fake_engine: RectangleDetector, capsys: pytest.CaptureFixture[str], clip: Path, tmp_path: Path
) -> None:
    arguments = ("--video", clip, "--out", tmp_path / "out")
    outcome(capsys, *arguments)
    write_video(clip, (96, 64), [index / 30 for index in range(12)])
    assert "another file; use --overwrite" in outcome(capsys, *arguments)[1]
    assert "12 frames" in outcome(capsys, *arguments, "--overwrite")[1]
    summary = tmp_path / "out" / "clip" / "summary.json"
    content = json.loads(summary.read_text())
    del content["settings"]["file"]  # as older versions wrote it
    summary.write_text(json.dumps(content))
    assert "already done in" in (said := outcome(capsys, *arguments)[1]) and "another file" not in said


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


def test_bad_inputs_are_reported_and_the_others_done(
    fake_engine: RectangleDetector, capsys: pytest.CaptureFixture[str], clip: Path, tmp_path: Path
) -> None:
    empty, text = tmp_path / "empty.mp4", tmp_path / "text.mp4"
    empty.touch()
    text.write_text("not a video\n" * 50)
    code, out, _ = outcome(capsys, "--video", tmp_path / "none.mp4", empty, clip, text, "--out", tmp_path / "out")
    assert code == 1
    assert out.count("\n") == 1
    assert "30 frames" in out
    report = run_videos([tmp_path / "none.mp4", empty, text], tmp_path / "out2", LiveConfig())
    assert len(report.failed) == 3
    assert all("\n" not in line for line in report.failed)
    assert not (tmp_path / "out2").exists()


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


def test_an_output_folder_that_cannot_be_made(
    fake_engine: RectangleDetector, capsys: pytest.CaptureFixture[str], clip: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    code, _, err = outcome(capsys, "--video", clip, "--out", tmp_path / "file")
    assert code == 1
    assert err == f"launch.py: --out {tmp_path / 'file'}: a file, expected a folder; one that is not there is made\n"


def test_nobody_in_the_video(fake_engine: RectangleDetector, capsys: pytest.CaptureFixture[str], clip: Path, tmp_path: Path) -> None:
    fake_engine.blind_at_s = (-1.0, 9.0)
    code, out, _ = outcome(capsys, "--video", clip, "--out", tmp_path / "out")
    assert code == 0
    assert "nobody" in out
    with np.load(tmp_path / "out" / "clip" / "meshes.npz") as rows:
        assert rows["vertices_m"].shape == (0, 30, 3)


def test_a_slower_way_to_run_the_network_stands_in_the_summary(clip: Path, tmp_path: Path) -> None:
    for warning in ("", "the network runs in PyTorch, which is slower"):
        estimator = TubeEstimator(warning=warning)
        engine = Engine(estimator, RectangleDetector(), LiveConfig(overwrite=True))
        process_video(clip, tmp_path / "clip", engine)
        write_picture(tmp_path / "a.png", rectangle_frame(0, 0.0, (40, 60, 80, 180)).image)
        process_picture(tmp_path / "a.png", tmp_path / "picture", engine)
        for folder in ("clip", "picture"):
            summary = json.loads((tmp_path / folder / "summary.json").read_text())
            assert summary["warnings"] == ([warning] if warning else [])


def test_pictures(fake_engine: RectangleDetector, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    image = np.zeros((120, 160, 3), np.uint8)
    image[20:110, 40:80] = 255
    write_picture(folder / "one.png", image)
    write_picture(folder / "two.jpg", image)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8nothing")
    code, out, _ = outcome(capsys, "--images", folder, "--out", tmp_path / "out")
    assert code == 1
    assert out.count("1 person") == 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"one", "two"}
    assert (tmp_path / "out" / "one" / "meshes.npz").is_file()


@pytest.mark.parametrize(
    ("checkpoint", "said"), [("nosuch", "unknown checkpoint"), ("x/none.safetensors", "no such file"), ("broken", "damaged")]
)
def test_bad_checkpoints_are_one_line(capsys: pytest.CaptureFixture[str], clip: Path, tmp_path: Path, checkpoint: str, said: str) -> None:
    if checkpoint == "broken":
        checkpoint = str(tmp_path / "broken.safetensors")
        Path(checkpoint).write_bytes(b"\x10\0\0\0\0\0\0\0garbage")
    code, out, err = outcome(capsys, "--video", clip, "--out", tmp_path / "out", "--checkpoint", checkpoint)
    lines = [line for line in err.splitlines() if line.startswith("launch.py:")]
    assert code == 1
    assert out == ""
    assert len(lines) == 1
    assert said in lines[0]


def test_a_mistyped_video_is_told_before_the_network_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def loaded(config: LiveConfig) -> None:
        raise AssertionError("the network was loaded")

    monkeypatch.setattr(app.jobs, "open_estimator", loaded)
    code, out, _ = outcome(capsys, "--video", tmp_path / "nosuch.mp4", tmp_path, "--out", tmp_path / "out")
    assert (code, out) == (1, "")
    assert "nosuch.mp4: no such file" in caplog.text
    assert "a folder, expected a video file" in caplog.text


def test_one_mistyped_video_does_not_keep_the_others(
    fake_engine: RectangleDetector, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, clip: Path, tmp_path: Path
) -> None:
    code, out, _ = outcome(capsys, "--video", tmp_path / "nosuch.mp4", clip, "--out", tmp_path / "out")
    assert code == 1
    assert "clip.mp4: 30 frames" in out
    assert caplog.text.count("no such file") == 1


def test_inputs_of_one_name_get_different_folders() -> None:
    paths = [Path("a/in.mp4"), Path("b/in.mp4"), Path("in.mov"), Path("other.mp4")]
    folders = [folder.name for folder in result_folders(paths, Path("out"))]
    assert len(set(folders)) == 4
    assert folders[3] == "other"


@pytest.mark.parametrize(("error", "said"), [
    (ImportError("libGL.so.1: cannot open shared object file: No such file"), "libGL.so.1 is missing; on Debian or Ubuntu: apt-get"),
    (OSError("libGLESv2.so.2: cannot open shared object file: No such file or directory"), "libGLESv2.so.2"),
    (ModuleNotFoundError("No module named 'nosuchpackage'", name="nosuchpackage"), "pip install -r requirements.txt"),
    (PermissionError(13, "Permission denied", "/x"), "Permission denied"),
])  # fmt: skip
def test_expected_errors_become_one_line(error: Exception, said: str) -> None:
    message = launch.explain(error)
    assert message
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize("error", [
    ModuleNotFoundError("No module named 'app.gone'", name="app.gone"), ImportError("cannot import name 'x'"), ValueError("a bug"),
])  # fmt: skip
def test_bugs_keep_their_traceback(error: Exception) -> None:
    assert launch.explain(error) is None


def test_imports_go_one_way(repository: Path) -> None:
    for path in (*repository.glob("core/**/*.py"), *repository.glob("app/**/*.py")):
        room = path.relative_to(repository).parts[0]
        forbidden = {"launch", "app"} if room == "core" else {"launch"}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            bad = {name.split(".")[0] for name in names} & forbidden
            assert not bad, f"{path} imports {bad}"


def test_settings_do_not_leak_between_runs(clip: Path, tmp_path: Path) -> None:
    engine = Engine(TubeEstimator(), RectangleDetector(), LiveConfig())
    process_video(clip, tmp_path / "a", engine)
    process_video(clip, tmp_path / "b", replace(engine, config=replace(engine.config, smoothing="none")))
    states = [json.loads((tmp_path / name / "summary.json").read_text())["settings"] for name in "ab"]
    assert [state["smoothing"] for state in states] == ["one-euro", "none"]
    assert {state["state"] for state in states} == {"complete"}
