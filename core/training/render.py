"""Renders one synthetic person into a 224x224 crop, with its truth: camera, frame edge, clothes, light, shadows, clutter."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from core.arrays import check_array
from core.bodies.anny import AnnyBody
from core.crop import CROP_SCALE
from core.raster import Fragments, interpolate, rasterize, vertex_normals
from core.training.appearance import BodySurface, Outfit, Part, label, paint
from core.training.develop import develop, streak
from core.training.garments import Dressed, Wardrobe
from core.training.lighting import Light, occlusion, shadowed
from core.training.scenery import Scene, Scenery
from core.training.views import FRAMING_NAMES, FRAMINGS, CropCamera, draw_camera, weak_camera
from core.types import CROP_SIZE_PX

Cutout = tuple[np.ndarray, np.ndarray]
"""A person alone: (224, 224, 3) uint8 picture, black around it, and its pixels as 0 or 255."""
GLOSS = {Part.SKIN: 0.16, Part.HAIR: 0.22, Part.SHOE: 0.25, Part.PROP: 0.4, Part.GLASSES: 0.8, Part.IRIS: 0.8, Part.SCLERA: 0.4}
CLOTH_GLOSS = 0.03
WHITE_BALANCE = 0.7
"""How far a camera makes up for the colour of the light, 0 not at all, 1 wholly."""
SKIN_WRAP = np.float32([0.30, 0.14, 0.10])
"""How far light creeps around skin, by colour: red the farthest."""


@dataclass(frozen=True)
class SyntheticCrop:
    """image: (224, 224, 3) uint8 RGB. The rest is the truth of its person, in camera axes, pelvis at 0.

    joints_crop: (14, 2) crop units; joint_visibility: (14,) 1 where the joint lies in the picture and nothing hides its place
    camera: (3,) weak-perspective scale, tx, ty that fits the projection best; framing: how much of the body the picture shows
    """

    image: np.ndarray
    joints_crop: np.ndarray
    joint_visibility: np.ndarray
    camera: np.ndarray
    framing: str

    def __post_init__(self) -> None:
        check_array("SyntheticCrop.image", self.image, (CROP_SIZE_PX, CROP_SIZE_PX, 3), np.uint8)
        check_array("SyntheticCrop.camera", self.camera, (3,), np.float32)


class Renderer:
    """Draws people of one body. Seeded; other people in its pictures come from `crowd`."""

    def __init__(
        self, body: AnnyBody, seed: int, backgrounds: Sequence[Path] = (), held_out: bool = False, crop_scale: float = CROP_SCALE
    ) -> None:
        """held_out: backgrounds and outfits that no training ever sees; crop_scale: as in PeopleConfig."""
        self.random, self.held_out, self.crop_scale = np.random.default_rng(seed), held_out, crop_scale
        self.scenery = Scenery(self.random, CROP_SIZE_PX, backgrounds, held_out)
        self.surface, self.wardrobe = outfitter(body)
        self.crowd: Sequence[Cutout] = ()

    def reseed(self, random: np.random.Generator, crowd: Sequence[Cutout]) -> None:
        """Other dice and other people for the next pictures."""
        self.random = self.scenery.random = random
        self.crowd = crowd

    def draw(
        self, vertices_m: np.ndarray, joints_m: np.ndarray, pelvis_m: np.ndarray, framing: str | None = None,
        keep: Callable[[Cutout], None] | None = None,
    ) -> SyntheticCrop:  # fmt: skip
        """Render a body of (V, 3) vertices with (14, 3) joints, all in camera axes and metres.

        framing: None draws one of FRAMINGS; keep: is given the person alone, if all of it is in the crop
        """
        random = self.random
        if framing is None:
            framing = FRAMING_NAMES[random.choice(len(FRAMINGS), p=list(FRAMINGS.values()))]
        camera = draw_camera(random, vertices_m, joints_m, framing, self.crop_scale)
        outfit = Outfit.draw(random, self.held_out)
        dressed = self.wardrobe.dress(random, vertices_m.astype(np.float32), outfit)
        points_px = (camera.project(dressed.mesh_m) + 1) * (CROP_SIZE_PX / 2)
        fragments = rasterize(points_px, camera.depth(dressed.mesh_m), dressed.faces, CROP_SIZE_PX, CROP_SIZE_PX)
        scene = self.scenery.scene()
        person, covered = np.zeros((CROP_SIZE_PX, CROP_SIZE_PX, 3), np.float32), fragments.covered
        person[covered] = self._shade(dressed, fragments, outfit, scene.light)
        if keep is not None and is_whole(covered):
            keep(((person * 255).astype(np.uint8), covered.astype(np.uint8) * 255))
        outside = self._outside(camera)
        image, hidden = self._compose(person, covered, covered & ~outside, scene)
        pixels = develop(random, image, self.scenery.grain)
        pixels[outside] = 0  # as core.crop leaves it
        joints_crop = camera.project(joints_m)
        return SyntheticCrop(
            image=pixels,
            joints_crop=joints_crop.astype(np.float32),
            joint_visibility=self._visibility(joints_crop, hidden, camera),
            camera=weak_camera(vertices_m - pelvis_m, camera.project(vertices_m), camera.frame),
            framing=framing,
        )

    def _shade(self, dressed: Dressed, fragments: Fragments, outfit: Outfit, light: Light) -> np.ndarray:
        """(N, 3) colours of the covered pixels, row by row."""
        random, covered = self.random, fragments.covered
        facing = vertex_normals(dressed.mesh_m, dressed.faces)
        seen = interpolate(fragments, np.concatenate([dressed.channels, facing, dressed.mesh_m], 1), dressed.faces)
        channels, normals, spots = np.split(seen, [seen.shape[1] - 6, seen.shape[1] - 3], 1)
        parts = label(channels, outfit, self.surface)
        albedo = paint(random, parts, channels[:, :3], outfit, self.surface) ** 2
        normals = _unit(np.where((parts >= Part.BRIM) | (parts == Part.SKIRT), -np.sign(normals[:, 2]), 1)[:, None] * normals)
        normals = _unit(normals + self._folds(channels, parts, outfit))
        soft = light.soft(normals) * occlusion(fragments.inverse_depth, covered)[:, None]
        gloss = _gloss_of(parts)
        hard, shine = np.zeros_like(soft), np.zeros_like(soft)
        for number, lamp in enumerate(light.lamps):
            direction = lamp.direction.astype(np.float32)
            incidence = (normals @ direction)[:, None]
            lit = np.clip(incidence, 0, None)
            skin = parts == Part.SKIN
            lit = np.broadcast_to(lit, soft.shape).copy()
            lit[skin] = np.clip((incidence[skin] + SKIN_WRAP) / (1 + SKIN_WRAP), 0, None)
            if number == 0 and random.random() < 0.7:
                dark = shadowed(dressed.mesh_m, dressed.faces, spots + normals * np.float32(0.012), direction)
                lit *= np.where(dark, np.float32(random.uniform(0, 0.3)), np.float32(1))[:, None]
            hard += lit * lamp.colour.astype(np.float32)
            half = direction - np.float32([0, 0, 1])
            half /= np.linalg.norm(half) + 1e-6
            shine += (lit * lamp.colour.astype(np.float32)) * (gloss * np.clip(normals @ half, 0, 1) ** 24)[:, None]
        total = soft + hard
        rim = (gloss + 0.05)[:, None] * np.clip(1 + normals[:, 2:], 0, 1) ** 4 * soft
        tint = total.mean(0) + np.float32(1e-6)
        scale = light.exposure / tint.mean() * (tint.mean() / tint) ** np.float32(WHITE_BALANCE)
        colour = (albedo * total + shine + rim) * scale
        return np.sqrt(np.clip(colour / (1 + 0.22 * colour), 0, 1))

    def _folds(self, channels: np.ndarray, parts: np.ndarray, outfit: Outfit) -> np.ndarray:
        """(N, 3) that cloth's folds add to the normals: the slope of random waves, stronger about elbows, knees and the waist."""
        random, points = self.random, channels[:, :3]
        cloth = np.isin(parts, (Part.TOP, Part.BOTTOM, Part.SKIRT, Part.INNER))
        slope = np.zeros((len(parts), 3), np.float32)
        if not cloth.any():
            return slope
        at, arm, leg = points[cloth], channels[cloth, 3], channels[cloth, 4]
        bend = np.exp(-(((arm - 1) / 0.3) ** 2)) + np.exp(-(((leg - 1) / 0.25) ** 2)) + np.exp(-(((at[:, 1] + 0.02) / 0.1) ** 2))
        looseness = 0.25 + 12 * max(outfit.puff_m[:2])
        amount = np.float32(random.uniform(0.1, 0.9) * looseness) * (0.45 + bend).astype(np.float32)
        total = np.zeros((len(at), 3), np.float32)
        for _ in range(5):
            direction = random.standard_normal(3).astype(np.float32) * np.float32([0.6, 1, 0.6])
            direction /= np.linalg.norm(direction) + 1e-6
            phase = at @ (direction * np.float32(random.uniform(18, 75))) + np.float32(random.uniform(0, 6.3))
            total += np.sin(phase + 1.3 * np.sin(at @ (random.standard_normal(3).astype(np.float32) * 9)))[:, None] * direction
        slope[cloth] = total * (amount * np.float32(0.4))[:, None]
        slope += (parts == Part.HAIR)[:, None] * (np.sin(points[:, :1] * 260) * np.float32([0.25, 0, 0.1]))
        return slope

    def _compose(self, person: np.ndarray, covered: np.ndarray, shown: np.ndarray, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
        """Background, others behind, the person, things and others in front: (image float32, hidden (S, S) bool).

        covered: (S, S) bool, the person's pixels; shown: those within the picture, most of which stay visible
        """
        random, mask, image = self.random, covered.astype(np.float32), scene.image
        beside = random.random() < 0.26
        for _ in range(random.integers(1, 4) if beside else 0):
            image = self._paste(image, mask, random.uniform(0.15, 0.75), (0.6, 1.1))[0]
        if random.random() < 0.4:
            lean = np.float32([[1, random.uniform(-0.5, 0.5), 0], [0, 0.3, CROP_SIZE_PX * 0.62]])
            shadow = cv2.GaussianBlur(cv2.warpAffine(mask, lean, mask.shape), (0, 0), 5)
            image = image * (1 - np.float32(0.5 * random.random()) * shadow[..., None])
        soft = np.minimum(mask, np.maximum(cv2.GaussianBlur(mask, (0, 0), random.uniform(0.4, 0.8)), 0.35))
        if random.random() < 0.05:  # the person moves, the background does not
            kernel = streak(random)
            person, soft = cv2.filter2D(person * soft[..., None], -1, kernel), cv2.filter2D(soft, -1, kernel)
            image = person + image * (1 - soft[..., None])
        else:
            image = person * soft[..., None] + image * (1 - soft[..., None])
        hidden = np.zeros(mask.shape, bool)
        if shown.any() and random.random() < 0.25:
            cover = self.scenery.occluder(shown)
            if (cover & shown).sum() < 0.55 * shown.sum():
                image = np.where(cover[..., None], self.scenery.texture(), image)
                hidden |= cover
        if shown.any() and random.random() < 0.10:
            front, alpha = self._paste(image, mask, random.uniform(0.2, 0.7), (0.8, 1.4))
            if (alpha[shown] > 0.5).mean() < 0.4:
                image, hidden = front, hidden | (alpha > 0.5)
        return image, hidden

    def _paste(self, image: np.ndarray, mask: np.ndarray, apart: float, scales: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
        """Put somebody of the crowd beside the one whose pixels are `mask`, at about its size: (image, alpha (S, S)).

        apart: between the middles, in sides of the crop
        """
        random, size = self.random, CROP_SIZE_PX
        if not self.crowd:
            return image, np.zeros((size, size), np.float32)
        person, other = self.crowd[random.integers(len(self.crowd))]
        left, top, right, bottom = _bounds(other)
        here = _bounds(mask)
        scale = random.uniform(*scales) * _side(here) / _side((left, top, right, bottom))
        side = 1 if random.random() < 0.5 else -1
        mirror = -1.0 if random.random() < 0.5 else 1.0
        x = (here[0] + here[2]) / 2 + side * apart * size - mirror * scale * (left + right) / 2
        y = here[3] - scale * bottom + random.normal(0, 0.05) * size
        place = np.float32([[mirror * scale, 0, x], [0, scale, y]])
        alpha = cv2.warpAffine(other, place, (size, size)) * np.float32(1 / 255)
        light = np.float32(random.uniform(0.6, 1.15) / 255)
        return image * (1 - alpha[..., None]) + cv2.warpAffine(person, place, (size, size)) * light, alpha

    def _outside(self, camera: CropCamera) -> np.ndarray:
        """(S, S) bool: beyond the edge of the picture."""
        units = (np.arange(CROP_SIZE_PX) + 0.5) / (CROP_SIZE_PX / 2) - 1
        left, top, right, bottom = camera.frame
        return ((units < left) | (units > right))[None] | ((units < top) | (units > bottom))[:, None]

    def _visibility(self, joints_crop: np.ndarray, hidden: np.ndarray, camera: CropCamera) -> np.ndarray:
        """(14,) 1 where a joint's place is in the picture and in the crop and nothing in front covers it."""
        left, top, right, bottom = np.clip(camera.frame, -1, 1)
        x, y = joints_crop.T
        inside = (x > left) & (x < right) & (y > top) & (y < bottom)
        column, row = (np.clip(((v + 1) * CROP_SIZE_PX / 2).astype(int), 0, CROP_SIZE_PX - 1) for v in (x, y))
        return (inside & ~hidden[row, column]).astype(np.float32)


def is_whole(covered: np.ndarray) -> bool:
    """Whether a person with these pixels (S, S) is large enough, and not cut by the crop."""
    edge = covered[0].any() or covered[-1].any() or covered[:, 0].any() or covered[:, -1].any()
    return bool(not edge and covered.mean() > 0.04)


_OUTFITTERS: dict[int, tuple[AnnyBody, BodySurface, Wardrobe]] = {}


def outfitter(body: AnnyBody) -> tuple[BodySurface, Wardrobe]:
    """A body's surface and wardrobe, made once for each body: a stream makes a renderer for each block of people."""
    if id(body) not in _OUTFITTERS:
        surface = BodySurface(body)
        _OUTFITTERS[id(body)] = (body, surface, Wardrobe(body, surface))
    return _OUTFITTERS[id(body)][1:]


def _unit(vectors: np.ndarray) -> np.ndarray:
    x, y, z = vectors.T
    return (vectors / (np.sqrt(x * x + y * y + z * z) + np.float32(1e-9))[:, None]).astype(np.float32)


def _gloss_of(parts: np.ndarray) -> np.ndarray:
    table = np.full(len(Part), CLOTH_GLOSS, np.float32)
    for part, gloss in GLOSS.items():
        table[part] = gloss
    return table[parts]


def _side(bounds: tuple[int, int, int, int]) -> float:
    """The longer side of a box, of people as large as pictures hold them."""
    return max(bounds[2] - bounds[0], bounds[3] - bounds[1], 20)


def _bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what is not 0; the whole when all is."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if len(columns) == 0:
        return 0, 0, mask.shape[1], mask.shape[0]
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])
