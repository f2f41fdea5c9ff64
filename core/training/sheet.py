"""A contact sheet: people's crops with the estimated mesh drawn over them, beside the joints that should have been found."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from core.errors import InputError
from core.joints import BONES, JOINT_NAMES
from core.raster import rasterize
from core.types import CROP_SIZE_PX, MeshEstimate

COLUMNS = 4
CAPTION_PX = 18
MESH_OPACITY = 0.75
MESH_COLOR, TRUE_COLOR, FOUND_COLOR = (116, 166, 226), (60, 220, 60), (235, 60, 60)
"""RGB of the mesh, of the true joints and of the estimated ones."""
MESH_DISTANCE_M = 10.0


@dataclass(frozen=True)
class Panel:
    """One person. image: (224, 224, 3) RGB crop; true_px: (14, 2) joints in it; seen: (14,) bool which of these count."""

    image: np.ndarray
    estimate: MeshEstimate
    true_px: np.ndarray
    seen: np.ndarray
    error: float
    caption: str


def mesh_drawn(image: np.ndarray, estimate: MeshEstimate, faces: np.ndarray) -> np.ndarray:
    """(224, 224, 3) the crop with the shaded mesh blended over it."""
    unit = estimate.camera[0] * (estimate.vertices_m[:, :2] + estimate.camera[1:])
    points_px = (unit + 1) * (CROP_SIZE_PX / 2)
    depth_m = np.maximum(estimate.vertices_m[:, 2] + MESH_DISTANCE_M, 0.1)
    fragments = rasterize(points_px, depth_m, faces, CROP_SIZE_PX, CROP_SIZE_PX)
    a, b, c = (estimate.vertices_m[faces[:, corner]] for corner in range(3))
    normals = np.cross(b - a, c - a)
    facing = np.abs(normals[:, 2]) / np.maximum(np.linalg.norm(normals, axis=1), 1e-12)
    shade = (0.35 + 0.65 * facing)[fragments.face_index]
    color = shade[..., None] * np.array(MESH_COLOR)
    opacity = fragments.covered[..., None] * MESH_OPACITY
    return np.round(image * (1 - opacity) + color * opacity).astype(np.uint8)


def joints_drawn(image: np.ndarray, panel: Panel) -> np.ndarray:
    """The crop with both skeletons; true joints that do not count are left out."""
    drawn = image.copy()
    found_px = (panel.estimate.camera[0] * (panel.estimate.joints_m[:, :2] + panel.estimate.camera[1:]) + 1) * (CROP_SIZE_PX / 2)
    for points, seen, color in ((panel.true_px, panel.seen, TRUE_COLOR), (found_px, np.ones(len(JOINT_NAMES), bool), FOUND_COLOR)):
        for first, second in ((JOINT_NAMES.index(a), JOINT_NAMES.index(b)) for a, b in BONES):
            if seen[first] and seen[second]:
                ends = np.clip(np.round(points[[first, second]]), -1000, 1000).astype(int)
                cv2.line(drawn, tuple(map(int, ends[0])), tuple(map(int, ends[1])), color, 2, cv2.LINE_AA)
    return drawn


def panel_drawn(panel: Panel, faces: np.ndarray) -> np.ndarray:
    """Crop with skeletons, crop with mesh, and the caption above: (242, 448, 3)."""
    caption = np.full((CAPTION_PX, 2 * CROP_SIZE_PX, 3), 255, np.uint8)
    cv2.putText(caption, panel.caption, (3, CAPTION_PX - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    pictures = np.concatenate([joints_drawn(panel.image, panel), mesh_drawn(panel.image, panel.estimate, faces)], axis=1)
    return np.concatenate([caption, pictures])


def write_sheet(path: Path, panels: list[Panel], faces: np.ndarray) -> None:
    """Write the panels as one PNG, row by row; InputError when that is not possible."""
    drawn = [panel_drawn(panel, faces) for panel in panels]
    blank = np.full_like(drawn[0], 255)
    drawn += [blank] * (-len(drawn) % COLUMNS)
    rows = [np.concatenate(drawn[start : start + COLUMNS], axis=1) for start in range(0, len(drawn), COLUMNS)]
    if not cv2.imwrite(str(path), np.concatenate(rows)[..., ::-1]):
        raise InputError(f"sheet: cannot write {path}; give a .png in a folder that exists")
