"""Trains on people made on the GPU, in calls of a few minutes, on the common trainer.

Two things outlive a call. STATE/state.pt is everything: where that folder is still there, the next call goes on as if there had been no
break. OUT holds the averaged weights in half precision, in pieces that fit through a narrow door: on a fresh machine the run goes on
from them and from where it was in the data, only the optimiser starts anew.
"""

import json
import logging
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from core.bodies.anny import AnnyBody
from core.checkpoint import load_checkpoint, save_checkpoint
from core.errors import InputError
from core.stopping import StopRequest, stop_on_signal
from core.training.averages import EVERY_STEPS
from core.training.batches import Cursor
from core.training.config import RunFolder
from core.training.crew import Crew
from core.training.gpu.people import BatchPeople
from core.training.gpu.pieces import split
from core.training.gpu.plan import PlanConfig, Plans
from core.training.gpu.source import Maker, RenderedSource, RenderedValidation
from core.training.loop import run as run_loop
from core.training.people_config import VALIDATION_SEED, several
from core.training.run_config import RunConfig, run_config
from core.training.trainer import Origin, Scorer, Trainer

log = logging.getLogger(__name__)

KIND = "rendered"
CHECKPOINT = "checkpoint.safetensors"
DEFAULTS: dict[str, Any] = {
    "model": {"variant": "fastmetro-s-blazepose-heavy+movenet-thunder", "backbone": "", "init": ""},
    "data": {
        "train": {"kind": KIND, "seed": 1, "epoch": 256_000, "scenes": 64, "recorded_share": 0.35, "backgrounds": []},
        "validation": {"kind": KIND, "people": 1536, "scenes": 64, "recorded_share": 0.35, "backgrounds": []},
        "workers": 14,
    },
    "training": {
        "samples": 4_000_000, "batch": 256, "lr": 3e-4, "tail": "last", "tail_lr_scale": 0.3, "beta2": 0.98, "warmup_samples": 50_000,
        "average_decay": 0.999, "precision": "auto", "validate_samples": 128_000, "log_samples": 12_800, "state_minutes": 2.0,
        "threads": 2,
    },
    "licence": "MIT; backbone weights Apache-2.0 (MediaPipe, Google); trained on synthetic people only",
}  # fmt: skip
"""The default's two trunks under transformers of the paper's widths. Of the trunks only the last blocks learn: what more of them learns
from renders, it forgets about photographs (checkpoints/README.md). What a recipe.json says stands above these settings.
"""


@dataclass(frozen=True)
class Call:
    """One call. minutes: until it ends; out: for pieces and log; state: for state.pt; start: a joined checkpoint to go on from."""

    minutes: float
    out: Path
    state: Path
    start: Path | None = None


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Settings of `above` over those of `below`, section by section."""
    result = dict(below)
    for name, value in above.items():
        result[name] = merged(result[name], value) if isinstance(value, dict) and isinstance(result.get(name), dict) else value
    return result


def read_settings(path: Path | None, changes: list[str]) -> dict[str, Any]:
    """DEFAULTS with those of a recipe.json and changes "section.name=JSON". Raises InputError."""
    content: Any = {}
    if path is not None:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"recipe {path}: not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"recipe {path}: got {type(content).__name__}, expected an object with sections")
    settings = merged(DEFAULTS, content)
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise InputError(f"--set {change}: expected KEY=VALUE, e.g. training.batch=128")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        for name in reversed(key.split(".")):
            value = {name: value}
        settings = merged(settings, value)
    return settings


class RecipeTrainer(Trainer):
    """A trainer whose saved states also leave the averaged weights in pieces."""

    out: Path | None = None
    scores: dict[str, Any] | None = None

    def save_state(self) -> None:
        """The state, then the pieces."""
        super().save_state()
        if self.out is not None:
            self.export(self.out)

    def validate(self, validation: Scorer) -> dict[str, Any]:
        """Scores, which the pieces carry too."""
        self.scores = super().validate(validation)
        return self.scores

    def export(self, folder: Path) -> list[Path]:
        """Averaged weights in half precision in pieces, and the log."""
        whole = self.folder.run / CHECKPOINT
        metadata = {**self.metadata(self.scores), "progress": self.progress()}
        with self.average.applied():
            save_checkpoint(whole, self.model, self.parts.config, metadata, half=True, body=self.parts.body)
        pieces = split(whole, folder)
        if self.folder.journal.exists():
            shutil.copyfile(self.folder.journal, folder / self.folder.journal.name)
        return pieces

    def progress(self) -> dict[str, Any]:
        """Which run it is, and where it stands."""
        return {"run": self.identity(), "cursor": asdict(self.cursor), **self.counts()}

    def counts(self) -> dict[str, Any]:
        """As Trainer's, with the last scores."""
        return {**super().counts(), "scores": self.scores}

    def go_on_from(self, progress: dict[str, Any]) -> None:
        """Take up counts and place of a run whose weights are already here. Raises InputError when they are not sound or not this run's."""
        run = progress.get("run", self.identity())  # checkpoints of old do not say it
        if run != self.identity():
            raise InputError(f"--from: the checkpoint is of a run with {run}, got {self.identity()}; pack it as --init instead")
        try:
            cursor = progress["cursor"]
            self.cursor = Cursor(int(cursor["epoch"]), int(cursor["batches_done"]), ())
            for name in ("num_samples", "num_steps"):
                setattr(self, name, int(progress[name]))
            self.average.num_updates = self.num_steps // EVERY_STEPS  # at 0 the average would soon be forgotten
            self.elapsed_s, self.best = float(progress["elapsed_s"]), progress["best"]
            self.scores = progress.get("scores")
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"--from: the checkpoint does not say where its run stood ({error}); pack it as --init instead") from error


