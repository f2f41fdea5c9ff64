"""Clothes, skin and hair for synthetic people: which part of the surface is what, and what colour it has."""

from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

import cv2
import numpy as np
import torch

from core.bodies.anny import AVERAGE_ADULT, AnnyBody
from core.training.poses import reference_heads


class Part(IntEnum):
    """What a spot of the surface shows."""

    SKIN = 0
    TOP = 1
    BOTTOM = 2
    SHOE = 3
    HAIR = 4
    IRIS = 5
    BROW = 6
    SCLERA = 7
    LIP = 8
    SKIRT = 9


REGIONS = {
    "head": ("head", "eye", "neck03"), "neck": ("neck01", "neck02"), "arm": ("upperarm", "lowerarm"),
    "hand": ("wrist", "finger", "metacarpal"), "leg": ("upperleg", "lowerleg"), "foot": ("foot", "toe"),
}  # fmt: skip
REGION_NAMES = (*REGIONS, "torso")
CHANNELS = ("x", "y", "z", "arm", "leg", *REGION_NAMES, "eye", "skirt")
"""Columns of a surface description: rest position, place along the limbs (0 shoulder or hip, 1, 2 wrist or ankle), regions, flags."""
NUM_CHANNELS = len(CHANNELS)


class BodySurface:
    """Per-vertex description of a body's rest surface, (V, NUM_CHANNELS) float32 in `channels`, and heights to dress by."""

    def __init__(self, body: AnnyBody) -> None:
        template, skinning, names = body.levels.template_m, body.skinning.numpy(), body.bone_names
        shares = {
            region: skinning[:, [i for i, name in enumerate(names) if any(name.startswith(part) for part in parts)]].sum(1)
            for region, parts in REGIONS.items()
        }
        shares["torso"] = np.clip(1 - sum(shares.values()), 0, 1)
        eyes = skinning[:, [i for i, name in enumerate(names) if name.startswith("eye")]].sum(1)
        centers = self._bone_centers(body)
        arm, leg = (
            self._along(template, centers, chain) for chain in (("upperarm01", "lowerarm01", "wrist"), ("upperleg01", "lowerleg01", "foot"))
        )
        columns = [*template.T, arm, leg, *(shares[name] for name in REGION_NAMES), eyes, np.zeros(len(template))]
        self.channels = np.stack(columns, 1).astype(np.float32)
        self.eye_m = np.abs(template[eyes > 0.6]).mean(0) * np.sign([1, *template[eyes > 0.6][:, 1:].mean(0)])
        self.neck_y_m = float(centers["neck01"][1])

    @staticmethod
    def _bone_centers(body: AnnyBody) -> dict[str, np.ndarray]:
        """Heads of some bones in the rest pose, relative to the pelvis like the template."""
        heads = reference_heads(body)
        posed = body.vertices(torch.eye(3).expand(1, len(body.bone_names), 3, 3), AVERAGE_ADULT)
        offset = body.pelvis(posed)[0].numpy()
        return {name: heads[i] - offset for i, name in enumerate(body.bone_names)}

    @staticmethod
    def _along(points: np.ndarray, centers: dict[str, np.ndarray], chain: tuple[str, str, str]) -> np.ndarray:
        """(V,) place along a limb's chain of bones, of the nearer side."""
        places = []
        for side in ("L", "R"):
            nodes = [centers[f"{name}.{side}"] for name in chain]
            best, place = np.full(len(points), np.inf), np.zeros(len(points))
            for i, (start, end) in enumerate(pairwise(nodes)):
                bone = end - start
                along = (points - start) @ bone / (bone @ bone)
                along = np.clip(along, 0 if i else -1, 1 if i == 0 else 2)
                gap = np.linalg.norm(points - start - along[:, None] * bone, axis=1)
                place, best = np.where(gap < best, i + along, place), np.minimum(gap, best)
            places.append(place)
        return np.where(points[:, 0] > 0, places[0], places[1])


