"""Meshes drawn into the picture they were seen in: a software rasteriser, no window, no graphics driver."""

from dataclasses import dataclass

import cv2
import numba
import numpy as np

from app.colors import track_color
from app.types import Intrinsics, Scene, SmoothedMesh
from app.visibility import HIDDEN_BELOW, SHOWN_ABOVE, vertex_visibility
from core.joints import BONES, JOINT_NAMES
from core.raster import rasterize, vertex_normals

WORKING_SIDE_PX = 720
"""Larger regions are drawn at this size and enlarged: time per person stays bounded up to 8K."""
OPACITY = 0.88
AMBIENT = 0.35
MIN_DRAWN_ALPHA = 0.03
MARGIN_PX = 2

_LAMP_BESIDE_CAMERA = np.array([-0.25, -0.45, 0.0], np.float32)
"""From the camera to the lamp, in units of the distance to the body."""

_OUTLINE = (32, 32, 32)


@dataclass(frozen=True)
class _Placed:
    """A mesh on its way into the picture.

    points_px: (V, 2)   depth_m, light, alpha: (V,), the last two 0..1   faces: those to draw   box_px: x0, y0, x1, y1 in the frame
    """

    points_px: np.ndarray
    depth_m: np.ndarray
    light: np.ndarray
    alpha: np.ndarray
    faces: np.ndarray
    color: tuple[int, int, int]
    box_px: tuple[int, int, int, int]


def draw_overlay(scene: Scene, faces: np.ndarray, vertex_weights: np.ndarray | None = None, opacity: float = OPACITY) -> np.ndarray:
    """The scene's picture with everybody's mesh on it. (H, W, 3) uint8 RGB, a new array.

    faces: (F, 3) int32          vertex_weights: (V, 14) from vertex_joint_weights, None draws hidden parts too
    Raises ValueError when a mesh holds NaN or does not fit `faces`.
    """
    image = scene.frame.image.copy()
    placed = [_place(mesh, scene.intrinsics, faces, vertex_weights, scene.frame.size_px) for mesh in scene.meshes]
    for group in _overlapping([item for item in placed if item is not None]):
        _draw_group(image, group, opacity)
    return image


def draw_skeletons(image: np.ndarray, meshes: tuple[SmoothedMesh, ...], show_hidden: bool = False) -> np.ndarray:
    """Bones between visible joints as lines, joints as dots. (H, W, 3) uint8 RGB, a new array."""
    image = image.copy()
    thickness = max(1, round(max(image.shape[:2]) / 400))
    limit_px = 4 * max(image.shape[:2])
    for mesh in meshes:
        color = track_color(mesh.track_id)
        points = np.clip(np.nan_to_num(mesh.joints_px), -limit_px, limit_px).round().astype(int)
        shown = (mesh.joint_visibility >= (HIDDEN_BELOW + SHOWN_ABOVE) / 2) | show_hidden
        for start, end in ((JOINT_NAMES.index(a), JOINT_NAMES.index(b)) for a, b in BONES):
            if shown[start] and shown[end]:
                cv2.line(image, tuple(map(int, points[start])), tuple(map(int, points[end])), _OUTLINE, thickness + 2, cv2.LINE_AA)
                cv2.line(image, tuple(map(int, points[start])), tuple(map(int, points[end])), color, thickness, cv2.LINE_AA)
        for point in points[shown]:
            cv2.circle(image, tuple(map(int, point)), 2 * thickness + 1, _OUTLINE, -1, cv2.LINE_AA)
            cv2.circle(image, tuple(map(int, point)), 2 * thickness, color, -1, cv2.LINE_AA)
    return image


def _place(
    mesh: SmoothedMesh, intrinsics: Intrinsics, faces: np.ndarray, vertex_weights: np.ndarray | None, frame_px: tuple[int, int]
) -> _Placed | None:
    """Project, light and fade one mesh; None when nothing of it is in the picture."""
    if len(mesh.vertices_m) <= faces.max():
        raise ValueError(f"a mesh of {len(mesh.vertices_m)} vertices does not fit faces that name vertex {faces.max()}")
    vertices_m = mesh.vertices_m + mesh.translation_m
    if not np.isfinite(vertices_m).all():
        raise ValueError(f"the mesh of person {mesh.track_id} holds values that are not finite")
    hides = vertex_weights is not None
    alpha = vertex_visibility(mesh.joint_visibility, vertex_weights) if hides else np.ones(len(vertices_m), np.float32)
    shown = (alpha > MIN_DRAWN_ALPHA) & (vertices_m[:, 2] > 1e-3)
    if not shown.any():
        return None
    depth_m = vertices_m[:, 2]
    principal_px = np.array(intrinsics.principal_px, np.float32)
    points_px = vertices_m[:, :2] * (intrinsics.focal_px / np.maximum(depth_m, 1e-3))[:, None] + principal_px
    all_shown = shown.all()
    columns = (points_px if all_shown else points_px[shown]).T  # a minimum over the rows of (V, 2) takes thirty times as long
    x0, y0 = (int(max(np.floor(values.min()) - MARGIN_PX, 0)) for values in columns)
    x1, y1 = (int(min(np.ceil(values.max()) + MARGIN_PX, side)) for values, side in zip(columns, frame_px, strict=True))
    if x0 >= x1 or y0 >= y1:
        return None
    drawn = faces if all_shown else faces[shown[faces].any(axis=1)]
    light = _light(vertices_m, faces)
    return _Placed(points_px, depth_m, light, alpha, drawn, track_color(mesh.track_id), (x0, y0, x1, y1))


