"""Train a FastMETRO on synthetic people.

python -m core.training.train --shards DIR --validation DIR --variant NAME --trunk FILE --out RUN

Writes RUN/log.jsonl, RUN/state.pt (everything needed to go on), RUN/best.safetensors and RUN/last.safetensors. Started again
with the same --out it goes on where it was, batch for batch; Ctrl-C and SIGTERM save the state first.
On a CPU `torchrun --nproc-per-node=CORES -m core.training.train ... --threads 1` is nearly twice as quick as one process.
"""

import json
import logging
import math
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core.errors import InputError
from core.training.attention import quick_attention
from core.training.averages import EVERY_STEPS, AveragedWeights
from core.training.batches import Batch, BatchStream, Cursor, FeatureNoise, People
from core.training.config import RunFiles, TrainConfig, build_parser
from core.training.crew import Crew
from core.training.features import best_precision, open_cache
from core.training.losses import Criterion, LossWeights
from core.training.parts import Parts, build_for_training
from core.training.settings import from_flags
from core.training.validation import Network, Validation

log = logging.getLogger(__name__)

LICENCE = "MIT; backbone weights Apache-2.0 (MediaPipe); trained on synthetic people only"


def learning_rate_factor(config: TrainConfig, num_samples: int, elapsed_s: float) -> float:
    """Warm-up times half a cosine from 1 to `final_lr_scale`, over samples or, where that is further on, hours."""
    progress = num_samples / config.samples
    if config.hours:
        progress = max(progress, elapsed_s / (config.hours * 3600))
    warm_up = min(1.0, (num_samples + config.batch) / max(config.warmup_samples, 1))
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return warm_up * (config.final_lr_scale + (1 - config.final_lr_scale) * cosine)


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over the transformer and the backbone's tail; the rest of the backbone is frozen. Vectors are not decayed."""
    tail = {id(parameter) for parameter in model.backbone.tail_parameters()} if config.tail_lr_scale else set()
    backbone = {id(parameter) for parameter in model.backbone.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = defaultdict(list)
    for parameter in model.parameters():
        in_tail = id(parameter) in tail
        parameter.requires_grad_(in_tail or id(parameter) not in backbone)
        if parameter.requires_grad:
            groups[in_tail, parameter.dim() > 1].append(parameter)
    options = [
        {
            "params": parameters,
            "lr_scale": config.tail_lr_scale if in_tail else 1.0,
            "weight_decay": config.weight_decay if is_matrix else 0.0,
        }
        for (in_tail, is_matrix), parameters in groups.items()
    ]
    return torch.optim.AdamW(options, lr=config.lr, betas=(0.9, 0.98), fused=True)


class Trainer:
    """One run: everything that changes while it goes, and how it is saved and taken up again."""

    def __init__(
        self, parts: Parts, config: TrainConfig, weights: LossWeights, files: RunFiles, data: dict[str, Any], crew: Crew | None = None
    ) -> None:
        """data: what the checkpoint shall say about the data; crew: the processes that train together."""
        self.crew = crew or Crew()
        self.crew.check_batch(config.batch)
        self.stopping = False
        self.parts, self.config, self.loss_weights, self.files, self.data = parts, config, weights, files, data
        self.model = parts.model
        self.optimizer = build_optimizer(self.model, config)
        self.average = AveragedWeights(self.model, config.average_decay)
        self.criterion = Criterion(parts.body, weights)
        precision = best_precision() if config.precision == "auto" else config.precision
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.network = Network(self.model, self.criterion, self.dtype)
        self.cursor = Cursor(0, 0, ())
        self.num_samples = self.num_steps = 0
        self.elapsed_s = 0.0
        self.best: float | None = None
        quick_attention(self.model, parts.body)
        self.trainable = [p for p in self.model.parameters() if p.requires_grad]

    def _forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        with self.network.autocast():
            prediction = self.model.decode(self.model.backbone.tail(*batch.features), num_levels=2)
        return self.criterion(prediction, batch.targets)

    def step(self, batch: Batch, stop: bool = False) -> dict[str, Tensor]:
        """One step of the optimiser; returns the loss and its terms. Raises FloatingPointError on a loss that is not finite.

        stop: this process was asked to end; all of the crew then see `stopping` after the same step.
        """
        self.model.train()
        factor = learning_rate_factor(self.config, self.num_samples, self.elapsed_s)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * group["lr_scale"] * factor
        loss, terms = self._forward(batch)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} after {self.num_samples} samples")
        self.optimizer.zero_grad()
        loss.backward()
        stops, self.elapsed_s = self.crew.average(self.trainable, float(stop), self.elapsed_s)
        self.stopping = stops > 0
        norm = torch.nn.utils.clip_grad_norm_(self.trainable, self.config.clip_norm)
        self.optimizer.step()
        self.num_steps += 1
        if self.num_steps % EVERY_STEPS == 0:
            self.average.update()
        self.num_samples += len(batch.family) * self.crew.size
        return {"loss": loss.detach(), "gradient_norm": norm, **{name: term.detach() for name, term in terms.items()}}

    @property
    def finished(self) -> bool:
        """Whether samples or hours are used up."""
        return self.num_samples >= self.config.samples or bool(self.config.hours and self.elapsed_s >= self.config.hours * 3600)

    def save_state(self) -> None:
        """Write everything needed to go on; the old state stays until the new one is complete."""
        unfinished = self.files.state.with_suffix(".tmp")
        torch.save(
            {
                "config": self.identity(),
                "model": {name: value.detach() for name, value in self.average.trained.items()},
                "buffers": self._buffers(),
                "optimizer": self.optimizer.state_dict(),
                "average": self.average.state(),
                "random": torch.get_rng_state(),
                "cursor": {**asdict(self.cursor), "shard_names": list(self.cursor.shard_names)},
                "counts": {"num_samples": self.num_samples, "num_steps": self.num_steps, "elapsed_s": self.elapsed_s, "best": self.best},
            },
            unfinished,
        )
        unfinished.replace(self.files.state)

    def _buffers(self) -> dict[str, Tensor]:
        """What changes in training without being trained: the statistics of batch normalisation."""
        kept, parameters = self.model.state_dict(), dict(self.model.named_parameters())
        return {name: value for name, value in kept.items() if name not in parameters}

    def identity(self) -> dict[str, Any]:
        """What may not change when a run is taken up again."""
        return {"variant": self.parts.config.name, "batch": self.config.batch, "seed": self.config.seed}

    def load_state(self) -> None:
        """Take up the run in `files.state`; InputError when it is another kind of run or not readable."""
        try:
            state = torch.load(self.files.state, weights_only=True)
        except Exception as error:  # torch.load raises a different kind for each way a file can be broken
            raise InputError(f"state: {self.files.state} is not readable ({type(error).__name__}); delete it to start again") from error
        if state["config"] != self.identity():
            raise InputError(f"state: {self.files.state} is of a run with {state['config']}, got {self.identity()}; choose another --out")
        with torch.no_grad():
            for name, parameter in self.average.trained.items():
                parameter.copy_(state["model"][name])
            for name, buffer in self._buffers().items():
                buffer.copy_(state["buffers"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.restore(state["average"])
        torch.set_rng_state(state["random"])
        self.cursor = Cursor(**{**state["cursor"], "shard_names": tuple(state["cursor"]["shard_names"])})
        for name, value in state["counts"].items():
            setattr(self, name, value)

    def validate(self, validation: Validation) -> dict[str, Any]:
        """Score the averaged weights and keep them as RUN/last, and as RUN/best when they are."""
        from core.checkpoint import save_checkpoint

        with self.average.applied():
            synthetic, keypoints = validation.scores(self.network)
            scores = {"synthetic": asdict(synthetic), "keypoints": asdict(keypoints) if keypoints else None}
            total = synthetic.mpjpe_mm + synthetic.pa_mpjpe_mm
            targets = [self.files.last]
            if self.best is None or total < self.best:
                self.best = total
                targets.append(self.files.best)
            for path in targets:
                save_checkpoint(path, self.model, self.parts.config, self.metadata(scores), body=self.parts.body)
        return scores

    def metadata(self, scores: dict[str, Any]) -> dict[str, Any]:
        """What the checkpoint says about itself."""
        return {
            "licence": LICENCE,
            "origin": self.parts.origin,
            "data": self.data,
            "samples_seen": self.num_samples,
            "training_hours": round(self.elapsed_s / 3600, 3),
            "scores": scores,
            "training": asdict(self.config),
            "loss_weights": asdict(self.loss_weights),
        }


class Journal:
    """RUN/log.jsonl, one JSON object a line, and means of what was measured since the last line."""

    def __init__(self, files: RunFiles) -> None:
        self.files = files
        self.sums: dict[str, Tensor] = {}
        self.num_steps = 0

    def add(self, measured: dict[str, Tensor]) -> None:
        """Take the terms of one step into the means."""
        self.num_steps += 1
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in measured.items()}

    def means(self) -> dict[str, float]:
        """Means since the last call."""
        means = {name: round(float(value) / max(self.num_steps, 1), 5) for name, value in self.sums.items()}
        self.sums, self.num_steps = {}, 0
        return means

    def write(self, record: dict[str, Any]) -> None:
        """Append a line, and tell the log."""
        with self.files.journal.open("a") as file:
            file.write(json.dumps(record) + "\n")
        log.info("%s", json.dumps(record))


class StopRequest:
    """Set by SIGINT and SIGTERM while `listening`; the loop looks at it between steps."""

    def __init__(self) -> None:
        self.signal_name: str | None = None

    def _request(self, number: int, _: object) -> None:
        self.signal_name = signal.Signals(number).name

    @contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Both signals only ask to stop inside this block."""
        previous = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def run(trainer: Trainer, people: People, validation: Validation, stop: StopRequest) -> None:
    """Train until the samples or hours are used up, or someone asks to stop."""
    config, journal = trainer.config, Journal(trainer.files)
    noise = FeatureNoise(config.feature_noise, config.feature_drop)
    saved_s = marked_s = time.monotonic()
    marked_samples = trainer.num_samples
    with BatchStream(people, config.batch, config.seed, trainer.cursor, trainer.dtype, noise, trainer.crew) as stream:
        for cursor, batch in stream:
            started_s = time.monotonic()
            journal.add(checked_step(trainer, batch, stop.signal_name is not None))
            trainer.cursor = cursor
            trainer.elapsed_s += time.monotonic() - started_s
            now_s, before = time.monotonic(), trainer.num_samples - config.batch
            ended = trainer.finished or trainer.stopping
            if not trainer.crew.leads:
                if ended:
                    break
                continue
            if crossed(config.log_samples, before, trainer.num_samples) or ended:
                speed = (trainer.num_samples - marked_samples) / max(now_s - marked_s, 1e-9)
                journal.write(progress_record(trainer, cursor, people, speed, journal.means()))
                marked_s, marked_samples = now_s, trainer.num_samples
            if crossed(config.validate_samples, before, trainer.num_samples) or trainer.finished:
                validating_s = time.monotonic()
                trainer.data["pictures"] = len(people)  # shards may have joined since the start
                journal.write({"samples": trainer.num_samples, **trainer.validate(validation)})
                marked_s += time.monotonic() - validating_s
            if now_s - saved_s > config.state_minutes * 60 or ended:
                trainer.save_state()
                saved_s = time.monotonic()
            if ended:
                break
    if stop.signal_name and trainer.crew.leads:
        log.warning("stopped by %s; start the same command again to go on from %d samples", stop.signal_name, trainer.num_samples)


def crossed(every: int, before: int, after: int) -> bool:
    """Whether a multiple of `every` lies between the two counts."""
    return before // every != after // every


def checked_step(trainer: Trainer, batch: Batch, stop: bool) -> dict[str, Tensor]:
    """A step; when its loss is not finite the batch is kept in RUN/bad-batch.pt and the run ends with an InputError."""
    try:
        return trainer.step(batch, stop)
    except FloatingPointError as error:
        path = trainer.files.run / "bad-batch.pt"
        torch.save({"features": batch.features, "targets": vars(batch.targets)}, path)
        raise InputError(f"training stopped: {error}; the batch is in {path}; lower --lr, or start again from the last state") from error


def progress_record(trainer: Trainer, cursor: Cursor, people: People, speed: float, means: dict[str, float]) -> dict[str, Any]:
    """A line of the log about the steps since the last one."""
    return {
        "samples": trainer.num_samples,
        "epoch": cursor.epoch,
        "people": len(people),
        "elapsed_s": round(trainer.elapsed_s, 1),
        "samples_per_s": round(speed, 1),
        "lr": float(f"{trainer.optimizer.param_groups[0]['lr']:.3g}"),
        **means,
    }


def open_run(files: RunFiles, config: TrainConfig, weights: LossWeights, crew: Crew | None = None) -> tuple[Trainer, People, Validation]:
    """Everything checked and loaded, an earlier state of the run taken up. Raises InputError."""
    torch.manual_seed(config.seed)
    parts = build_for_training(files.variant, files.trunk, files.init)
    cache = open_cache(files.shards, parts.backbone_name, parts.model.backbone)
    validation_cache = open_cache(files.validation, parts.backbone_name, parts.model.backbone)
    validation = Validation(People(files.validation, validation_cache), config.validate_limit, files.coco)
    names = None
    trainer = Trainer(parts, config, weights, files, {"validation": files.validation.name}, crew)
    if files.state.exists():
        trainer.load_state()
        names = list(trainer.cursor.shard_names) or None
        log.info("going on from %d samples, epoch %d", trainer.num_samples, trainer.cursor.epoch)
    people = People(files.shards, cache, names)
    for group in (people, validation.people):
        if group.body != parts.config.body:
            raise InputError(f"shards: those in {group.folder} show the body {group.body!r}, but {files.variant} has {parts.config.body!r}")
    trainer.data |= {"people": f"synthetic, {parts.config.body}", "pictures": len(people), "pose_families": list(people.family_names)}
    return trainer, people, validation


def dry_run(trainer: Trainer, people: People, validation: Validation) -> None:
    """One step and one validation, nothing written."""
    batch = people.gather(np.arange(min(trainer.config.batch, len(people))), trainer.dtype)
    terms = trainer.step(batch)
    started_s = time.monotonic()
    trainer.step(batch)
    took_s = time.monotonic() - started_s
    synthetic, keypoints = validation.scores(trainer.network)
    print(f"{len(people)} people to train on, {len(validation.chosen)} to validate with; {trainer.dtype}; step {took_s * 1e3:.0f} ms")
    print("loss " + "  ".join(f"{name} {float(value):.4f}" for name, value in terms.items()))
    print(f"before training: {synthetic}" + (f"  {keypoints}" if keypoints else ""))


def main(arguments: list[str] | None = None) -> int:
    """Command line entry point; the exit code."""
    options = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        config = from_flags(options, TrainConfig)
        weights = from_flags(options, LossWeights, "weight-")
        files = RunFiles(options.shards, options.validation, options.out, options.variant, options.trunk, options.init, options.coco)
        torch.set_num_threads(config.threads)
        torch.set_flush_denormal(True)
        crew = Crew()
        trainer, people, validation = open_run(files, config, weights, crew)
        if options.dry_run:
            dry_run(trainer, people, validation)
            return 0
        files.run.mkdir(parents=True, exist_ok=True)
        with StopRequest().listening() as stop:
            if not trainer.finished:
                run(trainer, people, validation, stop)
        crew.close()
    except (InputError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    if not crew.leads:
        return 0
    best = "no validation yet" if trainer.best is None else f"best MPJPE + PA-MPJPE {trainer.best:.1f} mm in {files.best}"
    print(f"{trainer.num_samples} samples seen; {best}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
