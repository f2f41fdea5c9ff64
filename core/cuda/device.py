"""Streams, events, page-locked memory and graphs: all that the runtime asks of a device. The only file that calls torch.cuda.

Work on a stream runs some time later, in order; other streams and the host wait by events. Tests have a device of their own that is as
late as it may be.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

WARM_UP = 3
"""Runs before a capture: libraries choose their algorithms and take their workspaces."""


@dataclass(frozen=True)
class Captured:
    """Work that can be repeated on what now lies in its inputs. outputs: where it leaves its results, until the next repeat"""

    replay: Callable[[], object]
    outputs: Tensor


class Event(Protocol):
    """A place in a stream."""

    def record(self, stream: Any) -> None:
        """The place is behind all that the stream was given so far."""

    def synchronize(self) -> None:
        """Wait on the host until the device is past the place; at once where nothing was recorded."""


class Device(Protocol):
    """Streams `compute`, `uploads` and `downloads` on `device`; name: in words."""

    name: str
    device: torch.device
    compute: Any
    uploads: Any
    downloads: Any

    def run(self, stream: Any, work: Callable[[], object]) -> None:
        """Give a stream work, which must not touch the host's memory except page-locked tensors."""

    def event(self) -> Event:
        """A new one."""

    def wait(self, stream: Any, event: Event) -> None:
        """Let what a stream is given from now on wait for an event."""

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor on the host which streams can copy from and to."""

    def capture(self, work: Callable[[], Tensor]) -> Captured:
        """`work` on the stream `compute`, ready to be repeated: replay it by `run` on that stream."""

    def timed(self, work: Callable[[], object]) -> Callable[[], float]:
        """Give the stream `compute` work; what is returned waits for it and says how many milliseconds it took, by the device's clock."""

    def synchronize(self) -> None:
        """Wait until all is done."""

    def free(self) -> None:
        """Give back memory that nothing holds any more."""

    def free_bytes(self) -> tuple[int, int]:
        """Memory that is free, and all that there is."""


class CudaDevice:
    """A GPU. See Device."""

    def __init__(self, index: int | None = None) -> None:
        """index: None = PyTorch's current one."""
        self.device = torch.device("cuda", torch.cuda.current_device() if index is None else index)
        self.name = torch.cuda.get_device_name(self.device)
        self.compute, self.uploads, self.downloads = (torch.cuda.Stream(self.device) for _ in range(3))
        # One pool for all graphs: what is dead after a replay serves the next. They run one after the other, on one stream.
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, stream: torch.cuda.Stream, work: Callable[[], object]) -> None:
        """As Device's."""
        with torch.cuda.stream(stream):
            work()

    def event(self) -> torch.cuda.Event:
        """As Device's."""
        return torch.cuda.Event()

    def wait(self, stream: torch.cuda.Stream, event: torch.cuda.Event) -> None:
        """As Device's."""
        stream.wait_event(event)

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """As Device's."""
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def capture(self, work: Callable[[], Tensor]) -> Captured:
        """As Device's. Other threads may use the GPU meanwhile."""
        torch.cuda.synchronize(self.device)  # weights and inputs were made on other streams
        with torch.cuda.stream(self.compute):  # where torch.cuda.graph fails it leaves its stream behind; this takes it back
            for _ in range(WARM_UP):
                work()
            self.compute.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self.compute, capture_error_mode="thread_local"):
                outputs = work()
        return Captured(graph.replay, outputs)

    def timed(self, work: Callable[[], object]) -> Callable[[], float]:
        """As Device's."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.synchronize()  # what was made ready on other streams is there
        with torch.cuda.stream(self.compute):
            begin.record()
            work()
            end.record()

        def elapsed_ms() -> float:
            end.synchronize()
            return begin.elapsed_time(end)

        return elapsed_ms

    def synchronize(self) -> None:
        """As Device's."""
        torch.cuda.synchronize(self.device)

    def free(self) -> None:
        """As Device's."""
        torch.cuda.synchronize(self.device)
        gc.collect()  # a PackedNetwork is in a cycle with its model
        torch.cuda.empty_cache()

    def free_bytes(self) -> tuple[int, int]:
        """As Device's."""
        return torch.cuda.mem_get_info(self.device)
