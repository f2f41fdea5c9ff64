"""Makes synthetic people with known truth: `python -m core.training.synthesize --out DIR --count 60000`.

Each shard holds some hundred JPEG crops and their truth (see core.training.shards). Person i of a seed is the same in a shard as
in the stream of core.training.people_stream; an interrupted run goes on where it stopped, and several workers or machines can
share the work, each with its own seed.
"""

import argparse
import json
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from core.crop import CROP_SCALE
from core.errors import InputError, exit_code
from core.training.people import People
from core.training.people_config import VALIDATION_SEED, PeopleConfig
from core.training.pose_sources import FITTED
from core.training.posing import FAMILY_NAMES
from core.training.shapes import GROUP_NAMES
from core.training.shards import SHARD_PATTERN
from core.training.sources import SOURCES, Named, people_sources, write_sources
from core.training.views import FRAMING_NAMES

log = logging.getLogger(__name__)

SHARD_SIZE = 500
SIGNATURE = "made_of.json"
"""Beside the shards: seed, backgrounds and poses that they were made with."""


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
            "crop_scale": np.float64(self.config.people.crop_scale),
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


def synthesize(config: SynthesisConfig, workers: int = 1, sources: Sequence[Named] = ()) -> None:
    """Make all shards that are not there yet, with that many processes. Raises InputError.

    sources: what the people are made of, noted beside the shards for the model card
    """
    if config.count < 1 or workers < 1:
        raise InputError(f"synthesis: got {config.count} pictures and {workers} workers, expected 1 or more of both")
    config.people.check()
    _sign(config)
    if sources:
        write_sources(config.out, sources)
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
        raise InputError(f"synthesis: workers ended with {[process.exitcode for process in crew]}; see their messages above")


def _sign(config: SynthesisConfig) -> None:
    """Write beside the shards what they are made of. Raises InputError when shards of something else lie there already."""
    people = config.people
    wanted = {
        "seed": people.seed, "held_out": people.held_out, "backgrounds": [folder.name for folder in people.backgrounds],
        "poses": [Path(name).name for name in people.poses], "recorded_share": people.recorded_share,
        "levelled_share": people.levelled_share, "crop_scale": people.crop_scale,
    }  # fmt: skip
    path, elsewhere = config.out / SIGNATURE, f"keep on with the same settings, or give another --out than {config.out}"
    config.out.mkdir(parents=True, exist_ok=True)
    if not path.is_file() and any(config.out.glob(SHARD_PATTERN)):
        raise InputError(f"synthesis: the shards there are of an older kind, with no {SIGNATURE} beside them; {elsewhere}")
    if not path.is_file():
        path.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
        return
    try:
        found = {"crop_scale": CROP_SCALE, **json.loads(path.read_text(encoding="utf-8"))}
    except ValueError as error:
        raise InputError(f"synthesis: {path} is no JSON ({error}); {elsewhere}") from error
    other = [f"{key} {found.get(key)} instead of {value}" for key, value in wanted.items() if found.get(key) != value]
    if other:
        raise InputError(f"synthesis: the shards there were made with {', '.join(other)}; {elsewhere}")


def _start(config: SynthesisConfig, numbers: list[int]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    sys.exit(exit_code(lambda: _work(config, numbers)))


def main(arguments: list[str] | None = None) -> int:
    """Command line entry point; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m core.training.synthesize", description="Make synthetic people with known truth.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards; what is there already is kept")
    parser.add_argument("--count", type=int, required=True, help="pictures to make")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other people")
    parser.add_argument("--validation", action="store_true", help="people as training never sees them: seeds, shapes, outfits, backgrounds")
    parser.add_argument("--backgrounds", type=Path, nargs="+", default=[], help="folders of pictures and .hdr light probes without people")
    parser.add_argument(
        "--poses", nargs="*", default=[FITTED], help=f"recorded poses: {FITTED!r} (ours), files and folders of motion capture"
    )
    parser.add_argument("--mocap", type=Path, help="a folder of motion capture, in place of --poses")
    parser.add_argument(
        "--recorded-share", "--mocap-share", type=float, default=PeopleConfig.recorded_share, help="share of recorded poses, 0..1"
    )
    parser.add_argument(
        "--levelled-share", type=float, default=PeopleConfig.levelled_share,
        help="share of people who are turned in the picture until they stand upright, 0..1; 0 for networks that see crops as they are",
    )  # fmt: skip
    parser.add_argument(
        "--crop-scale", type=float, default=CROP_SCALE,
        help=f"side of the crops over that of the person's box (default {CROP_SCALE}); networks with smaller ones are shown the middle",
    )  # fmt: skip
    about_sources = f"what --poses and --backgrounds are, for the model card: {', '.join(SOURCES)}"
    parser.add_argument("--sources", nargs="+", default=[], choices=tuple(SOURCES), metavar="NAME", help=about_sources)
    parser.add_argument("--workers", type=int, default=1, help="processes")
    flags = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    people = PeopleConfig(
        seed=flags.seed + (VALIDATION_SEED if flags.validation else 0), backgrounds=tuple(flags.backgrounds),
        poses=(str(flags.mocap),) if flags.mocap else tuple(flags.poses), recorded_share=flags.recorded_share, held_out=flags.validation,
        levelled_share=flags.levelled_share, crop_scale=flags.crop_scale,
    )  # fmt: skip
    config = SynthesisConfig(flags.out, flags.count, people, full_mesh=flags.validation)
    return exit_code(lambda: synthesize(config, flags.workers, people_sources(people.poses, people.backgrounds, flags.sources)))


if __name__ == "__main__":
    sys.exit(main())
