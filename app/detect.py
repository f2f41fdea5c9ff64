"""Finds people in a picture: DETECTORS maps a name to a detector.

A detector's network sees a picture of a few hundred pixels, so it misses people who are small in the frame. We therefore look
several times: at the whole frame, at a zoomed region around everybody already known and small, and at overlapping tiles. What a
tile finds is looked at again in a zoomed region, which completes people cut by a tile.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from app.boxes import box_area, box_intersection, box_iou, center_px, clipped, side_px
from app.types import Person
from core.joints import JOINT_NAMES
from core.registry import Registry

SHOWN = 0.3
"""Visibility above which a point counts."""
ZOOM = 1.7
"""Side of the zoomed region around a box, times the box's larger side."""
EXPECTED_IOU = 0.4
"""Overlap with a known person's box above which a look shows them and nobody new."""
HELD = 0.85
"""Share of a box that lies in another from which on it may be a part of that person: a tile cuts people."""
SHARED, FEW_SHARED = 6, 3
"""Points that two looks must both see to be compared, in general, and where one box holds the other."""
MIN_BOX_PX = 20.0
TILE_OVERLAP = 0.4
TILE_LEVELS = (2, 4)
"""Tiles of a half and a quarter of the frame's longer side."""


Region = tuple[int, int, int, int]
"""x0, y0, x1, y1 in frame pixels."""


class Detector(Protocol):
    """Finds people; `known_boxes_px` are where people are believed to be."""

    def detect(self, image: np.ndarray, known_boxes_px: tuple[np.ndarray, ...] = (), thorough: bool = False) -> list[Person]:
        """image: (H, W, 3) uint8 RGB. Best first; thorough = look for small people too."""

    def close(self) -> None:
        """Release what is held."""


DETECTORS: Registry[Callable[[Path, int], Detector]] = Registry("detector")
"""Name -> builder(folder of the model files, most people it reports)."""


@dataclass(frozen=True)
class Look:
    """One person as one look saw them, in frame pixels.

    box_px: (4,) float32; score: 0..1; points: (K, 3) float64 x, y, visibility of the detector's own landmarks, always in the same order
    joint_visibility: (14,) float32 0..1; None when it saw a box alone
    """

    box_px: np.ndarray
    score: float
    points: np.ndarray
    joint_visibility: np.ndarray | None


class SearchingDetector(ABC):
    """Looks at the whole frame, closer at who is small, and at tiles. What a look is, and who is believed, is the subclass's."""

    whole_frame: float
    """Share of the frame's longer side from which on a region is not zoomed into: the look at the whole frame shows it as large."""

    def __init__(self, max_people: int) -> None:
        self._max_people = max_people

    def detect(self, image: np.ndarray, known_boxes_px: tuple[np.ndarray, ...] = (), thorough: bool = False) -> list[Person]:
        """People in `image` (H, W, 3) uint8 RGB, best first, at most max_people.

        known_boxes_px: regions to zoom into. thorough: search tiles too, the finest only when nobody was found before.
        """
        height, width = image.shape[:2]
        if max(width, height) < MIN_BOX_PX:
            return []
        zoomed = [box for box in known_boxes_px if fills_less(region_around(box, ZOOM, (width, height)), (width, height), self.whole_frame)]
        found = [again for box in zoomed for again in self._zoom(image, box) if overlaps(again.box_px, box)]
        found = merge_looks(found)
        found = self._with_new(image, found, self._look(image, (0, 0, width, height)), known_boxes_px, 1)
        for level in TILE_LEVELS if thorough else ():
            if level == TILE_LEVELS[0] or not found:
                found = self._with_new(image, found, self._search_tiles(image, level, found), known_boxes_px, level)
        return people_of(found[: self._max_people], (width, height))

    @abstractmethod
    def close(self) -> None:
        """Release what is held."""

    @abstractmethod
    def _look(self, image: np.ndarray, region_px: Region, mirrored: bool = False, close: bool = False) -> list[Look]:
        """Everybody in a region of the frame; mirrored: left and right swapped before, and back after; close: it shows one person."""

    @abstractmethod
    def _is_new(self, image: np.ndarray, look: Look, level: int) -> bool:
        """Whether a look that shows nobody known is to be believed. level: 1 for one at the whole frame, or that of the tiles."""

    def _with_new(
        self, image: np.ndarray, found: list[Look], looks: list[Look], known_boxes_px: tuple[np.ndarray, ...], level: int
    ) -> list[Look]:
        """`found`, improved by `looks` at the same people, and the others of `looks` that are to be believed."""
        known = np.array([look.box_px for look in found] + list(known_boxes_px), np.float32).reshape(-1, 4)
        kept = []
        for look in merge_looks(found + looks):
            expected = bool((box_iou(look.box_px[None], known) > EXPECTED_IOU).any()) or any(same_person(look, other) for other in found)
            if expected or self._is_new(image, look, level):
                kept.append(look)
        return kept

    def _search_tiles(self, image: np.ndarray, level: int, known: list[Look]) -> list[Look]:
        """Look at tiles of 1 / level of the larger side, and again, zoomed, at what is new there."""
        height, width = image.shape[:2]
        found = [look for tile in tiles(width, height, level) for look in self._look(image, tile)]
        fresh = [look for look in merge_looks(found) if not any(same_person(look, other) for other in known)]
        return [again for look in fresh for again in self._zoom(image, look.box_px) if same_person(again, look)]

    def _zoom(self, image: np.ndarray, box_px: np.ndarray, zoom: float = ZOOM, mirrored: bool = False) -> list[Look]:
        """Everybody seen in a square around the box, of `zoom` times its side."""
        x0, y0, x1, y1 = region_around(box_px, zoom, image.shape[1::-1])
        if x1 - x0 < MIN_BOX_PX or y1 - y0 < MIN_BOX_PX:
            return []
        return self._look(image, (x0, y0, x1, y1), mirrored, close=True)


