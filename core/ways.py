"""Ways to run a network, as rows of a table: what core.bench compares and times.

A way is built from a network in evaluation mode, which it must leave as it is. The first row is what all others are compared with.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from core.cpu import has_fast_bf16_cpu
from core.errors import InputError
from core.exact import exact_path
from core.model import FastMETRO, Prediction
from core.openvino_files import OpenVinoError, silent_openvino
from core.openvino_network import OpenVinoNetwork
from core.pixels import Normaliser
from core.reference import OfficialLayout
from core.runtimes import RuntimeUnavailable

EXACT = 2e-5
"""Tolerance of a way that only rounds differently."""
ROUGH = 0.4
"""Of one with 8 bits, in a deep network, on pictures of nothing: finds a wrong network. For accuracy see core.training.evaluate."""
VERY_ROUGH = 1.0
"""Of one whose activations have 8 bits too."""


@dataclass(frozen=True)
class Runner:
    """A network ready to run in one way.

    prepare: crops (B, 224, 224, 3) uint8 on the CPU -> what `whole` and `backbone` take; done before the clock starts
    whole: that -> Prediction; backbone: that -> features; decode: features -> Prediction; the last two where a way has such halves
    """

    prepare: Callable[[Tensor], Any]
    whole: Callable[[Any], Prediction]
    backbone: Callable[[Any], Tensor] | None = None
    decode: Callable[[Tensor], Prediction] | None = None


@dataclass(frozen=True)
class Way:
    """A row. precision: of its numbers; devices: where it can run

    tolerance: largest difference from the first row, see core.bench; build: (network, device) -> Runner, or RuntimeUnavailable
    missing: device -> why it cannot run on this machine, "" where it can
    """

    name: str
    precision: str
    tolerance: float
    build: Callable[[FastMETRO, str], Runner]
    devices: tuple[str, ...] = ("cpu", "cuda")
    missing: Callable[[str], str] = lambda device: ""  # noqa: ARG005

    def unavailable(self, device: str) -> str:
        """Why it cannot run on `device` here; "" where it can."""
        return self.missing(device) if device in self.devices else f"not for {device}"


def official_layout(model: FastMETRO, device: str) -> Runner:
    """As the release runs it, eagerly, its pictures channels first."""
    network, normalise = OfficialLayout(model).eval().to(device), Normaliser(model.backbone).to(device)
    return Runner(lambda crops: normalise(crops.to(device)).contiguous(), network, model.backbone, network.decode)


def as_loaded(model: FastMETRO, device: str) -> Runner:
    """Our module, eagerly."""
    normalise = Normaliser(model.backbone).to(device)
    return Runner(lambda crops: normalise(crops.to(device)).contiguous(), model, model.backbone, model.decode)


def exactly(model: FastMETRO, device: str) -> Runner:
    """What the estimator runs where no runtime takes over, see core.exact."""
    network, normalise = exact_path(copy.deepcopy(model), device), Normaliser(model.backbone).to(device)
    return Runner(lambda crops: normalise(crops.to(device)), network, network.backbone, network.decode)


def by_openvino(precision: str) -> Callable[[FastMETRO, str], Runner]:
    """As the estimator runs it on a CPU: crops in, the whole network in one call."""

    def build(model: FastMETRO, device: str) -> Runner:  # noqa: ARG001  CPU only
        try:
            return Runner(Tensor.numpy, OpenVinoNetwork(model, precision))
        except (InputError, OpenVinoError) as error:
            raise RuntimeUnavailable(str(error)) from error

    return build


def no_openvino(device: str) -> str:  # noqa: ARG001  CPU only
    """Why OpenVINO cannot run here."""
    try:
        silent_openvino()
    except OpenVinoError as error:
        return str(error)
    return ""


def no_openvino_bf16(device: str) -> str:
    """Why OpenVINO gains nothing from bfloat16 here."""
    return no_openvino(device) or ("" if has_fast_bf16_cpu() else "this CPU has no native bfloat16")


WAYS: tuple[Way, ...] = (
    Way("official layout", "fp32", 0.0, official_layout),
    Way("as loaded", "fp32", EXACT, as_loaded),
    Way("exact path", "fp32", EXACT, exactly),
    Way("OpenVINO fp32", "fp32", EXACT, by_openvino("fp32"), ("cpu",), no_openvino),
    Way("OpenVINO bf16", "bf16", ROUGH, by_openvino("bf16"), ("cpu",), no_openvino_bf16),
    Way("OpenVINO int8", "int8", VERY_ROUGH, by_openvino("int8"), ("cpu",), no_openvino),
)
