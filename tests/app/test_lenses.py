"""Lenses that pictures and videos name, in files made here: EXIF by Pillow, Apple's metadata box by box."""

import json
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.camera import Camera
from app.config import LiveConfig
from app.jobs import Engine, process_picture, process_video
from app.lenses import EXIF_HEIGHT, EXIF_IFD, EXIF_WIDTH, FOCAL_ON_FILM, focal_px_on, picture_film_mm, video_film_mm
from app.sources import VideoSource, picture_frame
from app.types import Frame, intrinsics_of
from core.lens import default_focal_px
from tests.app.fakes import RectangleDetector, TubeEstimator
from tests.app.media import write_video

KEY = b"com.apple.quicktime.camera.focal_length.35mm_equivalent"
ORIENTATION = 0x0112


def photograph(path: Path, tags: dict[int, object], size_px: tuple[int, int] = (160, 120), orientation: int = 1) -> Path:
    """Somebody's bright rectangle on black, with EXIF tags."""
    image = np.zeros((size_px[1], size_px[0], 3), np.uint8)
    image[20:110, 40:80] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[EXIF_IFD] = tags
    Image.fromarray(image).save(path, exif=exif)
    return path


def box(kind: bytes, *contents: bytes) -> bytes:
    """A box of QuickTime's."""
    inside = b"".join(contents)
    return struct.pack(">I", 8 + len(inside)) + kind + inside


def metadata(kind: int, value: bytes, version: bytes = b"") -> bytes:
    """A box `meta` with another key before ours."""
    names = (b"com.apple.quicktime.camera.lens_model", KEY)
    keys = box(b"keys", bytes(4), struct.pack(">I", len(names)), *(box(b"mdta", name) for name in names))
    values = ((1, b"iPhone back camera 5.1mm"), (kind, value))
    items = [
        box(struct.pack(">I", number), box(b"data", struct.pack(">II", kind, 0), data))
        for number, (kind, data) in enumerate(values, start=1)
    ]
    return box(b"meta", version, box(b"hdlr", bytes(8), b"mdta", bytes(13)), keys, box(b"ilst", *items))


def with_metadata(path: Path, added: bytes, place: tuple[bytes, ...] = (b"moov", b"trak")) -> Path:
    """Put a box at the end of the first box at `place`; the pictures lie before it and stay where they are."""
    data = bytearray(path.read_bytes())
    start, end = 0, len(data)
    for kind in place:
        while data[start + 4 : start + 8] != kind:
            start += int.from_bytes(data[start : start + 4], "big")
        size = int.from_bytes(data[start : start + 4], "big")
        data[start : start + 4] = struct.pack(">I", size + len(added))
        start, end = start + 8, start + size
    data[end:end] = added
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_photographs_say_their_lens(suffix: str, tmp_path: Path) -> None:
    path = photograph(tmp_path / f"a.{suffix}", {FOCAL_ON_FILM: 26, EXIF_WIDTH: 4032, EXIF_HEIGHT: 3024})
    assert picture_film_mm(path, (160, 120)) == 26
    assert picture_frame(path).focal_px == pytest.approx(200 * 26 / np.hypot(36, 24))


def test_a_photograph_that_is_turned_upright_keeps_its_lens(tmp_path: Path) -> None:
    frame = picture_frame(photograph(tmp_path / "a.jpg", {FOCAL_ON_FILM: 26, EXIF_WIDTH: 160, EXIF_HEIGHT: 120}, orientation=6))
    assert frame.size_px == (120, 160)
    assert frame.focal_px == pytest.approx(200 * 26 / np.hypot(36, 24))


@pytest.mark.parametrize(
    "tags", [{}, {FOCAL_ON_FILM: 0}, {FOCAL_ON_FILM: 60000}, {FOCAL_ON_FILM: 26, EXIF_WIDTH: 4032, EXIF_HEIGHT: 2000}]
)  # fmt: skip
def test_no_lens_an_unknown_one_or_a_cropped_picture(tags: dict[int, object], tmp_path: Path) -> None:
    assert picture_frame(photograph(tmp_path / "a.jpg", tags)).focal_px is None


def test_a_panorama_has_no_lens(tmp_path: Path) -> None:
    assert picture_frame(photograph(tmp_path / "a.jpg", {FOCAL_ON_FILM: 26}, (480, 120))).focal_px is None


@pytest.mark.parametrize("focal_px", [0.0, -5.0, float("nan"), float("inf")])
def test_no_frame_has_a_nonsense_lens(focal_px: float) -> None:
    with pytest.raises(ValueError, match="focal_px"):
        Frame(np.zeros((8, 8, 3), np.uint8), 0.0, 0, focal_px)


def test_damaged_exif_is_no_lens(tmp_path: Path) -> None:
    path = photograph(tmp_path / "a.jpg", {FOCAL_ON_FILM: 26})
    data = path.read_bytes()
    place = data.index(b"Exif")
    for damage in (b"\xff" * 20, b"MM\0*\xff\xff\xff\xff" + bytes(12), bytes(20)):
        path.write_bytes(data[: place + 6] + damage + data[place + 26 :])
        assert picture_frame(path).focal_px is None


