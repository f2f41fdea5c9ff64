"""The loop of a training run, whatever its data."""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from core.errors import InputError
from core.stopping import StopRequest
from core.training.batches import Batch, Cursor
from core.training.crew import Crew
from core.training.journal import Journal
from core.training.trainer import Scorer, Trainer
from core.training.watch import NotFiniteError

log = logging.getLogger(__name__)

T = TypeVar("T")


class Source(Protocol):
    """People to train on. num_broken: samples that were skipped so far, because they are broken."""

    num_broken: int

    def __len__(self) -> int:
        """How many there are now."""
        ...

    def stream(self, batch_size: int, start: Cursor, crew: Crew) -> AbstractContextManager[Any]:
        """Endless (cursor after the batch, batch) from a cursor on."""
        ...


def run(trainer: Trainer, source: Source, validation: Scorer | None, stop: StopRequest, tensorboard: bool = False) -> None:
    """Train until the samples or hours are used up, or someone asks to stop."""
    config = trainer.config
    with (
        Journal(trainer.folder, config.samples, trainer.num_samples, tensorboard) if trainer.crew.leads else Quiet() as journal,
        source.stream(config.batch, trainer.cursor, trainer.crew) as stream,
    ):
        pace = Pace(trainer)
        for cursor, batch in stream:
            journal.add(checked_step(trainer, batch, stop.is_set(), pace.passed_s()), trainer.num_samples)
            trainer.cursor = cursor
            ended = trainer.finished or trainer.stopping
            if trainer.crew.leads and (pace.passes(config.log_samples) or ended):
                journal.write(pace.record(source, journal.means()))
            if pace.passes(config.validate_samples or trainer.samples_per_epoch) or trainer.finished:
                checked(trainer, batch, trainer.settle)
                pace.pause(lambda: validate(trainer, source, validation, journal))
            if trainer.crew.leads and (pace.state_is_due() or ended):
                checked(trainer, batch, trainer.settle)
                trainer.save_state()
            if ended:
                break
    if stop.is_set() and trainer.crew.leads:
        log.warning("stopped by %s; start the same command again to go on from %d samples", stop.reason, trainer.num_samples)


class Quiet:
    """The journal of the processes that do not lead: silent."""

    def __enter__(self) -> "Quiet":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def add(self, measured: dict[str, Tensor], num_samples: int = 0) -> None:
        """Nothing."""


class Pace:
    """Counts and clocks of a loop: what is due, and how fast it goes."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.saved_s = self.marked_s = self.counted_s = time.monotonic()
        self.marked_samples = trainer.num_samples

    def passes(self, every: float) -> bool:
        """Whether the last step led past a multiple of `every` samples."""
        return crossed(int(every), self.trainer.num_samples - self.trainer.config.batch, self.trainer.num_samples)

    def state_is_due(self) -> bool:
        """Whether the last state is old enough; then it counts as saved."""
        due = time.monotonic() - self.saved_s > self.trainer.config.state_minutes * 60
        if due:
            self.saved_s = time.monotonic()
        return due

    def pause(self, work: Any) -> None:
        """Do something that shall not count as training."""
        started_s = time.monotonic()
        work()
        paused_s = time.monotonic() - started_s
        self.marked_s += paused_s
        self.counted_s += paused_s

    def passed_s(self) -> float:
        """Wall time since the last call, waiting for data included, pauses not."""
        before_s, self.counted_s = self.counted_s, time.monotonic()
        return self.counted_s - before_s

    def record(self, source: Source, means: dict[str, float]) -> dict[str, Any]:
        """A line of the log about the steps since the last one."""
        trainer, now_s = self.trainer, time.monotonic()
        speed = (trainer.num_samples - self.marked_samples) / max(now_s - self.marked_s, 1e-9)
        self.marked_s, self.marked_samples = now_s, trainer.num_samples
        record = {
            "samples": trainer.num_samples,
            "epoch": trainer.cursor.epoch,
            "people": len(source),
            "elapsed_s": round(trainer.elapsed_s, 1),
            "samples_per_s": round(speed, 1),
            "lr": float(f"{trainer.optimizer.param_groups[0]['lr']:.3g}"),
            **means,
        }
        if trainer.device.type == "cuda":
            record["gpu_gib"] = round(torch.cuda.max_memory_allocated(trainer.device) / 2**30, 2)
        return {**record, "broken_samples": source.num_broken} if source.num_broken else record


def crossed(every: int, before: int, after: int) -> bool:
    """Whether a multiple of `every` lies between the two counts."""
    return before // every != after // every


def validate(trainer: Trainer, source: Source, validation: Scorer | None, journal: Journal | Quiet) -> None:
    """Score and keep the weights, tell about it, draw some people."""
    if validation is None:
        if trainer.crew.leads:
            trainer.save_last()
        return
    if not (trainer.crew.leads or validation.shared):
        return
    trainer.origin.data["pictures"] = len(source)  # shards may have joined since the start
    scores = trainer.validate(validation)
    if isinstance(journal, Journal):
        journal.write({"samples": trainer.num_samples, **scores})
        journal.draw(validation.panels, trainer.parts.body.faces, trainer.num_samples)


def checked_step(trainer: Trainer, batch: Batch, stop: bool, passed_s: float) -> dict[str, Tensor]:
    """A step, `checked`."""
    return checked(trainer, batch, lambda: trainer.step(batch, stop, passed_s))


def checked(trainer: Trainer, batch: Batch, work: Callable[[], T]) -> T:
    """What `work` returns; when a loss is not finite its batch is kept in RUN/bad-batch.pt and the run ends with an InputError."""
    try:
        return work()
    except NotFiniteError as error:
        batch = error.batch or batch
        rank = f"-{trainer.crew.rank}" if trainer.crew.size > 1 else ""
        path = trainer.folder.run / f"bad-batch{rank}.pt"
        targets = {name: tensor for name, tensor in vars(batch.targets).items() if tensor is not None}
        torch.save({"features": batch.features, "targets": targets, "keys": list(batch.keys)}, path)
        raise InputError(
            f"training stopped: {error}; the batch is in {path}; lower the learning rate, or start again from the last state"
        ) from error
