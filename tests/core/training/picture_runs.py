"""Runs on toy pictures within a test, and what is compared of them."""

import json
from pathlib import Path

import torch

from core.stopping import StopRequest
from core.training import loop
from core.training.crew import Crew
from core.training.picture_run import open_picture_run
from core.training.run_config import read_run_config
from core.training.train import use_threads
from core.training.trainer import Trainer


def run_all(place: Path, changes: list[str] | None = None, stop_after: int | None = None) -> Trainer:
    """A run from a config to its end, or until it is asked to stop after so many steps."""
    config = read_run_config(str(place), changes or [])
    use_threads(config.training)
    trainer, source, scorer = open_picture_run(config, Crew())
    trainer.folder.run.mkdir(parents=True, exist_ok=True)
    stop = StopRequest()
    if stop_after is not None:
        step = trainer.step

        def counted(batch: object, stopping: bool = False, passed_s: float = 0.0) -> dict:
            return step(batch, stopping or trainer.num_steps + 1 == stop_after, passed_s)

        trainer.step = counted
    loop.run(trainer, source, scorer, stop)
    return trainer


def journal(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def same_weights(first: Trainer, second: Trainer) -> None:
    for name, value in first.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], value, rtol=0, atol=0, msg=name)
    for name, value in first.average.values.items():
        torch.testing.assert_close(second.average.values[name], value, rtol=0, atol=0, msg=name)
