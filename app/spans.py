"""Cuts a recorded video into spans: the frames between two looks of the person detector. A scene cut ends a span early."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from app.types import Frame

THUMBNAIL_PX = (32, 18)
CUT_DIFFERENCE = 30.0
"""Mean difference of two neighbouring thumbnails, grey levels, above which there is a cut; fast pans stay below 20."""
MAX_SPAN_BYTES = 128 * 2**20
"""Frames held at once; it shortens the spans of very large videos."""


@dataclass(frozen=True)
class Span:
    """frames: one or more, in order. starts_scene: the first one follows a cut or nothing. follower: the first frame of the next
    span when the scene goes on there, else None.
    """

    frames: tuple[Frame, ...]
    starts_scene: bool
    follower: Frame | None

    @property
    def closing(self) -> Frame:
        """Where the look that closes this span is taken."""
        return self.follower or self.frames[-1]


def split_spans(frames: Iterable[Frame], interval_s: float, max_frames: int) -> Iterator[Span]:
    """Spans of about `interval_s` and at most `max_frames`."""
    held: list[Frame] = []
    starts_scene, last_thumbnail = True, None
    for frame in frames:
        mark = thumbnail(frame.image)
        cut = last_thumbnail is not None and is_cut(last_thumbnail, mark)
        last_thumbnail = mark
        if held and (cut or _is_full(held, frame, interval_s, max_frames)):
            yield Span(tuple(held), starts_scene, None if cut else frame)
            held, starts_scene = [], cut
        held.append(frame)
    if held:
        yield Span(tuple(held), starts_scene, None)


def max_span_frames(frame_bytes: int, max_frames: int) -> int:
    """Frames that a span may have, 1 or more: `max_frames`, or what of that size fits into MAX_SPAN_BYTES."""
    return min(max_frames, max(1, MAX_SPAN_BYTES // frame_bytes))


def _is_full(held: list[Frame], frame: Frame, interval_s: float, max_frames: int) -> bool:
    return len(held) >= max_span_frames(frame.image.nbytes, max_frames) or frame.time_s - held[0].time_s >= interval_s - 1e-6


def thumbnail(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> a few hundred pixels, float32, by area (every fourth row and column of large frames: it runs on each frame)."""
    import cv2

    step = max(1, min(image.shape[:2]) // 180)
    return cv2.resize(np.ascontiguousarray(image[::step, ::step]), THUMBNAIL_PX, interpolation=cv2.INTER_AREA).astype(np.float32)


def is_cut(before: np.ndarray, after: np.ndarray) -> bool:
    """True when two neighbouring frames' thumbnails show different scenes."""
    return float(np.abs(after - before).mean()) > CUT_DIFFERENCE
