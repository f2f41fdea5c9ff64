"""What stands behind and before synthetic people: photographs, views into light probes, drawn places, things in the way."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from core.errors import InputError
from core.training.fabrics import cloth_colour
from core.training.lighting import Lamp, Light, draw_exposure, drawn_light, probe_light
from core.training.places import PLACES, clouds
from core.training.shapes import key_is_held_out

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True)
class Scene:
    """image: (S, S, 3) float32 RGB in 0..1; light: that falls on people in it."""

    image: np.ndarray
    light: Light


@dataclass(frozen=True)
class Probe:
    """A light probe: picture (H, W, 3) linear float32, soft light and brightest spot of core.training.lighting.probe_light."""

    picture: np.ndarray
    ambient: np.ndarray
    lamp: Lamp
    lamp_share: float


class Scenery:
    """Draws backgrounds and occluders of a fixed size. `folders` may hold pictures and .hdr light probes without people in them."""

    def __init__(self, random: np.random.Generator, size_px: int, folders: Sequence[Path] = (), held_out: bool = False) -> None:
        """held_out: only the files that no training ever sees (about one in twelve), where there are any; otherwise never these."""
        self.random, self.size = random, size_px
        pictures, probes = _read_folders(tuple(folders))
        self.pictures, self.probes = (
            [item for name, item in items if key_is_held_out(name.encode()) == held_out] or [item for _, item in items]
            for items in (pictures, probes)
        )
        self.grain = np.random.default_rng(0).standard_normal((2 * size_px, 2 * size_px, 4)).astype(np.float32)

    def scene(self) -> Scene:
        """A background and its light."""
        random, choice = self.random, self.random.random()
        if self.probes and choice < 0.36:
            picture, light = self._probe_view()
        elif self.pictures and choice < 0.62:
            picture, light = self._photograph(), drawn_light(random)
        else:
            picture, light = self._place(), drawn_light(random)
        if random.random() < 0.45:
            picture = cv2.GaussianBlur(picture, (0, 0), np.exp(random.uniform(np.log(0.3), np.log(6))))
        return Scene(np.clip(picture, 0, 1).astype(np.float32), light)

    def texture(self) -> np.ndarray:
        """(S, S, 3) a plain or noisy surface, shaded from one side, or a piece of background."""
        random = self.random
        if random.random() < 0.25:
            return self._photograph() if self.pictures else self._place()
        ramp = np.linspace(-0.5, 0.5, self.size, dtype=np.float32) * random.normal(0, 0.5) + 1
        shade = ramp[None, :, None] if random.random() < 0.5 else ramp[:, None, None]
        surface = (cloth_colour(random) + clouds(random, self.size) * random.uniform(0.01, 0.08)) * shade
        return np.clip(surface, 0, 1).astype(np.float32)

    def occluder(self, body: np.ndarray) -> np.ndarray:
        """(S, S) bool cover for a person whose pixels are `body`: see OCCLUDERS."""
        random = self.random
        rows, columns = np.nonzero(body)
        cover = np.zeros((self.size, self.size), np.uint8)
        pick = random.integers(len(rows))
        draw = OCCLUDERS[random.integers(len(OCCLUDERS))]
        draw(random, Spot(cover, int(columns[pick]), int(rows[pick]), int(rows.min()), int(rows.max())))
        return cover.astype(bool)

    def _place(self) -> np.ndarray:
        random, names = self.random, list(PLACES)
        name = names[random.choice(len(names), p=[share for share, _ in PLACES.values()])]
        return PLACES[name][1](random, self.size)

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
        if random.random() < 0.7:  # towards grey: photographs of people are less colourful than these pictures
            view = view + (view.mean(-1, keepdims=True) - view) * np.float32(random.uniform(0, 0.9))
        if random.random() < 0.3:
            view = view * random.normal(1, 0.12, 3).astype(np.float32) * np.float32(random.uniform(0.6, 1.3))
        return np.ascontiguousarray(view, np.float32)

    def _probe_view(self) -> tuple[np.ndarray, Light]:
        """A pinhole view into an equirectangular light probe, and the light of all of it."""
        random = self.random
        probe = self.probes[random.integers(len(self.probes))]
        height, width = probe.picture.shape[:2]
        u = np.linspace(-1, 1, self.size, dtype=np.float32) * np.float32(np.tan(np.radians(random.uniform(14, 42))))
        x, y = np.meshgrid(u, u)
        pitch, heading = np.radians(random.normal(5, 12)), random.uniform(0, 2 * np.pi)
        vertical, forward = y * np.cos(pitch) + np.sin(pitch), np.cos(pitch) - y * np.sin(pitch)
        longitude = np.arctan2(x, forward) + heading
        latitude = np.arctan2(vertical, np.hypot(x, forward))
        columns = ((longitude / (2 * np.pi)) % 1 * width).astype(np.float32)
        rows = ((latitude / np.pi + 0.5) * height).astype(np.float32)
        view = cv2.remap(probe.picture, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        view *= random.uniform(0.5, 1.2) / (np.percentile(view[::8, ::8], 80) + 1e-3)
        c, s, p, q = np.cos(heading), np.sin(heading), np.cos(pitch), np.sin(pitch)
        turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ np.array([[1, 0, 0], [0, p, q], [0, -q, p]])
        lamps = ()
        if probe.lamp_share > 0.02:
            lamps = (Lamp(turn.T @ probe.lamp.direction, np.minimum(probe.lamp.colour, 4 * probe.ambient[0].mean())),)
        light = Light(probe.ambient, lamps, draw_exposure(random), turn.astype(np.float32))
        return np.sqrt(np.clip(view / (1 + 0.25 * view), 0, 1)).astype(np.float32), light


@dataclass(frozen=True)
class Spot:
    """Where something is to cover a person. cover: (S, S) uint8, filled in place; x, y: a pixel of the person; top, bottom: of it."""

    cover: np.ndarray
    x: int
    y: int
    top: int
    bottom: int


def _cover_box(random: np.random.Generator, spot: Spot) -> None:
    half = random.integers(6, 62, 2)
    corners = cv2.boxPoints(((spot.x, spot.y), (float(2 * half[0]), float(2 * half[1])), float(random.normal(0, 12))))
    cv2.fillPoly(spot.cover, [corners.astype(np.int32)], 1)


def _cover_blob(random: np.random.Generator, spot: Spot) -> None:
    cv2.ellipse(spot.cover, (spot.x, spot.y), tuple(int(v) for v in random.integers(6, 50, 2)), float(random.random() * 180), 0, 360, 1, -1)


def _cover_leaves(random: np.random.Generator, spot: Spot) -> None:
    for place in np.array([spot.x, spot.y]) + random.normal(0, 18, (random.integers(8, 30), 2)):
        axes = (int(random.integers(3, 14)), int(random.integers(2, 6)))
        cv2.ellipse(spot.cover, tuple(place.astype(int).tolist()), axes, float(random.random() * 180), 0, 360, 1, -1)


def _cover_pole(random: np.random.Generator, spot: Spot) -> None:
    spot.cover[:, max(spot.x - int(random.integers(2, 14)), 0) : spot.x + int(random.integers(2, 14))] = 1


def _cover_bars(random: np.random.Generator, spot: Spot) -> None:
    """A fence or a railing."""
    gap, thick, top = int(random.integers(12, 40)), int(random.integers(2, 6)), int(random.uniform(spot.top, spot.bottom))
    for place in range(spot.x % gap, spot.cover.shape[1], gap):
        spot.cover[top:, place : place + thick] = 1
    spot.cover[top : top + 2 * thick] = 1


def _cover_below(random: np.random.Generator, spot: Spot) -> None:
    """A desk, a wall, a car from some height down."""
    height, slope = spot.top + (spot.bottom - spot.top) * random.uniform(0.45, 0.95), random.normal(0, 0.05)
    columns = np.arange(spot.cover.shape[1])
    spot.cover[(columns[:, None] > height + slope * (columns - len(columns) / 2))] = 1


def _cover_table(random: np.random.Generator, spot: Spot) -> None:
    """A table top in perspective on two legs, or a chair's back."""
    width, thick, height = (
        int(random.integers(40, 150)),
        int(random.integers(5, 22)),
        int(spot.top + (spot.bottom - spot.top) * random.uniform(0.4, 0.9)),
    )
    left, lean = spot.x - width // 2, int(random.integers(0, 16))
    corners = np.array([[left + lean, height], [left + width - lean, height], [left + width, height + thick], [left, height + thick]])
    cv2.fillPoly(spot.cover, [corners.astype(np.int32)], 1)
    for leg in (left + 4, left + width - 10):
        spot.cover[height + thick :, max(leg, 0) : max(leg + 6, 0)] = 1


