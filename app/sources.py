"""Recorded videos -> Frames, and pictures. The only place that knows about containers, codecs, rotation tags and BGR."""

import contextlib
import itertools
import logging
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from app import heif
from app.files import check_file
from app.hdr import converter_for
from app.lenses import focal_px_on, picture_film_mm, video_film_mm
from app.rate import FALLBACK_FPS, rate_of
from app.types import Frame
from core.errors import InputError

log = logging.getLogger(__name__)

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", *heif.SUFFIXES)
OTHER_PICTURE_SUFFIXES = (".avif", ".jxl", ".gif", ".dng", ".cr2", ".cr3", ".nef", ".arw")
"""Not read from a folder, but missed there."""
MAX_FPS = 1000.0
SUSPECT_FPS = 121.0
"""A rate above this may be no more than how finely a file tells time; its first RATED_FRAMES show what it is."""
RATED_FRAMES = 100
HEADER_CLOCK_FORMATS = ("matroska,webm", "flv")
"""Containers whose duration counts from 0, wherever their pictures begin."""
MIN_PIXEL_STRETCH = 0.02
"""Pixel aspect ratios nearer to 1 than this are left alone: encoders write 135:136 and the like for no visible reason."""

UNSPECIFIED_COLORSPACE = 2
"""H.273's number for it, which FFmpeg uses."""
HD_PX = 720
"""The shorter side from which on a video is high definition."""

_NOT_A_VIDEO_CODECS = ("ansi", "bintext", "xbin", "idf")
"""FFmpeg draws text files as pictures of a terminal; nobody means that."""


@dataclass(frozen=True)
class _Orientation:
    """How a decoded picture has to be turned before it is shown: first swap the axes, then mirror."""

    swap_axes: bool = False
    flip_x: bool = False
    flip_y: bool = False

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Image (H, W, 3) -> turned, contiguous."""
        if self.swap_axes:
            image = image.transpose(1, 0, 2)
        if self.flip_y:
            image = image[::-1]
        if self.flip_x:
            image = image[:, ::-1]
        return np.ascontiguousarray(image)


def _orientation(frame: av.VideoFrame) -> _Orientation:
    """From the frame's display matrix [[a, b], [c, d]] (FFmpeg's display.h: x' = a x + c y, y' = b x + d y)."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return _Orientation()
    a, b, _, c, d = (int(value) for value in np.frombuffer(bytes(matrix), np.int32)[:5])
    if abs(b) + abs(c) > abs(a) + abs(d):
        return _Orientation(swap_axes=True, flip_x=c < 0, flip_y=b < 0)
    return _Orientation(flip_x=a < 0, flip_y=d < 0)


def check_video(path: Path) -> None:
    """Raise InputError where there is no file; whether it holds a video shows when it is opened."""
    check_file(path, "a video file", "for all videos in it: python -m app.many (--images takes folders of pictures)")


