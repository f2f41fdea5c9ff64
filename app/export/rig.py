"""A person of the Anny body as a rig: the mesh at rest, 104 bones with the axes that rigs have, and weights, for formats that pose it.

The mesh is that of the person's shape, bent by linear blend skinning as Anny does, so nothing is lost but the influences of a vertex
beyond four. Bones that nobody has seen move (fingers, toes, faces) are there, and stay. The moving ones have the names by which animation
programs recognise a human; all have the axes of app.export.bones.rest_axes. Axes: x right, y up, z towards the viewer; metres.
"""

from typing import TYPE_CHECKING

import numpy as np

from app.export.bones import NAMES, rest_axes, turned_up
from app.export.sink import UP_FROM_CAMERA
from app.export.tracks import without_hidden
from app.visibility import body_joint_weights

if TYPE_CHECKING:
    from core.bodies.anny import AnnyBody

INFLUENCES = 4
"""Bones for each vertex, as many as every viewer takes."""
STILL = 1e-5
"""A bone whose rotation changes by no more is not animated."""


class Skin:
    """What is the same for everybody. bones, weights: (V, 4) influences; ids: (P,) the vertices of the mesh, faces: (F, 3) of these."""

    def __init__(self, body: "AnnyBody", coarse: bool = False) -> None:
        """coarse: the intermediate mesh instead of the full one."""
        self.body = body
        skinning = body.skinning.numpy()
        self.bones = np.argsort(-skinning, axis=1, kind="stable")[:, :INFLUENCES]
        weights = np.take_along_axis(skinning, self.bones, axis=1)
        self.weights = weights / weights.sum(axis=1, keepdims=True)
        self.bones[weights == 0] = 0  # as glTF wants it
        self.ids = body.levels.intermediate_ids if coarse else np.arange(len(skinning))
        self.faces = body.levels.intermediate_faces if coarse else body.faces
        self.joint_weights = body_joint_weights(body)[self.ids]


class Rig:
    """The body of one shape at rest, hips at 0.

    points_m: (P, 3) of the mesh, without what is hidden; faces: (F, 3) of these; bones, weights: (P, 4) influences of its vertices
    names, parents: (104) of the bones, parents before children, -1 for the root
    heads_m: (104, 3) where they begin; axes: (104, 3, 3) theirs as columns
    offsets_m, rests: (104, 3), (104, 3, 3) both seen from the bone above; of the root in space
    """

    def __init__(self, skin: Skin, phenotype: np.ndarray, size: float, visibility: np.ndarray) -> None:
        """phenotype: (6,); size: factor of all its lengths; visibility: (14,) how well each joint is seen at best."""
        import torch

        body = skin.body
        self._skin, self.phenotype = skin, phenotype
        rest = body.rest(torch.from_numpy(phenotype[None]))
        points, heads, self._alignments = (values[0].numpy().astype(np.float64) for values in rest)
        self._points_m, self._heads_m = points * size, heads * size
        self.names = tuple(NAMES.get(name, name) for name in body.bone_names)
        self.parents = tuple(body.parents)
        self.heads_m = (self._heads_m - self._heads_m[0]) * UP_FROM_CAMERA
        self.axes = rest_axes(body, self._heads_m * UP_FROM_CAMERA)
        above = [max(parent, 0) for parent in self.parents]
        self.offsets_m = np.einsum("bji,bj->bi", self.axes[above], self.heads_m - self.heads_m[above])
        self.rests = self.axes[above].swapaxes(1, 2) @ self.axes
        self.rests[0] = self.axes[0]
        self._nodes = turned_up(self._alignments) @ self.axes  # a bone's pose turns these axes, seen from those of the bone above
        (shown_m,), faces = without_hidden(self._points_m[None, skin.ids], skin.faces, skin.joint_weights @ visibility)
        shown, corners = np.unique(faces, return_inverse=True)
        self.faces = corners.reshape(faces.shape).astype(faces.dtype)
        self.points_m = (shown_m[shown] - self._heads_m[0]) * UP_FROM_CAMERA
        self.bones, self.weights = skin.bones[skin.ids[shown]], skin.weights[skin.ids[shown]]

    def turned(self, bone: int, rotmats: np.ndarray) -> np.ndarray:
        """(T, 3, 3) a bone's pose as in meshes.npz, camera axes -> of its axes, seen from those of the bone above; of the root in space."""
        above = self.parents[bone]
        turns = turned_up(rotmats) @ self._nodes[bone]
        return turns if above < 0 else self._nodes[above].T @ turns

    def joints_m(self, rotmats: np.ndarray) -> np.ndarray:
        """(T, 104, 3, 3) -> (T, 14, 3), of the mesh as viewers bend it, the pelvis at 0, camera axes."""
        import torch

        body, bones = self._skin.body, self._skin.bones
        rest = (torch.from_numpy(values).float()[None] for values in (self._heads_m, self._alignments))
        turns, places_m = (values.numpy() for values in body.bone_transforms(torch.from_numpy(rotmats), *rest))
        arms_m = self._points_m[:, None] - self._heads_m[bones]
        found = []
        for turn, place_m in zip(turns, places_m, strict=True):
            moved = np.einsum("vkij,vkj->vki", turn[bones], arms_m) + place_m[bones]
            mesh_m = (moved * self._skin.weights[..., None]).sum(1)
            found.append(body.joint_regressor @ mesh_m - body.pelvis(torch.from_numpy(mesh_m[None])).numpy())
        return np.stack(found)
