"""Averaged weights: what is evaluated and shipped."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

EVERY_STEPS = 4
"""The average is updated every few steps with the decay of as many: the same average for a quarter of the time."""


class AveragedWeights:
    """Exponential moving average of the trainable weights of a model.

    Early on the decay is lower, (1 + n) / (10 + n) after n updates, so that the random start is soon forgotten.
    A decay of 0 keeps no average: the present weights serve.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.values = {name: p.detach().clone() for name, p in self.trained.items()} if decay else {}
        self.decay = decay**EVERY_STEPS
        self.num_updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the present weights."""
        if not self.values:
            return
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        torch._foreach_lerp_(list(self.values.values()), [p.detach() for p in self.trained.values()], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the averaged weights inside this block and its own again after it."""
        if not self.values:
            yield
            return
        own = {name: p.detach().clone() for name, p in self.trained.items()}
        self._put(self.values)
        try:
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self.trained.items():
            parameter.copy_(values[name])

    def state(self) -> dict[str, object]:
        """What to save."""
        return {"num_updates": self.num_updates, "values": self.values}

    def restore(self, state: dict[str, object]) -> None:
        """Take back what `state` gave."""
        if state["values"].keys() != self.values.keys():
            raise KeyError("averaged weights are kept in one of both only; average_decay differs")
        self.num_updates = state["num_updates"]
        for name, value in self.values.items():
            value.copy_(state["values"][name])
