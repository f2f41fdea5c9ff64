"""What stands behind and before synthetic people: photographs, views into light probes, drawn rooms, things in the way."""

from functools import cache
from pathlib import Path

import cv2
import numpy as np

from core.errors import InputError
from core.training.appearance import random_colour

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


class Scenery:
    """Draws backgrounds and occluders of a fixed size. `folder` may hold pictures and .hdr light probes without people in them."""

    def __init__(self, random: np.random.Generator, size_px: int, folder: Path | None = None) -> None:
        self.random, self.size = random, size_px
        self.pictures, self.probes = _read_folder(folder)
        self.grain = np.random.default_rng(0).standard_normal((2 * size_px, 2 * size_px, 4)).astype(np.float32)

    def background(self) -> np.ndarray:
        """(S, S, 3) float32 RGB in 0..1."""
        random, choice = self.random, self.random.random()
        if self.pictures and choice < 0.55:
            picture = self._photograph()
        elif self.probes and choice < 0.75:
            picture = self._probe_view()
        else:
            picture = self._room()
        if random.random() < 0.4:
            picture = cv2.GaussianBlur(picture, (0, 0), random.uniform(0.3, 4))
        return np.clip(picture, 0, 1).astype(np.float32)

    def texture(self) -> np.ndarray:
        """(S, S, 3) a plain or noisy surface, or a piece of background."""
        if self.random.random() < 0.4:
            return self.background()
        return np.clip(random_colour(self.random) + self._clouds() * 0.06, 0, 1).astype(np.float32)

    def occluder(self, body: np.ndarray) -> np.ndarray:
        """(S, S) bool cover for a person whose pixels are `body`: a box, a blob, a pole, or a table edge from below."""
        random, size = self.random, self.size
        rows, columns = np.nonzero(body)
        cover = np.zeros((size, size), np.uint8)
        pick = random.integers(len(rows))
        x, y = int(columns[pick]), int(rows[pick])
        kind = random.random()
        if kind < 0.35:
            half = random.integers(6, 62, 2)
            corners = cv2.boxPoints(((x, y), (float(2 * half[0]), float(2 * half[1])), float(random.normal(0, 12))))
            cv2.fillPoly(cover, [corners.astype(np.int32)], 1)
        elif kind < 0.55:
            axes = tuple(int(v) for v in random.integers(6, 50, 2))
            cv2.ellipse(cover, (x, y), axes, float(random.random() * 180), 0, 360, 1, -1)
        elif kind < 0.68:
            cover[:, max(x - int(random.integers(2, 14)), 0) : x + int(random.integers(2, 14))] = 1
        else:
            height = int(rows.min() + (rows.max() - rows.min()) * random.uniform(0.45, 0.95))
            slope = random.normal(0, 0.05)
            cover[np.arange(size)[:, None] > height + slope * (np.arange(size) - size / 2)] = 1
        return cover.astype(bool)

    def _photograph(self) -> np.ndarray:
        random = self.random
        picture = self.pictures[random.integers(len(self.pictures))]
        height, width = picture.shape[:2]
        side = int(min(height, width) * random.uniform(0.3, 1))
        y, x = random.integers(height - side + 1), random.integers(width - side + 1)
        view = cv2.resize(picture[y : y + side, x : x + side], (self.size, self.size), interpolation=cv2.INTER_AREA)
        view = view.astype(np.float32) / 255
        if random.random() < 0.5:
            view = view[:, ::-1]
        if random.random() < 0.3:
            view = view * (0.6 + 0.8 * random.random(3))
        if random.random() < 0.15:
            view = view[..., random.permutation(3)]
        return np.ascontiguousarray(view, np.float32)

    def _probe_view(self) -> np.ndarray:
        """A pinhole view into an equirectangular light probe."""
        random = self.random
        probe = self.probes[random.integers(len(self.probes))]
        height, width = probe.shape[:2]
        u = np.linspace(-1, 1, self.size, dtype=np.float32) * np.float32(np.tan(np.radians(random.uniform(20, 45))))
        x, y = np.meshgrid(u, u)
        pitch = np.radians(random.normal(5, 12))
        vertical, forward = y * np.cos(pitch) + np.sin(pitch), np.cos(pitch) - y * np.sin(pitch)
        longitude = np.arctan2(x, forward) + random.uniform(0, 2 * np.pi)
        latitude = np.arctan2(vertical, np.hypot(x, forward))
        columns = ((longitude / (2 * np.pi)) % 1 * width).astype(np.float32)
        rows = ((latitude / np.pi + 0.5) * height).astype(np.float32)
        view = cv2.remap(probe, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        exposure = random.uniform(0.5, 1.3) / (np.percentile(view, 90) + 1e-3)
        return np.power(np.clip(view * exposure, 0, 1), 1 / 2.2).astype(np.float32)

    def _room(self) -> np.ndarray:
        """A drawn scene: two tones, a floor, and things."""
        random, size = self.random, self.size
        y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
        ramp = x * random.standard_normal() + y * random.standard_normal()
        ramp = ((ramp - ramp.min()) / (np.ptp(ramp) + 1e-6))[..., None]
        scene = random_colour(random, 0.7) * (1 - ramp) + random_colour(random, 0.7) * ramp
        scene = scene + self._clouds() * random.uniform(0.01, 0.18)
        if random.random() < 0.7:
            floor = (y + (x - 0.5) * random.normal(0, 0.05)) > random.uniform(0.35, 0.95)
            scene = np.where(floor[..., None], random_colour(random, 0.6) + self._clouds() * random.uniform(0.02, 0.15), scene)
        scene = np.ascontiguousarray(scene, np.float32)
        for _ in range(random.integers(0, 14) if random.random() < 0.75 else 0):
            self._thing(scene)
        return scene + self._clouds() * random.uniform(0, 0.05)

    def _thing(self, scene: np.ndarray) -> None:
        """Draw one thing into `scene`, which the caller owns."""
        random, size = self.random, self.size
        colour, kind = random_colour(random).tolist(), random.random()
        x, y = (int(v) for v in random.integers(-40, size, 2))
        if kind < 0.5:
            corner = (x + int(random.integers(5, 150)), y + int(random.integers(5, 200)))
            cv2.rectangle(scene, (x, y), corner, colour, -1)
            if random.random() < 0.4:
                cv2.rectangle(scene, (x, y), corner, random_colour(random).tolist(), int(random.integers(1, 5)))
        elif kind < 0.7:
            cv2.line(scene, (x, y), tuple(int(v) for v in random.integers(0, size, 2)), colour, int(random.integers(1, 8)), cv2.LINE_AA)
        elif kind < 0.85:
            axes = tuple(int(v) for v in random.integers(4, 60, 2))
            cv2.ellipse(scene, (x, y), axes, float(random.random() * 180), 0, 360, colour, -1, cv2.LINE_AA)
        else:
            corners = np.array([x, y]) + random.integers(-60, 60, (random.integers(3, 7), 2))
            cv2.fillPoly(scene, [corners.astype(np.int32)], colour, cv2.LINE_AA)

    def _clouds(self) -> np.ndarray:
        """(S, S, 3) fractal noise of unit deviation."""
        random, size = self.random, self.size
        channels = 3 if random.random() < 0.5 else 1
        total, weight = np.zeros((size, size, channels), np.float32), 1.0
        for octave in range(random.integers(1, 5), 8):
            cells = 2**octave
            if cells > size:
                break
            noise = random.standard_normal((cells, cells, channels)).astype(np.float32)
            total += weight * cv2.resize(noise, (size, size), interpolation=cv2.INTER_LINEAR).reshape(size, size, channels)
            weight *= random.uniform(0.4, 0.9)
        return total / (total[::7, ::7].std() + np.float32(1e-6))


@cache  # a worker makes a scenery for each shard
def _read_folder(folder: Path | None) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(pictures uint8 RGB of at most 640 px, light probes float32 RGB of at most 1024 px) below a folder."""
    if folder is None:
        return [], []
    if not folder.is_dir():
        raise InputError(f"background folder {folder}: not found; expected a folder of pictures without people, or leave --backgrounds out")
    pictures, probes = [], []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in PICTURE_SUFFIXES:
            picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if picture is not None and min(picture.shape[:2]) >= 64:
                pictures.append(np.ascontiguousarray(_at_most(picture, 640)[..., ::-1]))
        elif path.suffix.lower() == ".hdr":
            probe = cv2.imread(str(path), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)
            if probe is not None:
                probes.append(np.ascontiguousarray(_at_most(probe, 1024)[..., ::-1], np.float32))
    if not pictures and not probes:
        raise InputError(f"background folder {folder}: no picture ({', '.join(sorted(PICTURE_SUFFIXES))}) or .hdr light probe in it")
    return pictures, probes


def _at_most(picture: np.ndarray, side_px: int) -> np.ndarray:
    scale = side_px / max(picture.shape[:2])
    return picture if scale >= 1 else cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
