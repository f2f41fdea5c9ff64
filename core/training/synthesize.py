"""Makes synthetic people with known truth: `python -m core.training.synthesize --out DIR --count 60000`.

Each shard holds some hundred JPEG crops and their truth (see core.training.shards). A shard depends on its seed alone, so
an interrupted run goes on where it stopped, and several workers or machines can share the work.
"""

import argparse
import logging
import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from core.joints import JOINT_NAMES

log = logging.getLogger(__name__)

SHARD_SIZE = 500
POSES_AT_ONCE = 48
VALIDATION_SEED = 1_000_000_000
"""Seeds from here on are for validation: no training shard ever uses them."""


@dataclass(frozen=True)
class SynthesisConfig:
    """What to make. Training and validation never share a seed; mocap_share of the poses come from motion capture, if given.

    full_mesh: keep all vertices; held_out: shapes, outfits and backgrounds that training never sees
    """

    out: Path
    count: int
    seed: int = 0
    backgrounds: tuple[Path, ...] = ()
    mocap: Path | None = None
    mocap_share: float = 0.4
    full_mesh: bool = False
    held_out: bool = False


def shard_path(config: SynthesisConfig, index: int) -> Path:
    """Where shard `index` lies."""
    return config.out / f"shard-{index:05d}.npz"


class Maker:
    """Everything one worker needs, read once."""

    def __init__(self, config: SynthesisConfig) -> None:
        import torch

        from core.bodies import load_body

        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        self.config, self.body, self.bank = config, load_body("anny"), None
        if config.mocap:
            from core.training.mocap import load_pose_bank

            self.bank = load_pose_bank(config.mocap, self.body, stride=4)

    def make(self, index: int) -> dict[str, np.ndarray]:
        """One shard's arrays, as core.training.shards describes them."""
        import torch

        from core.training.poses import FAMILIES, PoseSampler
        from core.training.render import Renderer
        from core.training.shapes import GROUP_NAMES, draw_shapes
        from core.training.views import FRAMING_NAMES, draw_views

        seed = self.config.seed + index
        random = np.random.default_rng(seed)
        sampler, renderer = PoseSampler(self.body, seed), Renderer(self.body, seed, self.config.backgrounds, self.config.held_out)
        count = min(SHARD_SIZE, self.config.count - index * SHARD_SIZE)
        rows: list[dict[str, np.ndarray]] = []
        while len(rows) < count:
            views = draw_views(random, POSES_AT_ONCE)
            rotmats, family = self._poses(sampler, random, views)
            shapes, group = draw_shapes(random, POSES_AT_ONCE, self.config.held_out)
            with torch.inference_mode():
                vertices = self.body.vertices(rotmats, torch.from_numpy(shapes))
                joints, pelvis = self.body.joints(vertices).numpy(), self.body.pelvis(vertices).numpy()
            keep = np.flatnonzero(_plausible(joints))[: count - len(rows)]
            meshes = vertices.numpy()
            for i in keep:
                crop = renderer.draw(meshes[i], joints[i], pelvis[i], FRAMING_NAMES[views.framing[i]])
                quality = [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(35, 96))]
                jpeg = cv2.imencode(".jpg", crop.image[..., ::-1], quality)[1]
                centred = meshes[i] - pelvis[i]
                row = {
                    "jpeg": jpeg, "intermediate_m": centred[self.body.levels.intermediate_ids].astype(np.float16),
                    "joints_m": joints[i] - pelvis[i], "joints_crop": crop.joints_crop,
                    "joint_visibility": crop.joint_visibility, "camera": crop.camera, "family": np.uint8(family[i]),
                    "group": group[i], "framing": np.uint8(views.framing[i]),
                }  # fmt: skip
                rows.append(row | ({"vertices_m": centred.astype(np.float16)} if self.config.full_mesh else {}))
        names = FAMILIES + (("mocap",) if self.bank is not None else ())
        lengths = [len(row["jpeg"]) for row in rows]
        arrays = {key: np.stack([row[key] for row in rows]) for key in rows[0] if key != "jpeg"}
        return arrays | {
            "jpeg": np.concatenate([row["jpeg"].ravel() for row in rows]), "jpeg_offsets": np.cumsum([0, *lengths], dtype=np.int64),
            "family_names": np.array(names), "group_names": np.array(GROUP_NAMES), "framing_names": np.array(FRAMING_NAMES),
            "body": np.array(self.body.name), "seed": np.int64(seed),
        }  # fmt: skip

    def _poses(self, sampler: object, random: np.random.Generator, views: object) -> tuple[object, np.ndarray]:
        """(rotmats, family); with a motion capture bank its share of the poses is seen from the same views."""
        import torch

        from core.training.poses import CLOSE_WEIGHTS, FAMILIES, FAMILY_WEIGHTS
        from core.training.rotations import without_heading
        from core.training.views import FRAMING_NAMES

        count = len(views.framing)
        close = views.framing == FRAMING_NAMES.index("webcam")
        everywhere, before_webcams = (random.choice(len(FAMILIES), count, p=shares) for shares in (FAMILY_WEIGHTS, CLOSE_WEIGHTS))
        batch = sampler.sample(count, np.where(close, before_webcams, everywhere), views.rotmats)
        if self.bank is None:
            return batch.rotmats, batch.family
        captured = np.flatnonzero(random.random(count) < self.config.mocap_share)
        rotmats, family = batch.rotmats.clone(), batch.family.copy()
        poses = self.bank.rotmats_of(self._pick(random, len(captured))).clone()
        turned = views.rotmats[captured] @ without_heading(poses[:, 0].numpy())
        poses[:, 0] = torch.from_numpy(turned.astype(np.float32))
        hands = [i for i, name in enumerate(self.body.bone_names) if name.startswith("finger")]
        poses[:, hands] = batch.rotmats[captured][:, hands]
        rotmats[captured] = poses
        family[captured] = len(FAMILIES)
        return rotmats, family

    def _pick(self, random: np.random.Generator, count: int) -> np.ndarray:
        """Frames of the bank: a clip first, with a weight that grows with the square root of its length, then a frame of it."""
        lengths = np.bincount(self.bank.clip_index)
        clips = random.choice(len(lengths), count, p=np.sqrt(lengths) / np.sqrt(lengths).sum())
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        return starts[clips] + (random.random(count) * lengths[clips]).astype(int)


