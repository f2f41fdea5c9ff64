"""A device without a GPU whose streams are as late, or as early, as events allow: what does not wait where it must goes wrong here."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from core.cuda.device import Captured

built_with_cuda = pytest.mark.skipif(
    not torch.backends.cuda.is_built(), reason="this build of PyTorch is without CUDA, which even tensors that pretend to be on a GPU need"
)


@dataclass
class Stream:
    """Work in order; `done` of it has run."""

    name: str
    early: bool = False
    work: list[Callable[[], object]] = field(default_factory=list)
    done: int = 0

    def give(self, work: Callable[[], object]) -> None:
        self.work.append(work)
        if self.early:
            self.advance(len(self.work))

    def advance(self, place: int) -> None:
        while self.done < place:
            self.done += 1
            self.work[self.done - 1]()


@dataclass
class PretendEvent:
    stream: Stream | None = None
    place: int = 0

    def record(self, stream: Stream) -> None:
        self.stream, self.place = stream, len(stream.work)

    def synchronize(self) -> None:
        if self.stream is not None:
            self.stream.advance(self.place)


@dataclass(frozen=True)
class Memory:
    """What a capture of this many crops finds: none left above `limit`."""

    limit: int


class PretendDevice:
    """See core.cuda.device.Device. early: streams that run at once, where events let them; the others only when somebody waits."""

    def __init__(self, early: tuple[str, ...] = (), memory: Memory | None = None) -> None:
        self.name, self.device = "no GPU", torch.device("cpu")
        self.compute, self.uploads, self.downloads = (Stream(name, name in early) for name in ("compute", "uploads", "downloads"))
        self.memory, self.num_captures, self.num_frees, self.num_bytes_up = memory, 0, 0, 0

    def run(self, stream: Stream, work: Callable[[], object]) -> None:
        stream.give(_in_inference(work))

    def event(self) -> PretendEvent:
        return PretendEvent()

    def wait(self, stream: Stream, event: PretendEvent) -> None:
        other, place = event.stream, event.place
        if other is not None:
            stream.give(lambda: other.advance(place))

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.full(shape, float("nan") if dtype.is_floating_point else 77, dtype=dtype)

    def capture(self, work: Callable[[], Tensor]) -> Captured:
        self.num_captures += 1
        outputs = work().clone()
        if self.memory is not None and len(outputs) > self.memory.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return Captured(lambda: outputs.copy_(work()), outputs)

    def timed(self, work: Callable[[], object]) -> Callable[[], float]:
        self.synchronize()
        start_s = time.perf_counter()
        self.run(self.compute, work)
        self.synchronize()
        return lambda: (time.perf_counter() - start_s) * 1e3

    def synchronize(self) -> None:
        for stream in (self.uploads, self.compute, self.downloads):
            stream.advance(len(stream.work))

    def free(self) -> None:
        self.num_frees += 1

    def free_bytes(self) -> tuple[int, int]:
        return 1 << 30, 8 << 30


def _in_inference(work: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        with torch.inference_mode():
            return work()

    return run
