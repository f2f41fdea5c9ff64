"""Files on disk: the contract of meshes.npz, a playable overlay, a summary; kept when interrupted."""

import errno
import io
import json
import os
import signal
import time
import tracemalloc
import zipfile
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from app.export import PICTURE_SINKS, SINKS, VIDEO_SINKS, SinkGroup, npz
from app.export.npz import NpzSink
from app.export.overlay import OverlaySink
from app.export.summary import RunningQuantiles, SummarySink
from app.sources import VideoSource
from core.errors import InputError
from tests.app.media import SPHERE_FACES, SPHERE_VERTICES_M, mesh, quarter_picture, recording, scene, write_video

NUM_VERTICES = len(SPHERE_VERTICES_M)
CONTRACT = {
    "frame_index": (np.int32, ()), "track_id": (np.int32, ()), "time_s": (np.float64, ()), "score": (np.float32, ()),
    "box_px": (np.float32, (4,)), "vertices_m": (np.float32, (NUM_VERTICES, 3)), "joints_m": (np.float32, (14, 3)),
    "joint_visibility": (np.float32, (14,)), "joints_px": (np.float32, (14, 2)), "camera": (np.float32, (3,)),
    "translation_m": (np.float32, (3,)),
}  # fmt: skip
CONSTANTS = {
    "focal_px": (),
    "principal_px": (2,),
    "image_size_px": (2,),
    "fps": (),
    "faces": SPHERE_FACES.shape,
    "joint_names": (14,),
    "body": (),
}


def _load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _moving(index: int, track_id: int):
    return mesh(
        track_id, (0.01 * index, 0.0, 2.0 + track_id), vertices_m=SPHERE_VERTICES_M + np.float32(index) / 100, score=0.5 + index / 100
    )


def test_npz_round_trip(tmp_path: Path) -> None:
    scenes = [scene(*(_moving(i, t) for t in range(i % 3)), index=i) for i in range(20)]
    with NpzSink(recording(tmp_path)) as sink:
        for one in scenes:
            sink.write(one)
    data = _load(sink.path)
    rows = [(one, person) for one in scenes for person in one.meshes]
    assert set(data) == set(CONTRACT) | set(CONSTANTS)
    for name, (dtype, shape) in CONTRACT.items():
        assert data[name].dtype == dtype, name
        assert data[name].shape == (len(rows), *shape), name
    for name, shape in CONSTANTS.items():
        assert data[name].shape == shape, name
    np.testing.assert_array_equal(data["frame_index"], [one.frame.index for one, _ in rows])
    np.testing.assert_array_equal(data["time_s"], [one.frame.time_s for one, _ in rows])
    for name in set(CONTRACT) - {"frame_index", "time_s"}:
        np.testing.assert_array_equal(data[name], np.array([getattr(person, name) for _, person in rows], data[name].dtype), err_msg=name)
    assert data["joint_names"].tolist()[:3] == ["R_Ankle", "R_Knee", "R_Hip"]
    assert str(data["body"]) == "anny"
    assert data["image_size_px"].tolist() == [64, 48]
    assert data["faces"].dtype == np.int32
    assert sorted(path.name for path in tmp_path.iterdir()) == ["meshes.npz"]


def test_npz_is_a_sound_zip(tmp_path: Path) -> None:
    with NpzSink(recording(tmp_path)) as sink:
        for i in range(5):
            sink.write(scene(_moving(i, 0), index=i))
    with zipfile.ZipFile(sink.path) as archive:
        assert archive.testzip() is None
        assert archive.namelist()[0] == "vertices_m.npy"


def test_npz_of_nobody_has_no_rows(tmp_path: Path) -> None:
    with NpzSink(recording(tmp_path)) as sink:
        sink.write(scene())
    data = _load(sink.path)
    assert data["vertices_m"].shape == (0, NUM_VERTICES, 3)
    assert data["joints_px"].shape == (0, 14, 2)
    assert float(data["focal_px"]) == 200