@dataclass(frozen=True)
class Outfit:
    """What one person wears. Lengths are places along the limb, heights are metres above the pelvis."""

    sleeve: float
    leg: float
    waist_m: float
    neckline_m: float
    hair: str
    hair_end_m: float
    top: bool
    dress: bool
    shoes: bool
    gloves: bool
    suit: bool
    skirt: float
    flare: float
    puff_m: tuple[float, float, float, float]

    @staticmethod
    def draw(random: np.random.Generator) -> "Outfit":
        """A random outfit: mostly shirts, trousers, shorts and shoes; some dresses, coats, bare backs, hats."""
        skirt = random.random() < 0.10
        return Outfit(
            sleeve=random.choice([-0.5, 0.15, 0.5, 0.75, 1.3, 1.95], p=[0.07, 0.07, 0.29, 0.14, 0.10, 0.33]) + random.normal(0, 0.04),
            leg=random.choice([0.12, 0.45, 0.8, 1.3, 1.75, 2.05], p=[0.05, 0.16, 0.12, 0.07, 0.13, 0.47]) + random.normal(0, 0.04),
            waist_m=random.uniform(-0.12, 0.10),
            neckline_m=random.uniform(-0.02, 0.09),
            hair=str(random.choice(["short", "long", "bald", "hat", "hood"], p=[0.48, 0.30, 0.08, 0.11, 0.03])),
            hair_end_m=random.uniform(0.05, 0.30),
            top=random.random() < 0.94,
            dress=skirt and random.random() < 0.5,
            shoes=random.random() < 0.87,
            gloves=random.random() < 0.05,
            suit=random.random() < 0.12,
            skirt=random.uniform(0.45, 1.8) if skirt else 0.0,
            flare=random.uniform(0.05, 0.22),
            puff_m=(random.uniform(0, 0.032), random.uniform(0, 0.028), random.uniform(0.0, 0.035), random.uniform(0.003, 0.015)),
        )


def label(channels: np.ndarray, outfit: Outfit, surface: BodySurface) -> np.ndarray:
    """(N, NUM_CHANNELS) surface description -> (N,) Part values."""
    y, z, arm, leg = channels[:, 1:5].T
    region = channels[:, 5:12].argmax(1)
    head, neck, arms, hand, legs, foot, torso = (region == i for i in range(7))
    parts = np.full(len(channels), Part.SKIN)
    trunk = torso | (neck & (y > surface.neck_y_m + outfit.neckline_m))
    if outfit.top:
        parts[trunk & (y > surface.neck_y_m + outfit.neckline_m - 0.03 * (z > 0))] = Part.TOP
        parts[arms & (arm < outfit.sleeve)] = Part.TOP
    parts[(torso & (y > -outfit.waist_m)) | (legs & (leg < outfit.leg))] = Part.BOTTOM
    if outfit.dress:
        parts[torso] = Part.TOP
    parts[foot & outfit.shoes] = Part.SHOE
    parts[hand & outfit.gloves] = Part.SHOE
    _paint_head(parts, head, neck, torso, channels, outfit, surface)
    parts[channels[:, 13] > 0.5] = Part.SKIRT
    return parts


def _paint_head(
    parts: np.ndarray, head: np.ndarray, neck: np.ndarray, torso: np.ndarray, channels: np.ndarray, outfit: Outfit, surface: BodySurface
) -> None:
    """Hair, hat or hood, and the face's features, by their place relative to the eyes."""
    x, y, z = channels[:, :3].T
    eye_x, eye_y, eye_z = surface.eye_m
    up, back, side = eye_y - y, z - eye_z, np.abs(x)
    hairline = np.where(back < 0.03, 0.052, np.where(back < 0.075, 0.016, -0.05))
    if outfit.hair != "bald":
        parts[head & (up > hairline)] = Part.HAIR
    if outfit.hair in ("long", "hood"):
        parts[(head | neck) & (back > 0.075)] = Part.HAIR
        parts[torso & (z > 0.02) & (y < surface.neck_y_m + outfit.hair_end_m)] = Part.HAIR
    front = head & (back < 0.012)
    parts[front & (np.abs(up - 0.030) < 0.006) & (np.abs(side - eye_x) < 0.022)] = Part.BROW
    parts[front & (np.abs(up + 0.074) < 0.007) & (side < 0.026)] = Part.LIP
    eye = channels[:, 12] > 0.6
    parts[eye] = Part.SCLERA
    parts[eye & (np.hypot(side - eye_x, up) < 0.006)] = Part.IRIS


def random_colour(random: np.random.Generator, saturation: float = 1.0) -> np.ndarray:
    """(3,) RGB in 0..1, dark and grey tones included."""
    hsv = np.float32([[[random.random() * 360, random.random() ** 1.5 * saturation, np.clip(random.beta(1.4, 1.3), 0.05, 1)]]])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0]