def _light(vertices_m: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V,) float32 0..1: a lamp a little above the camera, on normals averaged over the faces around a vertex by their area.

    Normals are turned toward the camera, so that the winding of `faces` does not matter.
    """
    normals = vertex_normals(vertices_m, faces)
    away = np.einsum("ij,ij->i", normals, vertices_m)
    middle = np.array([values.mean() for values in vertices_m.T])
    lamp = _LAMP_BESIDE_CAMERA - middle / np.linalg.norm(middle)
    facing = -np.sign(away) * (normals @ (lamp / np.linalg.norm(lamp)).astype(np.float32))
    return (AMBIENT + (1 - AMBIENT) * np.clip(facing, 0, 1)).astype(np.float32)


def _overlapping(placed: list[_Placed]) -> list[list[_Placed]]:
    """Groups of people whose boxes touch, directly or through others: each group shares one depth buffer."""
    groups: list[list[_Placed]] = []
    for item in placed:
        touching = [any(_touch(item.box_px, other.box_px) for other in group) for group in groups]
        joined = [other for group, touches in zip(groups, touching, strict=True) if touches for other in group]
        groups = [group for group, touches in zip(groups, touching, strict=True) if not touches] + [[item, *joined]]
    return groups


def _touch(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _draw_group(image: np.ndarray, group: list[_Placed], opacity: float) -> None:
    """Draw people that share a region into `image`, a copy that this module made."""
    x0, y0 = min(item.box_px[0] for item in group), min(item.box_px[1] for item in group)
    x1, y1 = max(item.box_px[2] for item in group), max(item.box_px[3] for item in group)
    scale = min(1.0, WORKING_SIDE_PX / max(x1 - x0, y1 - y0))
    width, height = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
    to_working = np.array([width / (x1 - x0), height / (y1 - y0)], np.float32)
    offsets = np.cumsum([0] + [len(item.points_px) for item in group])
    points_px = np.concatenate([(item.points_px - np.array([x0, y0], np.float32)) * to_working for item in group])
    faces = np.concatenate([item.faces + np.int32(start) for item, start in zip(group, offsets[:-1], strict=True)])
    fragments = rasterize(points_px, np.concatenate([item.depth_m for item in group]), faces, height, width)
    colors = np.concatenate([np.outer(item.light, np.array(item.color, np.float32)) for item in group]).astype(np.float32)
    alpha = np.concatenate([item.alpha for item in group]) * np.float32(opacity)
    layer = _shade(fragments.face_index, fragments.barycentric, faces, colors, alpha)
    layer = _feather(layer)
    if (width, height) != (x1 - x0, y1 - y0):
        layer = cv2.resize(layer, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
    _blend(image[y0:y1, x0:x1], layer)


def _feather(layer: np.ndarray) -> np.ndarray:
    """Soften the outline by half a pixel: premultiplied colours fade together with their alpha."""
    return cv2.GaussianBlur(layer, (3, 3), 0.6)


@numba.njit(cache=True, nogil=True)
def _shade(face_index, barycentric, faces, colors, alpha):  # noqa: ANN001, ANN202 - compiled
    """(H, W, 4) uint8: premultiplied RGB and alpha, interpolated between each triangle's corners."""
    height, width = face_index.shape
    layer = np.zeros((height, width, 4), np.uint8)
    for y in range(height):
        for x in range(width):
            f = face_index[y, x]
            if f < 0:
                continue
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            wa, wb, wc = barycentric[y, x, 0], barycentric[y, x, 1], barycentric[y, x, 2]
            opacity = wa * alpha[a] + wb * alpha[b] + wc * alpha[c]
            for k in range(3):
                layer[y, x, k] = np.uint8(min(255.0, max(0.0, (wa * colors[a, k] + wb * colors[b, k] + wc * colors[c, k]) * opacity)))
            layer[y, x, 3] = np.uint8(min(255.0, max(0.0, 255.0 * opacity + 0.5)))
    return layer


@numba.njit(cache=True, nogil=True)
def _blend(region, layer):  # noqa: ANN001, ANN202 - compiled
    """Region (H, W, 3) uint8 is changed: what lies below shows through by 1 - alpha."""
    for y in range(region.shape[0]):
        for x in range(region.shape[1]):
            through = 255 - int(layer[y, x, 3])
            if through == 255:
                continue
            for k in range(3):
                region[y, x, k] = np.uint8(min(255, int(layer[y, x, k]) + (int(region[y, x, k]) * through + 127) // 255))
