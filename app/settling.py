"""One shape for each person of a recording from the first row on, though it is known best at the end: earlier rows are posed again."""

from typing import TYPE_CHECKING

import numpy as np

from app.types import Intrinsics
from core.bodies import Body
from core.geometry import project_pinhole, translation_onto
from core.posing import posed_meshes

if TYPE_CHECKING:
    from app.export import Parameters


class Settling:
    """Gives rows of meshes.npz another shape. Their bones stay turned as they are, and people where they are seen in the picture."""

    def __init__(self, body: Body, parameters: "Parameters", posed: bool) -> None:
        """posed: whether the meshes are those that the parameters pose, else they stay."""
        self._body, self._names, self._posed = body, parameters.names, posed

    def __call__(self, rows: np.ndarray, shapes: np.ndarray, intrinsics: Intrinsics) -> np.ndarray | None:
        """rows: (n,) records of meshes.npz, changed in place; shapes: (n, S). Returns the meshes (n, V, 3), None where they stay."""
        rotations, shape = self._names
        rows[shape] = shapes
        return self._posed_again(rows, rows[rotations], shapes, intrinsics) if self._posed else None

    def _posed_again(self, rows: np.ndarray, rotmats: np.ndarray, shapes: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
        vertices, joints = posed_meshes(self._body, rotmats, shapes)
        camera = intrinsics.focal_px, intrinsics.principal_px
        for row, joints_m in zip(rows, joints, strict=True):
            row["translation_m"] = translation_onto(joints_m, row["joints_px"], *camera, row["translation_m"])
            row["joints_px"] = project_pinhole(joints_m + row["translation_m"], *camera)
        rows["joints_m"] = joints
        return vertices