def waves(random: np.random.Generator, points: np.ndarray, frequency: float) -> np.ndarray:
    """(N, 3) -> (N,) smooth noise in 0..1: a few random plane waves, `frequency` in radians per metre."""
    total = np.zeros(len(points), np.float32)
    for octave in range(4):
        direction = (random.standard_normal(3) * frequency * (1 + 0.5 * octave)).astype(np.float32)
        total += np.sin(points @ direction + np.float32(random.random() * 2 * np.pi)) / (1 + 0.4 * octave)
    return np.clip(total / 4 + 0.5, 0, 1)


def _fabric(random: np.random.Generator, points: np.ndarray) -> np.ndarray:
    """(N, 3) rest points -> (N, 3) albedo: plain, striped, checked, blotched or printed cloth."""
    first = random_colour(random)
    second = random_colour(random) if random.random() < 0.6 else np.clip(first * random.uniform(0.4, 1.6), 0, 1)
    frequency, kind = np.exp(random.uniform(np.log(6), np.log(90))), random.random()
    if kind < 0.5:
        return np.broadcast_to(first, points.shape).astype(np.float32)
    threshold = random.uniform(-0.7, 0.7)
    if kind < 0.65:
        mask = np.sin(points[:, 1] * frequency * 2) > threshold
    elif kind < 0.73:
        mask = np.sin((points[:, 0] + points[:, 2] * 0.5) * frequency * 2) > threshold
    elif kind < 0.82:
        mask = (np.sin(points[:, 1] * frequency * 2) > 0) ^ (np.sin((points[:, 0] + points[:, 2]) * frequency * 2) > 0)
    elif kind < 0.90:
        blend = waves(random, points, frequency)[:, None]
        return (first * (1 - blend) + second * blend).astype(np.float32)
    elif kind < 0.95:  # a print on the chest
        center = np.array([random.normal(0, 0.03), random.uniform(-0.45, -0.2)])
        mask = (np.abs(points[:, :2] - center) < random.uniform(0.03, 0.12, 2)).all(1) & (points[:, 2] < 0)
    else:
        mask = waves(random, points, frequency) > random.uniform(0.3, 0.7)
    return np.where(mask[:, None], first, second).astype(np.float32)


HAIR_COLOURS = np.array(
    [
        [0.06, 0.05, 0.04],
        [0.06, 0.05, 0.04],
        [0.12, 0.08, 0.05],
        [0.45, 0.32, 0.2],
        [0.75, 0.6, 0.38],
        [0.55, 0.53, 0.5],
        [0.3, 0.15, 0.08],
        [0.85, 0.83, 0.8],
    ]
)
LIGHT_SKIN, DARK_SKIN = np.array([0.93, 0.76, 0.66]), np.array([0.28, 0.17, 0.11])


def paint(random: np.random.Generator, parts: np.ndarray, points: np.ndarray, outfit: Outfit) -> np.ndarray:
    """(N,) parts and (N, 3) rest points -> (N, 3) float32 albedo."""
    tone = random.random()
    skin = (LIGHT_SKIN * (1 - tone) + DARK_SKIN * tone) * random.uniform(0.9, 1.1, 3) * random.uniform(0.85, 1.1)
    skin = np.clip(skin, 0, 1)
    hair = random_colour(random) if outfit.hair in ("hat", "hood") else HAIR_COLOURS[random.integers(len(HAIR_COLOURS))]
    albedo = np.broadcast_to(skin, points.shape).astype(np.float32)
    top = _fabric(random, points)
    bottom = top if outfit.suit or outfit.dress else _fabric(random, points)
    strands = (0.7 + 0.6 * waves(random, points, 120))[:, None]
    fills = {
        Part.TOP: top, Part.BOTTOM: bottom, Part.SKIRT: top if outfit.dress else bottom,
        Part.SHOE: random_colour(random, 0.7), Part.HAIR: hair * (strands if outfit.hair != "hat" else 1.0),
        Part.IRIS: np.array([0.08, 0.06, 0.05]), Part.SCLERA: np.array([0.85, 0.85, 0.85]),
        Part.BROW: (hair * 0.6 + skin * 0.3) if outfit.hair not in ("hat", "hood") else skin * 0.4,
        Part.LIP: skin * [0.95, 0.6, 0.6],
    }  # fmt: skip
    for part, colour in fills.items():
        mask = parts == part
        if mask.any():
            albedo[mask] = np.broadcast_to(colour, points.shape)[mask]
    return albedo
