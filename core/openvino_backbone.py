"""A backbone run by OpenVINO, which needs half the time of PyTorch for it on a CPU, and in one call that leaves Python's lock to others.

The converted network is kept in the user's cache folder, named after its weights and the versions it depends on. It is compared with
the original before it is used; a file that is damaged or of another network is made again.
"""

import hashlib
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from core.types import CROP_SIZE_PX

if TYPE_CHECKING:
    import openvino

log = logging.getLogger(__name__)

APP = "fastmetro-live"
TOLERANCE = {"fp32": 1e-3, "bf16": 0.25}
"""Largest mean difference from the original in float32, relative to its mean size, on noise: bfloat16 has 8 bits and trunks 60 layers."""
TELEMETRY = "openvino_telemetry"
HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoError(Exception):
    """OpenVINO cannot run the network here; the text says why."""


class OpenVinoBackbone:
    """Takes what the backbone takes, (B, 3, 224, 224) float32 of any B, and gives its features. Threads may share it."""

    def __init__(self, backbone: nn.Module, precision: str, cache: Path | None = None) -> None:
        """backbone: float32, in evaluation mode, on the CPU, with one tensor as its output; precision: "fp32" or "bf16"

        cache: folder for the converted network, by default one in the user's cache folder. Raises OpenVinoError.
        """
        openvino = silent_openvino()
        self._compiled = self._checked(openvino, backbone, precision, cached_file(backbone, openvino.__version__, cache))
        self.version = openvino.__version__.split("-")[0]

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, 224, 224) float32 -> (B, C, 7, 7) float32."""
        result = self._compiled.infer_new_request({0: images.contiguous().numpy()})
        return torch.from_numpy(np.array(result[0]))

    def _checked(self, openvino: Any, backbone: nn.Module, precision: str, path: Path) -> "openvino.CompiledModel":
        """The compiled network, from the file or anew; raises OpenVinoError when it does not do what the original does."""
        images = torch.rand(2, 3, CROP_SIZE_PX, CROP_SIZE_PX, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            expected = backbone(images)
        problem = ""
        for fresh in (False, True):
            if not fresh and not path.is_file():
                continue
            try:
                network = convert(backbone) if fresh else openvino.Core().read_model(path)
                options = {
                    "INFERENCE_PRECISION_HINT": HINTS[precision],
                    "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                    "PERFORMANCE_HINT": "LATENCY",
                }
                compiled = openvino.Core().compile_model(network, "CPU", options)
                got = torch.from_numpy(np.array(compiled.infer_new_request({0: images.numpy()})[0]))
            except Exception as error:  # noqa: BLE001 - OpenVINO raises RuntimeError and its own kinds for all that can be wrong
                problem = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            else:
                if fits(got, expected, TOLERANCE[precision]):
                    if fresh:
                        keep(openvino, network, path)
                    return compiled
                problem = "its features are not the network's"
            if not fresh:
                log.warning("the cached network %s is not usable (%s); it is made again", path, problem)
        raise OpenVinoError(problem)


def silent_openvino() -> Any:
    """The module openvino, without the telemetry client that its tools would load and that looks up an analytics host.

    Raises OpenVinoError when it is not installed, or cannot be loaded.
    """
    sys.modules.setdefault(TELEMETRY, None)  # Python's own way to say that there is no such module: OpenVINO then goes without
    try:
        import openvino
    except (ImportError, OSError) as error:
        missing = isinstance(error, ModuleNotFoundError)
        raise OpenVinoError("openvino is not installed" if missing else f"openvino cannot be loaded: {error}") from error
    return openvino


def fits(got: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Whether features of the same shape differ by no more than `tolerance` of their mean size in the mean."""
    return got.shape == expected.shape and float((got - expected).abs().mean()) <= tolerance * float(expected.abs().mean())


def convert(backbone: nn.Module) -> "openvino.Model":
    """The network for any number of pictures."""
    import warnings

    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    example = torch.zeros(2, 3, CROP_SIZE_PX, CROP_SIZE_PX)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch.jit.trace is on its way out, and says so
        decoder = TorchScriptPythonDecoder(backbone, example_input=example)
        frontend = FrontEndManager().load_by_framework("pytorch")
        network = frontend.convert(frontend.load(decoder))
    network.reshape([-1, 3, CROP_SIZE_PX, CROP_SIZE_PX])
    return network


def cached_file(backbone: nn.Module, version: str, folder: Path | None = None) -> Path:
    """Where the converted network of these weights lies, or would."""
    digest = hashlib.sha256(f"{version} {torch.__version__} {type(backbone).__name__}".encode())
    for name, value in backbone.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().contiguous().float().numpy().tobytes())
    if folder is None:
        import platformdirs

        folder = Path(platformdirs.user_cache_dir(APP, appauthor=False)) / "openvino"
    return folder / f"{digest.hexdigest()[:24]}.xml"


def keep(openvino: Any, network: "openvino.Model", path: Path) -> None:
    """Write both files beside their places, then move them there, the one that is looked for last. Without a cache all works as well."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as unfinished:
            draft = Path(unfinished) / path.name
            openvino.save_model(network, draft, compress_to_fp16=False)
            os.replace(draft.with_suffix(".bin"), path.with_suffix(".bin"))
            os.replace(draft, path)
    except (OSError, RuntimeError) as error:
        log.info("the converted network cannot be kept in %s (%s); each start makes it again, 2 seconds", path.parent, error)
