"""A distribution of human poses fitted to motion capture, in one small file that ships: training needs no motion capture then.

`python -m core.training.fitted_poses MOCAP_FOLDER` makes the file anew. It is a mixture of Gaussians over the rotations of
core.training.mocap.SLOTS: each component has mean rotations, and a few directions in which their tangent vectors vary together.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.bodies.anny import AnnyBody
from core.bodies.storage import read_tensors
from core.errors import InputError, exit_code
from core.rotations import from_rotvecs, without_heading
from core.training.mocap import SLOTS, PoseBank, load_pose_bank, spread_over_bones

DATA_FILE = Path(__file__).parents[2] / "checkpoints" / "anny_poses.safetensors"
FORMAT = "fastmetro-live/anny-poses/1"
RANK = 8
"""Directions kept of each component."""
FRAMES_PER_COMPONENT = 70
STILL_RAD = 0.06
"""Deviation of single poses, which say nothing of their own: 3.5 degrees a joint."""
ORIGIN = (
    "fitted by core.training.fitted_poses to CMU motion capture (mocap.cs.cmu.edu, created with funding from NSF EIA-0196217), "
    "DeepMimic's clips (Peng et al. 2018) and MakeHuman's poses"
)
LICENCE = "CMU: free for all uses; DeepMimic: MIT; MakeHuman poses: CC0; commercial use allowed"


@dataclass(frozen=True)
class FittedPoses:
    """A mixture. K components, S = len(SLOTS).

    weights: (K,) sums to 1; means: (K, S, 3, 3); factors: (K, S * 3, RANK) and spread: (K, S * 3) deviations, radians
    names: (K,) the kind of motion each was fitted to, e.g. "walking"
    """

    weights: np.ndarray
    means: np.ndarray
    factors: np.ndarray
    spread: np.ndarray
    names: tuple[str, ...]
    bone_names: tuple[str, ...]

    def sample(self, random: np.random.Generator, count: int) -> Tensor:
        """(count, J, 3, 3) float32 rotations of each bone relative to its parent; the root faces -z, tilted as recorded."""
        chosen = random.choice(len(self.weights), count, p=self.weights)
        tangent = np.einsum("bdr,br->bd", self.factors[chosen], np.clip(random.standard_normal((count, RANK)), -1.8, 1.8))
        tangent += self.spread[chosen] * np.clip(random.standard_normal(tangent.shape), -1.8, 1.8)
        turns = from_rotvecs(tangent.reshape(count, len(SLOTS), 3))
        slots = self.means[chosen] @ turns
        flip = random.random(count) < 0.5
        slots[flip] = mirrored(slots[flip])
        return spread_over_bones(slots.astype(np.float32), self.bone_names)


def mirrored(slots: np.ndarray) -> np.ndarray:
    """(B, S, 3, 3) -> the poses seen in a mirror: left and right change places."""
    partner = [SLOTS.index(name[:-1] + {"L": "R", "R": "L"}[name[-1]] if name[-2:] in (".L", ".R") else name) for name in SLOTS]
    sign = np.array([-1.0, 1, 1])
    return slots[:, partner] * sign[:, None] * sign


def fit(bank: PoseBank, random: np.random.Generator) -> FittedPoses:
    """One mixture for each kind of motion; its weight grows with the square root of its frames."""
    slots = bank.slots.astype(np.float64)
    slots[:, 0] = without_heading(slots[:, 0])
    kinds = np.array([kind_of(name) for name in bank.names])[bank.clip_index]
    parts: list[tuple[float, np.ndarray, np.ndarray, np.ndarray, str]] = []
    for kind in np.unique(kinds):
        own = slots[kinds == kind]
        clusters = _clusters(own, random)
        total = np.sqrt(len(own))
        shares = np.sqrt([len(rows) for rows in clusters])
        parts += [(total * share / shares.sum(), *_gaussian(own[rows]), str(kind)) for share, rows in zip(shares, clusters, strict=True)]
    weights, means, factors, spread, names = zip(*parts, strict=True)
    return FittedPoses(np.array(weights) / sum(weights), np.stack(means), np.stack(factors), np.stack(spread), names, bank.bone_names)


def kind_of(name: str) -> str:
    """Clip name -> kind of motion: "cmu/train/walking_extra/walking_3" -> "walking", "deepmimic/roll" -> "roll"."""
    source, *rest = name.split("/")
    return {"cmu": lambda: rest[-1].rsplit("_", 1)[0].split("_")[0], "makehuman": lambda: "poses"}.get(source, lambda: rest[-1])()


def _clusters(slots: np.ndarray, random: np.random.Generator) -> list[np.ndarray]:
    """Rows of poses that are alike; every row in one of them."""
    from scipy.cluster.vq import kmeans2

    count = max(1, len(slots) // FRAMES_PER_COMPONENT)
    if len(slots) < FRAMES_PER_COMPONENT:  # single poses: each its own
        return [np.array([row]) for row in range(len(slots))] if len(slots) <= 20 else [np.arange(len(slots))]
    features = slots[..., :2].reshape(len(slots), -1)
    _, label = kmeans2(features, count, minit="++", seed=random, iter=30)
    return [rows for rows in (np.flatnonzero(label == k) for k in range(count)) if len(rows)]


def _gaussian(slots: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean rotations (S, 3, 3), factors (S * 3, RANK), and what these leave (S * 3,)."""
    from scipy.spatial.transform import Rotation

    means = np.stack([Rotation.from_matrix(slots[:, k]).mean().as_matrix() for k in range(slots.shape[1])])
    size = 3 * slots.shape[1]
    if len(slots) < 3:
        return means, np.zeros((size, RANK)), np.full(size, STILL_RAD)
    turns = means.swapaxes(-1, -2) @ slots
    tangent = Rotation.from_matrix(turns.reshape(-1, 3, 3)).as_rotvec().reshape(len(slots), size)
    tangent -= tangent.mean(0)
    _, values, vh = np.linalg.svd(tangent / np.sqrt(len(slots)), full_matrices=False)
    kept = min(RANK, len(values))
    factors = np.zeros((size, RANK))
    factors[:, :kept] = (vh[:kept] * values[:kept, None]).T
    return means, factors, np.sqrt(np.maximum((tangent**2).mean(0) - (factors**2).sum(1), 0) + 0.01**2)


