"""Whether losses and gradients are numbers, asked without making a GPU wait.

On a CPU an answer is there at once. A GPU would stand still while the host asks, so that a step is judged when the next one has been given
to it; until then a step whose gradient is no number moves no weight, which the fused optimiser decides on the device.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.training.batches import Batch


class NotFiniteError(Exception):
    """A loss or a gradient that is no number. batch: where it was found, if that is not the one at hand"""

    def __init__(self, message: str, batch: Batch | None = None) -> None:
        super().__init__(message)
        self.batch = batch


@dataclass(frozen=True)
class Step:
    """One that is not judged yet. numbers: (2,) loss and norm on the host, once `arrived`"""

    numbers: Tensor
    arrived: Any
    batch: Batch
    num_samples: int


class Watch:
    """The judge of one run's steps. late: judge each step after the next one was given to the device."""

    def __init__(self, device: torch.device) -> None:
        self.late = device.type == "cuda"
        self._waiting: Step | None = None

    def hold_still(self, optimizer: torch.optim.Optimizer, loss: Tensor, norm: Tensor) -> None:
        """Let the next step of a fused optimiser change nothing if one of both is no number."""
        optimizer.found_inf = (~torch.isfinite(loss + norm)).to(torch.float32)

    def passed(self, loss: Tensor, norm: Tensor, batch: Batch, num_samples: int) -> None:
        """A step was given to the device. Raises NotFiniteError about the one before it."""
        numbers = torch.stack([loss.detach(), norm.detach()]).float()
        host = torch.empty(2, pin_memory=numbers.is_cuda)
        host.copy_(numbers, non_blocking=True)
        arrived = None
        if numbers.is_cuda:
            arrived = torch.cuda.Event()
            arrived.record()
        before, self._waiting = self._waiting, Step(host, arrived, batch, num_samples)
        judge(before)

    def settle(self) -> None:
        """Wait for the last step. Raises NotFiniteError about it."""
        before, self._waiting = self._waiting, None
        judge(before)


def judge(step: Step | None) -> None:
    """Raise NotFiniteError where a step's numbers are none."""
    if step is None:
        return
    if step.arrived is not None:
        step.arrived.synchronize()
    loss, norm = step.numbers.tolist()
    if not math.isfinite(loss):
        raise NotFiniteError(f"the loss is {loss} after {step.num_samples} samples", step.batch)
    if not math.isfinite(norm):
        raise NotFiniteError(f"the gradient is {norm} after {step.num_samples} samples", step.batch)
