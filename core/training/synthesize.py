"""Makes synthetic people with known truth: `python -m core.training.synthesize --out DIR --count 60000`.

Each shard holds some hundred JPEG crops and their truth (see core.training.shards). Person i of a seed is the same in a shard as
in the stream of core.training.people_stream; an interrupted run goes on where it stopped, and several workers or machines can
share the work, each with its own seed.
"""

import argparse
import logging
import multiprocessing
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from core.training.people import FAMILY_NAMES, VALIDATION_SEED, People, PeopleConfig
from core.training.pose_sources import FITTED
from core.training.shapes import GROUP_NAMES
from core.training.views import FRAMING_NAMES

log = logging.getLogger(__name__)

SHARD_SIZE = 500


@dataclass(frozen=True)
class SynthesisConfig:
    """What to make. full_mesh: keep all vertices."""

    out: Path
    count: int
    people: PeopleConfig = field(default_factory=PeopleConfig)
    full_mesh: bool = False


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
        self.config, self.body = config, load_body("anny")
        self.people = People(self.body, config.people)

    def make(self, index: int) -> dict[str, np.ndarray]:
        """One shard's arrays, as core.training.shards describes them."""
        numbers = range(index * SHARD_SIZE, min((index + 1) * SHARD_SIZE, self.config.count))
        rows, jpegs = [], []
        for number in numbers:
            person = self.people.make(number)
            jpegs.append(person.jpeg)
            row = {
                "intermediate_m": person.vertices_m[self.body.levels.intermediate_ids].astype(np.float16),
                "joints_m": person.joints_m, "joints_crop": person.joints_crop, "joint_visibility": person.joint_visibility,
                "camera": person.camera, "family": np.uint8(person.family), "group": np.uint8(person.group),
                "framing": np.uint8(person.framing),
            }  # fmt: skip
            rows.append(row | ({"vertices_m": person.vertices_m.astype(np.float16)} if self.config.full_mesh else {}))
        arrays = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
        return arrays | {
            "jpeg": np.concatenate(jpegs), "jpeg_offsets": np.cumsum([0, *map(len, jpegs)], dtype=np.int64),
            "family_names": np.array(FAMILY_NAMES), "group_names": np.array(GROUP_NAMES), "framing_names": np.array(FRAMING_NAMES),
            "body": np.array(self.body.name), "seed": np.int64(self.config.people.seed),
        }  # fmt: skip


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
    parser.add_argument("--seed", type=int, default=0, help=f"another seed gives other people; below {VALIDATION_SEED}")
    parser.add_argument("--validation", action="store_true", help="people as training never sees them: seeds, shapes, outfits, backgrounds")
    parser.add_argument("--backgrounds", type=Path, nargs="+", default=[], help="folders of pictures and .hdr light probes without people")
    parser.add_argument(
        "--poses", nargs="*", default=[FITTED], help=f"recorded poses: {FITTED!r} (ours), files and folders of motion capture"
    )
    parser.add_argument("--mocap", type=Path, help="a folder of motion capture, in place of --poses")
    parser.add_argument(
        "--recorded-share", "--mocap-share", type=float, default=PeopleConfig.recorded_share, help="share of recorded poses, 0..1"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes")
    flags = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    people = PeopleConfig(
        seed=flags.seed + (VALIDATION_SEED if flags.validation else 0), backgrounds=tuple(flags.backgrounds),
        poses=(str(flags.mocap),) if flags.mocap else tuple(flags.poses), recorded_share=flags.recorded_share, held_out=flags.validation,
    )  # fmt: skip
    config = SynthesisConfig(flags.out, flags.count, people, full_mesh=flags.validation)
    synthesize(config, flags.workers)


if __name__ == "__main__":
    main()
