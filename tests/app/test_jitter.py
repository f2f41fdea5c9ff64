"""Jitter and lag of paths whose jitter and lag are known, and of the filter on a clip."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.config import LiveConfig, SmoothConfig
from app.export.npz import NpzSink
from app.jitter import ClipCalm, Path3d, calm_of, jitter_m_s3, lag_errors, main, measure, paths_of, read_scenes
from app.pipeline import VideoPipeline
from core.errors import InputError
from tests.app.fakes import RectangleDetector, TubeEstimator, rectangle_frame, walk
from tests.app.media import recording, scene
from tests.app.test_session import person

RAW = LiveConfig(smoothing="none")


def curve(times_s: np.ndarray, noise_m: float = 0.0, seed: int = 0) -> np.ndarray:
    """(T, 2, 3) two joints on a wave, with white noise."""
    angles = np.stack([2 * np.pi * 0.8 * times_s, 2 * np.pi * 0.5 * times_s + 1], axis=1)
    path = 0.3 * np.stack([np.sin(angles), np.cos(angles), 0.5 * angles], axis=2)
    return path + np.random.default_rng(seed).normal(0, noise_m, path.shape)


def lag_of(times_s: np.ndarray, before_m: np.ndarray, after_m: np.ndarray) -> float:
    return calm_of([Path3d(times_s, {"pose": before_m}, {"pose": after_m})], "pose").lag_frames


def test_jerk_of_a_cubic_is_exact() -> None:
    times_s = np.arange(20) / 25
    points_m = np.zeros((20, 3, 3))
    points_m[:, 0, 1] = 2 * times_s**3
    points_m[:, 1, 0] = times_s**2
    jerks = jitter_m_s3(times_s, points_m)
    np.testing.assert_allclose(jerks[:, 0], 12, rtol=1e-6)
    np.testing.assert_allclose(jerks[:, 1:], 0, atol=1e-6)


@pytest.mark.parametrize("lag_frames", [0.0, 0.3, 0.5, 1.7])
@pytest.mark.parametrize("noise_m", [0.0, 0.02])
def test_a_known_delay_is_found_in_noise(lag_frames: float, noise_m: float) -> None:
    times_s = np.arange(300) / 30
    before, after = curve(times_s, noise_m, 1), curve(times_s - lag_frames / 30, noise_m / 3, 2)
    assert lag_of(times_s, before, after) == pytest.approx(lag_frames, abs=0.11)


def test_a_symmetric_average_has_no_lag_and_less_jitter() -> None:
    times_s = np.arange(200) / 30
    before = curve(times_s, 0.01)
    after = before.copy()
    after[1:-1] = (before[:-2] + before[1:-1] + before[2:]) / 3
    calm = calm_of([Path3d(times_s, {"pose": before}, {"pose": after})], "pose")
    assert calm.lag_frames == pytest.approx(0, abs=0.06)
    assert calm.ratio < 0.5
    assert np.argmin(lag_errors(times_s, before, before)) == 20


def shaky_walk(noise_m: float = 0.012):
    """The raw scenes of somebody who crosses the picture, estimated with noise."""
    return VideoPipeline(RectangleDetector(), TubeEstimator(noise_m=noise_m), RAW).scenes(walk(120))


def test_the_default_filter_halves_the_jitter_of_a_walk() -> None:
    result = measure("walk", shaky_walk(), TubeEstimator().body, LiveConfig())
    assert (result.num_paths, result.num_frames) == (1, 120)
    assert result.fps == pytest.approx(30)
    assert result.signals["pose"].ratio < 0.5
    assert result.signals["distance"].ratio < 0.5
    assert abs(result.signals["picture"].lag_frames) < 0.1, "a recording is not late"
    live = measure("walk", shaky_walk(), TubeEstimator().body, LiveConfig(), live=True)
    assert result.signals["pose"].after_m_s3 < 0.7 * live.signals["pose"].after_m_s3
    assert 0.15 < live.signals["picture"].lag_frames < 1
    assert "walk: 1 paths, 120 frames" in str(result)


def test_what_is_worse_is_seen_as_worse() -> None:
    body = TubeEstimator().body
    none = measure("walk", shaky_walk(), body, RAW)
    assert none.signals["pose"].ratio == pytest.approx(1, abs=1e-3)
    assert abs(none.signals["pose"].lag_frames) < 0.06
    heavy = replace(LiveConfig(), smooth=SmoothConfig(root_min_cutoff_hz=0.3, root_beta_hz_per_m_s=0.0))
    slow = measure("walk", shaky_walk(0.002), body, heavy, live=True)
    quick = measure("walk", shaky_walk(0.002), body, LiveConfig(), live=True)
    assert slow.signals["picture"].lag_frames > 3
    assert quick.signals["picture"].lag_frames < 1


def test_a_clip_without_people_says_so() -> None:
    blank = [scene(index=i) for i in range(5)]
    assert measure("x", blank, TubeEstimator().body, LiveConfig()) == ClipCalm("x", 0, 0, 0.0, {})
    assert "nobody" in str(measure("x", blank, TubeEstimator().body, LiveConfig()))


def test_rows_of_an_npz_are_the_scenes_again(tmp_path: Path) -> None:
    scenes = [scene(person(1, i), person(2, i + 50), index=i, time_s=i / 25) for i in range(4)]
    weights = np.full((30, 14), 1 / 14, np.float32)
    with NpzSink(recording(tmp_path, vertex_joint_weights=weights)) as sink:
        for one in scenes:
            sink.write(one)
    back, body = read_scenes(sink.path)
    assert body == "anny"
    for before, after in zip(scenes, back, strict=True):
        assert after.frame.time_s == before.frame.time_s
        for one, other in zip(before.meshes, after.meshes, strict=True):
            np.testing.assert_array_equal(one.vertices_m, other.vertices_m)
            np.testing.assert_array_equal(one.joints_m, other.joints_m)


def test_somebody_who_was_away_is_two_paths_in_a_file_too(tmp_path: Path) -> None:
    weights = np.full((30, 14), 1 / 14, np.float32)
    with NpzSink(recording(tmp_path, vertex_joint_weights=weights)) as sink:
        for index in (*range(40), *range(60, 100)):
            somebody = replace(person(1, index), translation_m=np.array([0, 0, 4], np.float32))
            sink.write(scene(somebody, index=index, time_s=index / 25))
    scenes, _ = read_scenes(sink.path)
    assert [len(path.times_s) for path in paths_of(scenes, TubeEstimator().body, LiveConfig(), live=False)] == [40, 40]


def test_foreign_files_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.npz").write_text("hello")
    with pytest.raises(InputError, match=r"a\.npz: not a meshes\.npz"):
        read_scenes(tmp_path / "a.npz")
    assert main([str(tmp_path / "a.npz")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("noticed", [True, False])
def test_a_cut_starts_the_filters_anew(monkeypatch: pytest.MonkeyPatch, noticed: bool) -> None:
    """Two clips spliced, somebody nearly at the same place in both: after the cut they stand where they are seen at once."""

    def frames():
        for index in range(60):
            cut = index >= 31
            frame = rectangle_frame(index, index / 30, (130, 60, 190, 200) if cut else (100, 60, 160, 200))
            if cut:  # another scene: a bright backdrop, which a person is still brighter than
                frame.image[frame.image < 90] = 90
            yield frame

    def places(smoothing: str) -> np.ndarray:
        pipeline = VideoPipeline(RectangleDetector(), TubeEstimator(), LiveConfig(smoothing=smoothing))
        return np.array([one.meshes[0].joints_px.mean(axis=0) for one in pipeline.scenes(frames())])

    if not noticed:  # so that the test would see it
        monkeypatch.setattr("app.spans.is_cut", lambda before, after: False)
    raw, smooth = places("none"), places("one-euro")
    late_px = np.linalg.norm(smooth - raw, axis=1)[29:40].max()
    assert late_px < 1e-3 if noticed else late_px > 0.3
