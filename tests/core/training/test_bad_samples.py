"""Runs on toy pictures of which some are broken, or from which no number follows."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from core.checkpoint import load_checkpoint
from core.errors import InputError
from core.training.crew import Crew
from core.training.picture_run import open_picture_run
from core.training.picture_validation import MEASURES, scores_of
from core.training.pictures import plain_batches
from core.training.run_config import read_run_config
from tests.core.training.picture_runs import journal, run_all
from tests.core.training.toy_run import write_config

pytestmark = pytest.mark.usefixtures("toys")


def test_broken_samples_are_passed_over_and_counted(tmp_path: Path, people: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = {"train": {"kind": "toy", "path": str(people), "broken": 3}, "validation": None, "workers": 0}
    run_all(write_config(tmp_path / "c.yaml", people, None, data=data))
    assert journal(tmp_path / "run")[-1]["broken_samples"] > 50
    told = [record.message for record in caplog.records if "broken" in record.message]
    assert len(told) == 5 and "only counted" in told[-1]
    assert load_checkpoint(tmp_path / "run" / "last.safetensors").metadata["scores"] is None


def test_broken_samples_are_left_out_of_validation(tmp_path: Path, people: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody is counted twice instead, in no batch, also where a whole one is broken."""
    data = {"train": {"kind": "toy", "path": str(people)}, "validation": {"kind": "toy", "path": str(people), "broken": 3}, "workers": 0}
    place = write_config(tmp_path / "c.yaml", people, None, data=data)
    trainer, _, validation = open_picture_run(read_run_config(str(place), ["training.batch=1", "training.validate_limit=0"]), Crew())
    keys = [key for batch, _ in plain_batches(validation.people, np.arange(48), 1, validation.maker, 0) for key in batch.keys]
    assert len(keys) == len(set(keys)) == 32
    assert validation.scores(trainer.objective, Crew())[0].num_people == 32
    assert any("toy sample 0 is broken" in record.message for record in caplog.records)
    validation.people.broken = 1
    with pytest.raises(InputError, match="validation: all 48 people looked at are broken"):
        validation.scores(trainer.objective, Crew())


@pytest.mark.parametrize("workers", [0, 1])
def test_all_broken_ends_in_one_line(tmp_path: Path, people: Path, workers: int) -> None:
    data = {"train": {"kind": "toy", "path": str(people), "broken": 1}, "validation": None, "workers": workers}
    with pytest.raises(InputError, match="48 samples in a row are broken") as error:
        run_all(write_config(tmp_path / "c.yaml", people, None, data=data))
    assert "\n" not in str(error.value)


def test_a_loss_that_is_not_finite_keeps_the_batch_and_its_names(tmp_path: Path, people: Path) -> None:
    place = write_config(tmp_path / "c.yaml", people, None, training={"lr": 1e30, "clip_norm": 1e30, "warmup_samples": 0})
    with pytest.raises(InputError, match=r"bad-batch\.pt"):
        run_all(place)
    kept = torch.load(tmp_path / "run" / "bad-batch.pt", weights_only=True)
    assert kept["features"][0].shape == (8, 3, 224, 224)
    assert len(kept["keys"]) == 8 and kept["keys"][0].startswith("shard-")
    assert not (tmp_path / "run" / "state.pt").exists()


def test_a_score_that_is_no_number_is_never_the_best(tmp_path: Path, people: Path) -> None:
    """As where nobody has all joints; also when a state holds it."""
    trainer = open_picture_run(read_run_config(str(write_config(tmp_path / "c.yaml", people, None)), []), Crew())[0]
    trainer.folder.run.mkdir()
    validation = SimpleNamespace(shared=False, parametric=None, panels=())
    for best, scored, expected in ((None, np.nan, None), (np.nan, 20.0, 40.0), (40.0, np.nan, 40.0), (40.0, 30.0, 40.0)):
        trainer.best = best
        trainer.folder.best.unlink(missing_ok=True)
        validation.scores = lambda *_, scored=scored: (scores_of(np.full((5, len(MEASURES)), scored)), None)
        trainer.validate(validation)
        assert trainer.best == expected
        assert trainer.folder.best.exists() == (scored == 20.0)


def test_a_batch_larger_than_the_set_is_refused(tmp_path: Path, people: Path) -> None:
    with pytest.raises(InputError, match="only 48 people"):
        run_all(write_config(tmp_path / "c.yaml", people, None), ["training.batch=64"])
