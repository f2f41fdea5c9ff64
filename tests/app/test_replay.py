"""A recorded session becomes the same files as a video."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import app.replay
from app.config import LiveConfig
from app.export.bvh import write_people
from app.replay import _Player, replay_in_window, replay_to_files
from app.session_format import BACKGROUND_RGB, SessionInfo
from app.sources import VideoSource
from app.types import Scene
from core.errors import InputError
from core.geometry import project_pinhole
from tests.app.gltf_player import Played
from tests.app.launching import outcome
from tests.app.media import mesh, quarter_picture, scene
from tests.app.test_bvh import BODY, NUM_FRAMES, PEOPLE, table_of
from tests.app.test_session import person, record
from tests.app.vmc_receiver import received


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


def posed_scenes(parametric: bool = False) -> list[Scene]:
    """Somebody of the Anny body, 20 frames a second; with bones or without."""
    table = table_of(PEOPLE[:1])
    scenes = []
    for i in range(NUM_FRAMES):
        own = {"rotmats": table["bone_rotmats"][i].astype(np.float32), "shape": table["phenotype"][i]} if parametric else {}
        joints_m, place = table["joints_m"][i], table["translation_m"][i].astype(np.float32)
        someone = mesh(3, place, vertices_m=table["vertices_m"][i], joints_m=joints_m, **own)
        scenes.append(scene(someone, index=i, time_s=i / 20))
        joints_px = project_pinhole(joints_m + place, scenes[i].intrinsics.focal_px, scenes[i].intrinsics.principal_px)
        scenes[i] = replace(scenes[i], meshes=(replace(someone, joints_px=joints_px.astype(np.float32)),))
    return scenes


@pytest.mark.parametrize("parametric", [False, True])
def test_a_recorded_session_becomes_skeletons(tmp_path: Path, capsys: pytest.CaptureFixture[str], parametric: bool) -> None:
    table, scenes = table_of(PEOPLE[:1]), posed_scenes(parametric)
    record(tmp_path / "live.arrows", scenes, SessionInfo.of(BODY, {"checkpoint": "toy"}, parametric=parametric))
    code, _, _ = outcome(
        capsys, "--replay", tmp_path / "live.arrows", "--out", tmp_path / "out", "--glb", "--motion", "fbx", "--no-overlay"
    )
    assert code == 0
    folder = tmp_path / "out" / "live"
    assert (folder / "person-3.fbx").is_file()
    assert len(Played(folder / "people.glb").tree["skins"]) == 1
    assert [path.name for path in write_people(folder / "meshes.npz")] == ["person-3.bvh"]
    rows = np.load(folder / "meshes.npz")
    assert np.ptp(rows["phenotype"], axis=0).max() == 0
    off_m = np.linalg.norm(rows["joints_m"] - table["joints_m"], axis=-1)
    np.testing.assert_array_less(off_m.mean(), 1e-5 if parametric else 0.04)
    if parametric:
        np.testing.assert_allclose(rows["translation_m"], table["translation_m"], atol=1e-3)
    assert json.loads((folder / "summary.json").read_text())["settings"]["mesh"] == "parametric"


class Impatient:
    """Progress that does not wait for ever."""

    def __init__(self, name: str, total: int | None) -> None:
        self.num_waits = 0

    def check(self) -> None:
        self.num_waits += 1
        assert self.num_waits < 200, "twenty seconds without a scene"

    def update(self) -> None:
        self.num_waits = 0

    def close(self) -> None:
        pass


def test_a_session_whose_rate_grows_becomes_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.jobs.UNDER_WAY_BYTES", 0)  # as if the pictures were large
    times_s = np.cumsum([1 / 7.5] * 60 + [1 / 30] * 40)
    record(tmp_path / "live.arrows", [scene(index=i, time_s=time_s) for i, time_s in enumerate(times_s)], SessionInfo.of(BODY))
    said = replay_to_files(tmp_path / "live.arrows", tmp_path, LiveConfig(glb=True, overlay=False), Impatient)
    assert ": 100 frames, nobody, " in said


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


class FakeView:
    """A window that notes when it drew what. draw_s: how long drawing takes; ends_after: frames until somebody closes it."""

    def __init__(self, draw_s: float = 0.0, ends_after: int = 10**6, pauses: tuple[float, float] = (0.0, 0.0)) -> None:
        self.draw_s, self.ends_after, self.pauses = draw_s, ends_after, pauses
        self.times_s, self.drawn, self.huds, self.closed, self.body = [], [], [], False, None

    @property
    def paused(self) -> bool:
        return self.pauses[0] <= time.perf_counter() - self.start_s < self.pauses[1]

    def open(self, config, folder, record) -> "FakeView":
        self.start_s = time.perf_counter()
        return self

    def set_body(self, body, joint_weights) -> None:
        self.body = body

    def show(self, scene, hud, source_state) -> None:
        self.times_s.append(time.perf_counter() - self.start_s)
        self.drawn.append(scene)
        self.huds.append(hud)
        time.sleep(self.draw_s)

    def poll(self) -> bool:
        return len(self.drawn) < self.ends_after

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def session(tmp_path: Path) -> Path:
    """30 frames, 20 a second."""
    record(tmp_path / "live.arrows", people(30))
    return tmp_path / "live.arrows"


def test_the_window_shows_every_frame_when_its_time_has_come(session: Path) -> None:
    view = FakeView()
    line = replay_in_window(session, LiveConfig(), view.open)
    assert f"{len(view.drawn)} of 30 frames shown" in line
    assert view.closed
    assert len(view.drawn) >= 24  # all of them, unless the machine is busy
    assert view.drawn[-1].frame.index == 29
    assert all(len(one.meshes) == 2 for one in view.drawn)
    late_s = np.array(view.times_s) - [one.frame.time_s for one in view.drawn]
    assert -0.01 <= late_s.min() <= late_s.max() < late_s.min() + 0.4
    assert "1.5 of 1.5 s" in " ".join(view.huds[-1].lines())
    assert view.body.faces.shape == (50, 3)


def test_a_slow_window_leaves_frames_out_and_keeps_the_time(session: Path) -> None:
    view = FakeView(draw_s=0.15)
    replay_in_window(session, LiveConfig(), view.open)
    assert 5 <= len(view.drawn) <= 14
    assert view.drawn[-1].frame.index == 29
    late_s = np.array(view.times_s) - [one.frame.time_s for one in view.drawn]
    assert late_s.max() - late_s.min() < 0.4


class SlowSession:
    """40 scenes, 20 a second, that take `read_s` each on a pretended clock; calls `at_fifth` before number 5."""

    path, fps, duration_s = Path("live.arrows"), 20.0, 2.0

    def __init__(self, read_s: float, at_fifth: Callable[[], None] = lambda: None) -> None:
        self.now_s, self.read_s, self.at_fifth, self.num_read = 0.0, read_s, at_fifth, 0

    def __iter__(self) -> Iterator[Scene]:
        for index in range(40):
            if index == 5:
                self.at_fifth()
            self.now_s += self.read_s
            self.num_read += 1
            yield scene(index=index, time_s=index / 20)

    def played(self, view: FakeView, stop: threading.Event, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Indices of what was drawn."""

        def wait(time_s: float) -> bool:
            self.now_s += time_s
            return stop.is_set()

        monkeypatch.setattr(app.replay, "time", SimpleNamespace(perf_counter=lambda: self.now_s))
        _Player(self, view.open(None, None, None), SimpleNamespace(wait=wait, is_set=stop.is_set)).play(forever=False)
        return [one.frame.index for one in view.drawn]