def save(poses: FittedPoses, path: Path) -> None:
    """Write the file; rotations as rotation vectors, everything in half precision."""
    from safetensors.numpy import save_file
    from scipy.spatial.transform import Rotation

    rotvecs = Rotation.from_matrix(poses.means.reshape(-1, 3, 3)).as_rotvec().reshape(*poses.means.shape[:2], 3)
    tensors = {"weights": poses.weights.astype(np.float32), "means": rotvecs.astype(np.float16),
               "factors": poses.factors.astype(np.float16), "spread": poses.spread.astype(np.float16)}  # fmt: skip
    metadata = {"format": FORMAT, "origin": ORIGIN, "license": LICENCE, "slots": " ".join(SLOTS), "names": " ".join(poses.names)}
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path, metadata)


def load(body: AnnyBody, path: Path = DATA_FILE) -> FittedPoses:
    """Read the file; raises InputError when it is missing, damaged or of another skeleton."""
    stored, metadata = read_tensors(path, FORMAT, "pose distribution")
    if metadata.get("slots") != " ".join(SLOTS):
        raise InputError(f"pose distribution {path}: got slots {metadata.get('slots')!r}, expected our {len(SLOTS)}")
    tensors = {name: tensor.numpy().astype(np.float64) for name, tensor in stored.items()}
    means = from_rotvecs(tensors["means"].reshape(*tensors["means"].shape[:2], 3))
    weights = tensors["weights"] / tensors["weights"].sum()
    return FittedPoses(weights, means, tensors["factors"], tensors["spread"], tuple(metadata["names"].split()), body.bone_names)


def main(arguments: Sequence[str]) -> None:
    """Command line."""
    from core.bodies import load_body

    parser = argparse.ArgumentParser(prog="python -m core.training.fitted_poses", description="Fit the distribution of poses that ships.")
    parser.add_argument("mocap", type=Path, help="folder of motion capture (CMU npz, DeepMimic txt, MakeHuman BVH)")
    parser.add_argument("--out", type=Path, default=DATA_FILE, help=f"file to write (default {DATA_FILE.name} in checkpoints)")
    flags = parser.parse_args(arguments)
    torch.set_num_threads(1)
    poses = fit(load_pose_bank(flags.mocap, load_body("anny"), stride=4), np.random.default_rng(0))
    save(poses, flags.out)
    print(f"{flags.out}: {len(poses.weights)} components, {flags.out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(sys.argv[1:])))