@pytest.mark.parametrize("place", [(b"moov",), (b"moov", b"trak")])
@pytest.mark.parametrize(
    ("kind", "value", "version"), [
        (1, b"26", b""), (1, b"26.00mm", b""), (21, struct.pack(">i", 26), bytes(4)), (22, b"\x1a", b""),
        (23, struct.pack(">f", 26), b""), (24, struct.pack(">d", 26), b""),
    ],
)  # fmt: skip
def test_videos_of_iphones_say_their_lens(kind: int, value: bytes, version: bytes, place: tuple[bytes, ...], tmp_path: Path) -> None:
    path = with_metadata(write_video(tmp_path / "a.mov"), metadata(kind, value, version), place)
    source = VideoSource(path)
    assert source.film_mm == 26
    frames = list(source)
    assert len(frames) == 10
    assert frames[-1].focal_px == pytest.approx(80 * 26 / np.hypot(36, 24))


def test_a_turned_video_has_the_same_lens(tmp_path: Path) -> None:
    path = with_metadata(write_video(tmp_path / "a.mov", rotation_degrees=90), metadata(1, b"26"))
    frame = next(iter(VideoSource(path)))
    assert frame.size_px == (48, 64)
    assert frame.focal_px == pytest.approx(80 * 26 / np.hypot(36, 24))


def test_videos_that_say_nothing_of_it_or_nonsense(tmp_path: Path) -> None:
    plain = write_video(tmp_path / "a.mov")
    assert video_film_mm(plain) is None
    assert video_film_mm(write_video(tmp_path / "a.mkv")) is None
    for kind, value in (
        (1, b"wide"),
        (1, b"\xff\xfe"),
        (21, b"\x7f" * 200),
        (23, b"\0"),
        (24, struct.pack(">d", float("nan"))),
        (99, b"26"),
        (21, b""),
    ):
        path = tmp_path / "b.mov"
        path.write_bytes(plain.read_bytes())
        assert video_film_mm(with_metadata(path, metadata(kind, value))) is None
    whole = with_metadata(write_video(tmp_path / "c.mov"), metadata(1, b"26")).read_bytes()
    for end in range(len(whole) - 300, len(whole), 7):
        path.write_bytes(whole[:end])
        assert video_film_mm(path) in (None, 26)


def test_boxes_without_end_take_no_time(tmp_path: Path) -> None:
    path = tmp_path / "a.mov"
    deep = b""
    for _ in range(2000):
        deep = box(b"moov", deep)
    for content in (deep, box(b"moov", *[box(b"free")] * 300_000), box(b"free") * 300_000, box(b"moov", *[metadata(1, b"x")] * 20_000)):
        path.write_bytes(content)
        start_s = time.process_time()
        assert video_film_mm(path) is None
        assert time.process_time() - start_s < 3  # a twentieth of that


def test_a_file_as_a_camera_has_its_lens(tmp_path: Path) -> None:
    path = with_metadata(write_video(tmp_path / "a.mov"), metadata(1, b"26"))
    with Camera(str(path)) as camera:
        assert camera.take(5.0).frame.focal_px == pytest.approx(80 * 26 / np.hypot(36, 24))


def test_a_webcam_has_a_webcams_lens() -> None:
    pictures = iter([(np.zeros((90, 120, 3), np.uint8), None)] * 3)
    with Camera("0", connect=lambda address: (picture for picture in pictures)) as camera:
        frame = camera.take(5.0).frame
    assert frame.focal_px == pytest.approx(75 / np.tan(np.radians(35)))
    assert intrinsics_of(frame, None).focal_px == frame.focal_px
    assert intrinsics_of(frame, 123.0).focal_px == 123.0


def test_distances_follow_the_lens_unless_another_is_given(tmp_path: Path) -> None:
    image = {FOCAL_ON_FILM: 26, EXIF_WIDTH: 160, EXIF_HEIGHT: 120}
    photograph(tmp_path / "known.jpg", image)
    photograph(tmp_path / "unknown.jpg", {})
    clip = with_metadata(write_video(tmp_path / "clip.mov", (96, 64)), metadata(1, b"26"))
    diagonal_px, lens_px = default_focal_px(160, 120), focal_px_on((160, 120), 26)
    for name, given_px, expected_px, said_by in (
        ("unknown", None, diagonal_px, "diagonal"), ("known", None, lens_px, "file"), ("known", 321.0, 321.0, "setting"),
    ):  # fmt: skip
        engine = Engine(TubeEstimator(), RectangleDetector(), LiveConfig(focal_px=given_px))
        folder = tmp_path / f"{name}-{said_by}"
        process_picture(tmp_path / f"{name}.jpg", folder, engine)
        summary = json.loads((folder / "summary.json").read_text())
        assert (summary["focal_px"], summary["focal_px_from"]) == (pytest.approx(expected_px, abs=1e-3), said_by)
        with np.load(folder / "meshes.npz") as rows:
            assert rows["focal_px"] == pytest.approx(expected_px)
            assert rows["translation_m"][0, 2] == pytest.approx(
                distance_m(tmp_path / "unknown-diagonal") * expected_px / diagonal_px, rel=0.02
            )
    process_video(clip, tmp_path / "clip", Engine(TubeEstimator(), RectangleDetector(), LiveConfig()))
    summary = json.loads((tmp_path / "clip" / "summary.json").read_text())
    assert (summary["focal_px"], summary["focal_px_from"]) == (pytest.approx(focal_px_on((96, 64), 26), abs=1e-3), "file")


def distance_m(folder: Path) -> float:
    """Of the first person of a run."""
    with np.load(folder / "meshes.npz") as rows:
        return float(rows["translation_m"][0, 2])