def test_npz_replaces_an_earlier_result_only_when_done(tmp_path: Path) -> None:
    for num_rows in (3, 1):
        with NpzSink(recording(tmp_path)) as sink:
            for i in range(num_rows):
                sink.write(scene(_moving(i, 0), index=i))
            if num_rows == 1:
                assert len(_load(sink.path)["track_id"]) == 3
    assert len(_load(sink.path)["track_id"]) == 1


def test_npz_keeps_what_was_done_before_an_interruption(tmp_path: Path) -> None:
    def interrupted() -> None:
        with NpzSink(recording(tmp_path)) as sink:
            for i in range(7):
                sink.write(scene(_moving(i, 0), index=i))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert _load(tmp_path / "meshes.npz")["frame_index"].tolist() == list(range(7))


def test_npz_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    with NpzSink(recording(tmp_path)) as sink:
        sink.write(scene(_moving(0, 0)))
        tracemalloc.start()
        for i in range(1500):
            sink.write(scene(_moving(0, 0), index=i))
        sink.close()
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert (tmp_path / "meshes.npz").stat().st_size > 6_500_000
    assert peak_bytes < 6_500_000  # a chunk for the check sum and one of rows; all rows would be more


class _SmallDisk(io.FileIO):
    """A file on a disk that has `room` bytes for all files of this kind together."""

    room = 0
    ends: dict[int, int] = {}  # noqa: RUF012 - shared on purpose

    def write(self, data: bytes) -> int:
        end = self.tell() + len(data)
        others = sum(size for file, size in self.ends.items() if file != id(self))
        if max(end, self.ends.get(id(self), 0)) + others > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.ends[id(self)] = max(end, self.ends.get(id(self), 0))
        return super().write(data)

    def truncate(self, size: int | None = None) -> int:
        self.ends[id(self)] = self.tell() if size is None else size
        return super().truncate(size)


@pytest.mark.parametrize("room_bytes", [100_000, 120_000, 123_456])
def test_npz_on_a_full_disk_keeps_all_but_the_last_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room_bytes: int) -> None:
    monkeypatch.setattr(Path, "open", lambda path, mode, buffering=-1: _SmallDisk(str(path), mode))
    monkeypatch.setattr(_SmallDisk, "room", room_bytes)
    monkeypatch.setattr(_SmallDisk, "ends", {})
    monkeypatch.setattr(npz, "ROOM_FOR_INDEX_BYTES", 6000)
    sink = NpzSink(recording(tmp_path))

    def fill() -> None:
        for i in range(1000):
            sink.write(scene(_moving(i, 0), index=i))

    with pytest.raises(OSError, match=r"No space left.*meshes\.partial\.npz"):
        fill()
    sink.close()
    data = _load(tmp_path / "meshes.npz")
    num_rows = len(data["frame_index"])
    assert num_rows > 0.7 * room_bytes / (NUM_VERTICES * 12 + npz.ROW_DTYPE.itemsize) - 6
    np.testing.assert_array_equal(data["vertices_m"][-1], _moving(num_rows - 1, 0).vertices_m)
    assert data["frame_index"].tolist() == list(range(num_rows))
    assert "disk is full" in sink.warnings[0]


