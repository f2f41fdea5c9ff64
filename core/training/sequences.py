"""Which pictures of a data set follow each other: known from their names, for errors of acceleration and jitter."""

import re
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

MIN_FRAMES = 3
"""An acceleration needs three frames."""


@dataclass(frozen=True)
class FrameName:
    """What a picture's name says. sequence: "" and frame: -1 where it says nothing; family: kind of sequence, "" = unknown."""

    sequence: str = ""
    frame: int = -1
    frames_per_s: float = 0.0
    family: str = ""


@dataclass(frozen=True)
class Naming:
    """How a data set names its pictures. pattern: with the groups sequence, frame, family."""

    pattern: re.Pattern[str]
    frames_per_s: float


NAMINGS: dict[str, Naming] = {
    "3dpw": Naming(re.compile(r"(?P<sequence>(?:.*/)?(?P<family>[^/]+?)_\d+)/image_(?P<frame>\d+)\.\w+$"), 30.0),
    "human3.6m": Naming(re.compile(r"(?P<sequence>(?:.*/)?S\d+_(?P<family>[A-Za-z]+)[ _0-9]*\.\d+)_(?P<frame>\d+)\.\w+$"), 50.0),
}
"""3DPW: downtown_walking_00/image_00012.jpg; Human3.6M: S11_Directions_1.54138969_000001.jpg, numbered at 50 frames a second."""


def frame_name(key: str) -> FrameName:
    """Sequence, frame and family of a picture's name."""
    for naming in NAMINGS.values():
        found = naming.pattern.search(key)
        if found:
            return FrameName(found["sequence"], int(found["frame"]), naming.frames_per_s, found["family"])
    return FrameName()


@dataclass(frozen=True)
class Track:
    """One person in frames that follow each other evenly. rows: (T,) int64 indices of the samples, in order of time."""

    rows: np.ndarray
    frames_per_s: float


def tracks(keys: list[str], betas: list[np.ndarray | None]) -> list[Track]:
    """The runs of at least three frames in which the same person is seen without a gap.

    keys: names of the pictures; betas: (10,) the person's shape, None where it is unknown. People in one sequence are told apart by
    their shapes, which are constant within it; where these are unknown by their order within a picture.
    """
    people: dict[tuple[object, ...], list[tuple[int, int]]] = defaultdict(list)
    rates: dict[tuple[object, ...], float] = {}
    seen: dict[str, int] = defaultdict(int)
    for row, (key, shape) in enumerate(zip(keys, betas, strict=True)):
        name = frame_name(key)
        if not name.sequence:
            continue
        who = np.asarray(shape, np.float32).tobytes() if shape is not None else seen[key]
        seen[key] += 1
        people[name.sequence, who].append((name.frame, row))
        rates[name.sequence, who] = name.frames_per_s
    return [track for who, frames in people.items() for track in _runs(frames, rates[who])]


def _runs(frames: list[tuple[int, int]], frames_per_s: float) -> list[Track]:
    """frames: (number, row). The step is the commonest one of the sequence; where another one lies between two frames, it breaks."""
    numbers, rows = np.array(sorted(frames), np.int64).T
    steps = np.diff(numbers)
    steps = steps[steps > 0]
    if not len(steps):
        return []
    step = int(np.bincount(steps).argmax())
    parts = np.split(rows, np.flatnonzero(np.diff(numbers) != step) + 1)
    return [Track(part, frames_per_s / step) for part in parts if len(part) >= MIN_FRAMES]