class VideoSource:
    """A recorded video. Iterating gives Frames in order of presentation; each new loop starts at the beginning.

    size_px: width, height after rotation, with square pixels
    fps: average rate, always > 0        duration_s: None when the file does not say
    expected_frames: what the file promises, or duration times rate; None when it says neither
    has_audio: whether there is a sound track
    film_mm: focal length on 35 mm film, None when the file does not say
    start_time_s: the file's clock at its start, which Frame.time_s leaves out
    warning: None, or one sentence about what could not be read; complete when a loop over the frames has ended
    """

    def __init__(self, path: Path | str) -> None:
        """Open the file and read its first frame. Raises InputError when it is no readable video."""
        self.path = Path(path)
        self.warning: str | None = None
        check_video(self.path)
        with _open_video(self.path) as (container, stream):
            self.start_time_s = max(container.start_time or 0, 0) / av.time_base
            counted_frames = _counted_frames(stream)
            self.fps, fps_problem = _average_fps(stream)
            if self.fps > SUSPECT_FPS and counted_frames is None:
                self.fps = _shown_fps(self.path) or self.fps
            own_s = own_duration_s(container, stream)
            self.duration_s = own_s or _whole_duration_s(container, self.start_time_s)
            self.expected_frames = counted_frames or (round(self.duration_s * self.fps) if self.duration_s else None)
            self.has_audio = bool(container.streams.audio)
            self._duration_is_its_own = own_s is not None or not self.has_audio
            first = next(_decode(container, stream), None)
            self._decoded_size_px = _square_pixel_size_px(first, stream) if first is not None else (0, 0)
            self._to_screen = converter_for(stream.codec_context.color_primaries, stream.codec_context.color_trc)
        if first is None:
            raise InputError(
                f"{self.path}: not one frame could be read ({_describe(self.path)}); the file is damaged - copy or download it again"
            )
        self._count_is_exact = counted_frames is not None
        self._orientation = _orientation(first)
        width, height = self._decoded_size_px
        self.size_px: tuple[int, int] = (height, width) if self._orientation.swap_axes else (width, height)
        self.film_mm = video_film_mm(self.path)
        if fps_problem:
            log.warning("%s: %s", self.path, fps_problem)

    def __iter__(self) -> Iterator[Frame]:
        self.warning = None
        num_frames, time_s = 0, -math.inf
        width, height = self._decoded_size_px
        focal_px = focal_px_on(self.size_px, self.film_mm)
        converter = VideoReformatter()  # one for all: a frame's own would work out its tables anew each time
        broken = Counter[str]()
        with _open_video(self.path) as (container, stream):
            for picture in _decode(container, stream, broken):
                colors = {"src_colorspace": _colorspace(picture), "dst_color_range": "JPEG"}  # PyAV before 17 takes all for BT.601 without
                image = converter.reformat(picture, width, height, "rgb24", **colors).to_ndarray()
                image = image if self._to_screen is None else self._to_screen(image)
                time_s = self._next_time_s(picture, time_s)
                yield Frame(self._orientation.apply(image), time_s, num_frames, focal_px)
                num_frames += 1
        self.warning = self._missing_frames(num_frames, time_s) or _damage(broken)

    def _next_time_s(self, picture: av.VideoFrame, previous_s: float) -> float:
        """Presentation time from the file's clock; where that is missing or stands still, one average frame later."""
        after_previous_s = 0.0 if math.isinf(previous_s) else previous_s + 1 / self.fps
        if picture.pts is None or picture.time_base is None:
            return after_previous_s
        time_s = float(picture.pts * picture.time_base) - self.start_time_s
        return time_s if time_s > previous_s else after_previous_s

    def _missing_frames(self, num_frames: int, last_time_s: float) -> str | None:
        """A sentence when clearly less was read than promised: fewer frames, or where the file does not count them, less time."""
        if self.expected_frames is None or self.duration_s is None:
            return None
        if self._count_is_exact:
            if num_frames >= self.expected_frames - max(1, self.expected_frames // 50):
                return None
            return f"read {num_frames} of {self.expected_frames} frames; the file is damaged or ends early"
        end_s = last_time_s + 1 / self.fps
        least_s = 0.98 * self.duration_s - 2 / self.fps if self._duration_is_its_own else 0.9 * self.duration_s - 1
        if end_s >= least_s:  # a duration that is not its own may be that of a longer sound track
            return None
        return f"read {num_frames} frames, {last_time_s:.1f} of {self.duration_s:.1f} s; the file is damaged or ends early"


@contextlib.contextmanager
def _open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Container and video stream, closed at the end; a file that is no video gives an InputError."""
    try:
        container = av.open(str(path), metadata_errors="replace")
    except PermissionError as error:
        raise InputError(f"{path}: may not be read; check the file's permissions") from error
    except av.FFmpegError as error:
        raise InputError(
            f"{path}: not a readable video ({_describe(path)}); expected a whole video file such as .mp4, .mov, .mkv, .avi or .webm "
            "- check that it plays, copy or download it again"
        ) from error
    with container:
        stream = _video_stream(container, path)
        stream.thread_type = "AUTO"
        yield container, stream


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    streams = [stream for stream in container.streams.video if not stream.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams}))
        raise InputError(f"{path}: holds no moving picture{kinds and f', only {kinds}'}; expected a video file")
    stream = streams[0]
    if stream.codec_context is None:
        raise InputError(f"{path}: its video codec is not supported here; convert it to H.264 .mp4 first")
    if stream.codec_context.name in _NOT_A_VIDEO_CODECS:
        raise InputError(f"{path}: a text file, expected a video file")
    return stream


def _describe(path: Path) -> str:
    """Size and first bytes: enough to see what a file really is."""
    with path.open("rb") as file:
        head = file.read(8)
    return f"{path.stat().st_size} bytes, begins with {head.hex(' ')}"


def _decode(container: InputContainer, stream: VideoStream, broken: Counter[str] | None = None) -> Iterator[av.VideoFrame]:
    """Decoded frames as far as the file goes; broken packets are stepped over. broken: counts what is wrong with them."""
    packets = container.demux(stream)
    broken = Counter() if broken is None else broken
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            log.debug("reading stopped: %s", error)
            return
        if packet is None:
            return
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            broken[str(error)] += 1
            continue
        yield from frames


def _average_fps(stream: VideoStream) -> tuple[float, str | None]:
    """The rate, and what was wrong with what the file says (None: nothing)."""
    for rate in (stream.average_rate, stream.guessed_rate):
        if rate and 0 < float(rate) <= MAX_FPS:
            return float(rate), None
    return FALLBACK_FPS, f"says nothing usable about its rate ({stream.average_rate}); {FALLBACK_FPS:g} frames/s are assumed"


def own_duration_s(container: InputContainer, stream: VideoStream) -> float | None:
    """How long the pictures last, where the file says it of them and not of everything in it."""
    if stream.duration and stream.duration > 0 and stream.time_base:
        return float(stream.duration * stream.time_base)
    end = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", ""))  # Matroska's: when the last one ends
    if end is None:
        return None
    hours, minutes, seconds = (float(part) for part in end.groups())
    lasts_s = 3600 * hours + 60 * minutes + seconds - max(container.start_time or 0, 0) / av.time_base
    return lasts_s if lasts_s > 0 else None


def _whole_duration_s(container: InputContainer, start_time_s: float) -> float | None:
    """Of everything in the file."""
    if not container.duration or container.duration < 0:
        return None
    lasts_s = container.duration / av.time_base - start_time_s * (container.format.name in HEADER_CLOCK_FORMATS)
    return lasts_s if lasts_s > 0 else None


def _shown_fps(path: Path) -> float | None:
    """The rate of the first frames, by their times; None where these say nothing."""
    with _open_video(path) as (container, stream):
        packets = itertools.islice((packet for packet in container.demux(stream) if packet.pts is not None), RATED_FRAMES)
        times_s = sorted({float(packet.pts * packet.time_base) for packet in packets})
    return rate_of(times_s) if len(times_s) > 1 else None


def _damage(broken: Counter[str]) -> str | None:
    """A sentence about packets that could not be decoded."""
    if not broken:
        return None
    reason, _ = broken.most_common(1)[0]
    return f"{broken.total()} packets of the file are damaged ({reason}); pictures there are missing or wrong"


def _counted_frames(stream: VideoStream) -> int | None:
    """Frames by the file's own count, without those an edit list hides; None when it has no count."""
    if stream.frames <= 0:
        return None
    entries = getattr(stream, "index_entries", ())  # PyAV before 17, the newest for macOS 13, has none
    return stream.frames - (sum(1 for entry in entries if entry.is_discard) if len(entries) == stream.frames else 0)


def _colorspace(picture: av.VideoFrame) -> str | None:
    """What a picture's numbers mean where it does not say: BT.709 in high definition, as players have it. None: as it says, or BT.601."""
    return "ITU709" if picture.colorspace == UNSPECIFIED_COLORSPACE and min(picture.width, picture.height) >= HD_PX else None


def _square_pixel_size_px(frame: av.VideoFrame, stream: VideoStream) -> tuple[int, int]:
    """Width, height before rotation once pixels are square: DV and DVD pixels are not, and would squeeze people."""
    stretch = stream.sample_aspect_ratio
    if not stretch or abs(stretch - 1) < MIN_PIXEL_STRETCH or not 0.2 < stretch < 5:
        return frame.width, frame.height
    return max(1, round(frame.width * stretch)), frame.height


def read_picture(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, turned as its EXIF tag says. Raises InputError."""
    try:
        check_file(path, "a picture")
        data = np.fromfile(path, np.uint8)  # not cv2.imread: that cannot open non-ASCII names on Windows
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a picture") from error
    if heif.is_heif(data[:12].tobytes()):
        return heif.read_heif(path)
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise InputError(f"{path}: damaged, or no picture ({error.err}); expected {' '.join(PICTURE_SUFFIXES)}") from error
    if image is None:
        raise InputError(f"{path}: damaged, or no picture ({_describe(path)}); expected {' '.join(PICTURE_SUFFIXES)}")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def picture_frame(path: Path) -> Frame:
    """A picture as a frame, with its lens where it names one. Raises InputError."""
    image = read_picture(path)
    size_px = image.shape[1], image.shape[0]
    return Frame(image, 0.0, 0, focal_px_on(size_px, picture_film_mm(path, size_px)))


def picture_files(path: Path) -> list[Path]:
    """The file, or all pictures of a folder, sorted by name. Raises InputError when there are none."""
    if not path.is_dir():
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; expected a picture or a folder of pictures")
        return [path]
    visible = sorted(file for file in path.iterdir() if not file.name.startswith("."))  # a Mac leaves a ._NAME beside each NAME
    files = [file for file in visible if file.suffix.lower() in PICTURE_SUFFIXES and file.is_file()]
    others = Counter(suffix for file in visible if (suffix := file.suffix.lower()) in OTHER_PICTURE_SUFFIXES)
    if files and others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        log.warning("%s: pictures of other kinds left out (%s); save them as .jpg or .png", path, kinds)
    if not files:
        raise InputError(f"{path}: no pictures in this folder; expected files ending in {' '.join(PICTURE_SUFFIXES)}")
    return files
