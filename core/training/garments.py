"""Geometry that synthetic people wear: clothes and hair pushed off the skin, skirts and coat tails, hats, hair pieces, things carried."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix, diags, identity

from core.bodies.anny import AnnyBody
from core.mesh import edges_of, tube_faces
from core.raster import vertex_normals
from core.training.appearance import NUM_CHANNELS, BodySurface, Outfit, Part, label
from core.training.fabrics import waves

SPOKES = 24
RING_PLACES = np.linspace(0.0, 1.8, 9)
"""Places along the legs (0 hip, 1 knee, 2 ankle) where a skirt has a ring."""


@dataclass(frozen=True)
class Piece:
    """A closed surface in the rest pose of the average adult. points_m: (N, 3); faces: (M, 3); part: what it is."""

    points_m: np.ndarray
    faces: np.ndarray
    part: Part


@dataclass(frozen=True)
class Dressed:
    """mesh_m: (V + N, 3) the body's vertices first; channels: (V + N, NUM_CHANNELS) what they are; faces: (F, 3) int32."""

    mesh_m: np.ndarray
    channels: np.ndarray
    faces: np.ndarray


def ellipsoid(center: tuple, radii: tuple, part: Part) -> Piece:
    """With the poles above and below."""
    rows, columns = 9, 14
    polar, around = np.linspace(0, np.pi, rows)[:, None], np.linspace(0, 2 * np.pi, columns, endpoint=False)[None]
    unit = np.stack([np.sin(polar) * np.cos(around), -np.cos(polar) + 0 * around, np.sin(polar) * np.sin(around)], -1)
    return Piece(unit.reshape(-1, 3) * radii + center, tube_faces(rows, columns), part)


