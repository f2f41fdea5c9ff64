"""How the camera of a recording turns, by what stands still in its picture: for the 3D files, whose floor must not turn with it.

Corners of the picture are followed from a key frame by optical flow (Shi, Tomasi 1994; Lucas, Kanade 1981, in pyramids), people left out,
and the rotation that explains most of them is the camera's. That it moves as well is not seen.
"""

from dataclasses import replace

import cv2
import numpy as np

from app.types import Intrinsics, Scene

WIDTH_PX = 480
"""Pictures are looked at in this width at most."""
NUM_CORNERS, APART_PX, QUALITY = 200, 8, 0.01
WINDOW_PX, LEVELS = (15, 15), 3
MARGIN = 0.15
"""Around people, as a share of their boxes."""
MISS_PX = 1.5
"""Corners off by less go with the camera."""
ROUNDS = 10
MIN_CORNERS = 15
"""With fewer nothing is known, and the camera is taken to rest."""
KEPT_SHARE = 0.4
"""When fewer of a key frame's corners are left it is time for a new one."""


class CameraTurns:
    """Takes a recording's scenes in order, and gives them back with `start_from_camera`."""

    def __init__(self) -> None:
        self._rotmat = np.eye(3)
        self._key: np.ndarray | None = None
        self._key_rotmat = self._rotmat
        self._corners_px = self._followed_px = np.zeros((0, 1, 2), np.float32)

    def __call__(self, scene: Scene) -> Scene:
        """The scene, with what its camera has turned by since the first one."""
        times = -(-scene.frame.size_px[0] // WIDTH_PX)
        gray = smaller(cv2.cvtColor(scene.frame.image, cv2.COLOR_RGB2GRAY), times)
        boxes_px = [grown(mesh.box_px / times) for mesh in scene.meshes]
        camera = Intrinsics(scene.intrinsics.focal_px / times, tuple(value / times for value in scene.intrinsics.principal_px))
        if self._key is None or self._key.shape != gray.shape or not self._follow(gray, boxes_px, camera):
            self._begin(gray, boxes_px)
        return replace(scene, start_from_camera=self._rotmat)

    def _begin(self, gray: np.ndarray, boxes_px: list[np.ndarray]) -> None:
        """Make this the key frame; it is where the one before was when last seen."""
        mask = np.where(outside(pixel_grid(gray.shape), boxes_px), np.uint8(255), np.uint8(0)).reshape(gray.shape)
        corners = cv2.goodFeaturesToTrack(gray, NUM_CORNERS, QUALITY, APART_PX, mask=mask)
        self._key, self._key_rotmat = gray, self._rotmat
        self._corners_px = self._followed_px = np.zeros((0, 1, 2), np.float32) if corners is None else corners

    def _follow(self, gray: np.ndarray, boxes_px: list[np.ndarray], camera: Intrinsics) -> bool:
        """Find the key frame's corners again, and the rotation; False when a new key frame is wanted."""
        if len(self._corners_px) < MIN_CORNERS:
            return False
        found_px, status, _ = cv2.calcOpticalFlowPyrLK(
            self._key,
            gray,
            self._corners_px,
            self._followed_px.copy(),
            winSize=WINDOW_PX,
            maxLevel=LEVELS,
            flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
        )
        size_px = gray.shape[::-1]
        inside = ((found_px[:, 0] >= 0) & (found_px[:, 0] < size_px)).all(1)
        seen = (status[:, 0] == 1) & inside & outside(found_px[:, 0], boxes_px)
        if seen.sum() < MIN_CORNERS:
            return False
        rotmat, num_fitting = rotation_between(
            rays_of(found_px[seen, 0], camera), rays_of(self._corners_px[seen, 0], camera), camera.focal_px
        )
        if num_fitting < max(MIN_CORNERS, seen.sum() / 4):
            return False
        self._rotmat = self._key_rotmat @ rotmat
        self._followed_px = np.where(seen[:, None, None], found_px, self._followed_px)
        return bool(num_fitting >= KEPT_SHARE * len(self._corners_px))


def rotation_between(from_rays: np.ndarray, to_rays: np.ndarray, focal_px: float) -> tuple[np.ndarray, int]:
    """(3, 3) that turns the first unit rays (N, 3) to the second, and how many it brings within MISS_PX: least squares (Kabsch 1976) with
    the weights of Welsch.
    """
    weights, rotmat, misses_px = np.ones(len(from_rays)), np.eye(3), np.zeros(len(from_rays))
    for _ in range(ROUNDS):
        left, _, right = np.linalg.svd((to_rays * weights[:, None]).T @ from_rays)
        rotmat = left @ np.diag([1, 1, np.linalg.det(left @ right)]) @ right
        misses_px = np.linalg.norm(to_rays - from_rays @ rotmat.T, axis=1) * focal_px
        weights = np.exp(-((misses_px / max(1.0, 1.5 * float(np.median(misses_px)))) ** 2))
    return rotmat, int((misses_px < MISS_PX).sum())


def rays_of(points_px: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """(N, 2) -> (N, 3) unit vectors, x right, y down, z away."""
    rays = np.c_[(points_px - camera.principal_px) / camera.focal_px, np.ones(len(points_px))]
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def smaller(gray: np.ndarray, times: int) -> np.ndarray:
    """(H, W) -> (H // times, W // times), each pixel the mean of so many squared."""
    height, width = (size // times for size in gray.shape)
    return cv2.resize(gray[: height * times, : width * times], (width, height), interpolation=cv2.INTER_AREA)


def grown(box_px: np.ndarray) -> np.ndarray:
    """(4,) with MARGIN around it."""
    size_px = np.tile(box_px[2:] - box_px[:2], 2)
    return box_px + MARGIN * size_px * (-1, -1, 1, 1)


def outside(points_px: np.ndarray, boxes_px: list[np.ndarray]) -> np.ndarray:
    """(N, 2) -> (N,) bool: in none of the boxes."""
    free = np.ones(len(points_px), bool)
    for left, top, right, bottom in boxes_px:
        x, y = points_px.T
        free &= (x < left) | (x > right) | (y < top) | (y > bottom)
    return free


def pixel_grid(shape: tuple[int, int]) -> np.ndarray:
    """(H * W, 2) x, y of the pixels, row by row."""
    return np.stack(np.meshgrid(np.arange(shape[1]), np.arange(shape[0])), -1).reshape(-1, 2)
