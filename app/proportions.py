"""Whether an estimate is a body at all.

Where the network cannot tell front from back it says something in between, and the mesh collapses to a sliver. A body's surface fits its
bones, whatever its pose, size, age or weight; a sliver's does not.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from core.joints import BONES, indices
from core.mesh import edges_of

if TYPE_CHECKING:
    from core.bodies import Body

COLLAPSED_BELOW, SOUND_ABOVE = 0.76, 0.86
"""Of the ratio between surface and bones, 1 in the rest mesh. 120 Anny bodies of all ages and weights: 0.90 to 1.13; estimates on clips:
0.89 to 1.17 where they look like people, 0.67 to 0.85 where they have collapsed.
"""
LONG_BONES = 0.8
"""The size of a body is that of its longest bones against the rest mesh (this quantile): a collapse shortens some, hardly all."""


@dataclass(frozen=True)
class Proportions:
    """Of one body's rest mesh. edges: (E, 2) vertices; edges_m: their lengths' sum; bones: (N, 2) joints; bones_m: (N,) lengths."""

    edges: np.ndarray
    edges_m: float
    bones: np.ndarray
    bones_m: np.ndarray

    @classmethod
    def of(cls, body: "Body") -> "Proportions | None":
        """None where the rest mesh or its faces are not known."""
        levels = body.levels
        if levels.template_m is None or not len(body.faces):
            return None
        coarse = len(levels.intermediate_faces) > 0
        edges = edges_of(levels.intermediate_ids[levels.intermediate_faces] if coarse else body.faces)
        bones = np.array([indices(pair) for pair in (*BONES, ("R_Hip", "Neck"), ("L_Hip", "Neck"))])
        joints_m = np.asarray(body.joint_regressor @ levels.template_m)
        return cls(edges, float(_lengths(levels.template_m, edges).sum()), bones, _lengths(joints_m, bones))

    def soundness(self, vertices_m: np.ndarray, joints_m: np.ndarray) -> float:
        """0 for a collapsed mesh, 1 for a body. vertices_m: (V, 3), joints_m: (14, 3)."""
        size = float(np.quantile(_lengths(joints_m, self.bones) / np.maximum(self.bones_m, 1e-6), LONG_BONES))
        ratio = float(_lengths(vertices_m, self.edges).sum()) / self.edges_m / max(size, 1e-6)
        return float(np.clip((ratio - COLLAPSED_BELOW) / (SOUND_ABOVE - COLLAPSED_BELOW), 0, 1))


def _lengths(points_m: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points_m[pairs[:, 0]] - points_m[pairs[:, 1]], axis=1)


_KNOWN: dict[int, tuple["Body", Proportions | None]] = {}


def soundness(body: "Body", vertices_m: np.ndarray, joints_m: np.ndarray) -> float:
    """Proportions.soundness, worked out once for each body; 1 where nothing is known about it."""
    known = _KNOWN.get(id(body))
    if known is None or known[0] is not body:
        known = _KNOWN[id(body)] = body, Proportions.of(body)
    return 1.0 if known[1] is None else known[1].soundness(vertices_m, joints_m)
