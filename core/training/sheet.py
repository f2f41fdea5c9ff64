"""A contact sheet: people's crops with true and estimated joints, with the estimated mesh, and the mesh from the side."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from core.errors import InputError
from core.joints import BONES, HIPS, JOINT_NAMES
from core.types import CROP_SIZE_PX, MeshEstimate

COLUMNS = 3
CAPTION_PX = 18
MESH_OPACITY = 0.75
MESH_COLOR, TRUE_COLOR, FOUND_COLOR = (116, 166, 226), (60, 220, 60), (235, 60, 60)
"""RGB of the mesh, of the true joints and of the estimated ones."""
SIDE_FROM_FRONT = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
"""Turns camera axes so that one looks from the picture's left: what was far away is on the right."""
MESH_DISTANCE_M = 10.0


@dataclass(frozen=True)
class Panel:
    """One person. image: (224, 224, 3) RGB crop; true_px: (14, 2) joints in it; seen: (14,) bool which of these count.

    true_m: (14, 3) true joints, hips at 0; None where there is no 3D truth
    """

    image: np.ndarray
    estimate: MeshEstimate
    true_px: np.ndarray
    seen: np.ndarray
    error: float
    caption: str
    true_m: np.ndarray | None = None


def mesh_drawn(image: np.ndarray, vertices_m: np.ndarray, camera: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(224, 224, 3) the picture with the shaded mesh blended over it. camera: (3,) scale, tx, ty"""
    from core.raster import rasterize

    depth_m = np.maximum(vertices_m[:, 2] + MESH_DISTANCE_M, 0.1)
    fragments = rasterize(projected_px(vertices_m, camera), depth_m, faces, CROP_SIZE_PX, CROP_SIZE_PX)
    a, b, c = (vertices_m[faces[:, corner]] for corner in range(3))
    normals = np.cross(b - a, c - a)
    facing = np.abs(normals[:, 2]) / np.maximum(np.linalg.norm(normals, axis=1), 1e-12)
    shade = (0.35 + 0.65 * facing)[fragments.face_index] if len(faces) else np.zeros(fragments.covered.shape)
    color = shade[..., None] * np.array(MESH_COLOR)
    opacity = fragments.covered[..., None] * MESH_OPACITY
    return np.round(image * (1 - opacity) + color * opacity).astype(np.uint8)


def projected_px(points_m: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """(N, 3) -> (N, 2) pixels of the crop."""
    return (camera[0] * (points_m[:, :2] + camera[1:]) + 1) * (CROP_SIZE_PX / 2)


def joints_drawn(image: np.ndarray, skeletons: list[tuple[np.ndarray, np.ndarray, tuple[int, int, int]]]) -> np.ndarray:
    """The picture with skeletons: (14, 2) pixels, (14,) bool which joints to draw, colour."""
    drawn = image.copy()
    for points, seen, color in skeletons:
        for first, second in ((JOINT_NAMES.index(a), JOINT_NAMES.index(b)) for a, b in BONES):
            if seen[first] and seen[second]:
                ends = np.clip(np.round(points[[first, second]]), -1000, 1000).astype(int)
                cv2.line(drawn, tuple(map(int, ends[0])), tuple(map(int, ends[1])), color, 2, cv2.LINE_AA)
    return drawn


def side_drawn(panel: Panel, faces: np.ndarray) -> np.ndarray:
    """(224, 224, 3) the mesh from the picture's left, with both skeletons where the truth is known."""
    estimate, everything = panel.estimate, np.ones(len(JOINT_NAMES), bool)
    camera = np.array([estimate.camera[0], 0.0, estimate.camera[2]])
    blank = np.full((CROP_SIZE_PX, CROP_SIZE_PX, 3), 255, np.uint8)
    mesh = mesh_drawn(blank, estimate.vertices_m @ SIDE_FROM_FRONT.T, camera, faces)
    middle = estimate.joints_m[HIPS].mean(axis=0)
    known = [] if panel.true_m is None else [(panel.true_m + middle, TRUE_COLOR)]
    skeletons = [*known, (estimate.joints_m, FOUND_COLOR)]
    return joints_drawn(mesh, [(projected_px(joints @ SIDE_FROM_FRONT.T, camera), everything, color) for joints, color in skeletons])


def panel_drawn(panel: Panel, faces: np.ndarray) -> np.ndarray:
    """Crop with skeletons, crop with mesh, mesh from the side, and the caption above: (242, 672, 3)."""
    estimate, everything = panel.estimate, np.ones(len(JOINT_NAMES), bool)
    found_px = projected_px(estimate.joints_m, estimate.camera)
    skeletons = [(panel.true_px, panel.seen, TRUE_COLOR), (found_px, everything, FOUND_COLOR)]
    pictures = [
        joints_drawn(panel.image, skeletons),
        mesh_drawn(panel.image, estimate.vertices_m, estimate.camera, faces),
        side_drawn(panel, faces),
    ]
    caption = np.full((CAPTION_PX, len(pictures) * CROP_SIZE_PX, 3), 255, np.uint8)
    cv2.putText(caption, panel.caption, (3, CAPTION_PX - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([caption, np.concatenate(pictures, axis=1)])


def sheet_of(panels: list[Panel], faces: np.ndarray) -> np.ndarray:
    """The panels row by row as one RGB picture."""
    drawn = [panel_drawn(panel, faces) for panel in panels]
    blank = np.full_like(drawn[0], 255)
    drawn += [blank] * (-len(drawn) % COLUMNS)
    rows = [np.concatenate(drawn[start : start + COLUMNS], axis=1) for start in range(0, len(drawn), COLUMNS)]
    return np.concatenate(rows)


def write_sheet(path: Path, panels: list[Panel], faces: np.ndarray) -> None:
    """Write the panels as one PNG; InputError when that is not possible."""
    if not cv2.imwrite(str(path), sheet_of(panels, faces)[..., ::-1]):
        raise InputError(f"sheet: cannot write {path}; give a .png in a folder that exists")
