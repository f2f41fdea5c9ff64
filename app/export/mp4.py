"""H.264 video with the input's sound, written frame by frame."""

import itertools
import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.reformatter import VideoReformatter

from app.sources import own_duration_s

log = logging.getLogger(__name__)

TIME_BASE = Fraction(1, 90_000)
"""Fine enough that 24, 25, 30, 60 and 30000/1001 frames/s are exact and any other time is off by at most 6 microseconds."""
COPIED_AUDIO_CODECS = ("aac", "mp3", "ac3", "eac3", "alac", "opus", "flac")
"""What may stand in an MP4 as it is; anything else becomes AAC."""
BIG_FRAME_PX = 3840 * 2160
ITU_709 = 1
LIMITED_RANGE = 1
VIDEO_END_TOLERANCE_S = 0.25
RUN_UP_S = 0.005
"""Sound that begins by more than this before the file does is not passed on."""
LATE_S = 0.02
"""Sound that begins later than this after the file does gets silence in front."""
SECONDS_PER_FRAGMENT = 2.0
"""What a killed process loses at most, beside what the encoder still looks at; also how finely a player can seek."""


class Mp4Writer:
    """H.264 (libx264 veryfast), yuv420p, timestamps kept.

    The file is written in fragments until it is closed and becomes a plain MP4 then (FFmpeg's hybrid_fragmented): a killed process
    leaves a file that plays. Such a file cannot say that a track begins later, or is to be shown from a later place on. So the
    pictures, which are decoded in another order than they are shown, begin at 0 by negative offsets; the first one stands from 0 on,
    whenever it comes, and silence goes before sound that comes later: all else keeps its time. yuv420p needs even sides: odd pictures
    get one more row or column, a copy of the last one.
    """

    def __init__(self, path: Path, size_px: tuple[int, int], fps: float, sound: "Soundtrack | None" = None) -> None:
        """size_px: width, height. Raises OSError when `path` cannot be written."""
        self._container = av.open(
            str(path), "w", format="mp4", options={"movflags": "hybrid_fragmented+frag_keyframe+negative_cts_offsets", "flush_packets": "1"}
        )
        width, height = size_px
        params = ["subme=1"]  # a third less time than veryfast's 2, for 7 % larger files and 0.2 dB
        if width * height > BIG_FRAME_PX:
            params += ["rc-lookahead=0", "sliced-threads=1", "sync-lookahead=0"]  # looking ahead would hold gigabytes
        options = {"preset": "veryfast", "crf": "20", "g": str(max(1, round(SECONDS_PER_FRAGMENT * fps))), "x264-params": ":".join(params)}
        self._stream = self._container.add_stream("libx264", rate=Fraction(fps).limit_denominator(90_000), options=options)
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.time_base = self._stream.codec_context.time_base = TIME_BASE
        self._stream.codec_context.colorspace = self._stream.codec_context.color_primaries = self._stream.codec_context.color_trc = ITU_709
        self._stream.codec_context.color_range = LIMITED_RANGE
        self._frame_ticks = max(1, round(1 / fps / TIME_BASE))
        self._converter = VideoReformatter()
        self._last_pts: int | None = None
        self._sound = sound
        if sound is not None:
            sound.attach(self._container)

    def write(self, image: np.ndarray, time_s: float) -> None:
        """image: (H, W, 3) uint8 RGB of the writer's size; time_s from 0 on, must grow. Raises OSError when the disk is full."""
        pts = 0 if self._last_pts is None else max(round(time_s / TIME_BASE), self._last_pts + 1)
        self._last_pts = pts
        height, width = image.shape[:2]
        if width % 2 or height % 2:
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(image), format="rgb24")  # no copy: it is read at once
        picture = self._converter.reformat(picture, format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        picture.pts, picture.time_base, picture.duration = pts, TIME_BASE, self._frame_ticks
        self._container.mux(self._stream.encode(picture))
        if self._sound is not None:
            self._sound.copy_until(float((pts + self._frame_ticks) * TIME_BASE))

    def close(self) -> None:
        """Write what the encoder still holds, the rest of the sound, and the index."""
        if self._container is None:
            return
        container, self._container = self._container, None
        try:
            if self._last_pts is not None:
                container.mux(self._stream.encode(None))
                if self._sound is not None:
                    self._sound.finish(float((self._last_pts + self._frame_ticks) * TIME_BASE))
        finally:
            if self._sound is not None:
                self._sound.close()
            container.close()


class Soundtrack:
    """The first sound track of a file, passed on packet by packet; re-encoded to AAC where MP4 does not take its codec.

    `warning`: None, or what kept the sound out of the file.
    """

    def __init__(self, source: Path) -> None:
        """Raises av.FFmpegError when `source` cannot be opened and LookupError when it has no sound."""
        self.warning: str | None = None
        self._input = av.open(str(source), metadata_errors="replace")
        if not self._input.streams.audio:
            self._input.close()
            raise LookupError(f"{source} has no sound")
        self._name = source.name
        self._start_s = max(self._input.start_time or 0, 0) / av.time_base
        self._from = self._input.streams.audio[0]
        self._begins_late = _first_time_s(source) - self._start_s > LATE_S
        self._packets: Iterator[av.Packet] | None = None
        self._next: av.Packet | None = None

    def attach(self, container: OutputContainer) -> None:
        """Add the track to an output container, before its first packet."""
        self._container = container
        try:
            if not self._begins_late and self._from.codec_context.codec.canonical_name in COPIED_AUDIO_CODECS:
                self._to = container.add_stream_from_template(self._from)
                self._packets = self._copied()
            else:
                self._to = container.add_stream("aac", rate=min(self._from.codec_context.sample_rate, 96_000), layout=_layout(self._from))
                self._packets = self._encoded()
            self._advance()
        except (av.FFmpegError, ValueError, AttributeError) as error:  # AttributeError: a codec unknown to FFmpeg has no context
            self._give_up(error)

    def copy_until(self, time_s: float) -> None:
        """Pass on all that sounds before `time_s`."""
        while self._next is not None and self._time_s(self._next) < time_s:
            try:
                self._container.mux(self._next)
                self._advance()
            except OSError:
                raise
            except (av.FFmpegError, ValueError) as error:
                self._give_up(error)

    def finish(self, video_end_s: float) -> None:
        """Pass on the rest if the video came to its own end, else only what belongs to the pictures written."""
        video = self._input.streams.video[0] if self._input.streams.video else None
        own_s = own_duration_s(self._input, video) if video is not None else None
        duration_s = own_s or (self._input.duration or 0) / av.time_base
        complete = video_end_s >= duration_s - VIDEO_END_TOLERANCE_S
        self.copy_until(float("inf") if complete else video_end_s)

    def close(self) -> None:
        """Close the input."""
        self._next = None
        self._input.close()

    def _advance(self) -> None:
        self._next = next(self._packets, None) if self._packets is not None else None
        while self._next is not None and self._time_s(self._next) < -RUN_UP_S:  # a codec's run-up, which would move all the rest
            self._next = next(self._packets, None)

    def _give_up(self, error: Exception) -> None:
        self.warning = f"the sound of {self._name} could not be carried over from some point on: {error}"
        log.warning("%s", self.warning)
        self._packets = self._next = None

    @staticmethod
    def _time_s(packet: av.Packet) -> float:
        ticks = packet.dts if packet.dts is not None else packet.pts
        return float(ticks * packet.time_base) if ticks is not None and packet.time_base else 0.0

    def _copied(self) -> Iterator[av.Packet]:
        shift = round(self._start_s / self._from.time_base)
        for packet in self._input.demux(self._from):
            if packet.dts is None:  # the mark of the end
                continue
            packet.dts -= shift
            if packet.pts is not None:
                packet.pts -= shift
            packet.stream = self._to
            yield packet

    def _encoded(self) -> Iterator[av.Packet]:
        for piece in self._resampled():
            yield from self._to.encode(piece)
        yield from self._to.encode(None)

    def _resampled(self) -> Iterator[av.AudioFrame]:
        """As the encoder wants it, with silence in front of what begins late."""
        resampler = av.AudioResampler(format="fltp", layout=self._to.layout, rate=self._to.rate)
        is_first = True
        for frame in itertools.chain(self._input.decode(self._from), [None]):
            if frame is not None and frame.pts is not None and frame.time_base:
                frame.pts -= round(self._start_s / frame.time_base)
            for piece in resampler.resample(frame):
                if is_first and piece.pts is not None and piece.pts * piece.time_base > LATE_S:
                    yield _silence_before(piece)
                is_first = False
                yield piece


def _layout(stream: AudioStream) -> str:
    """AAC is written with one or two channels; more are mixed down."""
    return "mono" if stream.codec_context.channels == 1 else "stereo"


def _silence_before(piece: av.AudioFrame) -> av.AudioFrame:
    """From 0 on until the piece begins, by the same clock and in the same form."""
    samples = np.zeros((piece.layout.nb_channels, round(piece.pts * piece.time_base * piece.sample_rate)), np.float32)
    silence = av.AudioFrame.from_ndarray(samples, format=piece.format.name, layout=piece.layout.name)
    silence.sample_rate, silence.pts, silence.time_base = piece.sample_rate, 0, piece.time_base
    return silence


def _first_time_s(source: Path) -> float:
    """When the first sound track begins, by the file's own clock."""
    with av.open(str(source), metadata_errors="replace") as container:
        packets = (packet for packet in container.demux(audio=0) if packet.pts is not None)
        first = next(packets, None)
        return float(first.pts * first.time_base) if first is not None else 0.0
