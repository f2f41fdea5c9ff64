"""Clothes, skin and hair for synthetic people: which part of the surface is what, and what colour it has."""

from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import pairwise

import numpy as np
import torch

from core.bodies.anny import AVERAGE_ADULT, AnnyBody
from core.training.fabrics import HAIR_COLOURS, SKIN_TONES, cloth_colour, fabric, random_colour, speckle, trouser_fabric, waves
from core.training.poses import reference_heads
from core.training.shapes import key_is_held_out


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
    INNER = 10
    GLASSES = 11
    MASK = 12
    BEARD = 13
    BRIM = 14
    PROP = 15
    BAG = 16


REGIONS = {
    "head": ("head", "eye", "neck03"), "neck": ("neck01", "neck02"), "arm": ("upperarm", "lowerarm"),
    "hand": ("wrist", "finger", "metacarpal"), "leg": ("upperleg", "lowerleg"), "foot": ("foot", "toe"),
}  # fmt: skip
REGION_NAMES = (*REGIONS, "torso")
CHANNELS = ("x", "y", "z", "arm", "leg", *REGION_NAMES, "eye", "extra")
"""Columns of a surface description: rest position, place along the limbs (0 shoulder or hip, 1, 2 wrist or ankle), regions, eyes,
and for geometry that is no body its Part."""
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
        self.sole_y_m = float(template[:, 1].max()) - 0.02

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
    """What one person wears. Lengths are places along the limb, heights are metres above the pelvis.

    puff_m: how far top, trousers, hair and shoes stand off the skin; baggy_m: more of it towards the ankles; skirt: 0 for none
    opening_m: half the width of an open jacket, 0 closed; coat: the skirt is the jacket's; accessories: names in garments.ACCESSORIES
    """

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
    baggy_m: float = 0.0
    opening_m: float = 0.0
    coat: bool = False
    beard: float = 0.0
    glasses: str = ""
    mask: bool = False
    accessories: tuple[str, ...] = ()

    @staticmethod
    def draw(random: np.random.Generator, held_out: bool = False) -> "Outfit":
        """A random outfit. held_out: one of the combinations that no training ever sees; otherwise never one of these."""
        while True:
            outfit = _draw_outfit(random)
            if key_is_held_out(outfit.key) == held_out:
                return outfit

    @property
    def key(self) -> bytes:
        """What combination this is: hair, lengths of sleeves and legs, and the kind of garments."""
        cut = round(self.sleeve * 2), round(self.leg * 2), round(self.skirt * 2)
        return repr((self.hair, *cut, self.dress, self.coat, self.opening_m > 0, self.suit, self.accessories[:1])).encode()


def _draw_outfit(random: np.random.Generator) -> Outfit:
    """Mostly shirts, trousers, shorts and shoes; some dresses, coats, hoodies, bare backs, hats."""
    chance = random.random
    kind = random.choice(["plain", "loose", "jacket", "coat", "skirt", "dress", "tight"], p=[0.36, 0.16, 0.17, 0.07, 0.05, 0.09, 0.10])
    sleeve = random.choice([-0.5, 0.15, 0.5, 0.75, 1.3, 1.95], p=[0.07, 0.07, 0.32, 0.12, 0.08, 0.34]) + random.normal(0, 0.04)
    leg = random.choice([0.12, 0.45, 0.8, 1.3, 1.75, 2.05], p=[0.04, 0.13, 0.12, 0.05, 0.13, 0.53]) + random.normal(0, 0.04)
    hair = str(random.choice(
        ["short", "long", "curly", "bun", "ponytail", "bald", "cap", "hat", "helmet", "hood"],
        p=[0.35, 0.20, 0.06, 0.06, 0.08, 0.06, 0.08, 0.05, 0.04, 0.02],
    ))  # fmt: skip
    outfit = Outfit(
        sleeve=sleeve, leg=leg, waist_m=random.uniform(-0.12, 0.10), neckline_m=random.uniform(-0.02, 0.09), hair=hair,
        hair_end_m=random.uniform(0.05, 0.30), top=chance() < 0.94, dress=kind == "dress", shoes=chance() < 0.88,
        gloves=chance() < 0.04, suit=chance() < 0.1, skirt=0.0, flare=random.uniform(0.05, 0.22),
        puff_m=(random.uniform(0.002, 0.02), random.uniform(0.002, 0.018), _hair_puff(random, hair), random.uniform(0.003, 0.015)),
        beard=random.choice([0.0, 0.35, 0.8], p=[0.78, 0.1, 0.12]), mask=chance() < 0.02,
        glasses=str(random.choice(["", "rim", "sun"], p=[0.80, 0.13, 0.07])), accessories=_draw_accessories(random, hair),
    )  # fmt: skip
    _, trousers, *others = outfit.puff_m
    if kind in ("skirt", "dress"):
        return replace(outfit, skirt=random.uniform(0.45, 1.8), top=True)
    if kind == "loose":
        puff = (random.uniform(0.015, 0.05), random.uniform(0.008, 0.03), *others)
        return replace(outfit, puff_m=puff, baggy_m=random.uniform(0, 0.07), sleeve=max(sleeve, 0.5), top=True)
    if kind in ("jacket", "coat"):
        puff = (random.uniform(0.012, 0.04), trousers, *others)
        outfit = replace(outfit, puff_m=puff, sleeve=1.95, top=True, opening_m=random.uniform(0.02, 0.12) * (chance() < 0.65))
        return replace(outfit, coat=True, skirt=random.uniform(0.3, 1.3), flare=random.uniform(0.02, 0.12)) if kind == "coat" else outfit
    return replace(outfit, puff_m=(0.002, 0.002, *others)) if kind == "tight" else outfit


