"""Light on synthetic people: soft light from all around as spherical harmonics, lamps with shadows and gloss, from a probe or drawn.

Directions point from the person to the light, in camera axes: x right, y down, z away. Colours are linear.
"""

from dataclasses import dataclass, field

import numpy as np

COSINE_LOBE = np.float32([np.pi, *[2 * np.pi / 3] * 3, *[np.pi / 4] * 5])
"""Weights of bands 0, 1 and 2 of a clamped cosine. Source: Ramamoorthi and Hanrahan 2001."""


@dataclass(frozen=True)
class Lamp:
    """A distant lamp. direction: (3,) unit; colour: (3,)."""

    direction: np.ndarray
    colour: np.ndarray


@dataclass(frozen=True)
class Light:
    """What shines on a person.

    ambient: (9, 3) irradiance by spherical harmonics, in axes that `turn` (3, 3) leads to from the camera's
    lamps: hard light, in camera axes; exposure: mean brightness of white on the person
    """

    ambient: np.ndarray
    lamps: tuple[Lamp, ...]
    exposure: float
    turn: np.ndarray = field(default_factory=lambda: np.eye(3, dtype=np.float32))

    def soft(self, normals: np.ndarray) -> np.ndarray:
        """(N, 3) unit normals in camera axes -> (N, 3) soft light on them."""
        return np.maximum(harmonics(normals @ self.turn.T) @ self.ambient, 0.01)


def harmonics(directions: np.ndarray) -> np.ndarray:
    """(N, 3) unit -> (N, 9) float32 real spherical harmonics of bands 0 to 2."""
    x, y, z = directions.astype(np.float32).T
    return np.stack([
        np.full_like(x, 0.282095), 0.488603 * y, 0.488603 * z, 0.488603 * x, 1.092548 * x * y, 1.092548 * y * z,
        0.315392 * (3 * z * z - 1), 1.092548 * x * z, 0.546274 * (x * x - y * y),
    ], 1)  # fmt: skip


