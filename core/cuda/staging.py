"""Double-buffered copies: while the device works on one batch, the next is on its way to it and the last on its way back."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from core.cuda.device import Device, Event

NUM_BUFFERS = 2


@dataclass
class Buffer:
    """Memory for one batch on its way. host: page-locked; there: on the device; both flat.

    arrived: `there` holds what `host` held; left: nobody reads `there` any more
    """

    arrived: Event
    left: Event
    host: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))
    there: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))


class Uploads:
    """Host -> device, on the stream `uploads`. Not for two threads at once."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._buffers = [Buffer(device.event(), device.event()) for _ in range(NUM_BUFFERS)]
        self._next = 0

    def send(self, values: Tensor) -> tuple[Tensor, Event]:
        """values: uint8 on the host, of any strides; they may change once this returns.

        returns: the same on the device, for work on the stream `compute`, and an event to record there after the last use
        """
        device, buffer = self._device, self._buffers[self._next]
        self._next = (self._next + 1) % NUM_BUFFERS
        count = values.numel()
        buffer.arrived.synchronize()  # the copy of the batch before the last one has read the host's memory
        if len(buffer.host) < count:
            buffer.left.synchronize()
            buffer.host = device.pinned((count,), torch.uint8)
            buffer.there = torch.empty(count, dtype=torch.uint8, device=device.device)
            device.synchronize()  # memory that other streams had before is free on all of them
        host, there = buffer.host[:count].view(values.shape), buffer.there[:count].view(values.shape)
        host.copy_(values)
        device.wait(device.uploads, buffer.left)
        device.run(device.uploads, lambda: there.copy_(host, non_blocking=True))
        buffer.arrived.record(device.uploads)
        device.wait(device.compute, buffer.arrived)
        return there, buffer.left


class Downloads:
    """Device -> host: results leave their place at once, so that the next batch may fill it. Not for two threads at once."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._kept: list[Tensor | None] = [None] * NUM_BUFFERS
        self._computed = [device.event() for _ in range(NUM_BUFFERS)]
        self._left = [device.event() for _ in range(NUM_BUFFERS)]
        self._next = 0

    def fetch(self, values: Tensor) -> tuple[Tensor, Event]:
        """values: on the device, made on the stream `compute`. Returns memory of their own on the host, and when it holds them."""
        device, number = self._device, self._next
        self._next = (self._next + 1) % NUM_BUFFERS
        kept = self._kept[number]
        if kept is None or kept.shape[1:] != values.shape[1:] or len(kept) < len(values) or kept.dtype != values.dtype:
            self._left[number].synchronize()
            kept = self._kept[number] = torch.empty_like(values, memory_format=torch.contiguous_format)
            device.synchronize()
        kept = kept[: len(values)]
        host, done = device.pinned(tuple(values.shape), values.dtype), device.event()
        device.wait(device.compute, self._left[number])
        device.run(device.compute, lambda: kept.copy_(values))
        self._computed[number].record(device.compute)
        device.wait(device.downloads, self._computed[number])
        device.run(device.downloads, lambda: host.copy_(kept, non_blocking=True))
        self._left[number].record(device.downloads)
        done.record(device.downloads)
        return host, done
