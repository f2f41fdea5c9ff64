"""A training run on pictures, from a config: its parts put together."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from core.errors import InputError
from core.training.config import RunFolder
from core.training.crew import Crew
from core.training.parts import Parts, build_parts
from core.training.picture_validation import PictureValidation
from core.training.pictures import PictureSource
from core.training.run_config import RunConfig
from core.training.samples import SampleDataset, open_dataset
from core.training.sources import read_sources
from core.training.trainer import Origin, Trainer, read_state
from core.training.truth import TargetMaker

log = logging.getLogger(__name__)

RANDOM = "random"
UNRECORDED = "not recorded"
"""Origin of a run that goes on from a state of old."""
LICENCES = {
    "smpl": "code MIT; the body SMPL is for non-commercial research, and so are the weights; so may be the training data",
    "anny": "code MIT; body Anny CC0 / Apache-2.0; the licence of the training data was not stated",
}

SCALED = ("shards", "synthetic", "tsv")
"""Kinds of data sets whose crops are as wide as is asked for."""


def first_parts(config: RunConfig, resumed: bool = False) -> Parts:
    """The network with the first weights that the config asks for. Raises InputError.

    resumed: a state will fill it and say where its first weights came from, so no file is read for them
    """
    model = config.model
    mesh_dir = Path(model.mesh_dir) if model.mesh_dir else None
    if resumed:
        return replace(build_parts(model.config(), None, None, mesh_dir), origin=UNRECORDED)
    trunk = None if model.backbone in ("", RANDOM) else model.backbone
    return build_parts(model.config(), trunk, model.init or None, mesh_dir)


def open_people(options: dict[str, Any], parts: Parts) -> SampleDataset:
    """The data set that a part of a config describes; in crops as wide as the network's, where it does not say how wide."""
    scale = {"crop_scale": parts.config.crop_scale} if options["kind"] in SCALED else {}
    return open_dataset(options["kind"], parts.body, scale | {name: value for name, value in options.items() if name != "kind"})


def open_picture_run(config: RunConfig, crew: Crew) -> tuple[Trainer, PictureSource, PictureValidation | None]:
    """Everything checked and loaded, an earlier state of the run taken up. Raises InputError."""
    torch.manual_seed(config.training.seed)
    folder = RunFolder(Path(config.out))
    resumed = folder.state.exists()
    parts = first_parts(config, resumed)
    people = open_people(config.train, parts)
    training = config.training.resolved(crew.size, len(people))
    if len(people) < training.batch:
        raise InputError(f"batch: got {training.batch}, but the data set holds only {len(people)} people; lower the batch")
    data = {"train": config.train, "validation": config.validation, "pictures": len(people)}
    if config.train["kind"] == "shards":
        data["sources"] = read_sources(Path(config.train["path"]))
    licence = config.licence or LICENCES.get(parts.body.name, "not stated")
    trainer = Trainer(parts, training, config.loss, folder, Origin(data, licence, config.to_dict()), crew, config.regressor)
    trainer.samples_per_epoch = len(people) // training.batch * training.batch
    if resumed:
        tell_changes(read_state(folder.state).get("run"), config)
        trainer.load_state()
        log.info("going on from %d samples, epoch %d", trainer.num_samples, trainer.cursor.epoch)
    maker = TargetMaker(parts.body, parts.model.backbone, trainer.device)
    source = PictureSource(people, config.augmentation, maker, training.seed, config.num_workers)
    return trainer, source, open_validation(config, parts, maker, training.validate_limit)


def open_validation(config: RunConfig, parts: Parts, maker: TargetMaker, limit: int) -> PictureValidation | None:
    """What validates, if the config names any people for it."""
    if not config.validation:
        log.warning("no data.validation in the config: the run keeps its last weights, but cannot tell which are best")
        return None
    people = open_people(config.validation, parts)
    batch = config.training.batch_per_process or config.training.batch
    return PictureValidation(people, limit, maker, max(batch // config.training.accumulate, 1), config.num_workers)


def tell_changes(before: dict[str, Any] | None, config: RunConfig) -> None:
    """Say what a run that is taken up again now does differently."""
    now = config.to_dict()
    for section, settings in now.items():
        old = (before or {}).get(section)
        if isinstance(settings, dict) and isinstance(old, dict):
            for name, value in settings.items():
                if name in old and old[name] != value:
                    log.warning("going on with another setting: %s.%s was %s, is %s", section, name, old[name], value)
