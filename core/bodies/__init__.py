"""Body models behind one contract.

A body has `name`, `faces` (F, 3), `joint_names`, `levels` (MeshLevels), `joint_regressor` (14, V) sparse,
`to(device)`, `vertices(pose, shape)` -> (B, V, 3), `joints(vertices)` -> (B, 14, 3), `pelvis(vertices)` -> (B, 3), `tensors()`;
and of its parameters `num_bones`, `num_shape`, the names that files give them, and labels for their axes.
A new body is one file here and one row below.
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from core.errors import InputError
from core.mesh import MeshLevels
from core.registry import Registry
from core.sparse import csr_matrix


class Body(Protocol):
    """What the network, the training and the app may ask of a body; see the module's docstring."""

    name: str
    faces: np.ndarray
    joint_names: tuple[str, ...]
    levels: MeshLevels
    num_bones: int
    num_shape: int
    parameter_names: tuple[str, str]  # of rotations and shape, in meshes.npz
    parameter_labels: Mapping[str, tuple[str, ...]]  # what else meshes.npz says about them

    @property
    def joint_regressor(self) -> csr_matrix:
        """(14, V) float32."""
        ...

    def to(self, device: torch.device | str) -> "Body":
        """The body for posing on that device; this one stays where it is."""

    def vertices(self, pose: Tensor, shape: Tensor) -> Tensor:
        """Pose (B, num_bones, 3, 3) and shape (B, num_shape) -> (B, V, 3) metres."""

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint must hold of the body to need no other file; nothing for bodies that ship with us."""

    def joints(self, vertices: Tensor) -> Tensor:
        """(B, V, 3) -> (B, 14, 3)."""

    def pelvis(self, vertices: Tensor) -> Tensor:
        """(B, V, 3) -> (B, 3)."""


BODIES: Registry[Callable[[Path | None], Body]] = Registry("body")
"""Name -> builder(mesh_dir); only bodies that do not ship with us have files in a mesh_dir."""


@BODIES.register("anny")
def _anny(mesh_dir: Path | None) -> Body:
    from core.bodies.anny import AnnyBody

    if mesh_dir is not None:
        raise InputError(f"mesh_dir: got {mesh_dir}, but the body 'anny' ships with its files; leave it out, or use the body 'smpl'")
    return AnnyBody()


@BODIES.register("smpl")
def _smpl(mesh_dir: Path | None) -> Body:
    from core.bodies.smpl import SmplBody

    return SmplBody.from_folder(mesh_dir)


def load_body(name: str, mesh_dir: str | Path | None = None) -> Body:
    """The body of that name, read once for each folder in a process; raises InputError that lists the known names.

    mesh_dir: where the official mesh files of "smpl" lie; None looks into checkpoints/smpl.
    """
    return _load_body(name, None if mesh_dir is None else Path(mesh_dir))


@cache
def _load_body(name: str, mesh_dir: Path | None) -> Body:
    return BODIES[name](mesh_dir)


def body_from_tensors(name: str, tensors: Mapping[str, Tensor], source: Path, mesh_dir: str | Path | None = None) -> Body:
    """A body whose `tensors` a checkpoint holds. mesh_dir: where an SMPL model may lie. Raises InputError when they are not whole."""
    from core.bodies.smpl import SmplBody

    if name != SmplBody.name:
        raise InputError(f"{source}: holds a body {name!r}, but only {SmplBody.name!r} is kept in checkpoints")
    try:
        return SmplBody.from_tensors(tensors, f"SMPL body from {source}", None if mesh_dir is None else Path(mesh_dir))
    except InputError:
        raise
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"{source}: the body in it is not whole ({' '.join(str(error).split())}); convert the weights again") from error
