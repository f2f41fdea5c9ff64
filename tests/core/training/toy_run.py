"""Runs of toy networks from config files; started as a program by the tests of several processes and of signals.

python -m tests.core.training.toy_run CONFIG ...    as core.training.train, which then knows the toys
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from core.backbones import BACKBONES
from core.bodies import BODIES, Body
from core.config import VARIANTS
from core.geometry import rotvecs_from_rotmats
from core.training.samples import DATASETS, BrokenSample, Sample
from core.training.shard_people import ShardPeople
from tests.core.training.toy_people import TINY
from tests.toy import ToyBackbone, ToyBody

PLAIN = {"flip": 0.0, "rotation_share": 0.0, "scale": 0.0, "colour_noise": 0.0}


class NormedBackbone(ToyBackbone):
    """The toy backbone with statistics, as ResNet has them, and trained as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(8)

    def tail(self, *kept: torch.Tensor) -> torch.Tensor:
        return super().tail(self.norm(kept[0]))

    def tail_parameters(self) -> list[torch.nn.Parameter]:
        return list(self.parameters())


class ToyParametric(ShardPeople):
    """Toy shards whose samples also hold the tube's parameters: turned about z, stretched."""

    def __init__(self, body: Body, path: str, broken: int = 0) -> None:
        """broken: every so many samples is broken; 0 = none."""
        super().__init__(body, path)
        self.broken = broken

    def __getitem__(self, index: int) -> Sample:
        if self.broken and index % self.broken == 0:
            raise BrokenSample(f"toy sample {index} is broken")
        sample = super().__getitem__(index)
        body, vertices = ToyBody(), sample.vertices_m
        rest = body.levels.template_m[body.levels.intermediate_ids]
        rest, posed = rest - rest.mean(0), vertices - vertices.mean(0)
        stretch = np.sqrt((posed**2).sum() / (rest**2).sum())
        angle = np.arctan2(
            (posed[:, 1] * rest[:, 0] - posed[:, 0] * rest[:, 1]).sum(), (posed[:, :2] * rest[:, :2]).sum()
        )  # fmt: skip
        rotmat = torch.tensor([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        pose = rotvecs_from_rotmats(rotmat).numpy()
        return replace(sample, vertices_m=None, pose=pose, betas=np.array([stretch - 1]), has_smpl=True)


def rows() -> list[tuple[Any, str, Any]]:
    """(registry, name, entry) of the toys."""
    return [
        (BODIES, "toy", lambda _: ToyBody()),
        (BACKBONES, "toy", ToyBackbone),
        (BACKBONES, "toy-normed", NormedBackbone),
        (VARIANTS, "tiny", TINY),
        (VARIANTS, "tiny-normed", replace(TINY, name="tiny-normed", backbone="toy-normed")),
        (VARIANTS, "tiny-flat", replace(TINY, name="tiny-flat", dropout=0.0, attention_dropout=0.0)),
        (VARIANTS, "tiny-wide", replace(TINY, name="tiny-wide", widths=(32, 8))),
        (DATASETS, "toy", ToyParametric),
    ]


def register(put: Callable[[dict, str, Any], None]) -> None:
    """Add the toys; put(entries, name, entry) changes a registry, for good or while a test runs."""
    for registry, name, entry in rows():
        put(registry._entries, name, entry)


def write_config(path: Path, people: Path, validation: Path | None, **changes: dict[str, Any]) -> Path:
    """A config of a short toy run in RUN beside it; changes: of sections."""
    content = {
        "out": str(path.parent / "run"),
        "model": {"variant": "tiny-normed", "backbone": "random"},
        "data": {
            "train": {"kind": "shards", "path": str(people)},
            "validation": {"kind": "shards", "path": str(validation)} if validation else None,
            "workers": 0,
        },
        "augmentation": {"flip": 0.0},
        "training": {
            "samples": 192, "batch": 8, "lr": 3e-3, "tail_lr_scale": 1.0, "warmup_samples": 16, "threads": 1, "precision": "fp32",
            "device": "cpu", "validate_samples": 96, "log_samples": 48, "state_minutes": 60.0, "average_decay": 0.9, "beta2": 0.999,
        },
        "loss": {},
    }  # fmt: skip
    for section, values in changes.items():
        content[section] = {**content.get(section, {}), **values} if isinstance(values, dict) else values
    path.write_text(yaml.safe_dump(content))
    return path


if __name__ == "__main__":
    from core.training.train import main

    register(dict.__setitem__)
    sys.exit(main(sys.argv[1:]))
