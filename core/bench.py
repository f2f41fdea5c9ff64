"""Median time of the network's parts in every way that this machine can run it, after checking that the ways agree.

python -m core.bench [--variant NAME] [--release released] [--checkpoint FILE] [--batch 1] [--threads 2] [--json FILE]
python -m core.bench --device cuda [--variant NAME] [--parts latency ...] [--no-compile] [--json FILE]    see core.cuda.bench

Ways (core.ways) are compared with the first, the release's own layout run eagerly, before anything is timed. Runs take turns, so
that a noisy machine is noisy to all.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from core.config import RELEASES, VARIANTS, is_ablation
from core.errors import InputError, exit_code
from core.model import FastMETRO, Prediction, build_model
from core.pixels import patchwork
from core.runtimes import RuntimeUnavailable
from core.timing import spreads, take_turns
from core.ways import WAYS, Runner, Way

PARTS = ("backbone", "transformer", "whole")
GPU_PARTS = ("latency", "throughput", "large", "frames", "training")


@dataclass(frozen=True)
class Timing:
    """One part in one way. ratio: the first way's median over this one's.

    precision: of the way; difference: of the way's outputs from the first way's, see `difference`
    """

    part: str
    way: str
    median_ms: float
    p90_ms: float
    ratio: float
    precision: str
    difference: float


@dataclass(frozen=True)
class Report:
    """All timings, by part and in the order of the ways; skipped: way -> why it did not run."""

    timings: list[Timing]
    skipped: dict[str, str]


def outputs(prediction: Prediction) -> list[Tensor]:
    """Everything that a network says."""
    values = (prediction.camera, prediction.joints, *prediction.levels, prediction.rotmats, prediction.betas)
    return [value for value in values if value is not None]


def difference(got: Prediction, expected: Prediction) -> float:
    """The largest over all outputs, relative to the largest value of an output where that is above 1."""
    pairs = zip(outputs(got), outputs(expected), strict=True)
    return max(float((ours.to(want) - want).abs().max() / want.abs().max().clamp(min=1)) for ours, want in pairs)


def build_ways(
    model: FastMETRO, crops: Tensor, device: str, ways: Sequence[Way]
) -> tuple[dict[str, Runner], dict[str, float], dict[str, str]]:
    """The ways that can run here, their differences from the first, and why others cannot.

    Raises RuntimeError when a way differs by more than it may.
    """
    runners: dict[str, Runner] = {}
    differences: dict[str, float] = {}
    skipped: dict[str, str] = {}
    expected = None
    for way in ways:
        reason = way.unavailable(device)
        if reason:
            skipped[way.name] = reason
            continue
        try:
            runner = way.build(model, device)
        except RuntimeUnavailable as error:
            skipped[way.name] = str(error)
            continue
        prediction = runner.whole(runner.prepare(crops))
        expected = prediction if expected is None else expected
        worst = difference(prediction, expected)
        if not worst <= way.tolerance:
            raise RuntimeError(f"{way.name}: differs by {worst:.1e}, expected at most {way.tolerance:.0e}: nothing was timed")
        runners[way.name], differences[way.name] = runner, worst
    return runners, differences, skipped


def tasks(runners: dict[str, Runner], crops: Tensor) -> dict[tuple[str, str], Callable[[], object]]:
    """(part, way) -> what to time."""
    found: dict[tuple[str, str], Callable[[], object]] = {}
    for name, runner in runners.items():
        ready = runner.prepare(crops)
        if runner.backbone is not None and runner.decode is not None:
            features = runner.backbone(ready)
            found["backbone", name] = lambda run=runner.backbone, x=ready: run(x)
            found["transformer", name] = lambda run=runner.decode, x=features: run(x)
        found["whole", name] = lambda run=runner.whole, x=ready: run(x)
    return found


def waiting(device: str) -> Callable[[], None] | None:
    """What waits for a GPU to be done; None for a CPU, which is never asked to."""
    return torch.cuda.synchronize if device == "cuda" else None


@torch.inference_mode()
def bench(model: FastMETRO, batch: int, repeats: int, device: str, ways: Sequence[Way] = WAYS) -> Report:
    """Timings of a network on random pictures, in those of `ways` that can run on `device`; the first is what others are compared with."""
    model = model.eval().to(device)
    crops = patchwork(batch)
    runners, differences, skipped = build_ways(model, crops, device, ways)
    spread = spreads(take_turns(tasks(runners, crops), repeats, wait=waiting(device)))
    timings = [
        Timing(
            part, way.name, spread[part, way.name].median_ms, spread[part, way.name].p90_ms,
            spread[part, ways[0].name].median_ms / spread[part, way.name].median_ms, way.precision, differences[way.name],
        )
        for part in PARTS
        for way in ways
        if (part, way.name) in spread
    ]  # fmt: skip
    return Report(timings, skipped)


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
    gpu = parser.add_argument_group("with --device cuda, see docs/gpu.md")
    gpu.add_argument("--parts", nargs="+", choices=GPU_PARTS, default=GPU_PARTS, help="what to measure (default: all)")
    gpu.add_argument("--no-compile", action="store_true", help="without torch.compile, whose tuning takes minutes")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Command line entry point; the exit code."""
    options = build_parser().parse_args(arguments)
    return exit_code(lambda: measure(options))


