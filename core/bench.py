"""How fast the network runs here, beside the official layout in the same run: python -m core.bench

Three ways, whose outputs are compared before anything is timed: the official layout run eagerly, our network as loaded, and the
exact path of the estimator (core.exact). Runs take turns, so that a noisy machine is noisy to all.
"""

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.config import RELEASES, VARIANTS, is_ablation
from core.errors import InputError
from core.exact import exact_path
from core.model import FastMETRO, Prediction, build_model
from core.reference import OfficialLayout

PARTS = ("backbone", "transformer", "whole")
WAYS = ("official layout", "as loaded", "exact path")
WARM_UP = 3
TOLERANCE = 2e-5
"""Largest difference between outputs, relative to the largest output where that is above 1."""


@dataclass(frozen=True)
class Timing:
    """One part in one way. ratio: the official layout's median over this one's."""

    part: str
    way: str
    median_ms: float
    p90_ms: float
    ratio: float


def three_ways(model: FastMETRO) -> dict[str, Any]:
    """Name -> network; the same function three times, in evaluation mode."""
    device = model.xyz_regressor.weight.device.type
    return dict(zip(WAYS, (OfficialLayout(model).eval(), model, exact_path(copy.deepcopy(model), device)), strict=True))


def outputs(prediction: Prediction) -> list[Tensor]:
    """Everything that a network says."""
    values = (prediction.camera, prediction.joints, *prediction.levels, prediction.rotmats, prediction.betas)
    return [value for value in values if value is not None]


def largest_difference(ways: dict[str, Any], images: Tensor) -> float:
    """Over all outputs and ways, relative to the largest output where that is above 1. Raises RuntimeError above TOLERANCE."""
    expected, worst = outputs(ways[WAYS[0]](images)), 0.0
    for name in WAYS[1:]:
        for got, want in zip(outputs(ways[name](images)), expected, strict=True):
            worst = max(worst, float((got - want).abs().max() / want.abs().max().clamp(min=1)))
    if not worst <= TOLERANCE:
        raise RuntimeError(f"the ways differ by {worst:.1e}, expected at most {TOLERANCE:.0e}: nothing was timed")
    return worst


def tasks(ways: dict[str, Any], images: Tensor) -> dict[tuple[str, str], Callable[[], object]]:
    """(part, way) -> what to time."""
    found: dict[tuple[str, str], Callable[[], object]] = {}
    for name, network in ways.items():
        backbone = network.model.backbone if isinstance(network, OfficialLayout) else network.backbone
        pixels = images.to(memory_format=torch.channels_last) if name == WAYS[2] else images
        features = backbone(pixels)
        found["backbone", name] = lambda run=backbone, x=pixels: run(x)
        found["transformer", name] = lambda run=network.decode, x=features: run(x)
        found["whole", name] = lambda run=network, x=pixels: run(x)
    return found


def timed(found: dict[tuple[str, str], Callable[[], object]], repeats: int, device: str) -> list[Timing]:
    """All tasks in turn, `repeats` times."""
    times_ms: dict[tuple[str, str], list[float]] = {key: [] for key in found}
    for round_number in range(WARM_UP + repeats):
        for key, run in found.items():
            synchronize(device)
            start_s = time.perf_counter()
            run()
            synchronize(device)
            if round_number >= WARM_UP:
                times_ms[key].append((time.perf_counter() - start_s) * 1e3)
    medians = {key: float(np.median(values)) for key, values in times_ms.items()}
    return [
        Timing(part, way, medians[part, way], float(np.quantile(times_ms[part, way], 0.9)), medians[part, WAYS[0]] / medians[part, way])
        for part in PARTS
        for way in WAYS
    ]


def synchronize(device: str) -> None:
    """Wait for a GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


@torch.inference_mode()
def bench(model: FastMETRO, batch: int, repeats: int, device: str) -> tuple[list[Timing], float]:
    """Timings of a network on random pictures, and the largest difference between the ways' outputs."""
    model = model.eval().to(device)
    images = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(device)
    ways = three_ways(model)
    difference = largest_difference(ways, images)
    return timed(tasks(ways, images), repeats, device), difference


def build_parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    measured = [name for name in VARIANTS if not is_ablation(name)]  # the official layout has no ablations
    parser = argparse.ArgumentParser(prog="python -m core.bench", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--variant", default="fastmetro-s-r50", choices=measured, help="architecture, with random weights")
    parser.add_argument("--release", default="released", choices=tuple(RELEASES), help="of the official code (default released)")
    parser.add_argument("--checkpoint", help="a trained network instead: a name in checkpoints/, a .safetensors file or an official .bin")
    parser.add_argument("--mesh-dir", type=Path, help="folder of the SMPL body's files, for --checkpoint on SMPL")
    parser.add_argument("--batch", type=int, default=1, help="crops at once (default 1)")
    parser.add_argument("--repeats", type=int, default=30, help="runs of each (default 30)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Command line entry point; the exit code."""
    options = build_parser().parse_args(arguments)
    try:
        for name in ("batch", "repeats", "threads"):
            if getattr(options, name) < 1:
                raise InputError(f"--{name}: got {getattr(options, name)}, expected 1 or more")
        torch.set_num_threads(options.threads)
        torch.backends.cudnn.allow_tf32 = False  # exact against exact
        if options.device == "cuda" and not torch.cuda.is_available():
            raise InputError(f"--device cuda: PyTorch {torch.__version__} finds no GPU here; leave it out to measure the CPU")
        if options.checkpoint:
            from core.checkpoint import load_checkpoint

            model = load_checkpoint(options.checkpoint, options.mesh_dir).model
        else:
            model = build_model(options.variant, release=options.release)
        timings, difference = bench(model, options.batch, options.repeats, options.device)
        if options.json:
            options.json.write_text(json.dumps([asdict(timing) for timing in timings], indent=1), encoding="utf-8")
    except (InputError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{model.config.name}, {model.config.release}, {options.batch} crop(s), {options.device}, {options.threads} threads, "
          f"PyTorch {torch.__version__}; outputs equal within {difference:.1e}")  # fmt: skip
    print(f"{'':14}{'':18}{'median ms':>10}{'p90 ms':>10}{'official / this':>18}")
    for timing in timings:
        print(f"{timing.part:14}{timing.way:18}{timing.median_ms:10.2f}{timing.p90_ms:10.2f}{timing.ratio:17.2f}x")
    return 0


if __name__ == "__main__":
    sys.exit(main())