def _hair_puff(random: np.random.Generator, hair: str) -> float:
    low, high = {"curly": (0.02, 0.07), "helmet": (0.02, 0.04), "cap": (0.006, 0.014), "hood": (0.015, 0.035)}.get(hair, (0.002, 0.025))
    return random.uniform(low, high)


def _draw_accessories(random: np.random.Generator, hair: str) -> tuple[str, ...]:
    """Names in garments.ACCESSORIES: what the hair needs, and sometimes things carried."""
    worn = {"bun": "bun", "ponytail": "ponytail", "cap": "cap brim", "hat": "hat brim", "long": "long hair"}.get(hair)
    carried = [name for name, share in (("headphones", 0.04), ("backpack", 0.07), ("phone", 0.06), ("bottle", 0.03), ("bag", 0.03))
               if random.random() < share]  # fmt: skip
    return ((worn,) if worn else ()) + tuple(carried)


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
    if outfit.opening_m:
        width = outfit.opening_m * (0.5 + np.clip((y - surface.neck_y_m) * 1.4, 0, 1))
        parts[(parts == Part.TOP) & (torso | neck) & (np.abs(channels[:, 0]) < width) & (z < 0)] = Part.INNER
    extra = channels[:, 13]
    return np.where(extra > 0.5, np.rint(extra), parts).astype(parts.dtype)


def _paint_head(
    parts: np.ndarray, head: np.ndarray, neck: np.ndarray, torso: np.ndarray, channels: np.ndarray, outfit: Outfit, surface: BodySurface
) -> None:
    """Hair, hat or hood, and the face's features, by their place relative to the eyes."""
    x, y, z = channels[:, :3].T
    eye_x, eye_y, eye_z = surface.eye_m
    up, back, side = eye_y - y, z - eye_z, np.abs(x)
    hairline = np.where(back < 0.03, 0.052, np.where(back < 0.075, 0.016, -0.05))
    front = head & (back < 0.012)
    if outfit.beard:
        jaw = head & (back < 0.10) & (up < -0.058 + 0.5 * np.clip(side - 0.03, 0, 0.1)) & (up > -0.135)
        parts[jaw & ~((np.abs(up + 0.074) < 0.012) & (side < 0.026))] = Part.BEARD
    if outfit.hair in ("cap", "helmet", "hat"):
        hairline = hairline - (0.02 if outfit.hair == "helmet" else 0.0)
    if outfit.hair != "bald":
        parts[head & (up > hairline)] = Part.HAIR
    if outfit.hair in ("long", "hood"):
        parts[(head | neck) & (back > 0.075)] = Part.HAIR
        parts[torso & (z > 0.02) & (y < surface.neck_y_m + outfit.hair_end_m)] = Part.HAIR
    parts[front & (np.abs(up - 0.030 + 0.25 * np.maximum(side - 0.035, 0)) < 0.0045) & (np.abs(side - eye_x) < 0.022)] = Part.BROW
    parts[front & (np.abs(up + 0.074) < 0.007) & (side < 0.026)] = Part.LIP
    eye = channels[:, 12] > 0.6
    parts[eye] = Part.SCLERA
    parts[eye & (np.hypot(side - eye_x, up) < 0.006)] = Part.IRIS
    if outfit.mask:
        parts[head & (back < 0.06) & (up < -0.022) & (up > -0.12) & (side < 0.065)] = Part.MASK
    if outfit.glasses:
        ring = np.hypot(side - eye_x, (up + 0.004) * 1.25)
        lens = front & (ring < 0.024)
        rim = front & ((np.abs(ring - 0.024) < 0.0028) | ((np.abs(up) < 0.003) & (side < 0.012)))
        parts[(rim | lens) if outfit.glasses == "sun" else rim] = Part.GLASSES