def measure(options: argparse.Namespace) -> None:
    """The command. Raises InputError and OSError."""
    for name in ("batch", "repeats", "threads"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name}: got {getattr(options, name)}, expected 1 or more")
    torch.set_num_threads(options.threads)
    if options.device == "cuda":
        bench_gpu(options)
    else:
        bench_cpu(options)


def bench_cpu(options: argparse.Namespace) -> None:
    """The table of `bench`. Raises InputError and OSError."""
    if options.checkpoint:
        from core.checkpoint import load_checkpoint

        model = load_checkpoint(options.checkpoint, options.mesh_dir).model
    else:
        torch.manual_seed(0)  # the same weights in every run: what OpenVINO keeps of them is found again
        model = build_model(options.variant, release=options.release)
    report = bench(model, options.batch, options.repeats, options.device)
    if options.json:
        options.json.write_text(json.dumps([asdict(timing) for timing in report.timings], indent=1), encoding="utf-8")
    print(f"{model.config.name}, {model.config.release}, {options.batch} crop(s), {options.device}, {options.threads} threads, "
          f"PyTorch {torch.__version__}")  # fmt: skip
    print_report(report)


def bench_gpu(options: argparse.Namespace) -> None:
    """The table of core.cuda.bench. Raises InputError where there is no GPU to measure."""
    from core.cuda.problems import cuda_problem

    problem = cuda_problem()
    if problem:
        raise InputError(f"--device cuda: PyTorch {torch.__version__} cannot use a GPU here ({problem}); leave it out to measure the CPU")
    if options.checkpoint:
        raise InputError(f"--checkpoint: got {options.checkpoint!r} with --device cuda, which measures architectures; give --variant")
    from core.cuda.bench import Bench, run
    from core.cuda.device import CudaDevice

    def build(name: str) -> FastMETRO:
        return build_model(name, release=options.release)

    run(Bench(CudaDevice(), build, options.repeats, not options.no_compile, options.variant), options.parts, options.json)


def print_report(report: Report) -> None:
    """A table for people to read."""
    print(f"{'':14}{'':22}{'median ms':>10}{'p90 ms':>10}{'official / this':>18}{'differs by':>13}")
    for timing in report.timings:
        ratio = f"{timing.ratio:.2f}x"
        print(f"{timing.part:14}{timing.way:22}{timing.median_ms:10.2f}{timing.p90_ms:10.2f}{ratio:>18}{timing.difference:13.1e}")
    for name, reason in report.skipped.items():
        print(f"{name}: not measured, {reason}")


if __name__ == "__main__":
    sys.exit(main())
