"""What chance decides about a batch of people, drawn on the CPU: poses, shapes, outfits, cloth, scenes, and dice for the GPU.

Batch `number` of a seed is always the same, whoever draws it: that is what lets a run go on exactly where it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from core.bodies.anny import AnnyBody
from core.training.appearance import LEATHER, Outfit, skin_colour
from core.training.fabrics import DENIM, HAIR_COLOURS, cloth_colour, random_colour
from core.training.lighting import Light
from core.training.people_config import PeopleConfig
from core.training.posing import Posing
from core.training.scenery import Scenery
from core.training.shapes import draw_shapes
from core.training.views import draw_leans, draw_views
from core.types import CROP_SIZE_PX

SPARE = 1.25
"""So many more people are posed than needed, since some have a hand inside the trunk."""
NUM_DICE = 48
"""Uniform and normal numbers for each person."""
LAMPS = 2
HAIRS = ("short", "long", "curly", "bun", "ponytail", "bald", "cap", "hat", "helmet", "hood")
COVERED = ("cap", "hat", "helmet", "hood")
CLOTHS = ("top", "bottom", "inner")
PATTERNS = {"plain": 0.38, "stripes": 0.12, "plaid": 0.07, "dots": 0.04, "flowers": 0.07, "gradient": 0.05, "tie-dye": 0.05,
            "blocks": 0.08, "knit": 0.14}  # fmt: skip
TROUSERS = {"plain": 0.45, "denim": 0.40, "knit": 0.07, "stripes": 0.05, "plaid": 0.03}
PATTERN_NAMES = (*PATTERNS, "denim")
WAVES = 4
OUTFIT_NUMBERS = (
    "sleeve", "leg", "waist_m", "neckline_m", "hair_end_m", "top", "dress", "shoes", "gloves", "skirt", "flare", "baggy_m",
    "opening_m", "coat", "beard", "mask",
)  # fmt: skip
"""Fields of Outfit that are one number each."""


@dataclass(frozen=True)
class PlanConfig(PeopleConfig):
    """What people to make, `batch` at once. scenes: fresh ones for each batch."""

    batch: int = 256
    scenes: int = 64


@dataclass(frozen=True)
class Plan:
    """One batch. B people, P >= B poses, K scenes; everything float32 unless said.

    rotmats: (P, J, 3, 3); shapes: (P, 6); family: (P,) uint8; framing: (P,) int64
    lean_rad: (P,) see views.draw_leans; uniform: (B, NUM_DICE) in 0..1; normal: (B, NUM_DICE)
    outfit: (B, len(OUTFIT_NUMBERS)); puff_m: (B, 4); hair: (B,) int64 index into HAIRS; glasses: (B,) int64 0 none, 1 rim, 2 sun
    colours: (B, 9, 3) sRGB, see COLOURS; pattern: (B, 3) int64 index into PATTERN_NAMES, of CLOTHS; cloth: (B, 3, 2, 3) its two colours
    numbers: (B, 3, 6) frequency, two thresholds, direction, grain, fade; waves: (B, 5, WAVES, 4) plane waves of cloths, skin and hair
    scenes: (K, S, S, 3) uint8; ambient: (K, 9, 3); turn: (K, 3, 3); lamps: (K, LAMPS, 6) direction, colour; exposure: (K,)
    scene: (B,) int64 whose scene it is; seed: () int64 of the dice that the GPU throws itself
    """

    rotmats: Tensor
    shapes: Tensor
    family: Tensor
    framing: Tensor
    lean_rad: Tensor
    uniform: Tensor
    normal: Tensor
    outfit: Tensor
    puff_m: Tensor
    hair: Tensor
    glasses: Tensor
    colours: Tensor
    pattern: Tensor
    cloth: Tensor
    numbers: Tensor
    waves: Tensor
    scenes: Tensor
    ambient: Tensor
    turn: Tensor
    lamps: Tensor
    exposure: Tensor
    scene: Tensor
    seed: Tensor

    def to(self, device: torch.device) -> "Plan":
        """On a device."""
        return Plan(*(getattr(self, entry.name).to(device, non_blocking=True) for entry in fields(self)))


COLOURS = ("skin", "hair", "natural", "leather", "brim", "mask", "prop", "sole", "occluder")
"""Rows of Plan.colours."""


class Plans(Dataset):
    """Plan `number` of a configuration; opens files where it first draws, so that it can be sent to workers."""

    def __init__(self, body: AnnyBody, config: PlanConfig) -> None:
        self.body, self.config = body, config
        self._tools: tuple[Posing, Scenery] | None = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_tools": None}

    def __getitem__(self, number: int) -> Plan:
        if self._tools is None:
            cv2.setNumThreads(1)
            config, random = self.config, np.random.default_rng(0)
            self._tools = (
                Posing(self.body, config.poses, config.recorded_share),
                Scenery(random, CROP_SIZE_PX, config.backgrounds, config.held_out),
            )
        return self._draw(np.random.default_rng((self.config.seed, 7, number)))

    def _draw(self, random: np.random.Generator) -> Plan:
        config, (posing, scenery) = self.config, self._tools
        count, spare = config.batch, int(np.ceil(config.batch * SPARE)) + 2
        views = draw_views(random, spare)
        rotmats, family = posing.draw(random, views)
        shapes, _ = draw_shapes(random, spare, config.held_out)
        looks = [draw_look(random, config.held_out) for _ in range(count)]
        scenery.random = random
        scenes = [scenery.scene() for _ in range(min(config.scenes, count))]
        arrays = {name: np.stack([look[name] for look in looks]) for name in looks[0]}
        return Plan(
            rotmats=rotmats.float(),
            shapes=torch.from_numpy(shapes),
            family=torch.from_numpy(family.astype(np.uint8)),
            framing=torch.from_numpy(views.framing.astype(np.int64)),
            lean_rad=torch.from_numpy(draw_leans(random, spare, config.share_to_level).astype(np.float32)),
            uniform=torch.from_numpy(random.random((count, NUM_DICE)).astype(np.float32)),
            normal=torch.from_numpy(random.standard_normal((count, NUM_DICE)).astype(np.float32)),
            **{name: torch.from_numpy(array) for name, array in arrays.items()},
            scenes=torch.from_numpy(np.stack([(scene.image * 255).astype(np.uint8) for scene in scenes])),
            ambient=_stacked([scene.light.ambient for scene in scenes]),
            turn=_stacked([scene.light.turn for scene in scenes]),
            lamps=_stacked([lamp_rows(scene.light) for scene in scenes]),
            exposure=_stacked([np.float32(scene.light.exposure) for scene in scenes]),
            scene=torch.from_numpy(np.arange(count) % len(scenes)),
            seed=torch.tensor(int(random.integers(2**62))),
        )


def _stacked(arrays: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(arrays).astype(np.float32))


def lamp_rows(light: Light) -> np.ndarray:
    """(LAMPS, 6) direction and colour of each lamp; black where there is none."""
    rows = np.zeros((LAMPS, 6), np.float32)
    rows[:, 2] = -1
    for row, lamp in zip(rows, light.lamps, strict=False):
        row[:3], row[3:] = lamp.direction, lamp.colour
    return rows


def draw_look(random: np.random.Generator, held_out: bool) -> dict[str, np.ndarray]:
    """What one person wears: the fields `outfit` to `waves` of Plan."""
    outfit = Outfit.draw(random, held_out)
    skin = skin_colour(random)
    natural = HAIR_COLOURS[random.integers(len(HAIR_COLOURS) - (4 if skin[0] < 0.5 else 0))] * random.uniform(0.8, 1.2)
    odd = random_colour(random) if random.random() < 0.02 else natural
    hair = cloth_colour(random) if outfit.hair in COVERED else odd
    leather = LEATHER[random.integers(len(LEATHER))] if random.random() < 0.8 else random_colour(random, 0.7)
    colours = [
        skin,
        hair,
        natural,
        leather,
        hair * 0.9,
        cloth_colour(random),
        cloth_colour(random) * 0.8,
        leather * 0.6,
        cloth_colour(random),
    ]
    same = outfit.suit or outfit.dress
    cloths = [draw_cloth(random, PATTERNS), draw_cloth(random, TROUSERS), draw_cloth(random, PATTERNS)]
    cloths[1] = cloths[0] if same else cloths[1]
    pattern, cloth, numbers, waves = zip(*cloths, strict=True)
    return {
        "outfit": np.float32([getattr(outfit, name) for name in OUTFIT_NUMBERS]),
        "puff_m": np.float32(outfit.puff_m),
        "hair": np.int64(HAIRS.index(outfit.hair)),
        "glasses": np.int64(("", "rim", "sun").index(outfit.glasses)),
        "colours": np.clip(np.float32(colours), 0, 1),
        "pattern": np.int64(pattern),
        "cloth": np.float32(cloth),
        "numbers": np.float32(numbers),
        "waves": np.float32([*waves, plane_waves(random, 25), plane_waves(random, 110)]),
    }


Cloth = tuple[int, np.ndarray, np.ndarray, np.ndarray]


def draw_cloth(random: np.random.Generator, patterns: dict[str, float]) -> Cloth:
    """Pattern, two colours, numbers and waves of one garment."""
    name = list(patterns)[random.choice(len(patterns), p=np.array(list(patterns.values())) / sum(patterns.values()))]
    if name == "denim":
        first = DENIM[random.integers(len(DENIM))] * random.uniform(0.8, 1.15)
        second = np.clip(first * 1.3, 0, 1)
    else:
        first = cloth_colour(random)
        second = cloth_colour(random) if random.random() < 0.6 else np.clip(first * random.uniform(0.4, 1.7), 0, 1)
    low, high = {"stripes": (40, 320), "plaid": (50, 220), "dots": (60, 200), "knit": (300, 700)}.get(name, (6, 70))
    frequency = np.exp(random.uniform(np.log(low), np.log(high)))
    thresholds = random.uniform(-0.6, 0.7, 2)
    numbers = [frequency, *thresholds, float(random.random() < 0.7), random.uniform(0, 0.08), random.uniform(0, 1)]
    waves = plane_waves(random, 9 if name == "denim" else frequency if name in ("flowers", "tie-dye") else 12)
    return PATTERN_NAMES.index(name), np.stack([first, second]), np.array(numbers), waves


def plane_waves(random: np.random.Generator, frequency: float) -> np.ndarray:
    """(WAVES, 4) directions in radians per metre and phases, as in core.training.fabrics.waves."""
    octaves = 1 + 0.5 * np.arange(WAVES)[:, None]
    return np.concatenate([random.standard_normal((WAVES, 3)) * frequency * octaves, random.uniform(0, 2 * np.pi, (WAVES, 1))], 1)
