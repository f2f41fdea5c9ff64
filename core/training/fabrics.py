"""Colours and cloth of synthetic people: albedo as a function of the place on the body at rest."""

from collections.abc import Callable

import cv2
import numpy as np

SKIN_TONES = np.float32([
    [232, 204, 186], [226, 190, 168], [222, 182, 152], [210, 166, 132], [200, 154, 118],
    [178, 130, 95], [148, 104, 73], [112, 77, 55], [82, 56, 43], [62, 45, 38],
]) / 255  # fmt: skip
"""From light to dark, in the manner of the Monk skin tone scale."""
HAIR_COLOURS = np.float32([
    [20, 17, 15], [26, 22, 19], [38, 28, 22], [58, 40, 28], [84, 58, 38], [122, 88, 54],
    [176, 140, 92], [205, 176, 124], [120, 58, 32], [130, 128, 125], [205, 203, 198], [34, 24, 22],
]) / 255  # fmt: skip
CLOTH_COLOURS = np.float32([
    [18, 18, 20], [28, 28, 32], [52, 53, 56], [92, 94, 97], [140, 141, 143], [196, 196, 196], [238, 238, 236], [244, 242, 236],
    [24, 32, 56], [36, 52, 92], [58, 84, 128], [104, 134, 172], [166, 188, 212], [196, 178, 148], [158, 134, 100], [104, 78, 54],
    [68, 48, 36], [72, 78, 52], [98, 108, 82], [38, 72, 52], [112, 24, 32], [176, 36, 40], [150, 62, 84], [222, 170, 178],
    [206, 146, 60], [228, 206, 120], [98, 74, 122], [204, 92, 48], [60, 130, 140], [186, 60, 110],
]) / 255  # fmt: skip
DENIM = np.float32([[34, 46, 72], [52, 74, 112], [84, 112, 150], [118, 142, 172], [30, 32, 40]]) / 255
_NOISE = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)


def random_colour(random: np.random.Generator, saturation: float = 1.0) -> np.ndarray:
    """(3,) RGB in 0..1, dark and grey tones included."""
    hsv = np.float32([[[random.random() * 360, random.random() ** 1.5 * saturation, np.clip(random.beta(1.4, 1.3), 0.05, 1)]]])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0]


def cloth_colour(random: np.random.Generator) -> np.ndarray:
    """(3,) RGB in 0..1: mostly what shops sell, sometimes anything."""
    if random.random() < 0.18:
        return random_colour(random)
    return np.clip(CLOTH_COLOURS[random.integers(len(CLOTH_COLOURS))] * random.normal(1, 0.12) + random.normal(0, 0.015, 3), 0.01, 1)


def waves(random: np.random.Generator, points: np.ndarray, frequency: float) -> np.ndarray:
    """(N, 3) -> (N,) smooth noise in 0..1: a few random plane waves, `frequency` in radians per metre."""
    total = np.zeros(len(points), np.float32)
    for octave in range(4):
        direction = (random.standard_normal(3) * frequency * (1 + 0.5 * octave)).astype(np.float32)
        total += np.sin(points @ direction + np.float32(random.random() * 2 * np.pi)) / np.float32(1 + 0.4 * octave)
    return np.clip(total / 4 + 0.5, 0, 1)


def speckle(points: np.ndarray, across_per_m: float, along_per_m: float) -> np.ndarray:
    """(N, 3) -> (N,) unit noise with one value for each small cell of the surface: the grain of cloth, hair and skin."""
    column = ((points[:, 0] + points[:, 2]) * np.float32(across_per_m)).astype(np.int32) & 255
    row = (points[:, 1] * np.float32(along_per_m)).astype(np.int32) & 255
    return _NOISE[row, column]


def _plain(random: np.random.Generator, points: np.ndarray) -> np.ndarray:
    grain = speckle(points, 400, 400) * np.float32(random.uniform(0, 0.06))
    return cloth_colour(random) * (1 + grain[:, None])


