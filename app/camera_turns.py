"""How the camera of a recording turns, by what stands still in its picture: for the 3D files, whose floor must not turn with it.

Corners of the picture are followed from a key frame by optical flow (Shi, Tomasi 1994; Lucas, Kanade 1981, in pyramids), people left out,
and the rotation that explains most of them is the camera's. That it travels is not seen; a zoom may be taken for a small turn. A cut begins
another view, with a camera of its own, unless it leads back to one of the last views: flashes do, and people who talk in turn.
"""

from dataclasses import dataclass, replace
from itertools import count

import cv2
import numpy as np

from app.types import Intrinsics, Scene
from core.rotations import unit

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
MAX_LOST = 15
"""Frames in a row in which nothing fits, as in a flash: after them the camera goes on as it was."""
REMEMBERED = 3
"""Views that a cut may lead back to."""


@dataclass(frozen=True)
class _Picture:
    """gray: (H, W) uint8; boxes_px: people in it; rotmat: (3, 3) of its camera"""

    gray: np.ndarray
    boxes_px: list[np.ndarray]
    rotmat: np.ndarray


class CameraTurns:
    """Takes a recording's scenes in order, and gives them back with `view` and `start_from_camera`."""

    def __init__(self) -> None:
        self._views: list[tuple[int, _View]] = []  # the last ones with their numbers, the one that is seen now first
        self._numbers = count()

    def __call__(self, scene: Scene) -> Scene:
        """The scene, with the number of its view, and what its camera has turned by since that began."""
        times = -(-scene.frame.size_px[0] // WIDTH_PX)
        gray = smaller(cv2.cvtColor(scene.frame.image, cv2.COLOR_RGB2GRAY), times)
        boxes_px = [grown(mesh.box_px / times) for mesh in scene.meshes]
        camera = Intrinsics(scene.intrinsics.focal_px / times, tuple(value / times for value in scene.intrinsics.principal_px))
        picture = _Picture(gray, boxes_px, np.eye(3))
        if scene.cuts or not self._views:
            self._cut_to(picture, camera)
        else:
            self._views[0][1].go_on(picture, camera)
        number, view = self._views[0]
        return replace(scene, start_from_camera=view.rotmat, view=number)

    def _cut_to(self, picture: _Picture, camera: Intrinsics) -> None:
        """Go over to one of the last views, if it goes on in this picture, or to another one."""
        found = next((seen for seen in self._views if seen[1].goes_on(picture, camera)), None) or (next(self._numbers), _View(picture))
        self._views = [found, *(seen for seen in self._views if seen is not found)][:REMEMBERED]


class _View:
    """What one camera sees without a cut. rotmat: (3, 3) of the camera as it is, against the view's first picture"""

    def __init__(self, picture: _Picture) -> None:
        self._begin(picture)

    @property
    def rotmat(self) -> np.ndarray:
        """Of the last picture in which something was to be seen."""
        return self._last.rotmat

    def goes_on(self, picture: _Picture, camera: Intrinsics) -> bool:
        """Whether this picture shows the same, and if so go on there."""
        found = self._followed(picture, camera) if self._last.gray.shape == picture.gray.shape else None
        if found is not None:
            self._take(picture, *found)
        return found is not None

    def go_on(self, picture: _Picture, camera: Intrinsics) -> None:
        """Take in the next picture."""
        if self._last.gray.shape != picture.gray.shape:
            self._begin(replace(picture, rotmat=self._last.rotmat))
            return
        found = self._followed(picture, camera)
        if found is None and self._key is not self._last:
            self._begin(self._last)
            found = self._followed(picture, camera)
        if found is None:
            self._num_lost += 1
            if self._num_lost > MAX_LOST:
                self._begin(replace(picture, rotmat=self._last.rotmat))
            return
        self._take(picture, *found)

    def _take(self, picture: _Picture, rotmat: np.ndarray, kept: bool) -> None:
        """A picture whose camera is known. kept: enough of the key frame's corners are in it"""
        self._last, self._num_lost = replace(picture, rotmat=rotmat), 0
        if not kept:
            self._begin(self._last)

    def _begin(self, picture: _Picture) -> None:
        """Make this the key frame."""
        mask = np.where(outside(pixel_grid(picture.gray.shape), picture.boxes_px), np.uint8(255), np.uint8(0)).reshape(picture.gray.shape)
        corners = cv2.goodFeaturesToTrack(picture.gray, NUM_CORNERS, QUALITY, APART_PX, mask=mask)
        self._key = self._last = picture
        self._corners_px = self._followed_px = np.zeros((0, 1, 2), np.float32) if corners is None else corners
        self._num_lost = 0

    def _followed(self, picture: _Picture, camera: Intrinsics) -> tuple[np.ndarray, bool] | None:
        """The camera's rotation by the key frame's corners, and whether enough of them are left; None where nothing fits."""
        if len(self._corners_px) < MIN_CORNERS:
            return None
        settings = {"winSize": WINDOW_PX, "maxLevel": LEVELS, "flags": cv2.OPTFLOW_USE_INITIAL_FLOW}
        gray = picture.gray
        found_px, status, _ = cv2.calcOpticalFlowPyrLK(self._key.gray, gray, self._corners_px, self._followed_px.copy(), **settings)
        inside = ((found_px[:, 0] >= 0) & (found_px[:, 0] < gray.shape[::-1])).all(1)
        seen = (status[:, 0] == 1) & inside & outside(found_px[:, 0], picture.boxes_px)
        if seen.sum() < MIN_CORNERS:
            return None
        now, then = (rays_of(points_px[seen, 0], camera) for points_px in (found_px, self._corners_px))
        rotmat, num_fitting = rotation_between(now, then, camera.focal_px)
        if num_fitting < max(MIN_CORNERS, seen.sum() / 4):
            return None
        self._followed_px = np.where(seen[:, None, None], found_px, self._followed_px)
        return self._key.rotmat @ rotmat, bool(num_fitting >= KEPT_SHARE * len(self._corners_px))


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
    return unit(np.c_[(points_px - camera.principal_px) / camera.focal_px, np.ones(len(points_px))])


def smaller(gray: np.ndarray, times: int) -> np.ndarray:
    """(H, W) -> (H // times, W // times), each pixel the mean of so many squared."""
    height, width = (max(size // times, 1) for size in gray.shape)
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
