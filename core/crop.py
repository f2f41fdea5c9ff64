"""Box -> square crop and back: one function for training and live.

Pixel coordinates are continuous: pixel i covers [i, i + 1), its centre is i + 0.5, and a picture spans [0, W] x [0, H].
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from core.arrays import check_array
from core.errors import InputError
from core.types import CROP_SIZE_PX, PersonCrop

CROP_SCALE = 1.35
"""Side of the crop over the longer side of the box. METRO prepared its data with 1.2; BlazePose's trunk likes people smaller:
its own landmarks on 42 COCO people have PCK@0.1 0.69, 0.73, 0.74, 0.74 at 1.1, 1.2, 1.3, 1.45."""


HALVE_FROM = 3.0
"""Frame pixels per crop pixel from which the picture is halved first: the mean of 2 x 2 is quick, an area average over any ratio slow."""


def square_box(box_px: np.ndarray, scale: float = CROP_SCALE) -> tuple[np.ndarray, float]:
    """Centre (2,) and side of the square crop around a box x0, y0, x1, y1. Raises InputError for a box without area."""
    box = np.asarray(box_px, np.float64)
    if box.shape != (4,) or not np.isfinite(box).all():
        raise InputError(f"box: got {box.tolist()}, expected four finite numbers x0, y0, x1, y1")
    width_px, height_px = box[2:] - box[:2]
    if width_px <= 0 or height_px <= 0:
        raise InputError(f"box: got {box.tolist()}, expected x0 < x1 and y0 < y1")
    return (box[:2] + box[2:]) / 2, float(scale * max(width_px, height_px))


def crop_person(image: np.ndarray, box_px: np.ndarray, scale: float = CROP_SCALE, roll_rad: float = 0.0) -> PersonCrop:
    """The square around a box as the network's picture.

    image:  (H, W, 3) uint8 RGB of any size; what lies outside of it is black in the crop
    box_px: (4,) x0, y0, x1, y1; may lie partly or wholly outside of the picture
    roll_rad: how far the square is turned clockwise about its centre: whoever leans by that stands upright in it
    Raises InputError for another kind of image or a box without area.
    """
    crop = place_person(image, box_px, scale, roll_rad)
    return PersonCrop(crop.image, crop.frame_from_crop)


class PlacedCrop(PersonCrop):
    """A crop of which only the place is known; a device that has the frame cuts it itself, and who looks at `image` gets it cut here.

    frame: (H, W, 3) uint8 RGB
    """

    def __init__(self, frame: np.ndarray, frame_from_crop: np.ndarray) -> None:
        check_array("PlacedCrop.frame_from_crop", frame_from_crop, (2, 3), np.float64)
        for name, value in (("frame", frame), ("frame_from_crop", frame_from_crop)):
            object.__setattr__(self, name, value)

    @cached_property
    def image(self) -> np.ndarray:
        """(224, 224, 3) uint8 RGB."""
        return sample_crop(self.frame, self.frame_from_crop)


def place_person(image: np.ndarray, box_px: np.ndarray, scale: float = CROP_SCALE, roll_rad: float = 0.0) -> PlacedCrop:
    """As `crop_person`, not cut yet."""
    check_image(image)
    center_px, side_px = square_box(box_px, scale)
    axes = side_px / CROP_SIZE_PX * rotation_2d(roll_rad)
    corner_px = center_px - axes @ np.full(2, CROP_SIZE_PX / 2)
    return PlacedCrop(image, np.concatenate([axes, corner_px[:, None]], 1))


def turned(crop: PersonCrop, roll_rad: float) -> PersonCrop:
    """The crop turned clockwise about its centre by so much more, out of its frame where that is at hand."""
    turn = about_centre(roll_rad)
    frame_from_crop = composed(crop.frame_from_crop, turn)
    if isinstance(crop, PlacedCrop):
        return PlacedCrop(crop.frame, frame_from_crop)
    return PersonCrop(sample_crop(crop.image, turn), frame_from_crop)


def zoomed(image: np.ndarray, by: float) -> np.ndarray:
    """(224, 224, 3): the middle of a crop, as if it had been cut with a scale `by` times smaller."""
    return sample_crop(image, np.array([[1, 0, 0], [0, 1, 0]]) / by + (1 - 1 / by) * CROP_SIZE_PX / 2 * np.array([[0, 0, 1], [0, 0, 1]]))


def composed(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """(2, 3): first `inner`, then `outer`, both (2, 3)."""
    return np.concatenate([outer[:, :2] @ inner[:, :2], outer @ np.append(inner[:, 2:], 1.0)[:, None]], 1)


def rotation_2d(angle_rad: float) -> np.ndarray:
    """(2, 2) rotation, clockwise in a picture, whose y points down."""
    cosine, sine = math.cos(angle_rad), math.sin(angle_rad)
    return np.array([[cosine, -sine], [sine, cosine]])


def about_centre(angle_rad: float) -> np.ndarray:
    """(2, 3) rotation of crop pixels about the crop's centre."""
    axes = rotation_2d(angle_rad)
    centre = np.full(2, CROP_SIZE_PX / 2)
    return np.concatenate([axes, (centre - axes @ centre)[:, None]], 1)


