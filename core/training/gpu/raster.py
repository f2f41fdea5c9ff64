"""Many meshes at once to depth buffers, in plain PyTorch: no compiler, no graphics driver, any device.

Every triangle is spread over the pixel centres in its bounding box; each pixel keeps the nearest by the largest of 64-bit keys
that hold the inverse depth in the upper half and the face in the lower one. It agrees with core.raster, which draws one mesh on a CPU.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

NO_FACE = -1
MIN_DEPTH_M, MIN_AREA, SLACK = 1e-6, 1e-9, -1e-5
"""As in core.raster."""
FACE_BITS = 32
CANDIDATES_AT_ONCE = 40_000_000
"""Pairs of triangle and pixel that are looked at together: about 100 bytes each, so 4 GB at most."""


@dataclass(frozen=True)
class BatchFragments:
    """What each pixel of B pictures shows; only covered pixels are listed, N in all, in the order of their places.

    pixel: (N,) int64 place in (B, H, W); picture: (N,) int64; face: (N,) int64; barycentric: (N, 3); inverse_depth: (N,) 1 / metres
    """

    pixel: Tensor
    picture: Tensor
    face: Tensor
    barycentric: Tensor
    inverse_depth: Tensor
    size: tuple[int, int, int]

    @property
    def covered(self) -> Tensor:
        """(B, H, W) bool."""
        return self.spread(torch.ones_like(self.inverse_depth, dtype=torch.bool)[:, None])[..., 0]

    def spread(self, values: Tensor) -> Tensor:
        """(N, C) of covered pixels -> (B, H, W, C), 0 elsewhere."""
        count = self.size[0] * self.size[1] * self.size[2]
        picture = torch.zeros(count, values.shape[1], dtype=values.dtype, device=values.device)
        picture[self.pixel] = values
        return picture.view(*self.size, values.shape[1])

    def corners(self, faces: Tensor) -> Tensor:
        """(N, 3) int64 vertices of each pixel's face."""
        return faces[self.face]