def _mixed(random: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """(N,) 0..1 -> a blend of two colours that go together."""
    first = cloth_colour(random)
    second = cloth_colour(random) if random.random() < 0.6 else np.clip(first * random.uniform(0.4, 1.7), 0, 1)
    blend = np.asarray(mask, np.float32)[:, None]
    return first * (1 - blend) + second * blend


def _stripes(random: np.random.Generator, points: np.ndarray) -> np.ndarray:
    place = points[:, 1] if random.random() < 0.7 else points[:, 0] + points[:, 2] * 0.5
    return _mixed(random, np.sin(place * np.exp(random.uniform(np.log(40), np.log(320)))) > random.uniform(-0.8, 0.8))


def _plaid(random: np.random.Generator, points: np.ndarray) -> np.ndarray:
    frequency = np.exp(random.uniform(np.log(50), np.log(220)))
    rows = (np.sin(points[:, 1] * frequency) > random.uniform(-0.5, 0.7)) * 1.0
    columns = (np.sin((points[:, 0] + points[:, 2]) * frequency) > random.uniform(-0.5, 0.7)) * 1.0
    return _mixed(random, (rows + columns) / 2)


def _dots(random: np.random.Generator, points: np.ndarray) -> np.ndarray:
    frequency = np.exp(random.uniform(np.log(60), np.log(200)))
    bumps = np.sin(points[:, 1] * frequency) * np.sin((points[:, 0] + points[:, 2]) * frequency)
    return _mixed(random, bumps > random.uniform(0.3, 0.8))


def _flowers(random: np.random.Generator, points: np.ndarray) -> np.ndarray:
    frequency = np.exp(random.uniform(np.log(15), np.log(70)))
    cloth = _mixed(random, waves(random, points, frequency) > random.uniform(0.45, 0.65))
    return np.where((waves(random, points, frequency) > 0.68)[:, None], cloth_colour(random), cloth)


def _gradient(random: np.random.Generator, points: np.ndarray) -> np.ndarray:
    middle = random.uniform(-0.4, 0.3)
    return _mixed(random, np.clip((points[:, 1] - middle) * random.uniform(2, 20) + 0.5, 0, 1))


def _tie_dye(random: np.random.Generator, points: np.ndarray) -> np.ndarray:
    return _mixed(random, waves(random, points, np.exp(random.uniform(np.log(6), np.log(60)))))


def _blocks(random: np.random.Generator, points: np.ndarray) -> np.ndarray:
    """Sportswear: another colour above a line, or along the sides."""
    mask = points[:, 1] < random.uniform(-0.45, -0.2) if random.random() < 0.5 else np.abs(points[:, 0]) > random.uniform(0.1, 0.16)
    return _mixed(random, mask)


def denim(random: np.random.Generator, points: np.ndarray) -> np.ndarray:
    """(N, 3) rest points -> (N, 3) albedo: blue, faded where it wears, with the grain of the weave."""
    base = DENIM[random.integers(len(DENIM))] * random.uniform(0.8, 1.15)
    fade = 0.3 * random.random() * np.clip(waves(random, points, 9) * 2 - 0.8, 0, 1)
    value = (1 + fade) * (1 + speckle(points, 350, 700) * np.float32(random.uniform(0.03, 0.13)))
    return base * value[:, None]


def _knit(random: np.random.Generator, points: np.ndarray) -> np.ndarray:
    ribs = 1 + random.uniform(0.04, 0.16) * np.sin((points[:, 0] + 0.6 * points[:, 2]) * random.uniform(300, 700))
    return cloth_colour(random) * (ribs * (1 + 0.05 * speckle(points, 300, 300)))[:, None]


def _print(random: np.random.Generator, points: np.ndarray) -> np.ndarray:
    """Something on the chest or the back: letters, a number, a picture, a badge."""
    cloth, ink = np.broadcast_to(_plain(random, points), points.shape).copy(), cloth_colour(random)
    picture = np.zeros((64, 64), np.uint8)
    kind = random.random()
    if kind < 0.5:
        text = "".join(random.choice(list("ABCDEFHKLMNOPRSTUVXYZ0123456789"), int(random.integers(1, 7))))
        size = 2.6 / max(len(text), 1.3)
        cv2.putText(picture, text, (2, 44), int(random.choice([0, 2, 3, 4])), size, 255, int(random.integers(1, 7)))
    elif kind < 0.7:
        cv2.ellipse(picture, (32, 32), tuple(int(v) for v in random.integers(10, 31, 2)), 0, 0, 360, 255, int(random.choice([-1, 4])))
    else:
        for _ in range(random.integers(2, 9)):
            corners = random.integers(0, 64, (random.integers(3, 6), 2))
            cv2.fillPoly(picture, [corners.astype(np.int32)], int(random.integers(80, 255)))
    side = random.uniform(0.05, 0.3) if random.random() < 0.8 else random.uniform(0.03, 0.06)
    left = random.normal(0, 0.02) - side / 2 if side > 0.06 else random.choice([-1, 1]) * 0.08
    u, v = ((points[:, 0] - left) / side * 64).astype(int), ((points[:, 1] - random.uniform(-0.5, -0.3)) / side * 64).astype(int)
    on = (points[:, 2] < 0.02) if random.random() < 0.75 else (points[:, 2] > 0.02)
    on &= (u >= 0) & (u < 64) & (v >= 0) & (v < 64)
    blend = (picture[v[on], u[on]] / 255)[:, None]
    cloth[on] = cloth[on] * (1 - blend) + ink * blend
    return cloth


Cloth = Callable[[np.random.Generator, np.ndarray], np.ndarray]
CLOTHS: dict[str, tuple[float, Cloth]] = {
    "plain": (0.40, _plain), "stripes": (0.09, _stripes), "plaid": (0.07, _plaid), "dots": (0.02, _dots), "flowers": (0.06, _flowers),
    "gradient": (0.03, _gradient), "tie-dye": (0.03, _tie_dye), "blocks": (0.07, _blocks), "denim": (0.05, denim), "knit": (0.07, _knit),
    "print": (0.11, _print),
}  # fmt: skip
"""Name -> (share, (N, 3) rest points -> (N, 3) albedo)."""
_SHARES = np.array([share for share, _ in CLOTHS.values()]) / sum(share for share, _ in CLOTHS.values())


def fabric(random: np.random.Generator, points: np.ndarray) -> np.ndarray:
    """(N, 3) rest points -> (N, 3) albedo of a random cloth."""
    name = list(CLOTHS)[random.choice(len(CLOTHS), p=_SHARES)]
    return np.broadcast_to(CLOTHS[name][1](random, points), points.shape)


def trouser_fabric(random: np.random.Generator, points: np.ndarray) -> np.ndarray:
    """As `fabric`, for legs: denim and plain cloth above all."""
    kind = random.random()
    if kind < 0.36:
        return denim(random, points)
    return np.broadcast_to(_plain(random, points), points.shape) if kind < 0.75 else fabric(random, points)