OCCLUDERS = (
    _cover_box, _cover_blob, _cover_leaves, _cover_pole, _cover_bars, _cover_below, _cover_below, _cover_below, _cover_table, _cover_table,
)  # fmt: skip


Named = list[tuple[str, object]]


def check_folders(folders: Sequence[Path]) -> None:
    """Raise InputError for a folder that is not there."""
    for folder in folders:
        if not folder.is_dir():
            raise InputError(
                f"background folder {folder}: not found; expected a folder of pictures without people, or leave --backgrounds out"
            )


@cache
def _read_folders(folders: tuple[Path, ...]) -> tuple[Named, Named]:
    """(pictures uint8 RGB of at most 640 px, light probes) below some folders, each with its file's name."""
    parts = [_read_folder(folder) for folder in folders]
    return tuple([item for part in parts for item in part[kind]] for kind in range(2))


def _read_folder(folder: Path) -> tuple[Named, Named]:
    check_folders([folder])
    pictures, probes = [], []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in PICTURE_SUFFIXES:
            picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if picture is not None and min(picture.shape[:2]) >= 64:
                pictures.append((path.name, np.ascontiguousarray(_at_most(picture, 640)[..., ::-1])))
        elif path.suffix.lower() == ".hdr":
            picture = cv2.imread(str(path), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)
            if picture is not None:
                probes.append((path.name, _probe(np.ascontiguousarray(picture[..., ::-1], np.float32))))
    if not pictures and not probes:
        raise InputError(f"background folder {folder}: no picture ({', '.join(sorted(PICTURE_SUFFIXES))}) or .hdr light probe in it")
    return pictures, probes


def _probe(picture: np.ndarray) -> Probe:
    small = cv2.resize(picture, (128, 64), interpolation=cv2.INTER_AREA)
    ambient, lamp, share = probe_light(small)
    return Probe(_at_most(picture, 1024), ambient, lamp, share)


def _at_most(picture: np.ndarray, side_px: int) -> np.ndarray:
    scale = side_px / max(picture.shape[:2])
    return picture if scale >= 1 else cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