def test_npz_that_loses_rows_only_at_its_end_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows had room, what comes behind them has not."""
    with monkeypatch.context() as patch:
        patch.setattr(npz, "ROOM_FOR_INDEX_BYTES", 6000)
        patch.setattr(Path, "open", lambda path, mode, buffering=-1: _SmallDisk(str(path), mode))
        patch.setattr(_SmallDisk, "room", 120_000)
        patch.setattr(_SmallDisk, "ends", {})
        sink = NpzSink(recording(tmp_path))
        for i in range(21):
            sink.write(scene(_moving(i, 0), index=i))
        with pytest.raises(OSError, match=r"the disk is full: meshes\.npz keeps \d+ of 21 rows") as error:
            sink.close()
    assert error.value.errno == errno.ENOSPC
    assert 0 < len(_load(tmp_path / "meshes.npz")["frame_index"]) < 21


def test_npz_refuses_a_mesh_of_another_body(tmp_path: Path) -> None:
    with NpzSink(recording(tmp_path)) as sink, pytest.raises(ValueError, match="got a mesh of 5 vertices"):
        sink.write(scene(mesh(vertices_m=SPHERE_VERTICES_M[:5])))


def _write_overlay(folder: Path, source: VideoSource, stop_after: int | None = None, **person: object) -> list[str]:
    with OverlaySink(recording(folder, size_px=source.size_px, fps=source.fps, source=source.path)) as sink:
        for frame in source:
            if frame.index == stop_after:
                break
            sink.write(scene(mesh(**person), image=frame.image, index=frame.index, time_s=frame.time_s))
    return sink.warnings


def _sound(path: Path) -> tuple[str, float, np.ndarray]:
    """Codec, seconds, samples."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        frames = list(container.decode(stream))
        samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
        return stream.codec_context.codec.canonical_name, len(samples) / stream.codec_context.sample_rate, samples