def _plausible(joints_m: np.ndarray) -> np.ndarray:
    """(B, 14, 3) -> (B,) bool: no wrist or elbow inside the trunk, no leg inside the other."""
    at = {name: joints_m[:, index] for index, name in enumerate(JOINT_NAMES)}
    hip, neck = (at["R_Hip"] + at["L_Hip"]) / 2, at["Neck"]
    size = np.linalg.norm(neck - hip, axis=1)
    fine = np.ones(len(joints_m), bool)
    for name in ("R_Wrist", "L_Wrist", "R_Elbow", "L_Elbow"):
        trunk = neck - hip
        along = np.clip(((at[name] - hip) * trunk).sum(1) / (trunk**2).sum(1), -0.1, 1)
        fine &= np.linalg.norm(at[name] - hip - along[:, None] * trunk, axis=1) > 0.26 * size
    for name in ("Knee", "Ankle"):
        fine &= np.linalg.norm(at[f"R_{name}"] - at[f"L_{name}"], axis=1) > 0.17 * size
    return fine


def _work(config: SynthesisConfig, numbers: list[int]) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    maker = Maker(config)
    for index in numbers:
        path = shard_path(config, index)
        if path.exists():
            continue
        begin = time.perf_counter()
        arrays = maker.make(index)
        draft = path.with_suffix(".tmp")
        with draft.open("wb") as file:
            np.savez(file, **arrays)
        draft.rename(path)
        log.info("%s: %.1f ms a picture", path.name, (time.perf_counter() - begin) / len(arrays["camera"]) * 1e3)


def synthesize(config: SynthesisConfig, workers: int = 1) -> None:
    """Make all shards that are not there yet, with that many processes."""
    config.out.mkdir(parents=True, exist_ok=True)
    numbers = list(range(-(-config.count // SHARD_SIZE)))
    if workers == 1:
        _work(config, numbers)
        return
    context = multiprocessing.get_context("spawn")
    crew = [context.Process(target=_start, args=(config, numbers[i::workers])) for i in range(workers)]
    for process in crew:
        process.start()
    for process in crew:
        process.join()
    if any(process.exitcode for process in crew):
        raise RuntimeError(f"a synthesis worker ended with {[process.exitcode for process in crew]}")


def _start(config: SynthesisConfig, numbers: list[int]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    _work(config, numbers)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m core.training.synthesize", description="Make synthetic people with known truth.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards; what is there already is kept")
    parser.add_argument("--count", type=int, required=True, help="pictures to make")
    parser.add_argument("--seed", type=int, default=0, help="first shard's seed")
    parser.add_argument(
        "--validation",
        action="store_true",
        help="use seeds, shapes, outfits and backgrounds that training never uses, and keep the full meshes",
    )
    parser.add_argument("--backgrounds", type=Path, nargs="+", default=[], help="folders of pictures and .hdr light probes without people")
    parser.add_argument("--mocap", type=Path, help="folder of motion capture (CMU npz, DeepMimic txt, BVH)")
    parser.add_argument("--mocap-share", type=float, default=SynthesisConfig.mocap_share, help="share of captured poses, 0..1")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    flags = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = SynthesisConfig(
        out=flags.out, count=flags.count, seed=flags.seed + (VALIDATION_SEED if flags.validation else 0),
        backgrounds=tuple(flags.backgrounds), mocap=flags.mocap, mocap_share=flags.mocap_share, full_mesh=flags.validation,
        held_out=flags.validation,
    )  # fmt: skip
    synthesize(config, flags.workers)


if __name__ == "__main__":
    main()
