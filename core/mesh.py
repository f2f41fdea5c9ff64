"""Mesh levels: the coarse mesh that the transformer predicts, and the way up to the full one, for any body.

A coarse and an intermediate mesh are nested subsets of the full mesh's vertices. For SMPL the official files say which; for
other bodies core.hierarchy chooses them by farthest-point sampling along the surface, takes their neighbours from the Voronoi
cells of the chosen vertices, and the sparse up-sampling matrices from a least-squares fit over posed bodies: each vertex is a
fixed mixture of a few near vertices of the level below.
"""

from dataclasses import dataclass

import numpy as np

from core.arrays import check_array
from core.sparse import csr_matrix

NUM_COARSE = 431
NUM_INTERMEDIATE = 1723
"""Sizes of FastMETRO's levels (those of the down-sampled SMPL mesh)."""


@dataclass(frozen=True)
class MeshLevels:
    """Coarse, intermediate and full mesh of one body.

    template_m: (V, 3) float32, the rest mesh in camera axes (x right, y down, z away), facing the camera; None where unknown
    faces: (F, 3) int32, none where unknown       intermediate_faces: (F', 3) int32, indices into the intermediate mesh
    coarse_ids, intermediate_ids: int64 vertex indices of the full mesh; the coarse ones are among the intermediate
    coarse_adjacency: (C, C) bool, True for neighbours and on the diagonal
    upsample: (intermediate from coarse, full from intermediate), float32 sparse
    """

    template_m: np.ndarray | None
    faces: np.ndarray
    intermediate_faces: np.ndarray
    coarse_ids: np.ndarray
    intermediate_ids: np.ndarray
    coarse_adjacency: np.ndarray
    upsample: tuple[csr_matrix, csr_matrix]

    def __post_init__(self) -> None:
        coarse, intermediate, full = self.sizes
        if self.template_m is not None:
            check_array("MeshLevels.template_m", self.template_m, (full, 3), np.float32)
        check_array("MeshLevels.faces", self.faces, (None, 3), np.int32)
        check_array("MeshLevels.coarse_adjacency", self.coarse_adjacency, (coarse, coarse), np.bool_)
        shapes = [matrix.shape for matrix in self.upsample]
        if shapes != [(intermediate, coarse), (full, intermediate)]:
            raise ValueError(f"MeshLevels.upsample: got shapes {shapes}, expected {[(intermediate, coarse), (full, intermediate)]}")

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Number of vertices: coarse, intermediate, full."""
        return len(self.coarse_ids), len(self.intermediate_ids), self.upsample[1].shape[0]


def blank_levels(sizes: tuple[int, int, int], faces: np.ndarray) -> MeshLevels:
    """Levels of these sizes without content: for a body that must pose itself before its levels are fitted, or that is only counted."""
    coarse, intermediate, full = sizes
    ids = np.arange(intermediate)
    return MeshLevels(
        template_m=np.zeros((full, 3), np.float32),
        faces=faces.astype(np.int32),
        intermediate_faces=np.zeros((0, 3), np.int32),
        coarse_ids=ids[:coarse],
        intermediate_ids=ids,
        coarse_adjacency=np.eye(coarse, dtype=bool),
        upsample=(csr_matrix((intermediate, coarse), dtype=np.float32), csr_matrix((full, intermediate), dtype=np.float32)),
    )


def edges_of(faces: np.ndarray) -> np.ndarray:
    """(E, 2) unique undirected edges of (F, 3) triangles, the smaller index first."""
    pairs = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    return np.unique(np.sort(pairs, axis=1), axis=0)


def tube_faces(rows: int, columns: int, closed: bool = True) -> np.ndarray:
    """(M, 3) int32 triangles between rows of points that follow each other."""
    spoke = np.arange(columns if closed else columns - 1)
    after = (spoke + 1) % columns
    faces = []
    for k in range(rows - 1):
        this, below = k * columns, (k + 1) * columns
        faces += [np.stack([this + spoke, this + after, below + spoke], 1), np.stack([this + after, below + after, below + spoke], 1)]
    return np.concatenate(faces).astype(np.int32)
