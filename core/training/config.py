"""Settings of a training run: each default once, its help with the unit beside it. The command's flags are made from these fields."""

import argparse
import math
from dataclasses import dataclass, fields, replace
from pathlib import Path

from core.errors import InputError
from core.training.losses import LossWeights
from core.training.settings import add_flags, setting

COMPILE_MODES = ("off", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


@dataclass(frozen=True)
class TrainConfig:
    """How to train. `samples`, `epochs` or `hours`, whichever comes first, ends the run and the cosine of the learning rate."""

    samples: int = setting(1_000_000, "samples to see in all")
    epochs: float = setting(0.0, "instead of samples: how often to see everybody; 0 = as samples says")
    hours: float = setting(0.0, "end after this many hours of training, resumed ones included; 0 = no limit")
    batch: int = setting(32, "samples a step, all processes together")
    batch_per_process: int = setting(0, "instead of batch: samples a step of each process; 0 = as batch says")
    accumulate: int = setting(1, "parts in which a process takes its share of a batch, to save memory")
    lr: float = setting(6e-4, "highest learning rate of the transformer")
    tail_lr_scale: float = setting(0.4, "learning rate of the backbone's trainable part, relative to lr; 0 = keep the backbone frozen")
    tail: str = setting("last", "what of the backbone is trainable: its last blocks, or all of it; all needs pictures", ("last", "all"))
    schedule: str = setting("cosine", "how the learning rate falls: cosine to the end, or in steps of a tenth", ("cosine", "step"))
    final_lr_scale: float = setting(0.01, "cosine: learning rate at the end, relative to lr")
    drop_epochs: float = setting(100.0, "step: epochs between steps")
    warmup_samples: int = setting(6_000, "samples until the learning rate is at its highest")
    weight_decay: float = setting(0.01, "AdamW's weight decay")
    decay: str = setting("matrices", "what is decayed: matrices only, or all", ("matrices", "all"))
    beta2: float = setting(0.98, "AdamW's second beta; the first is 0.9")
    clip_norm: float = setting(1.0, "gradients are scaled down to this norm")
    freeze: tuple[str, ...] = setting((), "modules of the network that shall not learn, e.g. backbone stages.0")
    average_decay: float = setting(0.999, "decay a step of the averaged weights, which are evaluated and shipped; 0 = no average")
    feature_noise: float = setting(0.05, "cached features: gaussian noise on them, relative to their standard deviation")
    feature_drop: float = setting(0.02, "cached features: share of channels set to 0")
    seed: int = setting(0, "seed of the weights, the order and the noise")
    threads: int = setting(2, "CPU threads")
    device: str = setting("auto", "where to train; auto: a GPU where there is one", ("auto", "cpu", "cuda", "mps"))
    precision: str = setting("auto", "multiply in bfloat16, float16 or float32; auto: bf16 where quick", ("auto", "bf16", "fp16", "fp32"))
    compile: str = setting("off", "torch.compile's mode for the network", COMPILE_MODES)
    deterministic: bool = setting(False, "repeat bit for bit on a GPU as well, where PyTorch can, at some cost in speed")
    validate_samples: int = setting(40_000, "samples between validations; 0 = once an epoch")
    validate_limit: int = setting(1_500, "people of the validation set to use during training; 0 = all")
    state_minutes: float = setting(4.0, "minutes between saved states")
    log_samples: int = setting(4_000, "samples between lines of the log")

    def __post_init__(self) -> None:
        self._check("more than 0", ("samples", "batch", "accumulate", "lr", "threads", "log_samples", "clip_norm", "drop_epochs"), 0.0)
        at_least_0 = (
            "epochs", "hours", "batch_per_process", "tail_lr_scale", "final_lr_scale", "warmup_samples", "weight_decay",
            "feature_noise", "feature_drop", "validate_samples", "validate_limit", "seed",
        )  # fmt: skip
        self._check("0 or more", at_least_0, None)
        for name in ("average_decay", "beta2", "feature_drop"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')}: got {getattr(self, name)}, expected 0 or more, below 1")
        for entry in fields(self):
            choices = entry.metadata["choices"]
            if choices and getattr(self, entry.name) not in choices:
                raise InputError(f"--{entry.name}: got {getattr(self, entry.name)!r}, expected one of {', '.join(choices)}")

    def _check(self, expected: str, names: tuple[str, ...], above: float | None) -> None:
        for name in names:
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0 or value == above:
                raise InputError(f"--{name.replace('_', '-')}: got {value}, expected {expected}")

    def resolved(self, num_processes: int, num_people: int) -> "TrainConfig":
        """With `batch_per_process` and `epochs` turned into `batch` and `samples`, now that both numbers are known."""
        batch = self.batch_per_process * num_processes or self.batch
        samples = max(round(self.epochs * (num_people // batch)), 1) * batch if self.epochs else self.samples
        return replace(self, batch=batch, samples=samples)


@dataclass(frozen=True)
class RunFolder:
    """Where a run writes."""

    run: Path

    @property
    def state(self) -> Path:
        """Everything needed to go on."""
        return self.run / "state.pt"

    @property
    def journal(self) -> Path:
        """One JSON object a line: losses, speed, scores."""
        return self.run / "log.jsonl"

    @property
    def best(self) -> Path:
        """The averaged weights with the best validation score so far."""
        return self.run / "best.safetensors"

    @property
    def last(self) -> Path:
        """The averaged weights of the last validation."""
        return self.run / "last.safetensors"


@dataclass(frozen=True)
class RunFiles:
    """What a run on cached features reads, and its folder."""

    shards: Path
    validation: Path
    run: Path
    variant: str
    trunk: Path | None = None
    init: Path | None = None
    coco: Path | None = None

    @property
    def folder(self) -> RunFolder:
        """Where it writes."""
        return RunFolder(self.run)


def build_parser() -> argparse.ArgumentParser:
    """The flags of `python -m core.training.train`."""
    parser = argparse.ArgumentParser(
        prog="python -m core.training.train",
        description="Train a FastMETRO: from a config file, or by flags on cached features of synthetic people. "
        "Started again with the same --out it goes on where it was.",
    )
    parser.add_argument("config", nargs="?", help="a .yaml or .toml file, a name in core/training/configs, or a state or checkpoint")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="with a config: change it, e.g. training.lr=2e-5")
    parser.add_argument("--out", type=Path, help="folder of the run: state, log, checkpoints")
    parser.add_argument("--dry-run", action="store_true", help="check everything, run one step and one validation, write nothing")
    cached = parser.add_argument_group("without a config file, on cached features")
    cached.add_argument("--shards", type=Path, help="folder of training shards with features")
    cached.add_argument("--validation", type=Path, help="folder of validation shards with features")
    cached.add_argument("--variant", help="name of the architecture, as in core.variants")
    cached.add_argument("--trunk", type=Path, help="the backbone's original weights (.safetensors)")
    cached.add_argument("--init", type=Path, help="start from the weights of this checkpoint instead of --trunk and random ones")
    cached.add_argument("--coco", type=Path, help="folder of COCO pictures with person keypoints to measure PCK on")
    add_flags(cached, TrainConfig)
    add_flags(parser.add_argument_group("weights of the loss, without a config file"), LossWeights, "weight-")
    return parser


def check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """A usage error unless the options are those of one way to train."""
    if options.config is None:
        missing = [f"--{name}" for name in ("shards", "validation", "out", "variant") if getattr(options, name) is None]
        if missing:
            parser.error(f"give a config file, or for cached features {' '.join(missing)}")
        if options.set:
            parser.error("--set changes a config file; without one use the flags")
        if options.tail == "all":
            parser.error("--tail all learns from pictures, which a config file names; of cached features only the last blocks learn")
        return
    mine = ("config", "set", "out", "dry_run")
    others = [name for name, value in vars(options).items() if name not in mine and value != parser.get_default(name)]
    if others:
        parser.error(f"--{others[0].replace('_', '-')} does not go with a config file; use e.g. --set training.lr=2e-5")
