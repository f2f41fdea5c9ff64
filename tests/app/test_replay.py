"""A recorded session becomes the same files as a video."""

import json
from pathlib import Path

import numpy as np
import pytest

from app.session_format import BACKGROUND_RGB
from app.sources import VideoSource
from tests.app.media import quarter_picture, scene
from tests.app.test_launch import outcome
from tests.app.test_session import person, record


def people(num_frames: int, pictures: bool = False):
    image = quarter_picture(64, 48) if pictures else None
    return [
        scene(
            *(person(t, 10 * i + t, joints_m=np.zeros((14, 3), np.float32)) for t in (1, 2)), image=image, index=3 * i, time_s=50 + i / 20
        )
        for i in range(num_frames)
    ]


@pytest.mark.parametrize("pictures", [False, True])
def test_files_are_those_of_a_video(tmp_path: Path, capsys: pytest.CaptureFixture[str], pictures: bool) -> None:
    scenes = people(12, pictures)
    record(tmp_path / "live.arrows", scenes, pictures=pictures)
    code, out, _ = outcome(capsys, "--replay", tmp_path / "live.arrows", "--out", tmp_path / "out", "--glb")
    assert code == 0
    assert "12 frames, 2 people" in out
    folder = tmp_path / "out" / "live"
    assert sorted(path.name for path in folder.iterdir()) == ["meshes.npz", "overlay.mp4", "people.glb", "summary.json"]
    rows = np.load(folder / "meshes.npz")
    assert rows["frame_index"].tolist() == [i for i in range(12) for _ in range(2)]
    np.testing.assert_allclose(rows["time_s"], np.repeat(np.arange(12) / 20, 2), atol=1e-9)
    np.testing.assert_allclose(rows["vertices_m"], [m.vertices_m for one in scenes for m in one.meshes], atol=2e-4)
    np.testing.assert_array_equal(rows["joints_px"], [m.joints_px for one in scenes for m in one.meshes])
    video = VideoSource(folder / "overlay.mp4")
    corner = next(iter(video)).image[-6:, :6].mean(axis=(0, 1))
    np.testing.assert_allclose(corner, quarter_picture(64, 48)[-1, 0] if pictures else BACKGROUND_RGB, atol=8)
    assert video.expected_frames == 12
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["settings"] | {"state": "complete", "checkpoint": "toy", "glb": True} == summary["settings"]
    assert summary["fps"] == pytest.approx(20)
    code, out, _ = outcome(capsys, "--replay", tmp_path / "live.arrows", "--out", tmp_path / "out", "--glb")
    assert (code, "already done" in out) == (0, True)


def test_a_cut_session_is_replayed_as_far_as_it_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    record(tmp_path / "live.arrows", people(12))
    data = (tmp_path / "live.arrows").read_bytes()
    (tmp_path / "live.arrows").write_bytes(data[: len(data) * 3 // 4])
    code, out, _ = outcome(capsys, "--replay", tmp_path / "live.arrows", "--out", tmp_path)
    assert code == 0
    assert " frames, 2 people" in out
    assert "ends early" in caplog.text
    summary = json.loads((tmp_path / "live" / "summary.json").read_text())
    assert "ends early" in summary["warnings"][0]
    assert 0 < summary["frames"] < 12


def test_foreign_and_missing_files_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.arrows").write_text("hello")
    for name in ("text.arrows", "none.arrows"):
        code, out, err = outcome(capsys, "--replay", tmp_path / name, "--out", tmp_path / "out")
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert name in err
    assert not (tmp_path / "out").exists()
    assert outcome(capsys, "--replay", tmp_path / "text.arrows")[0] == 2
