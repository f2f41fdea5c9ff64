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


@numba.njit(cache=True, fastmath=True)
def _fill(points, depth, faces, face_index, barycentric, inverse_depth):  # noqa: ANN001, ANN202 - compiled
    height, width = face_index.shape
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        if depth[a] <= 1e-6 or depth[b] <= 1e-6 or depth[c] <= 1e-6:
            continue
        x0, y0, x1, y1, x2, y2 = points[a, 0], points[a, 1], points[b, 0], points[b, 1], points[c, 0], points[c, 1]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if abs(area) < 1e-9:
            continue
        left = max(int(np.ceil(max(min(x0, x1, x2), -1.0) - 0.5)), 0)
        right = min(int(np.floor(min(max(x0, x1, x2), width + 1.0) - 0.5)), width - 1)
        top = max(int(np.ceil(max(min(y0, y1, y2), -1.0) - 0.5)), 0)
        bottom = min(int(np.floor(min(max(y0, y1, y2), height + 1.0) - 0.5)), height - 1)
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
