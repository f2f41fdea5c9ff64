"""One training run: everything that changes while it goes, and how it is saved and taken up again."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from core.errors import InputError
from core.training.attention import quick_attention
from core.training.averages import EVERY_STEPS, AveragedWeights
from core.training.batches import Batch, Cursor
from core.training.coco import KeypointScores
from core.training.config import RunFolder, TrainConfig
from core.training.crew import Crew
from core.training.devices import training_device, training_dtype
from core.training.losses import Criterion, LossWeights
from core.training.metrics import Scores
from core.training.objective import Objective
from core.training.optimization import build_optimizer, freeze, learning_rate_factor, load_moments
from core.training.parametric import ParametricCriterion, ParametricWeights
from core.training.parts import Parts
from core.training.watch import NotFiniteError, Watch

if TYPE_CHECKING:
    from core.training.sheet import Panel


class Scorer(Protocol):
    """What validates: scores of a network as it is now.

    shared: all processes take part, not the leader alone
    parametric, panels: of the last `scores`, those of the mesh that the body's parameters pose, and people drawn, where there are any
    """

    shared: bool
    parametric: Scores | None
    panels: "Sequence[Panel]"

    def scores(self, objective: Objective, crew: Crew) -> tuple[Scores, KeypointScores | None]:
        """Scores on synthetic people or a data set, and on people with keypoints where there are any."""
        ...


@dataclass(frozen=True)
class Origin:
    """What the files of a run say about it. data: about the people; licence: of the weights; run: the config file's content."""

    data: dict[str, Any]
    licence: str
    run: dict[str, Any] | None = None