def test_what_is_read_too_slowly_is_drawn_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = SlowSession(read_s=0.1).played(FakeView(), threading.Event(), monkeypatch)
    assert drawn[-1] == 39
    assert max(np.diff(drawn)) <= 4


@pytest.mark.parametrize("asked_by", ["window", "signal"])
def test_a_replay_that_is_behind_ends_when_asked(asked_by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    view, stop = FakeView(), threading.Event()
    session = SlowSession(read_s=0.1, at_fifth=stop.set if asked_by == "signal" else lambda: setattr(view, "ends_after", 0))
    session.played(view, stop, monkeypatch)
    assert session.num_read <= 7


def test_pausing_stops_the_clock_and_closing_the_replay(session: Path) -> None:
    view = FakeView(pauses=(0.3, 0.9))
    replay_in_window(session, LiveConfig(), view.open)
    assert 1.9 < view.times_s[-1] < 4
    view = FakeView(ends_after=40)
    replay_in_window(session, LiveConfig(loop=True), view.open)
    indices = [one.frame.index for one in view.drawn]
    assert 29 in indices
    assert indices[indices.index(29) + 1] < 5
    assert len(view.drawn) == 40
    assert view.closed


def test_what_the_window_shows_is_sent_with_bones(tmp_path: Path, receivers: list[socket.socket]) -> None:
    record(tmp_path / "live.arrows", posed_scenes(), SessionInfo.of(BODY, {"checkpoint": "toy"}, parametric=False))
    view = FakeView()
    replay_in_window(tmp_path / "live.arrows", LiveConfig(vmc=receivers[0].getsockname()), view.open)
    messages = received(receivers[0])
    hips = [message for message in messages if message[:2] == ("/VMC/Ext/Bone/Pos", "Hips")]
    assert 1 <= len(view.drawn) == len(hips)
    assert not received(receivers[1])


def test_what_has_no_bones_is_not_sent(session: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="--vmc: this session's body is 'toy', expected one whose bones can be found"):
        replay_in_window(session, LiveConfig(vmc=("127.0.0.1", 39539)), FakeView().open)
    code, _, err = outcome(capsys, "--replay", session, "--out", tmp_path / "out", "--vmc")
    assert (code, "leave --out away" in err) == (1, True)


def test_without_a_display_one_line_says_what_else_to_do(
    session: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    code, out, err = outcome(capsys, "--replay", session)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "--out DIR" in err
