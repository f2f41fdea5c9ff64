"""Train a FastMETRO: from a config file, or by flags on cached features of synthetic people.

python -m core.training.train CONFIG [--out RUN] [--set training.lr=2e-5 ...] [--dry-run]
python -m core.training.train --shards DIR --validation DIR --variant NAME --trunk FILE --out RUN

CONFIG is a file, a name in core/training/configs (paper-s-r50, 3dpw-finetune, ...), or a state or checkpoint of an earlier run.
Writes RUN/log.jsonl, RUN/state.pt (everything needed to go on), RUN/best.safetensors and RUN/last.safetensors. Started again
with the same RUN it goes on where it was, batch for batch; Ctrl-C, SIGTERM and the terminal's end save the state first.
On several GPUs or machines: `torchrun --nproc-per-node=GPUS -m core.training.train CONFIG`. On a CPU
`torchrun --nproc-per-node=CORES -m core.training.train ... --threads 1` is nearly twice as quick as one process.
"""

import argparse
import logging
import sys
from pathlib import Path

import numpy as np
import torch

from core.errors import InputError, exit_code
from core.stopping import stop_on_signal
from core.training.batches import FeatureNoise, FeatureSource, People, finished_names
from core.training.config import RunFiles, RunFolder, TrainConfig, build_parser, check_options
from core.training.crew import Crew
from core.training.features import open_cache
from core.training.loop import Source, run
from core.training.losses import LossWeights
from core.training.parts import build_for_training
from core.training.picture_run import LICENCES, first_parts, open_picture_run, tell_changes
from core.training.run_config import RunConfig, read_run_config
from core.training.settings import from_flags
from core.training.sources import read_sources
from core.training.trainer import Origin, Scorer, Trainer, read_state
from core.training.validation import Validation

log = logging.getLogger(__name__)


def open_run(
    files: RunFiles, config: TrainConfig, weights: LossWeights, crew: Crew | None = None, asked: RunConfig | None = None
) -> tuple[Trainer, FeatureSource, Validation]:
    """A run on cached features: everything checked and loaded, an earlier state of it taken up. Raises InputError.

    asked: the config file that asks for it, if one does; the network is as it says then
    """
    torch.manual_seed(config.seed)
    crew = crew or Crew()
    parts = first_parts(asked) if asked else build_for_training(files.variant, files.trunk, files.init)
    what = (parts.backbone_name, parts.model.backbone, parts.config.crop_scale)
    cache, validation_cache = open_cache(files.shards, *what), open_cache(files.validation, *what)
    validation = Validation(People(files.validation, validation_cache), config.validate_limit, files.coco)
    state = files.folder.state
    names = read_state(state)["cursor"]["shard_names"] if state.exists() else []
    people = People(files.shards, cache, list(names) or crew.gathered(finished_names(files.shards, cache))[0])
    config = config.resolved(crew.size, len(people))
    licence = (asked and asked.licence) or LICENCES.get(parts.body.name, "not stated")
    origin = Origin({"validation": files.validation.name}, licence, asked and asked.to_dict())
    trainer = Trainer(parts, config, weights, files.folder, origin, crew)
    if state.exists():
        if asked:
            tell_changes(read_state(state).get("run"), asked)
        trainer.load_state()
        log.info("going on from %d samples, epoch %d", trainer.num_samples, trainer.cursor.epoch)
    for group in (people, validation.people):
        if group.body != parts.config.body:
            raise InputError(f"shards: those in {group.folder} show the body {group.body!r}, but {files.variant} has {parts.config.body!r}")
    trainer.samples_per_epoch = max(len(people) // config.batch, 1) * config.batch
    trainer.origin.data.update(
        people=f"synthetic, {parts.config.body}", pictures=len(people), pose_families=list(people.family_names),
        sources=read_sources(files.shards),
    )  # fmt: skip
    source = FeatureSource(people, FeatureNoise(config.feature_noise, config.feature_drop), config.seed, trainer.dtype)
    return trainer, source, validation


def dry_run(trainer: Trainer, source: FeatureSource, validation: Validation) -> None:
    """Two steps and one validation on cached features, nothing written."""
    import time

    people = source.people
    batch = people.gather(np.arange(min(trainer.config.batch, len(people))), trainer.dtype)
    terms = trainer.step(batch)
    started_s = time.monotonic()
    trainer.step(batch)
    trainer.settle()
    took_s = time.monotonic() - started_s
    synthetic, keypoints = validation.scores(trainer.objective)
    print(f"{len(people)} people to train on, {len(validation.chosen)} to validate with; {trainer.dtype}; step {took_s * 1e3:.0f} ms")
    print("loss " + "  ".join(f"{name} {float(value):.4f}" for name, value in terms.items()))
    print(f"before training: {synthetic}" + (f"  {keypoints}" if keypoints else ""))


def train(trainer: Trainer, source: Source, validation: Scorer | None, tensorboard: bool = False) -> None:
    """Run to the end or to a signal, and say how it went."""
    trainer.folder.run.mkdir(parents=True, exist_ok=True)
    with stop_on_signal() as stop:
        if not trainer.finished:
            run(trainer, source, validation, stop, tensorboard)
    trainer.crew.close()
    if trainer.crew.leads:
        best = "no validation yet" if trainer.best is None else f"best MPJPE + PA-MPJPE {trainer.best:.1f} mm in {trainer.folder.best}"
        print(f"{trainer.num_samples} samples seen; {best}")
    if trainer.crew.leads and trainer.finished:
        write_run_card(trainer.folder)


def write_run_card(folder: RunFolder) -> None:
    """RUN/card: what the run can say about its model by itself. A card that cannot be written does not make a run fail."""
    from core.training.card import write_card

    try:
        print(f"model card: {write_card(folder.run, folder.run / 'card')}")
    except (InputError, OSError) as error:
        log.warning("no model card: %s", error)


def from_options(options: argparse.Namespace) -> None:
    """What the flags without a config file ask for."""
    config = from_flags(options, TrainConfig)
    weights = from_flags(options, LossWeights, "weight-")
    files = RunFiles(options.shards, options.validation, options.out, options.variant, options.trunk, options.init, options.coco)
    use_threads(config)
    trainer, source, validation = open_run(files, config, weights, Crew())
    if options.dry_run:
        dry_run(trainer, source, validation)
    else:
        train(trainer, source, validation)


def from_config(options: argparse.Namespace) -> None:
    """What a config file asks for."""
    from core.training.checks import check_everything

    config = read_run_config(options.config, [*options.set, *([f"out={options.out}"] if options.out else [])])
    if not config.out:
        raise InputError(f"config {options.config}: names no folder for the run; give --out, or out: in the file")
    use_threads(config.training)
    if config.uses_features:
        files = RunFiles(
            Path(config.train["path"]), Path(config.validation["path"]), Path(config.out), config.model.variant,
            coco=Path(config.coco) if config.coco else None,
        )  # fmt: skip
        trainer, source, validation = open_run(files, config.training, config.loss, Crew(), config)
        if options.dry_run:
            dry_run(trainer, source, validation)
        else:
            train(trainer, source, validation, tensorboard=True)
        return
    if options.dry_run:
        check_everything(config)
    else:
        train(*open_picture_run(config, Crew()), tensorboard=True)


def use_threads(config: TrainConfig) -> None:
    """Set what PyTorch has for the whole process."""
    torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)
    if config.deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)


def main(arguments: list[str] | None = None) -> int:
    """Command line entry point; the exit code."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    check_options(parser, options)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    return exit_code(lambda: from_options(options) if options.config is None else from_config(options))


if __name__ == "__main__":
    sys.exit(main())
