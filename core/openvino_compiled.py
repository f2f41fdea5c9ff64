"""OpenVINO networks compiled for this CPU, and kept: to read one back takes a third of the time of compiling it again.

Each is a file beside the converted network that it was made of: sha256 of the rest, then what OpenVINO exports. It is named after the
processor and all else that it depends on, so that a folder may serve several machines. What it must say is kept as well (core.answers).
"""

import contextlib
import hashlib
import queue
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from core.answers import known_answers, write_answers
from core.cpu import has_fast_bf16_cpu
from core.sealed import read_sealed, write_sealed

if TYPE_CHECKING:
    import openvino

SUFFIX = ".compiled"
TOLERANCE = {"fp32": 1e-3, "bf16": 0.35, "int8": 0.8}
"""Largest mean difference from the original in float32, relative to the mean size of an output, on a picture of nothing in particular.

Wide for numbers of 8 bits in trunks of 150 layers: this finds a wrong network, it does not measure a right one."""


class OtherNetwork(Exception):  # noqa: N818  no mistake of anybody's: it is made again
    """A network does not say what the original says."""


class Compiled:
    """A compiled network; threads may share it: each has a request of its own while it runs, and leaves it for the next."""

    def __init__(self, network: "openvino.CompiledModel") -> None:
        self.network = network
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def __call__(self, pictures: np.ndarray) -> list[Tensor]:
        """The network's outputs, copied."""
        try:
            request = self._idle.get_nowait()
        except queue.Empty:
            request = self.network.create_infer_request()
        results = request.infer({0: np.ascontiguousarray(pictures)}, share_inputs=True)
        said = [torch.from_numpy(np.array(results[number])) for number in range(len(results))]
        self._idle.put(request)
        return said


@dataclass(frozen=True)
class Compilation:
    """How a network is compiled, once for each shape.

    shapes: of the input, None: as it is        num_threads: 0: as many as PyTorch has
    pictures: as many as each shape takes are shown to what was compiled    ask: what the original says to them; slow, remembers its answer
    """

    precision: str
    shapes: tuple[tuple[int, ...] | None, ...]
    pictures: np.ndarray
    ask: Callable[[], Sequence[Tensor]]
    num_threads: int = 0

    def made(self, openvino: Any, network: "openvino.Model") -> list[Compiled]:
        """Compile, and check. Raises OtherNetwork."""
        compiled = []
        for shape in self.shapes:
            shaped = network
            if shape is not None:
                shaped = network.clone()
                shaped.reshape(list(shape))
            compiled.append(Compiled(compile_network(openvino, shaped, self.precision, self.num_threads)))
        self._check(compiled, self.ask())
        return compiled

    def files(self, openvino: Any, path: Path) -> list[Path]:
        """Where they are kept, beside the converted network in `path`."""
        device = [openvino.Core().get_property("CPU", name) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")]
        keys = [f"{openvino.__version__} {device} {runs_in(self.precision)} {shape}" for shape in self.shapes]
        return [path.with_suffix(f".{hashlib.sha256(key.encode()).hexdigest()[:12]}{SUFFIX}") for key in keys]

    def kept(self, openvino: Any, path: Path) -> list[Compiled]:
        """From the files, checked.

        Raises OSError where there are none, ValueError for damaged ones, RuntimeError for what OpenVINO refuses, OtherNetwork.
        """
        options = options_for(self.precision, self.num_threads)
        compiled = [Compiled(openvino.Core().import_model(read_sealed(file), "CPU", options)) for file in self.files(openvino, path)]
        answers = known_answers(path)
        self._check(compiled, self.ask() if answers is None else answers)
        if answers is None:
            with contextlib.suppress(OSError):  # a folder that may only be read: asked again at the next start
                write_answers(path, self.ask())
        return compiled

    def keep(self, openvino: Any, compiled: Sequence[Compiled], path: Path, replaces: bool) -> None:
        """Write the files. Raises OSError, and RuntimeError of OpenVINO's.

        replaces: also those that are there
        """
        for file, one in zip(self.files(openvino, path), compiled, strict=True):
            if replaces or not file.exists():
                write_sealed(file, one.network.export_model().getvalue())
        write_answers(path, self.ask())

    def _check(self, compiled: Sequence[Compiled], answers: Sequence[Tensor]) -> None:
        for way, shape in zip(compiled, self.shapes, strict=True):
            count = len(self.pictures) if shape is None else shape[0]
            if not fits(way(self.pictures[:count]), [values[:count] for values in answers], TOLERANCE[self.precision]):
                raise OtherNetwork


def fits(got: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float) -> bool:
    """Whether outputs of the same shapes differ by no more than `tolerance` of their mean size in the mean."""
    return len(got) == len(expected) and all(
        ours.shape == theirs.shape and float((ours - theirs).abs().mean()) <= tolerance * float(theirs.abs().mean())
        for ours, theirs in zip(got, expected, strict=True)
    )


def compile_network(openvino: Any, network: "openvino.Model", precision: str, num_threads: int = 0) -> "openvino.CompiledModel":
    """For this CPU, on so many threads, 0: as many as PyTorch has."""
    return openvino.Core().compile_model(network, "CPU", options_for(precision, num_threads))


def options_for(precision: str, num_threads: int) -> dict[str, Any]:
    """What OpenVINO is told."""
    return {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[runs_in(precision)],
        "INFERENCE_NUM_THREADS": num_threads or torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # else two networks on a thread each would share the first core
    }


def runs_in(precision: str) -> str:
    """fp32 or bf16: what is not int8 runs in bfloat16 where that is allowed and the CPU has it."""
    return "fp32" if precision == "fp32" or not has_fast_bf16_cpu() else "bf16"
