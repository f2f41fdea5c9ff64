"""Settings of a training run: each default once, its help with the unit beside it. The command's flags are made from these fields."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from core.errors import InputError
from core.training.losses import LossWeights
from core.training.settings import add_flags, setting


@dataclass(frozen=True)
class TrainConfig:
    """How to train. `samples` or `hours`, whichever comes first, ends the run and the cosine of the learning rate."""

    samples: int = setting(1_000_000, "samples to see in all")
    hours: float = setting(0.0, "end after this many hours of training, resumed ones included; 0 = no limit")
    batch: int = setting(32, "samples a step")
    lr: float = setting(6e-4, "highest learning rate of the transformer")
    tail_lr_scale: float = setting(0.4, "learning rate of the backbone's tail, relative to --lr; 0 = keep it frozen")
    final_lr_scale: float = setting(0.01, "learning rate at the end, relative to --lr")
    warmup_samples: int = setting(6_000, "samples until the learning rate is at its highest")
    weight_decay: float = setting(0.01, "AdamW's weight decay, for matrices only")
    clip_norm: float = setting(1.0, "gradients are scaled down to this norm")
    average_decay: float = setting(0.999, "decay a step of the averaged weights, which are evaluated and shipped")
    feature_noise: float = setting(0.05, "gaussian noise on cached features, relative to their standard deviation")
    feature_drop: float = setting(0.02, "share of cached feature channels set to 0")
    seed: int = setting(0, "seed of the weights, the order and the noise")
    threads: int = setting(2, "CPU threads")
    precision: str = setting("auto", "bf16 multiplies in bfloat16; auto: where the CPU has it", ("auto", "bf16", "fp32"))
    validate_samples: int = setting(40_000, "samples between validations")
    validate_limit: int = setting(1_500, "people of the validation set to use during training")
    state_minutes: float = setting(4.0, "minutes between saved states")
    log_samples: int = setting(4_000, "samples between lines of the log")

    def __post_init__(self) -> None:
        for name in ("samples", "batch", "lr", "threads", "validate_samples", "validate_limit", "log_samples"):
            if getattr(self, name) <= 0:
                raise InputError(f"--{name.replace('_', '-')}: got {getattr(self, name)}, expected more than 0")


@dataclass(frozen=True)
class RunFiles:
    """Where a run reads and writes."""

    shards: Path
    validation: Path
    run: Path
    variant: str
    trunk: Path | None = None
    init: Path | None = None
    coco: Path | None = None

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


def build_parser() -> argparse.ArgumentParser:
    """The flags of `python -m core.training.train`."""
    parser = argparse.ArgumentParser(
        prog="python -m core.training.train",
        description="Train a FastMETRO on cached features of synthetic people. Started again with the same --out it goes on where it was.",
    )
    parser.add_argument("--shards", type=Path, required=True, help="folder of training shards with features")
    parser.add_argument("--validation", type=Path, required=True, help="folder of validation shards with features")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run: state, log, checkpoints")
    parser.add_argument("--variant", required=True, help="name of the architecture, as in core.variants")
    parser.add_argument("--trunk", type=Path, help="the backbone's original weights (.safetensors)")
    parser.add_argument("--init", type=Path, help="start from the weights of this checkpoint instead of --trunk and random ones")
    parser.add_argument("--coco", type=Path, help="folder of COCO pictures with person keypoints to measure PCK on")
    parser.add_argument("--dry-run", action="store_true", help="check everything, run one step and one validation, write nothing")
    add_flags(parser, TrainConfig)
    add_flags(parser.add_argument_group("weights of the loss"), LossWeights, "weight-")
    return parser
