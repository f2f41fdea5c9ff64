"""Synthetic people one by one: person i of a seed is always the same, whoever asks, in whatever order.

Poses are drawn and posed in blocks, since that is cheaper; a picture's own dice decide all else. The other people in a picture come
from a small crowd that is rendered once for every few thousand pictures.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch

from core.bodies.anny import AnnyBody
from core.training.people_config import PeopleConfig
from core.training.posing import Posing, plausible
from core.training.render import Cutout, Renderer
from core.training.shapes import draw_shapes
from core.training.views import FRAMING_NAMES, draw_leans, draw_views, levelling

BLOCK_SIZE = 4
"""Posed together; larger blocks cost as much a person, and more where somebody asks for people out of order."""
CROWD_SIZE, PICTURES_PER_CROWD, MOST_BLOCKS = 12, 1024, 16
BLOCKS_KEPT, CROWDS_KEPT = 8, 16
JPEG_QUALITY = (35, 96)


@dataclass(frozen=True)
class SyntheticPerson:
    """A picture and its truth, in camera axes with the pelvis at 0; fields as in core.training.shards.Truth.

    jpeg: the (224, 224, 3) picture, compressed; vertices_m: (V, 3) float32 full mesh; family, group and framing are indices into
    FAMILY_NAMES, shapes.GROUP_NAMES and views.FRAMING_NAMES
    """

    jpeg: np.ndarray
    vertices_m: np.ndarray
    joints_m: np.ndarray
    joints_crop: np.ndarray
    joint_visibility: np.ndarray
    camera: np.ndarray
    family: int
    group: int
    framing: int

    @property
    def image(self) -> np.ndarray:
        """(224, 224, 3) uint8 RGB."""
        return cv2.imdecode(self.jpeg, cv2.IMREAD_COLOR_RGB)


@dataclass(frozen=True)
class Block:
    """People who were posed together: vertices (B, V, 3), joints (B, 14, 3), pelvis (B, 3), and (B,) indices."""

    vertices_m: np.ndarray
    joints_m: np.ndarray
    pelvis_m: np.ndarray
    family: np.ndarray
    group: np.ndarray
    framing: np.ndarray


@dataclass
class Kept:
    """The last few results of a function of a number."""

    make: Callable[[int], object]
    size: int
    found: OrderedDict = field(default_factory=OrderedDict)

    def __call__(self, number: int) -> object:
        """The result, made if it is not there."""
        if number not in self.found:
            self.found[number] = self.make(number)
            if len(self.found) > self.size:
                self.found.popitem(last=False)
        self.found.move_to_end(number)
        return self.found[number]


class People:
    """Makes the people of one configuration. Numbers may be asked for in any order; those that follow each other cost least."""

    def __init__(self, body: AnnyBody, config: PeopleConfig) -> None:
        self.body, self.config = body, config
        self.posing = Posing(body, config.poses, config.recorded_share)
        self.renderer = Renderer(body, 0, config.backgrounds, config.held_out, config.crop_scale)
        self._block, self._crowd = Kept(self._pose_block, BLOCKS_KEPT), Kept(self._draw_crowd, CROWDS_KEPT)

    def make(self, index: int) -> SyntheticPerson:
        """Person `index` of the configuration's seed."""
        number, row = divmod(index, BLOCK_SIZE)
        block = self._block(number)
        crowd = self._crowd(index // PICTURES_PER_CROWD)
        return self._draw(block, row, self._dice(1, index), crowd)

    def _dice(self, purpose: int, number: int) -> np.random.Generator:
        return np.random.default_rng((self.config.seed, purpose, number))

    def _draw(self, block: Block, row: int, random: np.random.Generator, crowd: list[Cutout]) -> SyntheticPerson:
        vertices, joints, pelvis = block.vertices_m[row], block.joints_m[row], block.pelvis_m[row]
        self.renderer.reseed(random, crowd)
        framing = int(block.framing[row])
        crop = self.renderer.draw(vertices, joints, pelvis, FRAMING_NAMES[framing])
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(*JPEG_QUALITY))]
        jpeg = cv2.imencode(".jpg", crop.image[..., ::-1], quality)[1].ravel()
        truth = (vertices - pelvis, joints - pelvis, crop.joints_crop, crop.joint_visibility, crop.camera)
        return SyntheticPerson(jpeg, *truth, int(block.family[row]), int(block.group[row]), framing)

    def _draw_crowd(self, number: int) -> list[Cutout]:
        """Some people, each alone and whole, to put behind and before others."""
        crowd: list[Cutout] = []
        random, blocks = self._dice(2, number), 0
        while len(crowd) < CROWD_SIZE and blocks < MOST_BLOCKS:
            block = self._pose(self._dice(3, number * MOST_BLOCKS + blocks))
            blocks += 1
            self.renderer.reseed(random, [])
            for row in range(BLOCK_SIZE):
                if len(crowd) < CROWD_SIZE:
                    self.renderer.draw(block.vertices_m[row], block.joints_m[row], block.pelvis_m[row], "full", crowd.append)
        return crowd

    def _pose_block(self, number: int) -> Block:
        return self._pose(self._dice(0, number))

    @torch.inference_mode()
    def _pose(self, random: np.random.Generator) -> Block:
        """BLOCK_SIZE plausible people."""
        parts: list[Block] = []
        while (missing := BLOCK_SIZE - sum(len(part.family) for part in parts)) > 0:
            views = draw_views(random, missing)
            rotmats, family = self.posing.draw(random, views)
            shapes, group = draw_shapes(random, missing, self.config.held_out)
            vertices = self.body.vertices(rotmats, torch.from_numpy(shapes))
            turn = levelling(self.body.joints(vertices).numpy(), draw_leans(random, missing, self.config.share_to_level))
            vertices = vertices @ torch.from_numpy(turn.astype(np.float32)).mT
            joints, pelvis = self.body.joints(vertices).numpy(), self.body.pelvis(vertices).numpy()
            rows = (vertices.numpy(), joints, pelvis, family, group, views.framing)
            keep = plausible(joints)
            parts.append(Block(*(array[keep] for array in rows)))
        columns = ("vertices_m", "joints_m", "pelvis_m", "family", "group", "framing")
        return Block(*(np.concatenate([getattr(part, name) for part in parts])[:BLOCK_SIZE] for name in columns))