def test_overlay_has_the_inputs_size_rate_and_times(tmp_path: Path) -> None:
    times_s = [0.0, 0.04, 0.08, 0.2, 0.21, 0.4, 0.9]
    for name, clip in {
        "plain": write_video(tmp_path / "plain.mp4"), "variable": write_video(tmp_path / "variable.mp4", times_s=times_s),
        "turned": write_video(tmp_path / "turned.mp4", rotation_degrees=90),
    }.items():  # fmt: skip
        source = VideoSource(clip)
        assert _write_overlay(tmp_path / name if (tmp_path / name).mkdir() is None else tmp_path, source) == []
        result = VideoSource(tmp_path / name / "overlay.mp4")
        assert result.size_px == source.size_px
        assert result.expected_frames == source.expected_frames
        np.testing.assert_allclose([frame.time_s for frame in result], [frame.time_s for frame in source], atol=1e-4)
        with av.open(str(result.path)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
            assert next(container.decode(stream)).rotation == 0
        assert [path.name for path in (tmp_path / name).iterdir()] == ["overlay.mp4"]
    assert VideoSource(tmp_path / "plain/overlay.mp4").fps == pytest.approx(30)


def test_overlay_colours_survive_and_the_body_is_drawn(tmp_path: Path) -> None:
    source = VideoSource(write_video(tmp_path / "clip.mp4", size_px=(160, 120)))
    _write_overlay(tmp_path, source, translation_m=(0.0, 0.0, 2.0))
    before, after = next(iter(source)).image.astype(int), next(iter(VideoSource(tmp_path / "overlay.mp4"))).image.astype(int)
    np.testing.assert_allclose(after[5:20, 5:20].mean(axis=(0, 1)), before[5:20, 5:20].mean(axis=(0, 1)), atol=6)
    np.testing.assert_allclose(after[-20:-5, -20:-5].mean(axis=(0, 1)), before[-20:-5, -20:-5].mean(axis=(0, 1)), atol=6)
    assert np.abs(after[60, 80] - before[60, 80]).max() > 30


@pytest.mark.parametrize(
    ("suffix", "codec", "expected"), [("mp4", "aac", "aac"), ("mkv", "pcm_s16le", "aac"), ("mkv", "mp3", "mp3"), ("ts", "aac", "aac")]
)
def test_overlay_keeps_the_sound(tmp_path: Path, suffix: str, codec: str, expected: str) -> None:
    clip = write_video(tmp_path / f"clip.{suffix}", times_s=[i / 30 for i in range(30)], audio=codec)
    assert _write_overlay(tmp_path, VideoSource(clip)) == []
    name, duration_s, samples = _sound(tmp_path / "overlay.mp4")
    assert name == expected
    assert duration_s == pytest.approx(1.0, abs=0.08)
    middle = samples[len(samples) // 4 : len(samples) // 4 * 3].astype(float)
    spectrum = np.abs(np.fft.rfft(middle))
    assert np.argmax(spectrum) * 44100 / len(middle) == pytest.approx(440, abs=4)


def test_overlay_copies_sound_that_mp4_can_hold_byte_by_byte(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", times_s=[i / 30 for i in range(30)], audio="aac")
    _write_overlay(tmp_path, VideoSource(clip))
    packets = []
    for path in (clip, tmp_path / "overlay.mp4"):
        with av.open(str(path)) as container:
            packets.append([bytes(packet) for packet in container.demux(audio=0) if packet.size])
    assert packets[0][1:] == packets[1], "without the codec's run-up, which lies before the first picture"


def test_overlay_and_its_sound_begin_at_0(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", times_s=[i / 30 for i in range(90)], audio="aac")
    _write_overlay(tmp_path, VideoSource(clip))
    for stream, expected_s in (("video", [0, 1 / 30, 2 / 30]), ("audio", [0, 1024 / 44100, 2048 / 44100])):
        with av.open(str(tmp_path / "overlay.mp4")) as container:
            times_s = [float(frame.pts * frame.time_base) for frame in container.decode(**{stream: 0})]
        np.testing.assert_allclose(times_s[:3], expected_s, atol=1e-4)
    assert times_s[-1] < 3


def write_apart(path: Path, video_from_s: float, click_at_s: float) -> Path:
    """A second of pictures, and sound from its click on, or from 0 on with the click within it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("aac", rate=44100, layout="mono")
        for index in range(30):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 8 * index, np.uint8), format="rgb24")
            picture.pts, picture.time_base = round((video_from_s + index / 30) * 90_000), Fraction(1, 90_000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
        first, samples = round(click_at_s * 44100), np.zeros((1, 44100), np.float32)
        samples[0, :441] = 0.9
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 44100, first, Fraction(1, 44100)
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize(("video_from_s", "click_at_s"), [(0.0, 0.5), (0.5, 0.0), (0.0, 0.0)])
def test_overlay_keeps_pictures_and_sound_together(tmp_path: Path, suffix: str, video_from_s: float, click_at_s: float) -> None:
    source = VideoSource(write_apart(tmp_path / f"apart.{suffix}", video_from_s, click_at_s))
    assert _write_overlay(tmp_path, source) == []
    with av.open(str(tmp_path / "overlay.mp4")) as container:
        times_s = [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]
    assert times_s[0] == 0, "the first picture stands until the second comes"
    np.testing.assert_allclose(times_s[1:], [frame.time_s for frame in source][1:], atol=1e-3)
    assert times_s[1] == pytest.approx(video_from_s + 1 / 30, abs=0.03)
    samples = _sound(tmp_path / "overlay.mp4")[2]
    assert np.argmax(np.abs(samples) > 0.3) / 44100 == pytest.approx(click_at_s, abs=0.035)
    assert len(samples) / 44100 == pytest.approx(click_at_s + 1, abs=0.1)


def test_overlay_without_sound_and_without_a_source(tmp_path: Path) -> None:
    _write_overlay(tmp_path, VideoSource(write_video(tmp_path / "clip.mp4")))
    assert not VideoSource(tmp_path / "overlay.mp4").has_audio
    with OverlaySink(recording(tmp_path)) as sink:
        sink.write(scene(mesh()))
    assert VideoSource(sink.path).expected_frames == 1


def test_overlay_stopped_early_plays_and_its_sound_stops_too(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", times_s=[i / 30 for i in range(90)], audio="aac")
    _write_overlay(tmp_path, VideoSource(clip), stop_after=30)
    assert sum(1 for _ in VideoSource(tmp_path / "overlay.mp4")) == 30
    assert _sound(tmp_path / "overlay.mp4")[1] == pytest.approx(1.0, abs=0.15)


def test_overlay_of_a_killed_run_can_be_read(tmp_path: Path) -> None:
    """What is on disk before close() plays: copy the file while the writer is still open."""
    source = VideoSource(write_video(tmp_path / "clip.mp4", size_px=(320, 240), times_s=[i / 30 for i in range(600)], audio="aac"))
    sink = OverlaySink(recording(tmp_path, size_px=source.size_px, source=source.path))
    for frame in source:
        sink.write(scene(image=frame.image, index=frame.index, time_s=frame.time_s))
    copy = tmp_path / "copy.mp4"
    copy.write_bytes((tmp_path / "overlay.partial.mp4").read_bytes())
    sink.close()
    assert sum(1 for _ in VideoSource(copy)) >= 250


@pytest.mark.parametrize("size_px", [(63, 47), (1, 1), (17, 16)])
def test_overlay_of_odd_sizes_grows_by_one_pixel(tmp_path: Path, size_px: tuple[int, int]) -> None:
    with OverlaySink(recording(tmp_path, size_px=size_px)) as sink:
        for i in range(3):
            sink.write(scene(image=quarter_picture(*size_px), index=i))
    result = VideoSource(sink.path)
    assert result.size_px == (size_px[0] + size_px[0] % 2, size_px[1] + size_px[1] % 2)
    assert len(list(result)) == 3


def test_overlay_goes_on_with_one_warning_when_drawing_fails(tmp_path: Path) -> None:
    broken = SPHERE_VERTICES_M * np.float32(np.nan)
    warnings = _write_overlay(tmp_path, VideoSource(write_video(tmp_path / "clip.mp4")), vertices_m=broken)
    assert len(warnings) == 1
    assert "could not be drawn at frame 0" in warnings[0]
    assert len(list(VideoSource(tmp_path / "overlay.mp4"))) == 10


def test_summary_counts_people_and_times(tmp_path: Path) -> None:
    group_recording = recording(tmp_path, settings={"checkpoint": "default", "folder": tmp_path}, expected_frames=12)
    with SummarySink(group_recording) as sink:
        for i in range(10):
            sink.write(scene(*([mesh(0)] if i < 6 else []), *([mesh(4)] if 4 <= i < 9 else []), index=i))
    summary = json.loads(sink.path.read_text(encoding="utf-8"))
    assert (summary["frames"], summary["expected_frames"], summary["frames_with_people"], summary["max_people_at_once"]) == (10, 12, 9, 2)
    assert [(p["track_id"], p["first_frame"], p["last_frame"], p["num_frames"]) for p in summary["people"]] == [(0, 0, 5, 6), (4, 4, 8, 5)]
    assert summary["ms_per_stage"]["detect"]["median"] == pytest.approx(5, rel=0.01)
    assert summary["ms_per_stage"]["detect"]["p90"] == pytest.approx(9, rel=0.01)
    assert summary["settings"]["checkpoint"] == "default"
    assert "numpy" in summary["versions"]


def test_quantiles_agree_with_numpy() -> None:
    values = np.random.default_rng(0).lognormal(2, 1, 4000)
    quantiles = RunningQuantiles()
    for value in values:
        quantiles.add(value)
    for fraction in (0.1, 0.5, 0.9, 0.99):
        assert quantiles.quantile(fraction) == pytest.approx(np.quantile(values, fraction), rel=0.02)
    assert RunningQuantiles().quantile(0.5) == 0


def test_group_writes_all_files_and_gathers_warnings_and_times(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with SinkGroup(recording(folder)) as sinks:
        sinks.write(scene(mesh()))
        sinks.write(scene(mesh(vertices_m=SPHERE_VERTICES_M * np.float32(np.nan)), index=1))
        sinks.warn("read 2 of 9 frames")
        sinks.warn("read 2 of 9 frames")
    assert sorted(path.name for path in folder.iterdir()) == sorted(VIDEO_SINKS)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert summary["warnings"][0] == "read 2 of 9 frames"
    assert "could not be drawn" in summary["warnings"][1]
    assert len(summary["warnings"]) == 2
    assert set(summary["ms_per_stage"]) == {"detect", "estimate", "overlay.mp4", "meshes.npz"}


def test_group_closes_the_others_when_one_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    sinks = SinkGroup(recording(tmp_path, settings={"state": "complete"}))
    sinks.write(scene(mesh()))
    monkeypatch.setattr(OverlaySink, "close", broken)
    with pytest.raises(OSError, match="No space left"):
        sinks.close()
    assert len(_load(tmp_path / "meshes.npz")["track_id"]) == 1
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert "No space left" in summary["warnings"][0]
    assert summary["settings"]["state"] == "failed", "the next run does it again"


def test_what_could_not_be_written_leaves_no_overlay_that_looks_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def write() -> None:
        with SinkGroup(recording(tmp_path)) as sinks:
            sinks.write(scene(mesh()))
            monkeypatch.setattr(NpzSink, "write", full)
            sinks.write(scene(mesh(), index=1, time_s=0.1))

    with pytest.raises(OSError, match="No space left"):
        write()
    assert not (tmp_path / "overlay.mp4").exists()
    assert VideoSource(tmp_path / "overlay.partial.mp4").expected_frames == 2
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert "overlay.partial.mp4 ends early" in summary["warnings"]


def test_what_was_made_of_an_earlier_result_goes_with_it(tmp_path: Path) -> None:
    for name in ("person-3.bvh", "person-3.vrma", "people.glb", "notes.txt"):
        (tmp_path / name).touch()
    with SinkGroup(recording(tmp_path)):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"meshes.npz", "summary.json", "notes.txt"}


def test_an_unwritable_folder_is_an_oserror(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        SinkGroup(recording(tmp_path / "file"))


def test_ctrl_c_while_files_are_finished_loses_none_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(sink: OverlaySink) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        close(sink)

    close = OverlaySink.close
    monkeypatch.setattr(OverlaySink, "close", interrupted)
    sinks = SinkGroup(recording(tmp_path))
    sinks.write(scene(mesh()))
    with pytest.raises(KeyboardInterrupt):
        sinks.close()
    assert {path.name for path in tmp_path.iterdir()} == set(VIDEO_SINKS)


def test_pictures(tmp_path: Path) -> None:
    image = quarter_picture(64, 48)
    with SinkGroup(recording(tmp_path), PICTURE_SINKS) as sinks:
        sinks.write(scene(mesh(translation_m=(0.0, 0.0, 6.0)), image=image))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(PICTURE_SINKS)
    drawn = cv2.imread(str(tmp_path / "overlay.png"))[:, :, ::-1]
    np.testing.assert_array_equal(drawn[:2], image[:2])
    assert (drawn[24, 32] != image[24, 32]).any()


def test_unknown_formats_list_the_known() -> None:
    with pytest.raises(InputError, match=r"overlay\.mp4.*"):
        SINKS["overlay.avi"]


def test_a_run_without_a_frame_leaves_no_earlier_overlay(tmp_path: Path) -> None:
    (tmp_path / "overlay.mp4").write_text("of an earlier run")
    with SinkGroup(recording(tmp_path)):
        pass
    assert not (tmp_path / "overlay.mp4").exists()


@pytest.mark.parametrize("name", ["overlay.png", "summary.json"])
def test_half_a_file_leaves_the_room_to_others_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def full(path: Path, data: bytes | str, **_: object) -> None:
        with path.open("wb") as file:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

    def write() -> None:
        sink.write(scene(mesh()))
        sink.close()

    sink = SINKS[name](recording(tmp_path))
    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=rf"No space left on device: '.*{name}'"):
        write()
    assert not list(tmp_path.iterdir())
