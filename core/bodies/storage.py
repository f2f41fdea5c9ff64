"""Bodies' mesh levels and sparse matrices as named tensors, for safetensors files."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.errors import InputError
from core.mesh import MeshLevels
from core.sparse import csr_matrix
from core.tensor_files import safe_open

SPARSE_PARTS = ("data", "indices", "indptr")


def pack_sparse(name: str, matrix: csr_matrix) -> dict[str, Tensor]:
    """The three arrays of a sparse matrix; its shape follows from what it serves."""
    return {f"{name}.{part}": torch.from_numpy(getattr(matrix, part)) for part in SPARSE_PARTS}


def unpack_sparse(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, int]) -> csr_matrix:
    """The inverse of pack_sparse; KeyError when it is not there, ValueError when it is not sound."""
    matrix = csr_matrix(tuple(tensors[f"{name}.{part}"].numpy() for part in SPARSE_PARTS), shape=shape)
    matrix.check_format(full_check=True)
    return matrix


def pack_levels(levels: MeshLevels) -> dict[str, Tensor]:
    """Everything in `levels`; face indices as 16 bits, as no body has more than 32,767 vertices.

    The ids are copied: coarse ones are often a view of the intermediate ones, and safetensors refuses shared memory.
    """
    tensors = {
        "faces": torch.from_numpy(levels.faces.astype(np.int16)),
        "intermediate_faces": torch.from_numpy(levels.intermediate_faces.astype(np.int16)),
        "intermediate_ids": torch.from_numpy(np.array(levels.intermediate_ids, np.int64)),
        "coarse_ids": torch.from_numpy(np.array(levels.coarse_ids, np.int64)),
        "coarse_adjacency": torch.from_numpy(levels.coarse_adjacency.astype(np.uint8)),
    }
    if levels.template_m is not None:
        tensors["template_m"] = torch.from_numpy(levels.template_m)
    return tensors | pack_sparse("upsample_intermediate", levels.upsample[0]) | pack_sparse("upsample_full", levels.upsample[1])


def unpack_levels(tensors: Mapping[str, Tensor]) -> MeshLevels:
    """The inverse of pack_levels. Without `coarse_ids` the coarse vertices are the first of the intermediate ones."""
    intermediate_ids = tensors["intermediate_ids"].numpy()
    adjacency = tensors["coarse_adjacency"].numpy().astype(np.bool_)
    num_coarse, num_intermediate = len(adjacency), len(intermediate_ids)
    num_full = len(tensors["upsample_full.indptr"]) - 1
    template = tensors.get("template_m")
    return MeshLevels(
        template_m=None if template is None else template.numpy(),
        faces=tensors["faces"].numpy().astype(np.int32),
        intermediate_faces=tensors["intermediate_faces"].numpy().astype(np.int32),
        coarse_ids=tensors["coarse_ids"].numpy() if "coarse_ids" in tensors else intermediate_ids[:num_coarse],
        intermediate_ids=intermediate_ids,
        coarse_adjacency=adjacency,
        upsample=(
            unpack_sparse(tensors, "upsample_intermediate", (num_intermediate, num_coarse)),
            unpack_sparse(tensors, "upsample_full", (num_full, num_intermediate)),
        ),
    )


def read_tensors(path: Path, wanted_format: str, what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file that ships with us. Raises InputError when it is missing, damaged or of another format."""
    restore = f"restore it with `git checkout {path.parent.name}/{path.name}`"
    if not path.is_file():
        raise InputError(f"{what} {path}: not found; {restore}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except Exception as error:  # safetensors raises its own type for every kind of damage
        raise InputError(f"{what} {path}: damaged ({error}); {restore}") from error
    if metadata.get("format") != wanted_format:
        raise InputError(f"{what} {path}: format {metadata.get('format')!r}, expected {wanted_format!r}")
    return tensors, metadata