def checked(settings: dict[str, Any]) -> RunConfig:
    """The run that settings describe. Raises InputError for what no recipe knows."""
    config = run_config(settings, "recipe")
    if config.model.config().parametric:
        raise InputError("recipe: got model.parametric true, but rendered people come without body parameters; use core.training.train")
    for name, options, known in (("train", config.train, {"seed", "epoch"}), ("validation", config.validation, {"people", "seed"})):
        if not options or options["kind"] != KIND:
            raise InputError(f"recipe: data.{name} has to be of the kind {KIND!r}; for other data use core.training.train")
        unknown = sorted(options.keys() - known - {"kind", "scenes", "recorded_share", "levelled_share", "backgrounds", "poses"})
        if unknown:
            raise InputError(f"recipe: data.{name}: unknown setting {unknown[0]!r}")
    return config


def open_call(settings: dict[str, Any], call: Call) -> tuple[RecipeTrainer, RenderedSource, RenderedValidation]:
    """Everything built, an earlier state taken up. Raises InputError."""
    from core.training.picture_run import first_parts

    config = checked(settings if call.start is None else _from_checkpoint(settings, call.start))
    torch.manual_seed(config.training.seed)
    folder = RunFolder(call.state)
    folder.run.mkdir(parents=True, exist_ok=True)
    call.out.mkdir(parents=True, exist_ok=True)
    resumed = folder.state.exists()
    parts = first_parts(config, resumed)
    if parts.body.name != "anny":
        raise InputError(f"recipe: {config.model.variant} has the body {parts.body.name!r}, but rendered people show 'anny'")
    training = config.training.resolved(1, config.train["epoch"])
    data = {"people": "synthetic, anny, made on the GPU", "train": config.train, "validation": config.validation}
    trainer = RecipeTrainer(parts, training, config.loss, folder, Origin(data, config.licence, config.to_dict()), Crew(), config.regressor)
    trainer.out = call.out
    trainer.model.backbone.to(memory_format=torch.channels_last)
    trainer.samples_per_epoch = config.train["epoch"]
    if resumed:
        trainer.load_state()
        log.info("going on from %d samples, exactly", trainer.num_samples)
    elif call.start is not None:
        trainer.go_on_from(load_checkpoint(call.start).metadata.get("progress", {}))
        log.info("going on from %d samples with the averaged weights; the optimiser starts anew", trainer.num_samples)
    maker = Maker(BatchPeople(AnnyBody(), trainer.device, crop_scale=parts.config.crop_scale), parts.model.backbone)
    source = RenderedSource(parts.body, _plans(config.train, training.batch, False), maker, config.train["epoch"], config.num_workers)
    held_out = Plans(parts.body, _plans(config.validation, min(training.batch, config.validation["people"]), True))
    coco = Path(config.coco) if config.coco else None
    return trainer, source, RenderedValidation(held_out, maker, config.validation["people"], coco)


def _from_checkpoint(settings: dict[str, Any], start: Path) -> dict[str, Any]:
    return merged(settings, {"model": {"backbone": "", "init": str(start)}})


def _plans(options: dict[str, Any], batch: int, held_out: bool) -> PlanConfig:
    config = PlanConfig(
        seed=options.get("seed", 0) + VALIDATION_SEED * held_out, backgrounds=tuple(map(Path, several(options["backgrounds"]))),
        poses=tuple(map(str, several(options.get("poses", PlanConfig.poses)))), recorded_share=options["recorded_share"], held_out=held_out,
        levelled_share=options.get("levelled_share", PlanConfig.levelled_share), batch=batch, scenes=options["scenes"],
    )  # fmt: skip
    config.check()
    return config


@contextmanager
def ending_after(minutes: float, stop: StopRequest) -> Iterator[None]:
    """Ask to stop when the time is up."""
    timer = threading.Timer(minutes * 60, stop.ask, (f"the limit of {minutes:g} minutes",))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def train_for(settings: dict[str, Any], call: Call) -> RecipeTrainer:
    """One call: train until the time is up, a signal comes or the run is at its end; then state and pieces are written."""
    with stop_on_signal() as stop, ending_after(call.minutes, stop):
        trainer, source, validation = open_call(settings, call)
        if trainer.finished:
            trainer.export(call.out)
        else:
            run_loop(trainer, source, validation, stop)
    return trainer
