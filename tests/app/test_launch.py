"""The door: exit codes, messages, imports, repeated runs."""

import ast
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import app.jobs
import launch
from app.config import MODE_FLAGS, LiveConfig
from app.export.pictures import write_picture
from app.jobs import Engine, process_picture, process_video, result_folders, run_videos
from tests.app.fakes import RectangleDetector, TubeEstimator, rectangle_frame
from tests.app.launching import outcome
from tests.app.media import write_video

HEAVY = ("gradio", "fastapi", "torch", "cv2", "mediapipe", "av", "numba", "scipy", "numpy")


@pytest.mark.parametrize("arguments", [
    ("--out", "x"), ("--video",), ("--video", "a.mp4"), ("--images", "a.jpg"), ("--bogus",), ("--demo", "--check"),
    ("--check", "--out", "x"), ("--bench", "everything"),
    ("--demo", "--max-people", "0"), ("--demo", "--focal-px", "-3"), ("--demo", "--device", "tpu"), ("--demo", "--smoothing", "kalman"),
    ("--demo", "--record", "x.arrows"), ("--demo", "--record-pictures"),
    ("--auth", "nobody"),
    ("--auth", ":x"), ("--port", "70000"), ("--demo", "--port", "7000"), ("--max-upload-mb", "0"),
    ("--page", "--video", "a.mp4", "--out", "x"), ("--page", "--check"),
])  # fmt: skip
def test_usage_errors_are_2(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    code, out, err = outcome(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert "usage:" in err


def test_every_mode_has_a_runner_and_flags() -> None:
    assert launch.RUNNERS.keys() == MODE_FLAGS.keys()


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


class CountedName(str):
    """Counts how often any of them is compared."""

    num_compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        CountedName.num_compared += 1
        return str.__eq__(self, other)


def test_names_of_many_pictures_are_not_compared_each_with_each(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [Path(f"{number}.jpg") for number in range(500)]
    monkeypatch.setattr(Path, "resolve", lambda path: SimpleNamespace(stem=CountedName(path.stem)))
    assert len(set(result_folders(paths, Path("out")))) == 500
    assert CountedName.num_compared < 5000


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


@pytest.mark.parametrize("arguments", [("--video", "", "--out", "x"), ("--video", "a.mp4", "--out", ""), ("--replay", "")])
def test_an_empty_path_is_a_usage_error(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = outcome(capsys, *arguments)
    assert code == 2
    assert "got an empty name, expected a path" in err


@pytest.mark.parametrize("command", [("launch.py", "--check"), ("-m", "core.variants")])
def test_a_pipe_that_nobody_reads_ends_a_command_quietly(command: tuple[str, ...], repository: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, *command], stdout=writing, stderr=subprocess.PIPE, text=True, cwd=repository, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")
