"""Boxes x0, y0, x1, y1 in pixels."""

import numpy as np


def center_px(box_px: np.ndarray) -> np.ndarray:
    """(2,) centre of a box (4,)."""
    return (box_px[:2] + box_px[2:]) / 2


def side_px(box_px: np.ndarray) -> float:
    """The longer side of a box (4,)."""
    return float(max(box_px[2] - box_px[0], box_px[3] - box_px[1]))


def box_area(boxes_px: np.ndarray) -> np.ndarray:
    """(N, 4) -> (N,) square pixels; 0 for an inverted box."""
    return np.clip(boxes_px[:, 2:] - boxes_px[:, :2], 0, None).prod(-1)


def box_intersection(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(A, 4), (B, 4) -> (A, B) shared area."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    return np.clip(high - low, 0, None).prod(-1)


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(A, 4), (B, 4) -> (A, B) intersection over union."""
    shared = box_intersection(first, second)
    return shared / np.maximum(box_area(first)[:, None] + box_area(second)[None] - shared, 1e-9)


def box_around(points_px: np.ndarray) -> np.ndarray:
    """(N, 2) points -> (4,) float32."""
    columns = np.ascontiguousarray(points_px.T)  # NumPy reduces long rows ten times as fast as short ones
    return np.concatenate([columns.min(1), columns.max(1)]).astype(np.float32)


def clipped(box_px: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    """The part of a box within a frame of width, height; (4,) float32, without area when it lies outside."""
    return np.clip(box_px, 0, np.array([*size_px, *size_px], np.float32)).astype(np.float32)


def as_large_as(before_px: np.ndarray, box_px: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    """A box (4,) that may reach out of the frame, larger or smaller about its centre, so that what is in the frame has the longer side of
    another box (4,); of this the part in the frame, float32.
    """
    factor = side_px(before_px) / max(side_px(clipped(box_px, size_px)), 1.0)
    middle = np.tile(center_px(box_px), 2)
    return clipped(middle + factor * (box_px - middle), size_px)
