"""Runs a network on pictures of any size: by OpenVINO where it is, else by PyTorch, and always on the CPU."""

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import nn

from core.checkpoint import load_backbone
from core.openvino_compiled import Compilation, Compiled, runs_in
from core.openvino_files import OpenVinoError, cached_file, opened, silent_openvino, traced
from core.pixels import patchwork
from core.runtimes import warn_once


class Maps(NamedTuple):
    """maps: (C, h, w) float32 each, what a network says of a picture; unit: (2,) float32 x, y, picture pixels in one of the network's."""

    maps: tuple[np.ndarray, ...]
    unit: np.ndarray


class PictureNetwork:
    """A network that looks for people in pictures. words: what runs it. Threads may share it.

    It takes half of PyTorch's threads: the mesh network runs beside it, and stops whenever one of its threads has to share a core.
    """

    def __init__(self, network: nn.Module, name: str, stride: int, path: Path, folder: Path | None = None) -> None:
        """network: (1, H, W, 3) uint8 RGB, sides multiples of `stride`, -> maps (1, C, h, w); path: its weights, called `name`
        folder: for the converted network, by default the user's cache folder

        Raises InputError when the weights are missing, damaged or another network's.
        """
        self._network, self._stride = network.eval(), stride
        load_backbone(path, self._network, name)
        self._compiled: Compiled | None = None
        self.words = "PyTorch"
        try:
            self._compile(silent_openvino(), folder)
        except OpenVinoError as error:
            warn_once(f"the person detector runs in PyTorch, which is slower: {error}")

    def __call__(self, picture: np.ndarray, side_px: int) -> Maps:
        """What it says of a picture (H, W, 3) uint8 RGB, which is resized until its longer side has `side_px`."""
        height, width = picture.shape[:2]
        scale = side_px / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        resized = cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        padded = np.zeros((*(-(-side // self._stride) * self._stride for side in reversed(size)), 3), np.uint8)
        padded[: size[1], : size[0]] = resized
        maps = tuple(values[0].numpy() for values in self._said(padded[None]))
        return Maps(maps, np.array([width / size[0], height / size[1]], np.float32))

    def _compile(self, openvino: Any, folder: Path | None) -> None:
        precision = runs_in("bf16")
        picture = patchwork(1)

        @cache
        def ask() -> tuple[torch.Tensor, ...]:
            with torch.inference_mode():
                return self._network(picture)

        def make() -> Any:
            network = traced(self._network, picture)
            network.reshape([1, -1, -1, 3])
            return network

        compilation = Compilation(precision, (None,), picture.numpy(), ask, max(1, torch.get_num_threads() // 2))
        (self._compiled,) = opened(openvino, cached_file(self._network, openvino.__version__, folder), make, compilation)
        self.words = f"OpenVINO {openvino.__version__.split('-')[0]}, {precision}"

    def _said(self, pictures: np.ndarray) -> tuple[torch.Tensor, ...]:
        if self._compiled is None:
            with torch.inference_mode():
                return self._network(torch.from_numpy(pictures))
        return tuple(self._compiled(pictures))
