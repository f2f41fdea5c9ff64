"""As toy_run, but the leader pauses for two seconds after its first validation, and each process writes down every step.

RUN/steps-RANK.txt: a line a step: learning rate and sum of the weights, exactly
"""

import sys
import time
from typing import Any

import torch

from core.training.train import main
from core.training.trainer import Trainer
from tests.core.training.toy_run import register

PAUSE_S = 2.0


class PausingTrainer(Trainer):
    """A trainer that tells, and whose leader pauses."""

    paused = False

    def step(self, *arguments: Any) -> dict[str, torch.Tensor]:
        """Once more, told."""
        measured = super().step(*arguments)
        weights = sum(parameter.detach().double().sum().item() for parameter in self.trainable)
        with (self.folder.run / f"steps-{self.crew.rank}.txt").open("a") as file:
            print(self.optimizer.param_groups[0]["lr"].hex(), weights.hex(), file=file)
        return measured

    def save_last(self) -> None:
        """What the leader does alone."""
        super().save_last()
        time.sleep(0 if self.paused else PAUSE_S)
        self.paused = True


if __name__ == "__main__":
    import core.training.picture_run

    core.training.picture_run.Trainer = PausingTrainer
    register(dict.__setitem__)
    sys.exit(main(sys.argv[1:]))