class Trainer:
    """One run. `run` records a config file's content; then states hold frozen weights as well, so that they need no other file."""

    def __init__(
        self,
        parts: Parts,
        config: TrainConfig,
        weights: LossWeights,
        folder: RunFolder,
        origin: Origin,
        crew: Crew | None = None,
        regressor: ParametricWeights | None = None,
    ) -> None:
        """config: resolved; crew: the processes that train together; regressor: weights of the body parameters' terms."""
        self.crew = crew or Crew()
        self.crew.check_batch(config.batch, config.accumulate)
        self.stopping = False
        self.parts, self.config, self.loss_weights, self.folder, self.origin = parts, config, weights, folder, origin
        self.regressor_weights = regressor or ParametricWeights()
        self.device = training_device(config.device, self.crew)
        self.dtype = training_dtype(config.precision, self.device)
        criterion = Criterion(parts.body, weights)
        parametric = None
        if self.regressor_weights.any:
            parametric = ParametricCriterion(parts.body.to(self.device), self.regressor_weights, criterion)
        self.frozen = freeze(parts.model, config, parametric is not None)
        self.model = parts.model.to(self.device)
        if self.device.type == "cuda":
            self.model.backbone.to(memory_format=torch.channels_last)  # as tensor cores want it
        self.objective = Objective(self.model, criterion, parametric, self.dtype).to(self.device)
        if self.device.type == "cpu":
            quick_attention(self.model, parts.body)
        if config.compile != "off":
            self.objective.compile(config.compile)
        self.parallel = self.crew.wrapped(self.objective, self.device)
        self.optimizer = build_optimizer(self.model, config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.watch = Watch(self.device)
        self.average = AveragedWeights(self.model, config.average_decay)
        self.trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.cursor = Cursor(0, 0, ())
        self.num_samples = self.num_steps = 0
        self.elapsed_s = 0.0
        self.best: float | None = None
        self.samples_per_epoch = config.samples

    def step(self, batch: Batch, stop: bool = False, passed_s: float = 0.0) -> dict[str, Tensor]:
        """One step of the optimiser; returns the loss and its terms. Raises NotFiniteError, in all of the crew alike.

        On a GPU the error is about the step before, see core.training.watch; `settle` asks about the last one.
        stop: this process was asked to end; all of the crew then see `stopping` after the same step
        passed_s: what this process trained since the last step. The leader's is added to everybody's `elapsed_s`, which the learning
        rate of the next step follows.
        """
        self._learn_mode()
        factor = learning_rate_factor(self.config, self.num_samples, self.elapsed_s, self.samples_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * group["lr_scale"] * factor
        # Dropout follows from the seed and the place in the run alone, so that a resumed run needs no other random state.
        torch.manual_seed(((self.config.seed * 1_000_003 + self.num_steps) * 1_009 + self.crew.rank) % 2**63)
        self.optimizer.zero_grad()
        measured = self._gradients(batch.to(self.device), stop, passed_s)
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.trainable, self.config.clip_norm)
        scaled = self.scaler.is_enabled()  # the scaler skips a step whose gradient is no number, and scales less
        if not scaled and self.watch.late:
            self.watch.hold_still(self.optimizer, measured["loss"], norm)
        elif not scaled and not torch.isfinite(norm):
            raise NotFiniteError(f"the gradient is {norm.item()} after {self.num_samples} samples")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.watch.late:
            self.watch.passed(measured["loss"], torch.zeros_like(norm) if scaled else norm, batch, self.num_samples)
        self.num_steps += 1
        if self.num_steps % EVERY_STEPS == 0:
            self.average.update()
        self.num_samples += self.config.batch
        return {**measured, "gradient_norm": norm}

    def settle(self) -> None:
        """Before weights are used for anything else. Raises NotFiniteError as `step`."""
        self.watch.settle()

    def _learn_mode(self) -> None:
        self.model.train()
        for module in self.frozen:
            module.eval()

    def _gradients(self, batch: Batch, stop: bool, passed_s: float) -> dict[str, Tensor]:
        """Forward and backward in parts; the gradients of all processes are averaged with the last one."""
        parts, measured, finite = batch.parts(self.config.accumulate), {}, True
        for number, part in enumerate(parts, start=1):
            if number < len(parts):
                with self.crew.local(self.parallel):
                    loss, terms = self.parallel(part.features, part.targets, part.pictures)
                    self.scaler.scale(loss / len(parts)).backward()
            else:
                loss, terms = self.parallel(part.features, part.targets, part.pictures)
            finite = finite and (self.watch.late or bool(torch.isfinite(loss)))
            for name, value in {"loss": loss, **terms}.items():
                measured[name] = measured.get(name, 0.0) + value.detach() / len(parts)
        broken, stops, passed_s = self.crew.agree(float(not finite), float(stop), passed_s * self.crew.leads)
        self.stopping, self.elapsed_s = stops > 0, self.elapsed_s + passed_s
        if broken:
            where = f"{measured['loss'].item()}" if not finite else "not finite in another process"
            raise NotFiniteError(f"the loss is {where} after {self.num_samples} samples")
        self.scaler.scale(loss / len(parts)).backward()
        return measured

    @property
    def finished(self) -> bool:
        """Whether samples or hours are used up."""
        return self.num_samples >= self.config.samples or bool(self.config.hours and self.elapsed_s >= self.config.hours * 3600)

    def save_state(self) -> None:
        """Write everything needed to go on; the old state stays until the new one is complete."""
        state = {
            "config": self.identity(),
            "origin": self.parts.origin,
            "start": self.parts.start,
            "model": {name: value.detach() for name, value in self.average.trained.items()},
            "buffers": self._buffers(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state(),
            "scaler": self.scaler.state_dict(),
            "cursor": {**asdict(self.cursor), "shard_names": list(self.cursor.shard_names)},
            "counts": self.counts(),
        }
        if self.origin.run is not None:
            state |= {"run": self.origin.run, "frozen": {name: value.detach() for name, value in self._frozen_weights().items()}}
        unfinished = self.folder.state.with_suffix(".tmp")
        torch.save(state, unfinished)
        unfinished.replace(self.folder.state)

    def counts(self) -> dict[str, Any]:
        """How far the run is: attributes by name."""
        return {"num_samples": self.num_samples, "num_steps": self.num_steps, "elapsed_s": self.elapsed_s, "best": self.best}

    def _buffers(self) -> dict[str, Tensor]:
        """What changes in training without being trained: the statistics of batch normalisation."""
        kept, parameters = self.model.state_dict(), dict(self.model.named_parameters())
        return {name: value for name, value in kept.items() if name not in parameters}

    def _frozen_weights(self) -> dict[str, Tensor]:
        return {name: parameter for name, parameter in self.model.named_parameters() if not parameter.requires_grad}

    def identity(self) -> dict[str, Any]:
        """What may not change when a run is taken up again."""
        return {"variant": self.parts.config.name, "batch": self.config.batch, "seed": self.config.seed}

    def load_state(self) -> None:
        """Take up the run in `folder.state`; InputError when it is another kind of run or not readable."""
        state = read_state(self.folder.state)
        if state["config"] != self.identity():
            raise InputError(f"state: {self.folder.state} is of a run with {state['config']}, got {self.identity()}; choose another --out")
        try:
            self._take(self.average.trained, state["model"])
            self._take(self._frozen_weights(), state.get("frozen", self._frozen_weights()))
            self._take(self._buffers(), state.get("buffers", self._buffers()))  # states of old had none to keep
            load_moments(self.optimizer, state["optimizer"])
            self.average.restore(state["average"])
        except (KeyError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"state: {self.folder.state} does not fit this network ({reason}); choose another --out") from error
        first = {name: state.get(name, getattr(self.parts, name)) for name in ("origin", "start")}  # states of old do not say
        self.parts = replace(self.parts, **first)
        if state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])
        self.cursor = Cursor(**{**state["cursor"], "shard_names": tuple(state["cursor"]["shard_names"])})
        for name, value in state["counts"].items():
            setattr(self, name, value)

    @staticmethod
    @torch.no_grad()
    def _take(places: dict[str, Tensor], values: dict[str, Tensor]) -> None:
        if places.keys() != values.keys():
            odd = sorted(places.keys() ^ values.keys())[0]
            raise KeyError(f"other weights are trained: {odd}")
        for name, place in places.items():
            place.copy_(values[name])

    def validate(self, validation: Scorer) -> dict[str, Any]:
        """Score the averaged weights and keep them as RUN/last, and as RUN/best when they are: by the mesh that is learned.

        Where the body's parameters are learned that is the one that they pose. Where nobody has all joints there is no score to be best by.
        """
        from core.checkpoint import save_checkpoint

        if validation.shared:
            self.crew.follow_leader(self._buffers().values())  # batch statistics are each process's own, and the leader's are kept
        with self.average.applied():
            people, keypoints = validation.scores(self.objective, self.crew)
            scores = {"synthetic": asdict(people), "keypoints": asdict(keypoints) if keypoints else None}
            if validation.parametric is not None:
                scores["parametric"] = asdict(validation.parametric)
            judged = validation.parametric or people
            total = judged.mpjpe_mm + judged.pa_mpjpe_mm
            targets = [self.folder.last]
            if math.isfinite(total) and (self.best is None or not self.best <= total):  # the best of a state of old may be NaN
                self.best = total
                targets.append(self.folder.best)
            for path in targets if self.crew.leads else []:
                save_checkpoint(path, self.model, self.parts.config, self.metadata(scores), body=self.parts.body)
        return scores

    def save_last(self) -> None:
        """Keep the averaged weights as RUN/last, where there is nothing to score them on."""
        from core.checkpoint import save_checkpoint

        with self.average.applied():
            save_checkpoint(self.folder.last, self.model, self.parts.config, self.metadata(None), body=self.parts.body)

    def metadata(self, scores: dict[str, Any] | None) -> dict[str, Any]:
        """What the checkpoint says about itself."""
        facts = {
            "licence": self.origin.licence,
            "origin": self.parts.origin,
            "start": self.parts.start,
            "data": self.origin.data,
            "samples_seen": self.num_samples,
            "training_hours": round(self.elapsed_s / 3600, 3),
            "scores": scores,
            "training": asdict(self.config),
            "loss_weights": asdict(self.loss_weights),
            "torch": torch.__version__,
        }
        return facts if self.origin.run is None else {**facts, "run": self.origin.run}


def read_state(path: Path) -> dict[str, Any]:
    """A state as it was saved; InputError when it is not readable."""
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch.load raises a different kind for each way a file can be broken
        raise InputError(f"state: {path} is not readable ({type(error).__name__}); delete it to start again") from error
    if not isinstance(state, dict) or not {"config", "model", "optimizer", "average", "cursor", "counts"} <= state.keys():
        raise InputError(f"state: {path} is no state of a training run; delete it to start again")
    return state
