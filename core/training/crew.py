"""The processes of one training run: started by torchrun, or one alone.

On a CPU a process for each core is quicker than one process with as many threads: the network's many small operations
spend much of their time starting and ending threads (119 samples/s on one thread, 133 on two, beside other jobs).
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from core.errors import InputError


class Crew:
    """All processes hold the same weights; each takes its share of every batch, and the gradients are averaged."""

    def __init__(self) -> None:
        """Join the processes that torchrun announces in the environment, on one machine or several, if any."""
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        if self.size > 1 and not distributed.is_initialized():
            if self.local_rank < torch.cuda.device_count():  # more processes may train on the CPU; core.training.devices refuses the rest
                torch.cuda.set_device(self.local_rank)
            # Gradients go by NCCL between GPUs; the few numbers of `agree` always by Gloo, so that no GPU waits for them.
            distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")

    @property
    def leads(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    def check_batch(self, batch: int, accumulate: int = 1) -> None:
        """Raise InputError unless a batch can be shared out evenly."""
        if batch % (self.size * accumulate):
            parts = f" x {accumulate} accumulated parts" if accumulate > 1 else ""
            raise InputError(f"--batch: got {batch}, expected a multiple of the {self.size} processes{parts}")

    def wrapped(self, module: nn.Module, device: torch.device) -> nn.Module:
        """`module` with its gradients averaged over the crew while the backward pass runs."""
        if self.size == 1:
            return module
        devices = [device] if device.type == "cuda" else None
        # Statistics of batch normalisation stay each process's own until they are read, see follow_leader.
        return DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True)

    @staticmethod
    def local(module: nn.Module) -> AbstractContextManager:
        """A context in which the backward pass of a wrapped module only adds up its own gradients."""
        return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()

    def agree(self, *numbers: float) -> list[float]:
        """The sums of these numbers over the crew, the same in all of it."""
        if self.size == 1:
            return list(numbers)
        together = torch.tensor(numbers, dtype=torch.float64)
        distributed.all_reduce(together)
        return together.tolist()

    def follow_leader(self, tensors: Iterable[torch.Tensor]) -> None:
        """Let these hold what the leader's hold."""
        for tensor in tensors if self.size > 1 else ():
            distributed.broadcast(tensor, 0)

    def gathered(self, value: Any) -> list[Any]:
        """What each process gave, in the order of their ranks; for small things, as they are pickled."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def share(self, rows: np.ndarray | Sequence[int]) -> np.ndarray:
        """This process's part of a batch's row numbers."""
        return np.asarray(rows)[self.rank :: self.size]

    def stretch(self, rows: np.ndarray) -> np.ndarray:
        """The same, of rows that follow each other."""
        return rows.reshape(self.size, -1)[self.rank]

    def close(self) -> None:
        """Leave the crew."""
        if distributed.is_initialized():
            distributed.destroy_process_group()