@torch.no_grad()
def rasterize_batch(points_px: Tensor, depth_m: Tensor, faces: Tensor, height: int, width: int) -> BatchFragments:
    """Draw B meshes of the same triangles; the nearest wins. As core.raster.rasterize, whose pictures it repeats.

    points_px: (B, V, 2) projected x, y      depth_m: (B, V), > 0 in front      faces: (F, 3) int64, both windings are drawn
    """
    keys = torch.full((len(points_px) * height * width,), -1, dtype=torch.int64, device=points_px.device)
    boxes = _boxes(points_px, depth_m, faces, height, width)
    totals = boxes.count.cumsum(0)
    start, drawn = 0, len(boxes.count)
    while start < drawn:
        before = totals[start - 1] if start else totals.new_zeros(())
        end = int(torch.searchsorted(totals, before + CANDIDATES_AT_ONCE).clamp(min=start + 1, max=drawn))
        _fill(keys, boxes.rows(start, end), points_px, depth_m, faces, (height, width))
        start = end
    pixel = torch.nonzero(keys >= 0)[:, 0]
    picture = pixel // (height * width)
    face = (2**FACE_BITS - 1) - (keys[pixel] & (2**FACE_BITS - 1))
    column, row = pixel % width, (pixel // width) % height
    weights, inverse = _weights(points_px, depth_m, faces, picture, face, column, row)[:2]
    return BatchFragments(
        pixel, picture, face, weights * inverse.corners / inverse.here[:, None], inverse.here, (len(points_px), height, width)
    )


@dataclass(frozen=True)
class _Boxes:
    """Triangles with pixel centres in their bounding boxes: (M,) each."""

    picture: Tensor
    face: Tensor
    left: Tensor
    top: Tensor
    wide: Tensor
    count: Tensor

    def rows(self, start: int, end: int) -> "_Boxes":
        return _Boxes(*(getattr(self, name)[start:end] for name in ("picture", "face", "left", "top", "wide", "count")))


@dataclass(frozen=True)
class _Inverse:
    """Inverse depths: corners (N, 3), here (N,)."""

    corners: Tensor
    here: Tensor


def _boxes(points_px: Tensor, depth_m: Tensor, faces: Tensor, height: int, width: int) -> _Boxes:
    corners = points_px[:, faces]  # (B, F, 3, 2)
    low, high = corners.amin(2), corners.amax(2)
    left = (low[..., 0].clamp(min=-1.0) - 0.5).ceil().clamp(min=0)
    right = (high[..., 0].clamp(max=width + 1.0) - 0.5).floor().clamp(max=width - 1)
    top = (low[..., 1].clamp(min=-1.0) - 0.5).ceil().clamp(min=0)
    bottom = (high[..., 1].clamp(max=height + 1.0) - 0.5).floor().clamp(max=height - 1)
    first = corners[:, :, 1:] - corners[:, :, :1]
    edge = first[:, :, 0, 0] * first[:, :, 1, 1] - first[:, :, 1, 0] * first[:, :, 0, 1]
    in_front = (depth_m > MIN_DEPTH_M)[:, faces].all(2)
    drawn = in_front & (left <= right) & (top <= bottom) & (edge.abs() >= MIN_AREA)
    picture, face = torch.nonzero(drawn, as_tuple=True)
    left, right, top, bottom = (bound[drawn].long() for bound in (left, right, top, bottom))
    wide = right - left + 1
    return _Boxes(picture, face, left, top, wide, wide * (bottom - top + 1))


def _fill(keys: Tensor, boxes: _Boxes, points_px: Tensor, depth_m: Tensor, faces: Tensor, size: tuple[int, int]) -> None:
    """Raise `keys` (B * H * W,) by the candidates of some triangles, in place."""
    number = torch.repeat_interleave(torch.arange(len(boxes.count), device=keys.device), boxes.count)
    ends = boxes.count.cumsum(0)
    place = torch.arange(len(number), device=keys.device) - (ends - boxes.count)[number]
    wide = boxes.wide[number]
    column, row = boxes.left[number] + place % wide, boxes.top[number] + place // wide
    picture, face = boxes.picture[number], boxes.face[number]
    _, inverse, inside = _weights(points_px, depth_m, faces, picture, face, column, row)
    keep = inside & (inverse.here > 0)
    pixel = (picture * size[0] + row) * size[1] + column
    nearest = inverse.here[keep].contiguous().view(torch.int32).long()  # the bits of positive floats are in the order of the floats
    key = (nearest << FACE_BITS) | ((2**FACE_BITS - 1) - face[keep])
    keys.scatter_reduce_(0, pixel[keep], key, "amax")


def _weights(
    points_px: Tensor, depth_m: Tensor, faces: Tensor, picture: Tensor, face: Tensor, column: Tensor, row: Tensor
) -> tuple[Tensor, _Inverse, Tensor]:
    """Weights of the corners on the screen (N, 3), inverse depths, and (N,) whether the pixel's centre is inside."""
    corner = faces[face]
    at = points_px[picture[:, None], corner]  # (N, 3, 2)
    x0, y0 = at[:, 0, 0], at[:, 0, 1]
    first, second = at[:, 1] - at[:, 0], at[:, 2] - at[:, 0]
    area = first[:, 0] * second[:, 1] - second[:, 0] * first[:, 1]
    dx, dy = column + 0.5 - x0, row + 0.5 - y0
    b = (dx * second[:, 1] - second[:, 0] * dy) / area
    c = (first[:, 0] * dy - dx * first[:, 1]) / area
    weights = torch.stack([1 - b - c, b, c], 1)
    inverse = 1 / depth_m[picture[:, None], corner]
    return weights, _Inverse(inverse, (weights * inverse).sum(1)), (weights >= SLACK).all(1)


def interpolate_batch(fragments: BatchFragments, values: Tensor, faces: Tensor) -> Tensor:
    """What vertices say at the covered pixels. values: (V, C) for all pictures alike or (B, V, C) -> (N, C)."""
    corners = fragments.corners(faces)
    chosen = values[corners] if values.dim() == 2 else values[fragments.picture[:, None], corners]
    return (chosen * fragments.barycentric[..., None]).sum(1)


def vertex_normals_batch(vertices: Tensor, faces: Tensor) -> Tensor:
    """(B, V, 3) and (F, 3) -> (B, V, 3) unit normals, faces weighted by their area; (b - a) x (c - a) is outwards."""
    a, b, c = (vertices[:, corner] for corner in faces.unbind(1))
    normals = torch.linalg.cross(b - a, c - a, dim=-1)
    total = torch.zeros_like(vertices)
    for corner in faces.unbind(1):
        total.index_add_(1, corner, normals)
    return total / (total.norm(dim=-1, keepdim=True) + 1e-12)
