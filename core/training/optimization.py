"""Which parameters learn, how fast, and when slower."""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from core.errors import InputError
from core.registry import Registry
from core.training.config import TrainConfig

SCHEDULES: Registry[Callable[[TrainConfig, float, float], float]] = Registry("schedule")
"""Name -> learning rate factor of (config, progress of the run in 0..1, epochs so far)."""


@SCHEDULES.register("cosine")
def cosine(config: TrainConfig, progress: float, epochs: float) -> float:  # noqa: ARG001
    """Half a cosine from 1 to `final_lr_scale`."""
    wave = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return config.final_lr_scale + (1 - config.final_lr_scale) * wave


@SCHEDULES.register("step")
def step(config: TrainConfig, progress: float, epochs: float) -> float:  # noqa: ARG001
    """A tenth after every `drop_epochs`, as the release's StepLR."""
    return 0.1 ** int(epochs // config.drop_epochs)


def learning_rate_factor(config: TrainConfig, num_samples: int, elapsed_s: float, samples_per_epoch: int = 1) -> float:
    """Warm-up times the schedule, over samples or, where that is further on, hours."""
    progress = num_samples / config.samples
    if config.hours:
        progress = max(progress, elapsed_s / (config.hours * 3600))
    warm_up = min(1.0, (num_samples + config.batch) / max(config.warmup_samples, 1))
    return warm_up * SCHEDULES[config.schedule](config, progress, num_samples / samples_per_epoch)


def freeze(model: nn.Module, config: TrainConfig, trains_regressor: bool) -> list[nn.Module]:
    """Switch off what shall not learn; returns the frozen modules, which also keep their statistics and drop nothing.

    The backbone learns where `tail_parameters` says, or with `tail` "all" wherever features pass through, if `tail_lr_scale` is above 0;
    `config.freeze` names further modules.
    Raises InputError for a name that the model does not have, and when nothing is left to learn.
    """
    backbone = model.backbone
    unused = {id(parameter) for name in backbone.unused for parameter in backbone.get_submodule(name).parameters()}
    learning = backbone.parameters() if config.tail == "all" else backbone.tail_parameters()
    tail = {id(parameter) for parameter in learning} - unused if config.tail_lr_scale else set()
    for parameter in backbone.parameters():
        parameter.requires_grad_(id(parameter) in tail)
    frozen = [] if config.tail_lr_scale else [backbone]
    known = dict(model.named_modules())
    for name in config.freeze:
        if name not in known or not name:
            raise InputError(f"freeze: got {name!r}, expected one of {', '.join(n for n, _ in model.named_children())} or a part of these")
        frozen.append(known[name])
    if not trains_regressor and model.body_regressor is not None:
        frozen.append(model.body_regressor)
    for module in frozen:
        module.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(f"freeze: {', '.join(config.freeze)} and tail_lr_scale {config.tail_lr_scale} leave nothing to learn")
    return frozen


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over what learns, in groups: the backbone at its own rate; vectors without decay, unless `decay` is "all"."""
    backbone = {id(parameter) for parameter in model.backbone.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = defaultdict(list)
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups[id(parameter) in backbone, parameter.dim() > 1].append(parameter)
    options = [
        {
            "params": parameters,
            "lr_scale": config.tail_lr_scale if in_backbone else 1.0,
            "weight_decay": config.weight_decay if is_matrix or config.decay == "all" else 0.0,
        }
        for (in_backbone, is_matrix), parameters in groups.items()
    ]
    return torch.optim.AdamW(options, lr=config.lr, betas=(0.9, config.beta2), fused=True)


def load_moments(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take up what an optimiser has found out so far. Its settings stay those it was built with: PyTorch would bring back the state's."""
    settings = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, values in zip(optimizer.param_groups, settings, strict=True):
        group.update(values)