LEATHER = np.float32([[0.07, 0.06, 0.06], [0.2, 0.13, 0.09], [0.36, 0.24, 0.15], [0.85, 0.85, 0.84], [0.45, 0.45, 0.46], [0.1, 0.12, 0.2]])


def skin_colour(random: np.random.Generator) -> np.ndarray:
    """(3,) sRGB in 0..1."""
    place = random.uniform(0, len(SKIN_TONES) - 1)
    first, share = int(place), place % 1
    tone = SKIN_TONES[first] * (1 - share) + SKIN_TONES[min(first + 1, len(SKIN_TONES) - 1)] * share
    return np.clip(tone * random.uniform(0.92, 1.06) * random.normal(1, 0.03, 3), 0.02, 1)


def _skin(random: np.random.Generator, tone: np.ndarray, points: np.ndarray, surface: BodySurface) -> np.ndarray:
    """(N, 3) albedo of skin: blotchy, redder about nose and cheeks, darker around the eyes."""
    blotch = 1 + 0.05 * (waves(random, points, 25) - 0.5) + 0.02 * speckle(points, 500, 500)
    x, y, z = points.T
    up, side = surface.eye_m[1] - y, np.abs(x)
    face = (z < -0.03) & (up > -0.13) & (up < 0.1) & (y < surface.neck_y_m)
    red = np.exp(-(((up + 0.045) / 0.03) ** 2) - ((side - 0.03) / 0.03) ** 2) * face
    socket = np.exp(-((up / 0.014) ** 2) - ((side - surface.eye_m[0]) / 0.02) ** 2) * face
    nostril = np.exp(-(((up + 0.051) / 0.005) ** 2) - ((side - 0.009) / 0.005) ** 2) * (z < -0.115)
    tint = np.float32([0.04, -0.10, -0.10])
    value = blotch - 0.10 * socket - 0.45 * nostril
    return tone * value[:, None] * (1 + red[:, None] * tint)


def paint(random: np.random.Generator, parts: np.ndarray, points: np.ndarray, outfit: Outfit, surface: BodySurface) -> np.ndarray:
    """(N,) parts and (N, 3) rest points -> (N, 3) float32 sRGB albedo."""
    skin = skin_colour(random)
    covered = outfit.hair in ("cap", "hat", "helmet", "hood")
    natural = HAIR_COLOURS[random.integers(len(HAIR_COLOURS) - (4 if skin[0] < 0.5 else 0))] * random.uniform(0.8, 1.2)
    hair = cloth_colour(random) if covered else random_colour(random) if random.random() < 0.02 else natural
    albedo = np.empty(points.shape, np.float32)
    seeds = random.integers(2**32, size=3)
    same = outfit.suit or outfit.dress

    def cloth(number: int, draw: object) -> object:
        return lambda at: draw(np.random.default_rng(seeds[number]), at)

    top, inner = cloth(0, fabric), cloth(2, fabric)
    bottom = top if same else cloth(1, trouser_fabric)
    leather = LEATHER[random.integers(len(LEATHER))] if random.random() < 0.8 else random_colour(random, 0.7)
    fills = {
        Part.SKIN: lambda at: _skin(random, skin, at, surface),
        Part.TOP: top, Part.BOTTOM: bottom, Part.SKIRT: top if outfit.dress or outfit.coat else cloth(1, fabric), Part.INNER: inner,
        Part.SHOE: lambda at: leather * (1 - 0.4 * (at[:, 1:2] > surface.sole_y_m) * (random.random() < 0.5)),
        Part.HAIR: hair if covered else lambda at: _strands(random, hair, at),
        Part.IRIS: np.array([0.08, 0.06, 0.05]), Part.SCLERA: np.array([0.80, 0.78, 0.76]), Part.GLASSES: np.array([0.05, 0.05, 0.06]),
        Part.BROW: natural * 0.55 + skin * 0.4, Part.LIP: skin * [0.92, 0.62, 0.62],
        Part.BEARD: lambda at: skin * (1 - outfit.beard) + _strands(random, natural, at) * outfit.beard,
        Part.MASK: cloth_colour(random), Part.BRIM: hair * 0.9, Part.PROP: cloth_colour(random) * 0.8, Part.BAG: inner,
    }  # fmt: skip
    for part in np.flatnonzero(np.bincount(parts, minlength=len(Part))):
        mask = parts == part
        fill = fills[Part(part)]
        albedo[mask] = fill(points[mask]) if callable(fill) else fill
    return np.clip(albedo, 0, 1)


def _strands(random: np.random.Generator, hair: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N, 3) hair: light and dark strands that run down."""
    fine = 1 + 0.07 * speckle(points, 420, 60) + 0.6 * (waves(random, points * np.float32([1, 0.25, 1]), 110) - 0.5)
    return hair * np.clip(fine, 0.3, 2)[:, None]