def lobe(direction: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """(9, 3) irradiance of light from about one direction; `colour` is what a surface facing it gets."""
    return (harmonics(direction[None]).T * COSINE_LOBE[:, None]) * np.asarray(colour, np.float32) / np.pi


def towards(random: np.random.Generator, spread: tuple[float, float, float], middle: tuple[float, float, float]) -> np.ndarray:
    """(3,) a unit direction about `middle`."""
    direction = random.standard_normal(3) * spread + middle
    return direction / (np.linalg.norm(direction) + 1e-9)


def _tint(random: np.random.Generator, deviation: float) -> np.ndarray:
    """(3,) about 1: warm or cold."""
    warm = random.normal(0, deviation)
    return np.clip(np.array([1 + warm, 1.0, 1 - warm]) * random.normal(1, 0.02, 3), 0.4, 1.6)


def draw_exposure(random: np.random.Generator) -> float:
    """Mostly well exposed, sometimes too dark, as against a window."""
    return float(np.exp(random.normal(-1.1, 0.35) if random.random() < 0.07 else random.normal(-0.12, 0.28)))


def drawn_light(random: np.random.Generator) -> Light:
    """A sky or a ceiling, a floor, some windows or lit walls, and up to two lamps."""
    up, down = np.array([0, -1.0, 0]), np.array([0, 1.0, 0])
    ambient = lobe(up, 0.7 * _tint(random, 0.08)) + lobe(down, random.uniform(0.05, 0.5) * _tint(random, 0.1))
    ambient[0] += 1.5 * random.uniform(0.1, 0.6)
    for _ in range(random.integers(0, 3)):
        ambient = ambient + lobe(towards(random, (1, 0.4, 1), (0, -0.2, -0.2)), random.uniform(0.2, 0.9) * _tint(random, 0.12))
    behind = random.random() < 0.12
    lamps = [
        Lamp(towards(random, (0.9, 0.5, 0.7), (0, -0.8, 0.9 if behind else -0.55)), random.uniform(0.3, 2.2) * _tint(random, 0.1))
        for _ in range(random.choice([0, 1, 2], p=[0.35, 0.5, 0.15]))
    ]
    return Light(ambient.astype(np.float32), tuple(lamps), draw_exposure(random))


def probe_light(probe: np.ndarray) -> tuple[np.ndarray, Lamp, float]:
    """(9, 3) irradiance of an equirectangular probe without its brightest spot, that spot as a lamp, and its share of the light.

    probe: (H, W, 3) linear float32, row 0 above; in its own axes (y down) column u lies at longitude 2 pi u / W = atan2(x, z)
    """
    height, width = probe.shape[:2]
    latitude = ((np.arange(height) + 0.5) / height - 0.5) * np.pi
    longitude = (np.arange(width) + 0.5) / width * 2 * np.pi
    level, around = np.meshgrid(latitude, longitude, indexing="ij")
    directions = np.stack([np.cos(level) * np.sin(around), np.sin(level), np.cos(level) * np.cos(around)], -1).reshape(-1, 3)
    solid = (np.cos(level) * (np.pi / height) * (2 * np.pi / width)).reshape(-1, 1)
    colours = probe.reshape(-1, 3)
    brightness = colours.mean(1)
    bright = brightness > np.percentile(brightness, 99.5)
    power = (colours[bright] * solid[bright]).sum(0)
    center = (directions[bright] * (brightness[bright, None] * solid[bright])).sum(0)
    focus = np.linalg.norm(center) / ((brightness[bright] * solid[bright, 0]).sum() + 1e-9)
    share = float(power.mean() / ((colours * solid).sum(0).mean() + 1e-9)) * (focus > 0.9)
    soft = colours if share == 0 else np.where(bright[:, None], np.percentile(brightness, 99.5), colours)
    ambient = (harmonics(directions).T @ (soft * solid)) * COSINE_LOBE[:, None] / np.pi
    return ambient.astype(np.float32), Lamp(center / (np.linalg.norm(center) + 1e-9), power / np.pi), share


def occlusion(inverse_depth: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """(N,) share of soft light that reaches the covered pixels: less where near surfaces stand around them."""
    import cv2

    weight = covered.astype(np.float32)
    relative = np.zeros(int(covered.sum()), np.float32)
    own = inverse_depth[covered]
    for sigma, strength in ((3.0, 5.0), (9.0, 4.0)):
        around = cv2.blur(inverse_depth, (int(2 * sigma) + 1,) * 2)[covered] / (cv2.blur(weight, (int(2 * sigma) + 1,) * 2)[covered] + 1e-6)
        relative += strength * np.clip(around / own - 1, 0, None)
    return 1 - 0.65 * np.clip(relative, 0, 1)


def shadowed(mesh_m: np.ndarray, faces: np.ndarray, spots_m: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """(N,) bool: spots from which the lamp in that direction is hidden by the mesh (a shadow map)."""
    from core.raster import rasterize

    side = np.cross(direction, [0.3, 0.9, 0.1])
    side /= np.linalg.norm(side)
    basis = np.stack([side, np.cross(direction, side), -direction], 1).astype(np.float32)
    middle = mesh_m[0]
    flat, size = (mesh_m - middle) @ basis, 192
    columns = [np.ascontiguousarray(flat[:, k]) for k in range(3)]
    low = np.float32([columns[0].min(), columns[1].min()])
    extent = max(columns[0].max() - low[0], columns[1].max() - low[1])
    scale, near = np.float32((size - 4) / (extent + 1e-6)), columns[2].min() - np.float32(1.0)
    points = np.stack([(columns[0] - low[0]) * scale + 2, (columns[1] - low[1]) * scale + 2], 1)
    front = rasterize(points, columns[2] - near, faces, size, size).inverse_depth
    place = (spots_m - middle) @ basis
    column, row = np.clip(((place[:, :2] - low) * scale + 2).astype(int), 0, size - 1).T
    return front[row, column] * (place[:, 2] - near - np.float32(0.015)) > 1
