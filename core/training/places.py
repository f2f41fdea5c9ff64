"""Drawn places behind synthetic people, for where there are no photographs: rooms, streets, nature, studios, and plain disorder."""

from collections.abc import Callable

import cv2
import numpy as np

from core.training.fabrics import cloth_colour, random_colour

WALLS = (
    np.float32([[232, 228, 220], [214, 206, 192], [200, 208, 214], [186, 196, 182], [226, 214, 204], [150, 156, 164], [90, 96, 104]]) / 255
)
FLOORS = np.float32([[150, 112, 76], [112, 80, 54], [176, 150, 120], [120, 118, 114], [84, 80, 78], [170, 166, 160], [96, 56, 44]]) / 255
SKIES = np.float32([[120, 168, 220], [164, 196, 226], [206, 214, 222], [232, 232, 232], [238, 200, 160], [60, 84, 130]]) / 255
GROUNDS = np.float32([[96, 118, 62], [70, 94, 48], [134, 126, 92], [118, 116, 112], [90, 88, 86], [196, 178, 140], [226, 228, 232]]) / 255


def clouds(random: np.random.Generator, size: int) -> np.ndarray:
    """(S, S, 1 or 3) fractal noise of unit deviation."""
    channels = 3 if random.random() < 0.25 else 1
    total, weight = np.zeros((size, size, channels), np.float32), 1.0
    for octave in range(random.integers(1, 5), 8):
        cells = 2**octave
        if cells > size:
            break
        noise = random.standard_normal((cells, cells, channels)).astype(np.float32)
        total += weight * cv2.resize(noise, (size, size), interpolation=cv2.INTER_LINEAR).reshape(size, size, channels)
        weight *= random.uniform(0.4, 0.9)
    return total / (total[::7, ::7].std() + np.float32(1e-6))


