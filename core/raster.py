"""A small software rasteriser: triangles to a depth buffer, on the CPU, with no window and no graphics driver.

It draws the overlay of the app and the synthetic people of the training. Numba compiles it on first use and keeps the
result in its cache.
"""

from dataclasses import dataclass

import numba
import numpy as np

NO_FACE = -1


@dataclass(frozen=True)
class Fragments:
    """What each pixel shows.

    face_index:  (H, W) int32, NO_FACE where nothing is
    barycentric: (H, W, 3) float32, perspective-correct weights of that face's three vertices
    inverse_depth: (H, W) float32, 1 / z in 1 / metres, 0 where nothing is
    """

    face_index: np.ndarray
    barycentric: np.ndarray
    inverse_depth: np.ndarray

    @property
    def covered(self) -> np.ndarray:
        """(H, W) bool."""
        return self.face_index != NO_FACE


def rasterize(points_px: np.ndarray, depth_m: np.ndarray, faces: np.ndarray, height: int, width: int) -> Fragments:
    """Draw triangles; the nearest wins. Pixel centres lie at +0.5. Faces with a vertex at or behind the camera are left out.

    points_px: (V, 2) projected x, y      depth_m: (V,) distance along the viewing axis, > 0 in front
    faces: (F, 3) integers; both windings are drawn
    """
    face_index = np.full((height, width), NO_FACE, np.int32)
    barycentric = np.zeros((height, width, 3), np.float32)
    inverse_depth = np.zeros((height, width), np.float32)
    points = np.ascontiguousarray(points_px, np.float32)
    depth = np.ascontiguousarray(depth_m, np.float32)
    _fill(points, depth, np.ascontiguousarray(faces, np.int32), face_index, barycentric, inverse_depth)
    return Fragments(face_index, barycentric, inverse_depth)


def interpolate(fragments: Fragments, values: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """What vertices say at the covered pixels, row by row. values: (V, C), faces: those drawn -> (N, C) float32."""
    covered = fragments.covered
    chosen = np.ascontiguousarray(faces, np.int32)[fragments.face_index[covered]]
    return _blend(np.ascontiguousarray(values, np.float32), chosen, fragments.barycentric[covered])


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V, 3) and (F, 3) -> (V, 3) float32 unit normals, faces weighted by their area; (b - a) x (c - a) is outwards."""
    return _normals(np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.int32))


@numba.njit(cache=True, fastmath=True, nogil=True)
def _blend(values, corners, weights):  # noqa: ANN001, ANN202 - compiled
    count, size = corners.shape[0], values.shape[1]
    result = np.empty((count, size), np.float32)
    for i in range(count):
        a, b, c = corners[i, 0], corners[i, 1], corners[i, 2]
        u, v, w = weights[i, 0], weights[i, 1], weights[i, 2]
        for k in range(size):
            result[i, k] = values[a, k] * u + values[b, k] * v + values[c, k] * w
    return result


@numba.njit(cache=True, fastmath=True, nogil=True)
def _normals(vertices, faces):  # noqa: ANN001, ANN202 - compiled
    total = np.zeros(vertices.shape, np.float32)
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        u0, u1, u2 = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        v0, v1, v2 = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        x, y, z = u1 * v2 - u2 * v1, u2 * v0 - u0 * v2, u0 * v1 - u1 * v0
        for corner in (a, b, c):
            total[corner, 0] += x
            total[corner, 1] += y
            total[corner, 2] += z
    for i in range(total.shape[0]):
        length = np.sqrt(total[i, 0] ** 2 + total[i, 1] ** 2 + total[i, 2] ** 2) + np.float32(1e-12)
        for k in range(3):
            total[i, k] /= length
    return total


@numba.njit(cache=True, fastmath=True, nogil=True)
def _fill(points, depth, faces, face_index, barycentric, inverse_depth):  # noqa: ANN001, ANN202 - compiled
    height, width = face_index.shape
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        if depth[a] <= 1e-6 or depth[b] <= 1e-6 or depth[c] <= 1e-6:
            continue
        x0, y0, x1, y1, x2, y2 = points[a, 0], points[a, 1], points[b, 0], points[b, 1], points[c, 0], points[c, 1]
        left = max(int(np.ceil(max(min(x0, x1, x2), -1.0) - 0.5)), 0)
        right = min(int(np.floor(min(max(x0, x1, x2), width + 1.0) - 0.5)), width - 1)
        top = max(int(np.ceil(max(min(y0, y1, y2), -1.0) - 0.5)), 0)
        bottom = min(int(np.floor(min(max(y0, y1, y2), height + 1.0) - 0.5)), height - 1)
        if left > right or top > bottom:  # most faces of a body fall between the pixels' centres
            continue
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if abs(area) < 1e-9:
            continue
        ia, ib, ic = 1.0 / depth[a], 1.0 / depth[b], 1.0 / depth[c]
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                dx, dy = x + 0.5 - x0, y + 0.5 - y0
                wb = (dx * (y2 - y0) - (x2 - x0) * dy) / area
                wc = ((x1 - x0) * dy - dx * (y1 - y0)) / area
                wa = 1.0 - wb - wc
                if wa < -1e-5 or wb < -1e-5 or wc < -1e-5:
                    continue
                inverse = wa * ia + wb * ib + wc * ic
                if inverse > inverse_depth[y, x]:
                    inverse_depth[y, x] = inverse
                    face_index[y, x] = f
                    barycentric[y, x, 0] = wa * ia / inverse
                    barycentric[y, x, 1] = wb * ib / inverse
                    barycentric[y, x, 2] = wc * ic / inverse
