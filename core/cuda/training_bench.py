"""A training step on a GPU: mixed precision, with and without torch.compile, pictures a second."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.bodies import Body, load_body
from core.cuda.bench import Bench, Row
from core.pixels import Normaliser
from core.timing import Spread
from core.training.batches import Batch
from core.training.config import RunFolder, TrainConfig
from core.training.losses import LossWeights, Targets
from core.training.parts import Parts
from core.training.trainer import Origin, Trainer

BATCH = 64
STEPS = 20
"""Between two looks at the clock."""
TARGET = 3000


def synthetic_targets(body: Body, count: int) -> Targets:
    """Truth that moves a little from the rest mesh; with no mesh known, about the origin."""
    rng = np.random.default_rng(0)
    levels = body.levels
    rest = np.zeros((levels.sizes[2], 3), np.float32) if levels.template_m is None else levels.template_m
    meshes = torch.from_numpy(rest[np.asarray(levels.intermediate_ids)] + rng.normal(0, 0.02, (count, levels.sizes[1], 3))).float()
    joints = torch.from_numpy(rng.normal(0, 0.3, (count, len(body.joint_names), 3))).float()
    camera = torch.tensor([0.9, 0.0, 0.0]).expand(count, 3).contiguous()
    return Targets(meshes, joints, joints[..., :2].contiguous(), torch.ones(count, len(body.joint_names)), camera)


class Steps:
    """A trainer and pictures for it: bytes in page-locked memory, normalised on the device, as core.training.pictures does."""

    def __init__(self, bench: Bench, compile_mode: str, folder: Path, batch: int = BATCH) -> None:
        model = bench.build(bench.variant)
        body = load_body(model.config.body)
        device = bench.device.device
        config = TrainConfig(
            samples=1 << 40, batch=batch, tail="all", tail_lr_scale=1.0, warmup_samples=0, lr=1e-4, compile=compile_mode, device=device.type
        )
        parts = Parts(model, model.config, body, "random weights")
        self.trainer = Trainer(parts, config, LossWeights(), RunFolder(folder), Origin({}, "none"))
        self.device = self.trainer.device
        pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (batch, 224, 224, 3), np.uint8))
        self.pixels = pixels.pin_memory() if device.type == "cuda" else pixels
        self.targets = Batch((), synthetic_targets(body, batch), torch.zeros(batch, dtype=torch.uint8)).to(self.device).targets
        self._normalise = Normaliser(model.backbone).to(self.device)

    def images(self) -> Tensor:
        """(B, 3, 224, 224) float32 on the device, channels last in memory."""
        return self._normalise(self.pixels.to(self.device, non_blocking=True))

    def run(self, count: int) -> None:
        """Some steps, to the end of the last."""
        for _ in range(count):
            images = self.images()
            self.trainer.step(Batch((images,), self.targets, torch.zeros(len(images), dtype=torch.uint8), pictures=True))
        self.trainer.settle()


def training_rows(bench: Bench, batch: int = BATCH, steps: int = STEPS) -> Iterator[Row]:
    """Eager, and compiled in each mode that is worth its minutes."""
    section = f"{bench.variant}, training, batch {batch}"
    rates: dict[str, Spread | str] = {}
    for mode in ("off", *(("default", "max-autotune-no-cudagraphs") if bench.compiles else ())):
        name = "mixed precision, eager" if mode == "off" else f"mixed precision, compiled ({mode})"
        with tempfile.TemporaryDirectory() as folder:
            try:
                rates[name] = _rates(Steps(bench, mode, Path(folder), batch), batch, steps, max(bench.repeats // 10, 3))
            except Exception as error:  # noqa: BLE001 - Inductor raises many kinds; the eager figure shall still be told
                rates[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
        bench.device.free()
    known = {name: rate for name, rate in rates.items() if isinstance(rate, Spread)}
    best = max(known, key=lambda name: known[name].median_ms, default=None)
    for name, rate in rates.items():
        if isinstance(rate, str):
            yield Row(section, name, None, "pictures/s", note=rate)
        else:
            target, met = (f">= {TARGET} pictures/s", rate.median_ms >= TARGET) if name == best else ("", None)
            yield Row(section, name, rate.median_ms, "pictures/s", target=target, met=met)


def _rates(steps: Steps, batch: int, count: int, repeats: int) -> Spread:
    """Pictures a second of several stretches (a Spread of other things than milliseconds)."""
    steps.run(3)
    rates = []
    for _ in range(repeats):
        start_s = time.perf_counter()
        steps.run(count)
        rates.append(batch * count / (time.perf_counter() - start_s))
    return Spread.of(rates)
