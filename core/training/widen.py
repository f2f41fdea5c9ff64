"""More for a checkpoint to learn with: a second trunk beside its own, and keypoint feedback behind its transformers.

python -m core.training.widen CHECKPOINT --trunk movenet-thunder.safetensors OUT.safetensors
python -m core.training.widen CHECKPOINT OUT.safetensors                             for one that has the trunk and lacks feedback

What is new counts for nothing until it is trained: the result answers as CHECKPOINT does where both see the same crop, and is what a
run begins from (`model.init`).
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from core.backbones import BACKBONES
from core.checkpoint import load_backbone, load_checkpoint, save_checkpoint
from core.config import VARIANTS, ModelConfig
from core.errors import InputError, exit_code
from core.model import FastMETRO, assemble

FIRST = "backbone.first."
BROUGHT = ("name", "backbone", "crop_scale", "feedback")
"""What a second trunk changes in a config."""


def pair_of(config: ModelConfig) -> tuple[ModelConfig, str]:
    """The config with a second trunk, and that trunk's name. Raises InputError when no pair begins with the config's backbone."""
    pairs = [name for name in BACKBONES if name.startswith(f"{config.backbone}+")]
    if not pairs:
        known = ", ".join(name.split("+")[0] for name in BACKBONES if "+" in name)
        raise InputError(f"widen: the checkpoint's backbone is {config.backbone!r}, expected the first of a pair: {known}")
    rows = [VARIANTS[name] for name in VARIANTS if VARIANTS[name].backbone == pairs[0]]
    wanted = _without_brought(config)
    fitting = [row for row in rows if _without_brought(row) == wanted]
    if not fitting:
        raise InputError(f"widen: no variant is {config.name!r} with the backbone {pairs[0]!r}; see core.variants for those there are")
    return fitting[0], pairs[0].removeprefix(f"{config.backbone}+")


def _without_brought(config: ModelConfig) -> dict[str, object]:
    return {name: value for name, value in config.to_dict().items() if name not in BROUGHT}


def with_feedback(config: ModelConfig) -> ModelConfig:
    """The config with its variant's feedback. Raises InputError when it has some, or its variant has none."""
    rounds = VARIANTS[config.name].feedback
    if config.feedback or not rounds:
        have = "has feedback already" if config.feedback else "is of a variant without feedback"
        raise InputError(f"widen: the checkpoint {have} ({config.name!r}), so there is nothing to add; give --trunk for a second trunk")
    return replace(config, feedback=rounds)


def widened(checkpoint: str | Path, trunk: Path | None = None) -> tuple[FastMETRO, str]:
    """The network of a checkpoint with more parts, and where it comes from in words. Raises InputError when they do not fit.

    trunk: the second trunk's weights, by which feedback comes too; None adds feedback alone
    """
    loaded = load_checkpoint(checkpoint)
    if trunk is None:
        config = with_feedback(loaded.model.config)
        model = assemble(config, loaded.body)
        model.load_state_dict(model.state_dict() | loaded.model.state_dict())
        return model, f"{Path(checkpoint).name} with keypoint feedback"
    config, second = pair_of(loaded.model.config)
    model = assemble(config, loaded.body)
    load_backbone(trunk, model.backbone.second, second)
    old, weights = loaded.model.state_dict(), model.state_dict()
    for name, value in old.items():
        weights[name.replace("backbone.", FIRST, 1) if name.startswith("backbone.") else name] = value
    weight = old["conv_1x1.weight"]
    fresh = torch.zeros(weight.shape[0], model.backbone.second.channels, 1, 1)
    weights["conv_1x1.weight"] = torch.cat([weight, fresh], 1)
    model.load_state_dict(weights)
    return model, f"{Path(checkpoint).name} with {trunk.name} beside its trunk"


def main(arguments: list[str] | None = None) -> int:
    """Command line entry point; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m core.training.widen", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("checkpoint", help="a file of ours, or a name such as default")
    parser.add_argument("--trunk", type=Path, help="the second backbone's weights (.safetensors); without it feedback alone is added")
    parser.add_argument("out", type=Path, help="safetensors file to write")
    options = parser.parse_args(arguments)
    return exit_code(lambda: _write(options))


def _write(options: argparse.Namespace) -> None:
    model, origin = widened(options.checkpoint, options.trunk)
    metadata = load_checkpoint(options.checkpoint).metadata
    save_checkpoint(options.out, model, model.config, {**metadata, "origin": origin}, half=False)
    print(f"{options.out}: {model.config.name}, {origin}")


if __name__ == "__main__":
    sys.exit(main())
