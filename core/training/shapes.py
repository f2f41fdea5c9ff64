"""Body shapes of synthetic people: a documented mixture of Anny's phenotypes, so that children and heavy people are not rare.

Ages are Anny's: 0.1 stands 0.9 m tall (2 years), 0.2 1.1 m (5), 0.3 1.3 m (9), 0.4 1.5 m (12), 0.5 1.6 m (15), 2/3 a young
adult, 1 an old one. Shares are a choice, not a census: rare bodies come more often than on the street, so that they are learned.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

HELD_OUT_PARTS = 12
"""One cell in so many, of phenotypes as of outfits, is for validation alone."""
CELL = 0.125
"""Side of a cell of phenotypes: of gender, age, muscle and weight."""

Draw = Callable[[np.random.Generator, int], np.ndarray]


def _uniform(low: float, high: float) -> Draw:
    return lambda random, count: random.uniform(low, high, count)


def _around(mean: float, deviation: float) -> Draw:
    return lambda random, count: random.normal(mean, deviation, count)


USUAL_MUSCLE, USUAL_WEIGHT, USUAL_HEIGHT = _around(0.45, 0.15), _around(0.5, 0.13), _around(0.37, 0.08)


@dataclass(frozen=True)
class Group:
    """A part of the mixture: its share, and how age, muscle, weight and height are drawn; all end in Anny's ranges."""

    share: float
    age: Draw
    muscle: Draw = USUAL_MUSCLE
    weight: Draw = USUAL_WEIGHT
    height: Draw = USUAL_HEIGHT


GROUPS: dict[str, Group] = {
    "toddler": Group(0.05, _uniform(0.08, 0.17), weight=_around(0.5, 0.15), height=_around(0.45, 0.1)),
    "child": Group(0.10, _uniform(0.17, 0.36), weight=_around(0.48, 0.17), height=_around(0.45, 0.1)),
    "teen": Group(0.10, _uniform(0.36, 0.56), weight=_around(0.45, 0.15), height=_around(0.42, 0.08)),
    "adult": Group(0.40, _uniform(0.58, 0.82)),
    "heavy": Group(0.14, _uniform(0.5, 0.9), muscle=_around(0.35, 0.18), weight=_uniform(0.72, 1.0)),
    "muscular": Group(0.08, _uniform(0.6, 0.8), muscle=_uniform(0.7, 1.0), weight=_around(0.55, 0.1)),
    "thin": Group(0.06, _uniform(0.5, 0.85), muscle=_uniform(0.1, 0.5), weight=_uniform(0.0, 0.28)),
    "old": Group(0.07, _uniform(0.84, 1.0), muscle=_around(0.25, 0.12), weight=_around(0.5, 0.18), height=_around(0.33, 0.08)),
}
GROUP_NAMES = tuple(GROUPS)


def draw_shapes(random: np.random.Generator, count: int, held_out: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(count, 6) float32 phenotypes in the order of AnnyBody.phenotype_names, and (count,) index into GROUP_NAMES.

    held_out: only phenotypes of the cells that no training ever sees; otherwise never these.
    """
    group = random.choice(len(GROUPS), count, p=[row.share for row in GROUPS.values()])
    shapes = np.zeros((count, 6))
    missing = np.arange(count)
    while len(missing):
        shapes[missing] = _phenotypes(random, group[missing])
        missing = missing[is_held_out(shapes[missing]) != held_out]
    return shapes.astype(np.float32), group.astype(np.uint8)


def is_held_out(shapes: np.ndarray) -> np.ndarray:
    """(B, 6) phenotypes -> (B,) bool: those of the cells that are for validation."""
    cells = np.floor(np.asarray(shapes, np.float32)[:, :4] / CELL + 100).astype(np.int32)
    return np.array([key_is_held_out(cell.tobytes()) for cell in cells], bool)


def key_is_held_out(key: bytes) -> bool:
    """Whether what is named so is for validation: one in HELD_OUT_PARTS names, the same ones on every machine."""
    return zlib.crc32(key) % HELD_OUT_PARTS == 0


def _phenotypes(random: np.random.Generator, group: np.ndarray) -> np.ndarray:
    shapes = np.zeros((len(group), 6))
    shapes[:, 0] = random.beta(0.7, 0.7, len(group))
    shapes[:, 5] = random.normal(0.5, 0.22, len(group))
    for index, row in enumerate(GROUPS.values()):
        rows = np.flatnonzero(group == index)
        for column, draw in ((1, row.age), (2, row.muscle), (3, row.weight), (4, row.height)):
            shapes[rows, column] = draw(random, len(rows))
    return np.clip(shapes, 0.0, 1.0)
