"""A small network for the checks of OpenVINO, and what they do to its files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from core import bench
from core.config import ModelConfig
from core.model import FastMETRO, Prediction
from core.openvino_compiled import SUFFIX
from core.pixels import patchwork
from core.runtimes import TorchRuntime
from tests.toy import ToyBody, toy_backbone

CONFIG = ModelConfig("small", "toy", "toy", widths=(32, 16), num_heads=4)
CROPS = patchwork(2).numpy()


def toy(**changes: object) -> FastMETRO:
    torch.manual_seed(0)
    config = replace(CONFIG, **changes)
    return FastMETRO(config, toy_backbone(config), ToyBody()).eval()


def original(model: FastMETRO, crops: np.ndarray) -> Prediction:
    return TorchRuntime(model, "cpu", model.backbone)(crops)


def assert_near(got: Prediction, expected: Prediction, tolerance: float) -> None:
    for ours, theirs in zip(bench.outputs(got), bench.outputs(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def not_again(*_: object) -> None:
    raise AssertionError("made although it was cached")


def damaged(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def without_compiled(folder: Path) -> None:
    for path in folder.glob(f"*{SUFFIX}"):
        path.unlink()
