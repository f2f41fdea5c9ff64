"""Runs as commands: signals that stop them, and several processes that train as one."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from core.checkpoint import load_checkpoint
from core.training.crew import Crew
from core.training.picture_run import open_picture_run
from core.training.run_config import read_run_config
from core.training.trainer import read_state
from tests.core.training.picture_runs import journal, run_all
from tests.core.training.toy_run import write_config

pytestmark = pytest.mark.usefixtures("toys")
REPOSITORY = Path(__file__).parents[3]


def toy_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.core.training.toy_run", *arguments]


def test_sigterm_saves_and_ends_and_the_same_command_goes_on(tmp_path: Path, people: Path, validation: Path) -> None:
    place = write_config(
        tmp_path / "c.yaml", people, validation, training={"samples": 40_000, "log_samples": 16, "validate_samples": 39_000}
    )
    process = subprocess.Popen(toy_command(str(place)), cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 150
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=100)[1]
    assert process.returncode == 0, said
    assert "stopped by SIGTERM" in said
    seen = read_state(tmp_path / "run" / "state.pt")["counts"]["num_samples"]
    assert 0 < seen < 40_000
    trainer = open_picture_run(read_run_config(str(place), []), Crew())[0]
    assert trainer.num_samples == seen


def test_a_signal_to_the_whole_process_group_saves_too(tmp_path: Path, people: Path) -> None:
    """As a terminal that is closed sends it, and torchrun, timeout and Slurm others: to the processes that read pictures as well."""
    training = {"samples": 400_000, "log_samples": 16, "validate_samples": 390_000}
    data = {"train": {"kind": "shards", "path": str(people)}, "validation": None, "workers": 2}
    place = write_config(tmp_path / "c.yaml", people, None, training=training, data=data)
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # who is started under nohup ignores it
    process = subprocess.Popen(toy_command(str(place)), cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, start_new_session=True)
    signal.signal(signal.SIGHUP, before)
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 150
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGHUP)
    said = process.communicate(timeout=100)[1]
    assert process.returncode == 0, said
    assert "stopped by SIGHUP" in said
    assert read_state(tmp_path / "run" / "state.pt")["counts"]["num_samples"] > 0


def in_two_processes(place: Path, out: str, program: str = "toy_run") -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--rdzv-backend=c10d",
               "--rdzv-endpoint=localhost:0", "-m", f"tests.core.training.{program}", str(place), "--set", out]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(2):  # seen once on a busy machine: a process aborts in a thread of Gloo's after its work is done
        shutil.rmtree(out.removeprefix("out="), ignore_errors=True)
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False, env=environment)
        if "terminate called without an active exception" not in done.stderr:
            break
    return done


def test_two_processes_train_as_one(tmp_path: Path, people: Path, validation: Path) -> None:
    """torchrun with two processes: the same batches, so up to rounding the same weights as one process that accumulates.

    Without dropout and batch statistics, which differ by design, and with all joints counting the same: means over halves of a batch
    are then the mean over the batch.
    """
    model = {"variant": "tiny-flat", "backbone": "random"}
    place = write_config(
        tmp_path / "c.yaml", people, validation, model=model, training={"samples": 96, "validate_samples": 48}, loss={"hidden_joints": 1.0}
    )
    done = in_two_processes(place, f"out={tmp_path}/two")
    assert done.returncode == 0, done.stderr[-3000:]
    one = run_all(place, [f"out={tmp_path}/one"])
    state = read_state(tmp_path / "two" / "state.pt")
    assert state["counts"]["num_samples"] == one.num_samples == 96
    for name, value in state["model"].items():
        if not name.endswith("bias"):  # keys' and places' biases change nothing; their rounding errors are all that Adam sees
            torch.testing.assert_close(value, one.average.trained[name].detach(), rtol=1e-4, atol=2e-5, msg=name)
    scores = [[line["synthetic"] for line in journal(tmp_path / run) if "synthetic" in line] for run in ("two", "one")]
    assert len(scores[0]) == 2
    for first, second in zip(*scores, strict=True):
        assert first["num_people"] == second["num_people"] == 12
        assert first["mpjpe_mm"] == pytest.approx(second["mpjpe_mm"], rel=1e-3)


def test_processes_share_one_clock(tmp_path: Path, people: Path) -> None:
    """Hours end a run: while the leader alone pauses longer than that, nobody else's clock runs, and all learn at the same rate."""
    training = {"samples": 8_000_000, "hours": 1 / 3600, "validate_samples": 32}
    place = write_config(tmp_path / "c.yaml", people, None, training=training)
    done = in_two_processes(place, f"out={tmp_path}/run", "pausing_run")
    assert done.returncode == 0, done.stderr[-3000:]
    leader, other = ((tmp_path / "run" / f"steps-{rank}.txt").read_text().splitlines() for rank in range(2))
    assert leader == other
    counts = read_state(tmp_path / "run" / "state.pt")["counts"]
    assert counts["num_steps"] == len(leader) > 4
    assert counts["elapsed_s"] >= 1


def test_processes_validate_with_the_batch_statistics_that_are_saved(tmp_path: Path, people: Path, validation: Path) -> None:
    place = write_config(tmp_path / "c.yaml", people, validation, training={"samples": 48, "validate_samples": 48})
    done = in_two_processes(place, f"out={tmp_path}/run")
    assert done.returncode == 0, done.stderr[-3000:]
    trainer, _, scorer = open_picture_run(read_run_config(str(place), [f"out={tmp_path}/none"]), Crew())
    trainer.model.load_state_dict(load_checkpoint(tmp_path / "run" / "last.safetensors").model.state_dict())
    again = scorer.scores(trainer.objective, Crew())[0]
    (logged,) = (line["synthetic"] for line in journal(tmp_path / "run") if "synthetic" in line)
    assert logged["mpjpe_mm"] == pytest.approx(again.mpjpe_mm, rel=1e-5)
