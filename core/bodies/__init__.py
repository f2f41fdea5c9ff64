"""Body models behind one contract.

A body has `name`, `faces` (F, 3), `joint_names`, `levels` (MeshLevels), `joint_regressor` (14, V) sparse,
`vertices(pose, shape)` -> (B, V, 3), `joints(vertices)` -> (B, 14, 3) and `pelvis(vertices)` -> (B, 3).
A new body is one file here and one row below.
"""

from collections.abc import Callable
from functools import cache
from typing import Protocol

import numpy as np
from scipy.sparse import csr_matrix
from torch import Tensor

from core.mesh import MeshLevels
from core.registry import Registry


class Body(Protocol):
    """What the network, the training and the app may ask of a body; see the module's docstring."""

    name: str
    faces: np.ndarray
    joint_names: tuple[str, ...]
    levels: MeshLevels
    joint_regressor: csr_matrix

    def vertices(self, pose: Tensor, shape: Tensor) -> Tensor:
        """Pose and shape -> (B, V, 3) metres."""

    def joints(self, vertices: Tensor) -> Tensor:
        """(B, V, 3) -> (B, 14, 3)."""

    def pelvis(self, vertices: Tensor) -> Tensor:
        """(B, V, 3) -> (B, 3)."""


BODIES: Registry[Callable[[], Body]] = Registry("body")


@BODIES.register("anny")
def _anny() -> Body:
    from core.bodies.anny import AnnyBody

    return AnnyBody()


@cache
def load_body(name: str) -> Body:
    """The body of that name, read once; raises InputError that lists the known names."""
    return BODIES[name]()