def check_image(image: np.ndarray) -> None:
    """Raise InputError unless `image` is (H, W, 3) uint8 with at least one pixel."""
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(f"image: got {got}, expected a uint8 RGB array of shape (H, W, 3) with at least one pixel")


@dataclass(frozen=True)
class Sampling:
    """How a crop is sampled: the part low..high (x, y) of the frame is brought to size_px by an area average, then part_from_crop (2, 3)
    says where each of the crop's pixels lies in that, both counted in centres of pixels. halved: on the way the part is halved first,
    which is quicker and, within a grey level, the same
    """

    low: np.ndarray
    high: np.ndarray
    size_px: np.ndarray
    part_from_crop: np.ndarray
    halved: bool


def sampling(width_px: int, height_px: int, frame_from_crop: np.ndarray) -> Sampling | None:
    """How to sample the square that a similarity (2, 3) places in a frame of that size; None when the frame does not reach it."""
    linear, shift_px = frame_from_crop[:, :2], frame_from_crop[:, 2]
    zoom = float(np.hypot(*linear[:, 0]))  # frame pixels per crop pixel
    corners_px = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * CROP_SIZE_PX @ linear.T + shift_px
    margin_px = 2 * max(zoom, 1.0)
    low = np.floor(np.clip(corners_px.min(0) - margin_px, 0, (width_px, height_px))).astype(int)
    high = np.ceil(np.clip(corners_px.max(0) + margin_px, 0, (width_px, height_px))).astype(int)
    if (high <= low).any():
        return None
    halved = zoom >= HALVE_FROM and min(high - low) > 1
    if halved:
        high -= (high - low) % 2
    size_px = np.maximum(np.round((high - low) / zoom), 1).astype(int) if zoom > 1 else high - low
    shrink = (high - low) / size_px
    # In centre-of-pixel indices, as OpenCV counts: index = (linear @ (crop index + 0.5) + shift - low) / shrink - 0.5
    scale = linear / shrink[:, None]
    offset = scale.sum(1) * 0.5 + (shift_px - low) / shrink - 0.5
    return Sampling(low, high, size_px, np.concatenate([scale, offset[:, None]], 1), halved)


def sample_crop(image: np.ndarray, frame_from_crop: np.ndarray) -> np.ndarray:
    """(224, 224, 3): bilinear samples of the square that a similarity (2, 3) places in the picture: moved, scaled, turned, mirrored.

    Where the picture shrinks, an area average brings it near the crop's scale first, or thin things would alias.
    """
    import cv2

    how = sampling(image.shape[1], image.shape[0], frame_from_crop)
    if how is None:
        return np.zeros((CROP_SIZE_PX, CROP_SIZE_PX, 3), np.uint8)
    part = image[how.low[1] : how.high[1], how.low[0] : how.high[0]]
    if how.halved:
        part = cv2.resize(part, (part.shape[1] // 2, part.shape[0] // 2), interpolation=cv2.INTER_AREA)
    if (how.size_px < how.high - how.low).any():
        part = cv2.resize(part, how.size_px.tolist(), interpolation=cv2.INTER_AREA)
    return cv2.warpAffine(part, how.part_from_crop, (CROP_SIZE_PX, CROP_SIZE_PX), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
