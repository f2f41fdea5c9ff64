"""People cut out of a frame on the device, as core.crop cuts them on the host: an area average, then bilinear, black outside.

Both steps act on rows and columns apart, so that a crop is `rows @ frame @ columns`: two matrices a person, made from six numbers an
axis, and shapes that depend on the frame's size and the number of people alone.
"""

import numpy as np
import torch
from torch import Tensor

from core.crop import Sampling
from core.types import CROP_SIZE_PX

NUM_VALUES = 6


def axis_values(sampling: Sampling | None) -> np.ndarray:
    """(2, 6) float64 for `cut`: for x and y scale and offset of a crop's pixel in the shrunk part, where the part begins in the frame,
    how many of the frame's pixels one of the part's is wide, how many the part has, and how many of the frame's are one mean before
    all this. None = nothing of the frame is seen. Raises ValueError for a crop that is turned: its rows are not the frame's.
    """
    if sampling is None:
        return np.array([[1.0, 0.0, 0.0, 1.0, 0.0, 1.0]] * 2)
    if sampling.part_from_crop[0, 1] or sampling.part_from_crop[1, 0]:
        raise ValueError(f"crop: got one that is turned, {sampling.part_from_crop.tolist()}; cut it by core.crop.sample_crop")
    scale, offset = np.diag(sampling.part_from_crop), sampling.part_from_crop[:, 2]
    cell = (sampling.high - sampling.low) / sampling.size_px
    grain = np.full(2, 2.0 if sampling.halved else 1.0)
    return np.stack([scale, offset, sampling.low, cell, sampling.size_px, grain], 1).astype(np.float64)


def cut(frame: Tensor, values: Tensor) -> Tensor:
    """frame: (H, W, 3) uint8; values: (B, 2, 6) float64, see `axis_values` -> (B, 224, 224, 3) uint8, on the frame's device."""
    height, width = frame.shape[:2]
    columns, rows = axis_weights(values[:, 0], width), axis_weights(values[:, 1], height)  # (B, 224, W), (B, 224, H)
    count = len(values)
    lines = (rows.flatten(0, 1) @ frame.float().reshape(height, -1)).view(count, CROP_SIZE_PX, width, 3)
    lines = lines.permute(0, 2, 1, 3).reshape(count, width, -1)  # (B, W, 224 * 3)
    pixels = (columns @ lines).view(count, CROP_SIZE_PX, CROP_SIZE_PX, 3).transpose(1, 2)
    return pixels.round().clamp(0, 255).to(torch.uint8).contiguous()


def axis_weights(values: Tensor, length: int) -> Tensor:
    """values: (B, 6) float64 of one axis -> (B, 224, length) float32: how the frame's pixels mix to each of the crop's."""
    scale, offset, low, cell, size, grain = (column[:, None] for column in values.unbind(1))
    place = scale * torch.arange(CROP_SIZE_PX, device=values.device, dtype=values.dtype) + offset  # (B, 224) in the shrunk part
    first = place.floor()
    pixels = torch.arange(length, device=values.device, dtype=values.dtype)
    begins = (low + grain * ((pixels - low) / grain).floor()).float()[:, None]  # (B, 1, length) of the means that pixels are part of
    width = grain.float()[..., None]
    total: Tensor | None = None
    for number, near in ((first, 1 - (place - first)), (first + 1, place - first)):
        share = near * ((number >= 0) & (number < size)) / cell
        start = low + number * cell
        overlap = torch.minimum((start + cell).float()[..., None], begins + width) - torch.maximum(start.float()[..., None], begins)
        weights = overlap.clamp(min=0) / width * share.float()[..., None]
        total = weights if total is None else total + weights
    return total
