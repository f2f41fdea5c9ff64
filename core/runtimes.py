"""What runs a network for the estimator: crops in, Prediction out. One row for each way; each device names those it tries, best first."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from core.crop import PlacedCrop
from core.errors import InputError
from core.exact import exact_path
from core.model import FastMETRO, Prediction
from core.openvino_files import OpenVinoError
from core.openvino_network import OpenVinoNetwork
from core.pixels import Normaliser
from core.registry import Registry

log = logging.getLogger(__name__)

MAX_BATCH = 16
"""Of runtimes that gain nothing from more."""


class RuntimeUnavailable(Exception):  # noqa: N818  no mistake of anybody's: the next runtime takes over, with a warning
    """A runtime cannot run the network here; the text says why, in words for the status line."""


class Runtime(Protocol):
    """A network, ready to run."""

    words: str
    """What runs, for the estimator's description, e.g. "OpenVINO 2026.1"."""
    precision: str
    """That its layers really run in, which may be another than was asked for: fp32, tf32, bf16, fp16, int8."""
    max_batch: int
    """Crops a call at most."""

    def __call__(self, crops: np.ndarray) -> Prediction:
        """(B, 224, 224, 3) uint8 RGB on the CPU -> what the network says in float32 on the CPU, its full level always there."""
        ...


@runtime_checkable
class CuttingRuntime(Runtime, Protocol):
    """A runtime that cuts crops out of frames itself."""

    def from_placed(self, crops: Sequence[PlacedCrop]) -> Prediction:
        """As the call, for crops that are only placed, and not turned; those of one frame that follow each other share its way to the
        device.
        """
        ...


RUNTIMES: Registry[Callable[[FastMETRO, str, str], Runtime]] = Registry("runtime")
"""Name -> builder(model, device, precision). The model becomes the runtime's own, if the builder succeeds; else the builder leaves its
function as it was and raises RuntimeUnavailable."""

BY_DEVICE: dict[str, tuple[str, ...]] = {"cpu": ("openvino", "torch"), "cuda": ("cuda", "torch"), "mps": ("torch",)}
"""Device -> names of RUNTIMES to try there, in this order. The last one runs anywhere."""


def open_runtime(model: FastMETRO, device: str, precision: str, names: Sequence[str] = ()) -> tuple[Runtime, str]:
    """The first runtime that can run the network here, and why a quicker one does not ("" for the quickest), which is warned of once.

    names: of RUNTIMES, to be tried in this order; those of the device by default
    """
    reasons = []
    for name in names or BY_DEVICE[device]:
        try:
            runtime = RUNTIMES[name](model, device, precision)
        except RuntimeUnavailable as reason:
            reasons.append(str(reason))
        else:
            if reasons:
                warn_once(slower_because(runtime, "; ".join(reasons)))
            return runtime, "; ".join(reasons)
    raise RuntimeError(f"no runtime for {device}: {'; '.join(reasons)}")


def slower_because(runtime: Runtime, reason: str) -> str:
    """The warning, for the log and wherever else a run shows what went wrong."""
    return f"the network runs in {runtime.words}, which is slower: {reason}"


@cache
def warn_once(text: str) -> None:
    """However many networks are loaded, and however often."""
    log.warning("%s", text)


@dataclass
class TorchRuntime:
    """PyTorch, eagerly; `backbone` may be anything that takes what the model's own takes, float32 unless `dtype` says otherwise."""

    model: FastMETRO
    device: str
    backbone: Callable[[Tensor], Tensor]
    dtype: torch.dtype = torch.float32
    words: str = "PyTorch"
    max_batch: int = MAX_BATCH

    @property
    def precision(self) -> str:
        """Of the backbone; the head stays in float32."""
        return "bf16" if self.dtype == torch.bfloat16 else "fp32"

    def __post_init__(self) -> None:
        self._normalise = Normaliser(self.model.backbone).to(self.device)

    @torch.inference_mode()
    def __call__(self, crops: np.ndarray) -> Prediction:
        """As Runtime's."""
        images = self._normalise(torch.from_numpy(crops).to(self.device))
        return on_cpu(self.model.decode(self.backbone(images.to(self.dtype)).float()))


def on_cpu(said: Prediction) -> Prediction:
    """All of it in float32 on the CPU, as runtimes give it."""
    return Prediction(*(_on_cpu(value) for value in (said.camera, said.joints, said.levels, said.rotmats, said.betas)))


def _on_cpu(value: Tensor | tuple | None) -> Tensor | tuple | None:
    if isinstance(value, tuple):
        return tuple(_on_cpu(part) for part in value)
    return None if value is None else value.float().cpu()


@RUNTIMES.register("torch")
def _torch(model: FastMETRO, device: str, precision: str) -> Runtime:
    """Where bfloat16 pays is the backbone; the head is small, and its coordinates want the precision."""
    if precision == "int8":
        raise InputError("precision int8: 8-bit networks need OpenVINO, which does not run here; use bf16 or fp32")
    model = exact_path(model, device)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    backbone: nn.Module = model.backbone.to(dtype)
    return TorchRuntime(model, device, backbone, dtype)


@RUNTIMES.register("cuda")
def _cuda(model: FastMETRO, device: str, precision: str) -> Runtime:  # noqa: ARG001  the contract
    from core.cuda.runtime import open_cuda

    return open_cuda(model, precision)


@RUNTIMES.register("openvino")
def _openvino(model: FastMETRO, device: str, precision: str) -> Runtime:  # noqa: ARG001  the contract
    try:
        return OpenVinoNetwork(model, precision)
    except OpenVinoError as error:
        raise RuntimeUnavailable(str(error)) from error