def box(center: tuple, size: tuple, turn: np.ndarray, part: Part) -> Piece:
    """size: (3,) metres; turn: (3, 3)."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) / 2
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    spread = np.concatenate([corners[list(quad)] for quad in quads])  # own corners for each side, for sharp edges
    order = np.arange(24).reshape(6, 4)
    faces = np.concatenate([order[:, [0, 1, 2]], order[:, [0, 2, 3]]]).astype(np.int32)
    return Piece(spread * size @ turn.T + center, faces, part)


def brim(center: tuple, inner: float, outer: float, half_turn: float, droop: float, part: Part) -> Piece:
    """A flat ring about the vertical, open to the back where half_turn < pi."""
    around = np.linspace(-half_turn, half_turn, SPOKES)
    rings = [
        np.stack([np.sin(around) * r, np.full(SPOKES, droop * k) + np.abs(np.sin(around)) * droop * 0.5, -np.cos(around) * r], 1)
        for k, r in enumerate((inner, (inner + outer) / 2, outer))
    ]
    return Piece(np.concatenate(rings) + center, tube_faces(3, SPOKES, closed=False), part)


def _turn(random: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(random.standard_normal((3, 3)))[0]


def _ponytail(random: np.random.Generator) -> Piece:
    length = random.uniform(0.06, 0.17)
    return ellipsoid((random.normal(0, 0.02), -0.80 + length * 0.9, 0.095), (0.025, length, 0.03), Part.HAIR)


def _long_hair(random: np.random.Generator) -> Piece:
    length = random.uniform(0.13, 0.27)
    return ellipsoid((0, -0.86 + length, 0.035), (random.uniform(0.088, 0.12), length, random.uniform(0.05, 0.075)), Part.HAIR)


def _headphones() -> Piece:
    left, right = (ellipsoid((side * 0.088, -0.762, 0.0), (0.02, 0.04, 0.035), Part.PROP) for side in (-1, 1))
    return Piece(np.concatenate([left.points_m, right.points_m]), np.concatenate([left.faces, right.faces + len(left.points_m)]), Part.PROP)


ACCESSORIES: dict[str, tuple[str, Callable[[np.random.Generator], Piece]]] = {
    "bun": ("head", lambda r: ellipsoid((0, r.uniform(-0.9, -0.78), 0.075), (r.uniform(0.025, 0.05),) * 3, Part.HAIR)),
    "ponytail": ("head", _ponytail),
    "long hair": ("head", _long_hair),
    "cap brim": ("head", lambda r: brim((0, -0.842, -0.075), 0.05, r.uniform(0.11, 0.14), 1.2, r.uniform(0.0, 0.015), Part.BRIM)),
    "hat brim": ("head", lambda r: brim((0, -0.84, -0.03), 0.08, r.uniform(0.13, 0.21), np.pi, r.uniform(-0.01, 0.02), Part.BRIM)),
    "headphones": ("head", lambda _: _headphones()),
    "backpack": ("torso", lambda r: ellipsoid((0, -0.33, 0.19), tuple(r.uniform((0.12, 0.17, 0.07), (0.17, 0.26, 0.12))), Part.BAG)),
    "phone": ("hand", lambda r: box((0.545, -0.10, -0.25), (0.075, 0.15, 0.012), _turn(r), Part.PROP)),
    "bottle": ("hand", lambda r: ellipsoid((0.55, -0.10, -0.25), (0.035, r.uniform(0.08, 0.13), 0.035), Part.PROP)),
    "bag": ("hand", lambda r: box((0.53, r.uniform(0, 0.12), -0.24), tuple(r.uniform((0.1, 0.15, 0.05), 0.3)), np.eye(3), Part.BAG)),
}  # fmt: skip
"""Name -> (the part of the body it moves with, how it is made)."""


class Wardrobe:
    """Dresses one body in any outfit."""

    def __init__(self, body: AnnyBody, surface: BodySurface) -> None:
        self.surface, self.faces = surface, body.faces.astype(np.int32)
        count, channels = len(surface.channels), surface.channels
        edges = edges_of(body.faces)
        both = np.concatenate([edges, edges[:, ::-1]]).T
        near = csr_matrix((np.ones(both.shape[1], np.float32), both), shape=(count, count)) + identity(count, dtype=np.float32)
        once = diags(1 / np.asarray(near.sum(1)).ravel()) @ near
        self.blur = (once @ once).astype(np.float32).tocsr()
        self.legs = [self._ring_anchors(side) for side in (1.0, -1.0)]
        left = channels[:, 0] > 0
        self.anchors = {
            "head": np.flatnonzero(channels[:, 5] > 0.98)[::40],
            "torso": np.flatnonzero((channels[:, 11] > 0.95) & (channels[:, 1] < -0.2) & (channels[:, 1] > -0.5))[::9],
            "hand": np.flatnonzero((channels[:, 8] > 0.98) & left)[::12],
        }

    def dress(self, random: np.random.Generator, vertices_m: np.ndarray, outfit: Outfit) -> Dressed:
        """vertices_m: (V, 3) float32 of the posed body."""
        mesh = vertices_m + vertex_normals(vertices_m, self.faces) * self._offset(random, outfit)[:, None]
        points, channels, faces, count = [mesh], [self.surface.channels], [self.faces], len(mesh)
        extra = [self._skirt(vertices_m, outfit)] if outfit.skirt else []
        extra += [self._attached(random, vertices_m, name) for name in outfit.accessories]
        for piece_points, description, piece_faces in extra:
            points.append(piece_points)
            channels.append(description)
            faces.append(piece_faces + np.int32(count))
            count += len(piece_points)
        return Dressed(np.concatenate(points).astype(np.float32), np.concatenate(channels), np.concatenate(faces))

    def _offset(self, random: np.random.Generator, outfit: Outfit) -> np.ndarray:
        """(V,) metres that clothes and hair stand off the skin."""
        channels = self.surface.channels
        parts = label(channels, outfit, self.surface)
        offset = np.zeros(len(parts), np.float32)
        for part, amount in zip((Part.TOP, Part.BOTTOM, Part.HAIR, Part.SHOE), outfit.puff_m, strict=True):
            mask = parts == part
            if mask.any():
                rough = waves(random, channels[mask, :3], random.uniform(4, 25)) if part != Part.HAIR or outfit.hair == "curly" else 0.5
                offset[mask] = amount * (0.4 + 1.2 * rough)
        if outfit.baggy_m:
            offset += outfit.baggy_m * np.clip(channels[:, 4] - 0.3, 0, 1.2) * (parts == Part.BOTTOM)
        offset += 0.006 * (parts == Part.MASK)
        return self.blur @ offset

    def _attached(self, random: np.random.Generator, vertices_m: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """An accessory moved with its part of the body: (points, channels, faces)."""
        place, make = ACCESSORIES[name]
        piece, anchor = make(random), self.anchors[place]
        rest, posed = self.surface.channels[anchor, :3].astype(np.float64), vertices_m[anchor].astype(np.float64)
        scale, turn, shift = similarity(rest, posed)
        description = np.zeros((len(piece.points_m), NUM_CHANNELS), np.float32)
        description[:, :3], description[:, 13] = piece.points_m, piece.part
        return scale * piece.points_m @ turn.T + shift, description, piece.faces

    def _ring_anchors(self, side: float) -> list[np.ndarray]:
        """For places along one leg: the vertices whose mean is the leg's centre there."""
        channels = self.surface.channels
        on_leg = (channels[:, 9] > 0.4) & (np.sign(channels[:, 0]) == side)
        return [np.flatnonzero(on_leg & (np.abs(channels[:, 4] - max(place, 0.1)) < 0.12)) for place in RING_PLACES]

    def _skirt(self, vertices_m: np.ndarray, outfit: Outfit) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A tube around both legs: rings of an ellipse that holds them, wider towards the hem."""
        spokes = np.linspace(0, 2 * np.pi, SPOKES, endpoint=False)
        last = max(np.flatnonzero(outfit.skirt >= RING_PLACES)[-1], 1)
        centers = np.array([[vertices_m[anchor[k]].mean(0) for k in range(len(RING_PLACES))] for anchor in self.legs])
        widest = np.linalg.norm(centers[0, 1] - centers[1, 1]) / 0.26  # the hips of the average adult are that far apart
        rings = []
        for k in range(last + 1):
            left, right = centers[:, k]
            after, before = centers[:, min(k + 1, len(RING_PLACES) - 1)].sum(0), centers[:, max(k - 1, 0)].sum(0)
            down, across = after - before, left - right
            width = np.linalg.norm(across) + 1e-6
            across, down = across / width, down / (np.linalg.norm(down) + 1e-6)
            out = np.cross(across, down)
            place = RING_PLACES[k]
            thick = (0.115 - 0.025 * place + (0.02 if outfit.coat else 0.0)) * widest + outfit.flare * place * 0.5
            wave = 1 + 0.10 * place * np.sin(spokes * 7)
            ring = np.cos(spokes)[:, None] * across * (width / 2 + thick) + np.sin(spokes)[:, None] * out * thick * 1.1
            rings.append((left + right) / 2 + ring * wave[:, None])
        count = last + 1
        description = np.zeros((SPOKES * count, NUM_CHANNELS), np.float32)
        description[:, 0] = np.tile(np.cos(spokes) * 0.25, count)
        description[:, 1] = np.repeat(RING_PLACES[:count], SPOKES) * 0.4
        description[:, 13] = Part.SKIRT
        return np.concatenate(rings), description, tube_faces(count, SPOKES)


def similarity(source: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale, rotation (3, 3) and shift (3,) that bring (N, 3) points nearest to others. Source: Umeyama 1991."""
    from_mean, to_mean = source.mean(0), target.mean(0)
    a, b = source - from_mean, target - to_mean
    u, values, vh = np.linalg.svd(b.T @ a)
    sign = np.array([1, 1, np.sign(np.linalg.det(u) * np.linalg.det(vh))])
    turn = (u * sign) @ vh
    scale = float((values * sign).sum() / (a**2).sum())
    return scale, turn, to_mean - scale * turn @ from_mean