def _pick(random: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    return np.clip(colours[random.integers(len(colours))] * random.normal(1, 0.1) * random.normal(1, 0.03, 3), 0, 1).astype(np.float32)


def _rectangle(scene: np.ndarray, left: float, top: float, width: float, height: float, colour: np.ndarray) -> None:
    """Fill a rectangle given in pixels; parts outside are left out."""
    cv2.rectangle(scene, (int(left), int(top)), (int(left + width), int(top + height)), np.asarray(colour, float).tolist(), -1)


def _shaded(random: np.random.Generator, scene: np.ndarray) -> np.ndarray:
    """Uneven light and some grain over a drawing."""
    size = len(scene)
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    light = 1 + ramp[None, :, None] * random.normal(0, 0.15) + ramp[:, None, None] * random.normal(0, 0.12)
    return scene * light * np.float32(random.uniform(0.5, 1.15)) + clouds(random, size) * random.uniform(0.004, 0.03)


def _floor(random: np.random.Generator, scene: np.ndarray, horizon: int, colour: np.ndarray) -> None:
    """A floor from the horizon down, often with planks or tiles in perspective."""
    size = len(scene)
    if horizon >= size - 2:
        return
    rows = np.arange(horizon, size, dtype=np.float32)[:, None]
    depth = 60.0 / (rows - horizon + 6)
    across = (np.arange(size, dtype=np.float32)[None] - size * random.uniform(0.2, 0.8)) * depth / 60
    pattern = np.zeros((size - horizon, size), np.float32)
    if random.random() < 0.7:
        pattern += (np.sin(across * random.uniform(3, 14)) > 0.93) * 1.0
        if random.random() < 0.5:
            pattern += (np.sin(depth * random.uniform(6, 20)) > 0.93) * 1.0
    shade = 1 - 0.25 * pattern - 0.1 * np.clip(depth / 10, 0, 1)
    scene[horizon:] = colour * shade[..., None]


def room(random: np.random.Generator, size: int) -> np.ndarray:
    """A wall with a window, a door, shelves or pictures, a floor, and furniture before it."""
    uniform = random.uniform
    wall = _pick(random, WALLS)
    scene = np.broadcast_to(wall, (size, size, 3)).astype(np.float32).copy()
    if random.random() < 0.35:
        corner = int(uniform(0, size))
        scene[:, corner:] *= uniform(0.75, 1.1)
    for _ in range(random.integers(0, 4)):
        _wall_thing(random, scene, wall)
    if random.random() < 0.65:
        horizon = int(uniform(0.55, 1.0) * size)
        scene[max(horizon - 4, 0) : horizon] = wall * uniform(0.6, 1.1)
        _floor(random, scene, horizon, _pick(random, FLOORS))
    for _ in range(random.integers(0, 4)):
        _furniture(random, scene)
    return _shaded(random, scene)


def _wall_thing(random: np.random.Generator, scene: np.ndarray, wall: np.ndarray) -> None:
    size, uniform = len(scene), random.uniform
    left, top = uniform(-0.1, 0.9) * size, uniform(-0.1, 0.5) * size
    width, height = uniform(0.1, 0.5) * size, uniform(0.1, 0.6) * size
    kind = random.random()
    frame = wall * uniform(0.4, 1.2)
    if kind < 0.3:  # a window
        _rectangle(scene, left, top, width, height, frame)
        _rectangle(scene, left + 4, top + 4, width - 8, height - 8, np.clip(_pick(random, SKIES) * uniform(0.9, 1.4), 0, 1))
        _rectangle(scene, left + width / 2 - 1, top, 3, height, frame)
    elif kind < 0.55:  # a picture or a screen
        _rectangle(scene, left, top, width * 0.6, height * 0.5, np.full(3, uniform(0.03, 0.5)))
        _rectangle(scene, left + 3, top + 3, width * 0.6 - 6, height * 0.5 - 6, random_colour(random, 0.6))
    elif kind < 0.8:  # shelves with books
        _rectangle(scene, left, top, width, height, _pick(random, FLOORS))
        for row in np.arange(top + 3, top + height - 8, uniform(18, 34)):
            x = left + 3
            while x < left + width - 6:
                thick = uniform(3, 9)
                tall = uniform(10, 17)
                _rectangle(scene, x, row + 17 - tall, thick - 1, tall, cloth_colour(random))
                x += thick
    else:  # a door
        _rectangle(
            scene,
            left,
            uniform(0.05, 0.3) * size,
            uniform(0.2, 0.35) * size,
            size,
            _pick(random, FLOORS if random.random() < 0.5 else WALLS),
        )


def _furniture(random: np.random.Generator, scene: np.ndarray) -> None:
    size, uniform = len(scene), random.uniform
    left, top, width = uniform(-0.2, 0.9) * size, uniform(0.45, 0.9) * size, uniform(0.15, 0.7) * size
    colour = cloth_colour(random)
    _rectangle(scene, left, top, width, size, colour * 0.8)
    _rectangle(scene, left, top, width, uniform(4, 16), np.clip(colour * 1.15, 0, 1))
    if random.random() < 0.4:
        for x in np.arange(left, left + width, uniform(20, 50)):
            _rectangle(scene, x, top, 1, size, colour * 0.5)


def street(random: np.random.Generator, size: int) -> np.ndarray:
    """A sky, houses with windows, a road, cars."""
    uniform = random.uniform
    horizon = int(uniform(0.4, 0.85) * size)
    scene = _sky(random, size)
    x = -20.0
    while x < size:
        width, height = uniform(30, 130), uniform(0.3, 1.1) * horizon
        wall = _pick(random, np.concatenate([WALLS, FLOORS]))
        _rectangle(scene, x, horizon - height, width, height, wall)
        step_x, step_y, pane = uniform(10, 28), uniform(12, 34), wall * uniform(0.3, 0.7)
        for wx in np.arange(x + 4, x + width - step_x * 0.5, step_x):
            for wy in np.arange(horizon - height + 5, horizon - step_y * 0.4, step_y):
                _rectangle(scene, wx, wy, step_x * 0.5, step_y * 0.5, pane)
        x += width + uniform(-2, 25)
    _floor(random, scene, horizon, _pick(random, GROUNDS[3:6]))
    for _ in range(random.integers(0, 3)):
        left, low, width = uniform(-30, size), horizon + uniform(0, 25), uniform(40, 110)
        body = cloth_colour(random)
        _rectangle(scene, left + width * 0.2, low - width * 0.38, width * 0.55, width * 0.2, body * 0.4)
        _rectangle(scene, left, low - width * 0.22, width, width * 0.2, body)
        for wheel in (0.2, 0.8):
            cv2.circle(scene, (int(left + width * wheel), int(low)), int(width * 0.09), (0.05, 0.05, 0.05), -1)
    if random.random() < 0.5:
        _trees(random, scene, horizon)
    return _shaded(random, scene)


def _sky(random: np.random.Generator, size: int) -> np.ndarray:
    first, second = _pick(random, SKIES), _pick(random, SKIES[2:4])
    ramp = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    sky = first * (1 - ramp) + second * ramp
    return np.ascontiguousarray(np.broadcast_to(sky, (size, size, 3)) + 0.04 * np.clip(clouds(random, size)[..., :1], 0, 3), np.float32)


def _trees(random: np.random.Generator, scene: np.ndarray, horizon: int) -> None:
    size, uniform = len(scene), random.uniform
    for _ in range(random.integers(1, 6)):
        x, tall = uniform(0, size), uniform(0.15, 0.6) * size
        green = GROUNDS[random.integers(2)] * uniform(0.4, 1.0)
        _rectangle(scene, x - 2, horizon - tall * 0.5, uniform(3, 8), tall * 0.5, np.array([0.25, 0.19, 0.14]))
        for _ in range(12):
            place = int(x + random.normal(0, tall * 0.16)), int(horizon - tall * uniform(0.35, 1.0))
            cv2.circle(scene, place, int(tall * uniform(0.08, 0.2)), (green * uniform(0.6, 1.3)).tolist(), -1)


def nature(random: np.random.Generator, size: int) -> np.ndarray:
    """A sky, hills, grass, sand or snow, trees."""
    uniform = random.uniform
    horizon = int(uniform(0.2, 0.85) * size)
    scene = _sky(random, size)
    columns = np.arange(size)
    for _ in range(random.integers(0, 3)):
        ridge = horizon - size * (uniform(0.02, 0.2) + 0.06 * np.sin(columns * uniform(0.01, 0.06) + uniform(0, 6)))
        scene[columns[:, None] > ridge] = _pick(random, GROUNDS[:3]) * uniform(0.5, 1.0)
    ground = _pick(random, GROUNDS)
    scene[horizon:] = ground + (clouds(random, size)[horizon:] * uniform(0.02, 0.10)) * ground
    if random.random() < 0.7:
        _trees(random, scene, horizon + int(uniform(0, 20)))
    return _shaded(random, scene)


def studio(random: np.random.Generator, size: int) -> np.ndarray:
    """A plain backdrop with a soft gradient."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    colour = _pick(random, WALLS) if random.random() < 0.6 else cloth_colour(random)
    spot = np.exp(-((x - random.uniform(0.2, 0.8)) ** 2 + (y - random.uniform(0.1, 0.6)) ** 2) * random.uniform(0.5, 3))
    return np.asarray(colour, np.float32) * (random.uniform(0.5, 0.9) + 0.4 * spot)[..., None] + clouds(random, size) * 0.008


def disorder(random: np.random.Generator, size: int) -> np.ndarray:
    """Two tones, noise, and shapes without meaning."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    ramp = x * random.standard_normal() + y * random.standard_normal()
    ramp = ((ramp - ramp.min()) / (np.ptp(ramp) + 1e-6))[..., None]
    scene = cloth_colour(random) * (1 - ramp) + cloth_colour(random) * ramp + clouds(random, size) * random.uniform(0.01, 0.15)
    scene = np.ascontiguousarray(scene, np.float32)
    for _ in range(random.integers(0, 12)):
        colour, kind = np.asarray(cloth_colour(random), float).tolist(), random.random()
        left, top = (int(v) for v in random.integers(-40, size, 2))
        if kind < 0.5:
            cv2.rectangle(scene, (left, top), (left + int(random.integers(5, 150)), top + int(random.integers(5, 200))), colour, -1)
        elif kind < 0.7:
            end = tuple(int(v) for v in random.integers(0, size, 2))
            cv2.line(scene, (left, top), end, colour, int(random.integers(1, 8)), cv2.LINE_AA)
        else:
            axes = tuple(int(v) for v in random.integers(4, 60, 2))
            cv2.ellipse(scene, (left, top), axes, float(random.random() * 180), 0, 360, colour, -1, cv2.LINE_AA)
    return scene


PLACES: dict[str, tuple[float, Callable[[np.random.Generator, int], np.ndarray]]] = {
    "room": (0.42, room), "street": (0.16, street), "nature": (0.16, nature), "studio": (0.14, studio), "disorder": (0.12, disorder),
}  # fmt: skip
"""Name -> (share, (random, side) -> (S, S, 3) about 0..1)."""
