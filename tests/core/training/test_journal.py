"""What a run writes while it goes."""

import json
import sys
from pathlib import Path

import pytest
import torch

from core.training.config import RunFolder
from core.training.journal import Journal
from tests.core.training.test_metrics import standing
from tests.core.training.test_sheet import BODY, panel

LINE = {"samples": 64, "loss": 1.5, "validation": {"pa_mpjpe_mm": 99.0, "pck": float("nan")}}


def test_tensorboard_reads_the_scores_and_the_pictures(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="needs `pip install tensorboard`")
    with Journal(RunFolder(tmp_path), tensorboard=True) as journal:
        journal.write(LINE)
        path = journal.draw([panel(standing()[0])], BODY.faces, 64)
    board = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [(64, 1.5)]
    assert [event.value for event in board.Scalars("validation/pa_mpjpe_mm")] == [99.0]
    assert "validation/pck" not in board.Tags()["scalars"]  # no number: nothing to draw
    (image,) = board.Images("people")
    assert image.step == 64
    assert path is not None
    assert path.is_file()
    assert json.loads((tmp_path / "log.jsonl").read_text())["validation"]["pck"] is None


def test_without_tensorboard_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with Journal(RunFolder(tmp_path), tensorboard=True) as journal:
        journal.add({"loss": torch.tensor(2.0)})
        journal.add({"loss": torch.tensor(4.0)})
        journal.write({"samples": 2, **journal.means()})
    assert "pip install tensorboard" in caplog.text
    assert len(caplog.records) == 1 + sum("samples" in record.message for record in caplog.records)
    assert json.loads((tmp_path / "log.jsonl").read_text()) == {"samples": 2, "loss": 3.0}
    assert not (tmp_path / "tensorboard").exists()


def test_means_are_over_the_steps_that_had_a_term(tmp_path: Path) -> None:
    """A batch in which nobody has such a truth has no such term, wherever it comes."""
    with Journal(RunFolder(tmp_path)) as journal:
        for rotations in (1.0, 3.0, None, 5.0, None):
            terms = {} if rotations is None else {"rotations": torch.tensor(rotations)}
            journal.add({"loss": torch.tensor(2.0), **terms})
        assert journal.means() == {"loss": 2.0, "rotations": 3.0}
        assert journal.means() == {}
