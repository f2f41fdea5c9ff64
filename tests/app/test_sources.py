"""Recorded videos and pictures of every awkward kind."""

import os
import struct
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from app import heif
from app.sources import VideoSource, picture_files, picture_frame, read_picture
from core.errors import InputError
from tests.app.media import quarter_picture, write_tone, write_video


def _red_corner(image: np.ndarray) -> tuple[str, str]:
    """Which quarter is red."""
    height, width = image.shape[:2]
    rows = {"top": slice(0, height // 2 - 2), "bottom": slice(height // 2 + 2, height)}
    columns = {"left": slice(0, width // 2 - 2), "right": slice(width // 2 + 2, width)}
    redness = {
        (row, column): float(image[rows[row], columns[column]].astype(int).dot([2, -1, -1]).mean()) for row in rows for column in columns
    }
    return max(redness, key=redness.__getitem__)


def test_reads_frames_in_order_with_their_times(tmp_path: Path) -> None:
    source = VideoSource(write_video(tmp_path / "clip.mp4"))
    frames = list(source)
    assert source.size_px == (64, 48)
    assert source.expected_frames == len(frames) == 10
    assert source.fps == pytest.approx(30)
    assert source.duration_s == pytest.approx(1 / 3, abs=0.01)
    assert not source.has_audio
    assert source.warning is None
    assert [frame.index for frame in frames] == list(range(10))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(10) / 30, atol=1e-4)
    assert [frame.image[40, 50].mean() for frame in frames] == sorted(frame.image[40, 50].mean() for frame in frames)


def test_pictures_are_rgb(tmp_path: Path) -> None:
    frame = next(iter(VideoSource(write_video(tmp_path / "clip.mp4"))))
    red, green, blue = frame.image[10, 10].astype(int)
    assert red > 180
    assert green < 70
    assert blue < 70


def test_a_source_can_be_read_twice(tmp_path: Path) -> None:
    source = VideoSource(write_video(tmp_path / "clip.mp4"))
    assert [frame.time_s for frame in source] == [frame.time_s for frame in source]


@pytest.mark.parametrize(
    ("degrees", "size_px", "corner"),
    [
        (0, (64, 48), ("top", "left")),
        (90, (48, 64), ("bottom", "left")),
        (180, (64, 48), ("bottom", "right")),
        (270, (48, 64), ("top", "right")),
    ],
)
def test_rotation_tag_is_applied(tmp_path: Path, degrees: int, size_px: tuple[int, int], corner: tuple[str, str]) -> None:
    source = VideoSource(write_video(tmp_path / "turned.mp4", rotation_degrees=degrees))
    frame = next(iter(source))
    assert source.size_px == frame.size_px == size_px
    assert _red_corner(frame.image) == corner


def test_variable_rate_keeps_its_times(tmp_path: Path) -> None:
    times_s = [0.0, 0.033, 0.2, 0.21, 0.5, 1.0]
    source = VideoSource(write_video(tmp_path / "vfr.mp4", times_s=times_s))
    np.testing.assert_allclose([frame.time_s for frame in source], times_s, atol=1e-4)


def test_a_clock_that_does_not_start_at_zero(tmp_path: Path) -> None:
    source = VideoSource(write_video(tmp_path / "broadcast.ts", times_s=[5 + i / 30 for i in range(10)]))
    assert source.start_time_s == pytest.approx(5, abs=0.2)
    times_s = [frame.time_s for frame in source]
    assert 0 <= times_s[0] < 0.1
    assert times_s[-1] - times_s[0] == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("size_px", [(63, 47), (1, 1), (2, 301)])
def test_odd_sizes(tmp_path: Path, size_px: tuple[int, int]) -> None:
    source = VideoSource(write_video(tmp_path / "odd.mkv", size_px=size_px, codec="ffv1", pix_fmt="bgr0"))
    frames = list(source)
    assert len(frames) == 10
    assert all(frame.size_px == size_px == source.size_px for frame in frames)


def test_8k_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "8k.mp4", size_px=(7680, 4320), times_s=[0.0], codec="mpeg4")
    assert [frame.size_px for frame in VideoSource(path)] == [(7680, 4320)]


def test_pixels_become_square(tmp_path: Path) -> None:
    path = write_video(tmp_path / "anamorphic.mp4", sample_aspect_ratio=Fraction(4, 3))
    source = VideoSource(path)
    assert source.size_px == next(iter(source)).size_px == (85, 48)


def _without_its_end(path: Path, kept: float) -> Path:
    """The same mp4 with its index in front and its end cut off."""
    whole = path.with_name("whole.mp4")
    with av.open(str(path)) as source, av.open(str(whole), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = whole.read_bytes()
    cut = path.with_name("cut.mp4")
    cut.write_bytes(data[: int(len(data) * kept)])
    return cut


def test_a_cut_file_gives_what_it_has_and_says_so(tmp_path: Path) -> None:
    path = write_video(tmp_path / "long.mp4", times_s=[i / 30 for i in range(120)])
    source = VideoSource(_without_its_end(path, 0.7))
    num_frames = len(list(source))
    assert 5 < num_frames < 118
    assert source.warning == f"read {num_frames} of 120 frames; the file is damaged or ends early"


def test_a_cut_file_without_a_frame_count(tmp_path: Path) -> None:
    path = write_video(tmp_path / "long.mkv", times_s=[i / 30 for i in range(300)])
    assert list(VideoSource(path))[-1].index == 299
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    source = VideoSource(path)
    num_frames = len(list(source))
    assert 5 < num_frames < 280
    assert source.warning is not None
    assert f"read {num_frames} frames" in source.warning


@pytest.mark.parametrize(("suffix", "kept"), [("mkv", 0.93), ("mkv", 0.6), ("flv", 0.6)])
def test_a_cut_end_without_a_frame_count_is_noticed_in_short_clips_too(tmp_path: Path, suffix: str, kept: float) -> None:
    rough = {"codec": "flv"} if suffix == "flv" else {}
    path = write_video(tmp_path / f"short.{suffix}", size_px=(320, 240), times_s=[i / 30 for i in range(30)], **rough)
    source = VideoSource(path)
    assert len(list(source)) == 30
    assert source.warning is None
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    source = VideoSource(path)
    assert len(list(source)) < 30
    assert source.warning is not None


def test_pictures_that_begin_late_are_no_damage(tmp_path: Path) -> None:
    for suffix in ("mkv", "mp4", "ts"):
        source = VideoSource(write_video(tmp_path / f"late.{suffix}", times_s=[2 + i / 30 for i in range(8)]))
        assert len(list(source)) == 8, suffix
        assert source.warning is None, suffix
        assert source.expected_frames in (8, 9, None), suffix


def test_a_rate_that_only_says_how_fine_the_clock_is(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "fine.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=1000)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(16):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 9 * index, np.uint8), format="rgb24")
            picture.pts, picture.time_base = 125 * index, Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    source = VideoSource(tmp_path / "fine.mkv")
    assert source.fps == pytest.approx(8, rel=0.02)
    assert source.expected_frames == pytest.approx(16, abs=1)


def test_long_gaps_are_no_damage(tmp_path: Path) -> None:
    for suffix in ("mp4", "mkv"):
        source = VideoSource(write_video(tmp_path / f"slides.{suffix}", times_s=[0.0, 0.1, 0.2, 4.0, 9.0]))
        assert len(list(source)) == 5
        assert source.warning is None


def test_noise_in_the_middle_does_not_stop_the_rest(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", times_s=[i / 30 for i in range(90)], options={"g": "10"})
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 2000
    data[start : start + 300] = os.urandom(300)
    path.write_bytes(bytes(data))
    source = VideoSource(path)
    assert len(list(source)) > 45
    assert source.warning is None or "damaged" in source.warning


def test_packets_that_cannot_be_decoded_are_told(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", codec="mjpeg", pix_fmt="yuvj420p", times_s=[i / 30 for i in range(30)])
    data = bytearray(path.read_bytes())
    start = data.index(b"00dc", 5000)
    data[start + 8 : start + 200] = bytes(192)
    path.write_bytes(bytes(data))
    source = VideoSource(path)
    assert len(list(source)) >= 28
    assert source.warning is not None
    assert "damaged" in source.warning


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.mp4", b"", "empty"),
        ("zeros.mp4", bytes(5000), "not a readable video"),
        ("words.mp4", b"hello world\n" * 99, "not a readable video"),
        ("words.txt", b"hello world\n" * 99, "text file"),
        ("random.mkv", bytes(np.random.default_rng(1).integers(0, 256, 9000, np.uint8)), "not a readable video"),
        ("missing.mp4", None, "no such file"),
    ],
)
def test_what_is_no_video_gives_one_line(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        VideoSource(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cut_header(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4")
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(InputError, match=r"not a readable video|not one frame"):
        VideoSource(path)


def test_sound_only(tmp_path: Path) -> None:
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        write_tone(container, container.add_stream("aac", rate=44100, layout="mono"), 0.5)
    with pytest.raises(InputError, match="only audio"):
        VideoSource(path)


def test_a_folder_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a folder"):
        VideoSource(tmp_path)


def test_every_clip_is_read_whole(shared: Path) -> None:
    source = VideoSource(shared / "data/clips/two_people.mp4")
    assert source.size_px == (1088, 1920)
    assert source.fps == pytest.approx(60)
    assert sum(1 for _ in source) == source.expected_frames == 100
    assert VideoSource(shared / "data/clips/walk_outdoors.mp4").has_audio


def _save(path: Path, image: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), image[:, :, ::-1])
    return path


def test_a_folder_of_pictures_in_order(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", "c.webp", "d.bmp"):
        _save(tmp_path / name, quarter_picture(40, 30))
    (tmp_path / "notes.txt").write_text("no picture")
    paths = picture_files(tmp_path)
    assert [path.name for path in paths] == ["a.jpg", "b.png", "c.webp", "d.bmp"]
    images = [read_picture(path) for path in paths]
    assert all(_red_corner(image) == ("top", "left") and image.shape == (30, 40, 3) for image in images)


def test_hidden_files_of_a_folder_are_left_alone(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "._a.png").write_bytes(b"what a Mac leaves")
    (tmp_path / "._b.heic").write_bytes(b"what a Mac leaves")
    assert [path.name for path in picture_files(tmp_path)] == ["a.png"]


def test_pictures_of_other_kinds_in_a_folder_are_missed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _save(tmp_path / "a.jpg", quarter_picture(40, 30))
    for name in ("b.AVIF", "c.avif", "d.gif", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in picture_files(tmp_path)] == ["a.jpg"]
    assert caplog.messages == [f"{tmp_path}: pictures of other kinds left out (2 .avif, 1 .gif); save them as .jpg or .png"]


def test_high_definition_that_does_not_say_so_is_bt_709(tmp_path: Path) -> None:
    red = np.zeros((720, 1280, 3), np.uint8)
    red[..., 0] = 255
    for size_px, matrix in (((1280, 720), "ITU709"), ((640, 360), "ITU601")):
        path = tmp_path / f"{matrix}.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=30, options={"crf": "1"})
            stream.width, stream.height, stream.pix_fmt = *size_px, "yuv420p"
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(red[: size_px[1], : size_px[0]]), format="rgb24")
            picture = picture.reformat(format="yuv420p", dst_colorspace=matrix)
            picture.colorspace = 2  # unspecified
            for pts in range(2):
                picture.pts = pts
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
        frame = next(iter(VideoSource(path)))
        assert np.abs(frame.image.reshape(-1, 3).mean(axis=0) - (255, 0, 0)).max() < 6, matrix


def test_exif_orientation(tmp_path: Path) -> None:
    """Tag 0x0112 = 6: the camera was held on its side; to be shown turned a quarter clockwise."""
    path = _save(tmp_path / "phone.jpg", quarter_picture(40, 30))
    tiff = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(tiff) + 2) + tiff + data[2:])
    image = read_picture(path)
    assert image.shape == (40, 30, 3)
    assert _red_corner(image) == ("top", "right")


def test_grey_transparent_and_deep_pictures(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((5, 7), 90, np.uint8))
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((5, 7, 3), 90 * 257, np.uint16))
    cv2.imwrite(str(tmp_path / "clear.png"), np.full((5, 7, 4), 90, np.uint8))
    images = [read_picture(path) for path in picture_files(tmp_path)]
    assert [image.shape for image in images] == [(5, 7, 3)] * 3
    assert all((image == 90).all() for image in images)


def test_nothing_to_read_gives_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pictures in this folder"):
        picture_files(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        picture_files(tmp_path / "missing.jpg")
    (tmp_path / "bad.jpg").write_bytes(b"12345")
    with pytest.raises(InputError, match="damaged, or no picture"):
        read_picture(tmp_path / "bad.jpg")


def test_photographs_of_iphones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """person.heic: somebody's rectangle, (220, 150, 120) on (30, 60, 90), "26 mm" in its EXIF, written by pillow-heif."""
    path = Path(__file__).with_name("person.heic")
    frame = picture_frame(path)
    assert frame.image.shape == (120, 160, 3)
    assert np.abs(frame.image[60, 60].astype(int) - (220, 150, 120)).max() < 6
    assert np.abs(frame.image[5, 150].astype(int) - (30, 60, 90)).max() < 6
    assert frame.focal_px == pytest.approx(200 * 26 / np.hypot(36, 24))
    (tmp_path / "a.jpg").write_bytes(path.read_bytes())  # as some programs call them
    assert (picture_frame(tmp_path / "a.jpg").image == frame.image).all()
    assert picture_files(path.parent) == [path]
    cv2.imwrite(str(tmp_path / "b.jpg"), frame.image)
    (tmp_path / "c.heic").write_bytes((tmp_path / "b.jpg").read_bytes())
    assert (read_picture(tmp_path / "c.heic") == read_picture(tmp_path / "b.jpg")).all()
    for content in (path.read_bytes()[:400], path.read_bytes()[:200] + bytes(200), b"\0\0\0\x18ftypheic"):
        (tmp_path / "b.heic").write_bytes(content)
        with pytest.raises(InputError, match=r"b\.heic: damaged, or no picture"):
            read_picture(tmp_path / "b.heic")
    heif.make_known.cache_clear()
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    with pytest.raises(InputError, match="needs the package pi-heif"):
        read_picture(path)
    heif.make_known.cache_clear()
