"""The processes of one training run: started by torchrun, or one alone.

On a CPU a process for each core is quicker than one process with as many threads: the network's many small operations
spend much of their time starting and ending threads (119 samples/s on one thread, 133 on two, beside other jobs).
"""

import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import distributed, nn

from core.errors import InputError


class Crew:
    """All processes hold the same weights; each takes its share of every batch, and the gradients are averaged."""

    def __init__(self) -> None:
        """Join the processes that torchrun announces in the environment, if any."""
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        if self.size > 1 and not distributed.is_initialized():
            distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")

    @property
    def leads(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    def check_batch(self, batch: int) -> None:
        """Raise InputError unless a batch can be shared out evenly."""
        if batch % self.size:
            raise InputError(f"--batch: got {batch}, expected a multiple of the {self.size} processes")

    def average(self, parameters: Sequence[nn.Parameter], *numbers: float) -> list[float]:
        """Average the gradients over the crew, and these numbers with them; returns their means."""
        if self.size == 1:
            return list(numbers)
        gradients = [p.grad for p in parameters if p.grad is not None]
        extra = torch.tensor(numbers, device=gradients[0].device)
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), extra])
        distributed.all_reduce(flat)
        flat /= self.size
        *means, extra = flat.split([*(gradient.numel() for gradient in gradients), len(numbers)])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))
        return extra.tolist()

    def share(self, rows: np.ndarray) -> np.ndarray:
        """This process's part of a batch's row numbers."""
        return rows[self.rank :: self.size]

    def close(self) -> None:
        """Leave the crew."""
        if distributed.is_initialized():
            distributed.destroy_process_group()
