"""What stands around the people in the window: the camera's picture far behind them, the ground, and panels fixed to the screen."""

from dataclasses import dataclass

import numpy as np

from app.types import Intrinsics
from app.viewer.lean_open3d import o3d

PICTURE_SIDE_PX = 960
"""Larger pictures are shrunk to this, or to what is seen of them, before they become a texture."""
GRID_HALF_M, GRID_STEP_M = 5.0, 1.0
GRID_NEAR_M, GRID_FAR_M = 0.0, 10.0
GRID_COLOR = np.array([0.36, 0.40, 0.47])
RING_INNER_M, RING_OUTER_M, RING_CORNERS = 0.33, 0.37, 48
PANEL_DEPTH_M = 0.06
_QUAD = np.array([[0, 1, 2], [0, 2, 3], [0, 2, 1], [0, 3, 2]], np.int32)
"""Both sides of corners top left, top right, bottom right, bottom left."""
_QUAD_UV = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)


@dataclass(frozen=True)
class Eye:
    """The window's own camera. camera_from_world: (4, 4); size_px: of the window; focal_px"""

    camera_from_world: np.ndarray
    size_px: tuple[int, int]
    focal_px: float


class TexturedQuad:
    """A flat picture in space."""

    def __init__(self) -> None:
        self.geometry = o3d.geometry.TriangleMesh()
        self.geometry.vertices = o3d.utility.Vector3dVector(np.zeros((4, 3)))
        self.geometry.triangles = o3d.utility.Vector3iVector(_QUAD)
        self.geometry.triangle_material_ids = o3d.utility.IntVector([0] * len(_QUAD))
        self.geometry.triangle_uvs = o3d.utility.Vector2dVector(_QUAD_UV[_QUAD.ravel()])
        self.set_picture(np.zeros((2, 2, 3), np.uint8))

    def set_picture(self, image: np.ndarray) -> None:
        """image: (H, W, 3) uint8 RGB."""
        self._picture_px = image.shape[0], image.shape[1]
        self.geometry.textures = [o3d.geometry.Image(np.ascontiguousarray(image))]

    @property
    def picture_px(self) -> tuple[int, int]:
        """Height, width of the picture."""
        return self._picture_px

    def set_corners(self, corners_m: np.ndarray) -> None:
        """corners_m: (4, 3) top left, top right, bottom right, bottom left."""
        self.geometry.vertices = o3d.utility.Vector3dVector(corners_m)


class Picture(TexturedQuad):
    """The camera's picture at a depth behind everybody, where its pixels lie on the rays through them."""

    def show(self, image: np.ndarray, intrinsics: Intrinsics, depth_m: float, mirror: np.ndarray, side_px: int) -> None:
        """image: (H, W, 3) uint8 RGB; side_px: longest side worth having."""
        height, width = image.shape[:2]
        corners_px = np.array([[0, 0], [width, 0], [width, height], [0, height]], float)
        rays = (corners_px - intrinsics.principal_px) / intrinsics.focal_px
        self.set_corners(np.column_stack([rays * depth_m, np.full(4, depth_m)]) * mirror)
        self.set_picture(shrunk(image, side_px))


class Panel(TexturedQuad):
    """A picture fixed to the screen, pixel for pixel."""

    def pin(self, eye: Eye, left_px: float, top_px: float) -> None:
        """Put the top left corner to a pixel of the window."""
        height, width = self.picture_px
        corners_px = np.array([[0, 0], [width, 0], [width, height], [0, height]], float)
        offset_px = np.array([left_px, top_px]) - np.array(eye.size_px) / 2
        xy = (corners_px + offset_px) / eye.focal_px * PANEL_DEPTH_M
        in_camera = np.column_stack([xy, np.full(4, PANEL_DEPTH_M)])
        rotation, translation = eye.camera_from_world[:3, :3], eye.camera_from_world[:3, 3]
        self.set_corners((in_camera - translation) @ rotation)


def ground_grid() -> o3d.geometry.LineSet:
    """Lines a metre apart, at y = 0."""
    across = np.arange(-GRID_HALF_M, GRID_HALF_M + 1e-6, GRID_STEP_M)
    along = np.arange(GRID_NEAR_M, GRID_FAR_M + 1e-6, GRID_STEP_M)
    starts = [(x, 0, GRID_NEAR_M) for x in across] + [(-GRID_HALF_M, 0, z) for z in along]
    ends = [(x, 0, GRID_FAR_M) for x in across] + [(GRID_HALF_M, 0, z) for z in along]
    points = np.array([point for pair in zip(starts, ends, strict=True) for point in pair], float)
    lines = np.arange(len(points)).reshape(-1, 2)
    grid = o3d.geometry.LineSet(o3d.utility.Vector3dVector(points), o3d.utility.Vector2iVector(lines.astype(np.int32)))
    grid.paint_uniform_color(GRID_COLOR)
    return grid


def ring(color: np.ndarray) -> o3d.geometry.TriangleMesh:
    """A flat ring around 0, at y = 0: where somebody stands."""
    angle = 2 * np.pi * np.arange(RING_CORNERS) / RING_CORNERS
    circle = np.column_stack([np.cos(angle), np.zeros(RING_CORNERS), np.sin(angle)])
    here = np.arange(RING_CORNERS)
    after = (here + 1) % RING_CORNERS
    outer, outer_after = here + RING_CORNERS, after + RING_CORNERS
    faces = np.concatenate([np.column_stack([here, after, outer]), np.column_stack([after, outer_after, outer])])
    mesh = o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(np.concatenate([RING_INNER_M * circle, RING_OUTER_M * circle])),
        o3d.utility.Vector3iVector(np.concatenate([faces, faces[:, ::-1]]).astype(np.int32)),
    )
    mesh.paint_uniform_color(color)
    return mesh


def shrunk(image: np.ndarray, side_px: int) -> np.ndarray:
    """The picture at most `side_px` long."""
    import cv2

    scale = side_px / max(image.shape[:2])
    if scale >= 1:
        return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA if scale < 0.5 else cv2.INTER_LINEAR)