def region_around(box_px: np.ndarray, zoom: float, size_px: tuple[int, int]) -> Region:
    """The square around a box (4,), of `zoom` times its side, as far as it lies in a frame of size_px."""
    center, half = center_px(box_px), zoom / 2 * side_px(box_px)
    x0, y0 = np.maximum(center - half, 0).astype(int).tolist()
    x1, y1 = np.minimum(np.ceil(center + half), size_px).astype(int).tolist()
    return x0, y0, x1, y1


def fills_less(region_px: Region, size_px: tuple[int, int], share: float) -> bool:
    """Whether the region's longer side is less than a share of the frame's."""
    x0, y0, x1, y1 = region_px
    return max(x1 - x0, y1 - y0) < share * max(size_px)


def shrunk(image: np.ndarray, region_px: Region, side_px: int, mirrored: bool) -> np.ndarray:
    """A region of a frame, mirrored or not, made smaller until its longer side has at most `side_px`."""
    import cv2

    x0, y0, x1, y1 = region_px
    view = image[y0:y1, x1 - 1 : x0 - 1 if x0 else None : -1] if mirrored else image[y0:y1, x0:x1]
    shrink = side_px / max(view.shape[:2])
    if shrink >= 1:
        return view
    size = (max(1, round(view.shape[1] * shrink)), max(1, round(view.shape[0] * shrink)))
    return cv2.resize(np.ascontiguousarray(view) if mirrored else view, size, interpolation=cv2.INTER_AREA)


def tiles(width: int, height: int, level: int) -> list[Region]:
    """Overlapping squares x0, y0, x1, y1 of side max(width, height) / level that cover the frame."""
    side = max(width, height) / level

    def starts(length: int) -> list[float]:
        if length <= side:
            return [0.0]
        count = math.ceil((length - side) / (side * (1 - TILE_OVERLAP))) + 1
        return list(np.linspace(0, length - side, count))

    return [
        (int(x), int(y), min(width, math.ceil(x + side)), min(height, math.ceil(y + side))) for y in starts(height) for x in starts(width)
    ]


def same_person(first: Look, second: Look) -> bool:
    """True when two looks show one person: boxes agree or one holds the other at its middle, or points that both see agree."""
    boxes = first.box_px[None], second.box_px[None]
    if box_iou(*boxes)[0, 0] > 0.65:
        return True
    size = max(side_px(first.box_px), side_px(second.box_px))
    held = box_intersection(*boxes)[0, 0] / max(float(min(box_area(box)[0] for box in boxes)), 1e-9)
    if held > HELD and np.linalg.norm(center_px(first.box_px) - center_px(second.box_px)) < 0.2 * size:
        return True
    shown = (first.points[:, 2] > SHOWN) & (second.points[:, 2] > SHOWN)
    if shown.sum() < (FEW_SHARED if held > HELD else SHARED):
        return False
    distance = np.linalg.norm(first.points[shown, :2] - second.points[shown, :2], axis=1)
    return float(np.median(distance)) < 0.1 * size


def overlaps(first_px: np.ndarray, second_px: np.ndarray) -> bool:
    """True when two boxes (4,) have anything in common: what a zoomed look finds far from its box is somebody else's business."""
    return bool(box_intersection(first_px[None], second_px[None])[0, 0] > 0)


def people_of(looks: list[Look], size_px: tuple[int, int]) -> list[Person]:
    """Looks at a frame of width, height as they are reported."""
    return [Person(clipped(look.box_px, size_px), look.score, landmark_visibility=look.joint_visibility) for look in looks]


def merge_looks(looks: list[Look]) -> list[Look]:
    """One look per person, the best first. A look is better when it sees more of the body."""
    kept: list[Look] = []
    for look in sorted(looks, key=lambda look: -look.score):
        if not any(same_person(look, other) for other in kept):
            kept.append(look)
    return kept


def joint_evidence(visibility: np.ndarray, names: tuple[str, ...], face: tuple[str, ...]) -> np.ndarray:
    """(K,) visibility of landmarks called `names` -> (14,) float32 0..1, the evidence for each of our joints, by name.

    The less visible shoulder counts for the neck, the best seen part of the `face` for the head.
    """
    seen = dict(zip(names, np.clip(visibility, 0, 1).tolist(), strict=True))
    seen["Neck"] = min(seen["L_Shoulder"], seen["R_Shoulder"])
    seen["Head"] = max(seen[part] for part in face)
    return np.array([seen[name] for name in JOINT_NAMES], np.float32)
