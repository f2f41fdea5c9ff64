"""The network run by OpenVINO: the quickest way on a CPU, in one call a batch that leaves Python's lock to other threads.

The converted network is kept (core.openvino_files) and compared with the original before it is used; one that is damaged, of
another network or of other code is made again.
"""

import copy
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from core import answers
from core.errors import InputError
from core.folding import fold_batch_norms
from core.model import FastMETRO, Prediction
from core.openvino_compiled import Compilation, Compiled, runs_in
from core.openvino_files import (
    INT8,
    OpenVinoError,
    cached_file,
    code_of,
    default_folder,
    digest_of_weights,
    note_of,
    opened,
    silent_openvino,
    traced,
)
from core.pixels import Normaliser, patchwork
from core.types import CROP_SIZE_PX

if TYPE_CHECKING:
    import openvino

MAX_BATCH = 16
MAKE_INT8 = "make it with `python -m core.quantize CHECKPOINT` (a minute; pip install -r requirements-quantize.txt)"
NUM_CHECKED = 2
"""Crops of core.pixels.patchwork that a network is compared with the original on."""


class Exported(nn.Module):
    """What is converted: crops (B, 224, 224, 3) uint8 -> camera, joints and coarse mesh.

    What follows, up-sampling and the body's parameters, stays outside: in bfloat16 coordinates would be millimetres off.
    """

    def __init__(self, model: FastMETRO) -> None:
        super().__init__()
        self.model, self.normalise = model, Normaliser(model.backbone)

    def forward(self, crops: Tensor) -> tuple[Tensor, ...]:
        """(B, 3), (B, 14, 3), (B, 431, 3)."""
        return self.model.points(self.model.backbone(self.normalise(crops)))


class OpenVinoNetwork:
    """A core.runtimes.Runtime. Threads may share it."""

    max_batch = MAX_BATCH

    def __init__(self, model: FastMETRO, precision: str, cache: Path | None = None) -> None:
        """model: on the CPU; it is left as it is, and only its up-sampling and the regressor of body parameters are held on to

        precision: fp32, bf16 or int8; cache: folder for the converted network, by default one in the user's cache folder.
        Raises OpenVinoError, and InputError for int8 where core.quantize has not made that network yet, or with other code.
        """
        openvino = silent_openvino()
        made_once = quantised_file(model, cache) if precision == "int8" else None
        if made_once is not None and not os.path.isfile(made_once):
            raise InputError(f"precision int8: this network has no 8-bit version here yet; {MAKE_INT8}")
        if made_once is not None and code_of(made_once) != answers.code_digest():
            raise InputError(f"precision int8: the 8-bit version of this network here was made by other code than this; {MAKE_INT8}")
        path = made_once or cached_file(model, openvino.__version__, cache)
        self._compiled = checked(openvino, model, precision, path)
        self._upsampling = model.upsampling.eval()
        self._body_regressor = None if model.body_regressor is None else model.body_regressor.eval()
        self.precision = "int8" if precision == "int8" else runs_in(precision)
        self.words = f"OpenVINO {openvino.__version__.split('-')[0]}"
        if made_once is not None:
            self.words += f", {note_of(path)}"

    @torch.inference_mode()
    def __call__(self, crops: np.ndarray) -> Prediction:
        """As Runtime's."""
        camera, joints, coarse = self._compiled[len(crops) == 1](crops)
        levels = [coarse]
        for layer in self._upsampling:
            levels.append(layer(levels[-1]))
        parameters = (None, None) if self._body_regressor is None else self._body_regressor(levels[1])
        return Prediction(camera, joints, tuple(levels), *parameters)


def checked(openvino: Any, model: FastMETRO, precision: str, path: Path) -> list[Compiled]:
    """The network compiled for any number of crops, and for one alone, which is up to a fifth quicker; from the files or anew.

    Raises OpenVinoError when it does not do what the original does.
    """
    crops = patchwork(NUM_CHECKED)

    @functools.cache
    def exported() -> Exported:
        return Exported(fold_batch_norms(copy.deepcopy(model).eval())).eval()

    @functools.cache
    def ask() -> tuple[Tensor, ...]:
        with torch.inference_mode():
            return exported()(crops)

    make = None if precision == "int8" else lambda: convert(exported())
    compilation = Compilation(precision, (None, (1, CROP_SIZE_PX, CROP_SIZE_PX, 3)), crops.numpy(), ask)
    try:
        return opened(openvino, path, make, compilation)
    except OpenVinoError as error:
        if precision == "int8":
            raise InputError(f"precision int8: {path} is not usable ({error}); {MAKE_INT8}") from error
        raise OpenVinoError(f"OpenVINO does not run it: {error}") from error


def convert(exported: Exported) -> "openvino.Model":
    """The network for any number of crops."""
    crops = patchwork(NUM_CHECKED)
    with torch.no_grad():
        exported(crops)  # computes the decoder's constant beginning, so that the trace holds its values
    network = traced(exported, crops)
    network.reshape([-1, CROP_SIZE_PX, CROP_SIZE_PX, 3])
    return network


def quantised_file(model: FastMETRO, folder: Path | None = None) -> Path:
    """Where core.quantize puts the 8-bit network of these weights."""
    return (folder or default_folder()) / f"{INT8}{digest_of_weights(model)[:24]}.xml"
