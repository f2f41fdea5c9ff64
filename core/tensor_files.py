"""safetensors' reader and writer, or where that package is not installed small ones for the same files.

The format: 8 bytes length, a JSON header (name -> dtype, shape, place; "__metadata__"), then the numbers.
Source: the safetensors README, "Format". A bare machine that only trains has PyTorch and NumPy alone.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64, "I32": torch.int32,
    "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_HEADER_BYTES = 100_000_000


class SmallSafetensorError(Exception):
    """A file that is no safetensors file, or a damaged one."""


class SmallReader:
    """`safetensors.safe_open` for whole tensors. framework: "pt" or "np"."""

    def __init__(self, path: str | Path, framework: str) -> None:
        content = Path(path).read_bytes()
        size = int.from_bytes(content[:8], "little")
        if len(content) < 8 or size > min(MAX_HEADER_BYTES, len(content) - 8):
            raise SmallSafetensorError("the header is longer than the file")
        try:
            self.header: dict[str, Any] = json.loads(content[8 : 8 + size])
        except ValueError as error:
            raise SmallSafetensorError("the header is no JSON") from error
        self.numbers, self.framework = bytearray(content[8 + size :]), framework

    def __enter__(self) -> "SmallReader":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def metadata(self) -> dict[str, str] | None:
        """Texts beside the tensors."""
        return self.header.get("__metadata__")

    def keys(self) -> list[str]:
        """Names of the tensors."""
        return [name for name in self.header if name != "__metadata__"]

    def get_tensor(self, name: str) -> Tensor | np.ndarray:
        """One of them. Raises SmallSafetensorError where its place in the file does not fit its shape."""
        entry = self.header[name]
        start, end = entry["data_offsets"]
        dtype, shape = DTYPES.get(entry["dtype"]), entry["shape"]
        if dtype is None or end > len(self.numbers) or end - start != int(np.prod(shape)) * dtype.itemsize:
            raise SmallSafetensorError(f"tensor {name!r} does not fit its place")
        tensor = torch.empty(shape, dtype=dtype)
        if end > start:
            tensor = torch.frombuffer(self.numbers, dtype=torch.uint8, count=end - start, offset=start).clone().view(dtype).view(shape)
        return tensor.numpy() if self.framework == "np" else tensor


def small_save(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """`safetensors.torch.save`: the content of a file."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    parts, place = [], 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        part = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [place, place + len(part)]}
        parts.append(part)
        place += len(part)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(parts)


try:
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save
except ImportError:
    SafetensorError, safe_open, save = SmallSafetensorError, SmallReader, small_save
