import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from core.errors import InputError
from core.training.batches import Batch, Cursor
from core.training.workers import Stream, cursors_from, streamed, worker_options

REPOSITORY = Path(__file__).parents[3]
START = Cursor(0, 0, ())


class Numbers(Dataset):
    def __len__(self) -> int:
        return 100

    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.tensor(number)


def batch_of(number: torch.Tensor) -> Batch:
    if number == 7:
        raise InputError("no seven")
    return Batch((number,), None, None)


def stream(num_workers: int) -> Stream:
    loader = DataLoader(Numbers(), batch_size=None, **worker_options(num_workers, 2))
    return streamed(loader, cursors_from(START, 3), batch_of)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_come_in_order_each_with_where_the_run_then_stands(num_workers: int) -> None:
    with stream(num_workers) as batches:
        found = [(cursor.epoch, cursor.batches_done, int(batch.features[0])) for cursor, batch in islice(batches, 4)]
    assert found == [(0, 1, 0), (0, 2, 1), (0, 3, 2), (1, 1, 3)]


def test_leaving_a_stream_ends_its_workers_whoever_still_holds_it() -> None:
    with stream(2) as batches:
        next(batches)
        assert len(multiprocessing.active_children()) == 2
    assert multiprocessing.active_children() == []
    assert list(batches) == []


class Heavy(Numbers):
    """More than a pipe holds."""

    def __getitem__(self, number: int) -> np.ndarray:
        return np.zeros(200_000)


def heavy_stream() -> Stream:
    loader = DataLoader(Heavy(), batch_size=None, collate_fn=lambda array: array, **worker_options(2, 2))
    return streamed(loader, cursors_from(START, 3), lambda array: Batch((array,), None, None))


def test_workers_do_without_sigterm_and_still_end_quickly() -> None:
    with heavy_stream() as batches:
        assert len(list(islice(batches, 2))) == 2  # one of each worker: before its first it may not have got so far
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, signal.SIGTERM)
        assert len(list(islice(batches, 20))) == 20
        started_s = time.monotonic()
    assert multiprocessing.active_children() == []
    assert time.monotonic() - started_s < 4


def test_workers_end_after_a_main_process_that_was_killed() -> None:
    """Also those that wait for somebody to read what they made."""
    code = """
import multiprocessing, os, signal, time
from tests.core.training.test_workers import heavy_stream
with heavy_stream() as batches:
    next(batches)
    time.sleep(0.5)
    print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    workers = [int(number) for number in process.stdout.readline().split()]
    assert len(workers) == 2
    try:
        process.communicate(timeout=20)  # the workers hold its end of the pipe as long as they are there
    finally:
        for worker in workers:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def test_what_a_batch_cannot_be_made_of_ends_the_run(capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(InputError, match="no seven"), stream(2) as batches:
        list(batches)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("done", [0, 1, 3])
def test_cursors_go_on_from_any_of_them(done: int) -> None:
    def taken(start: Cursor) -> Iterator[Cursor]:
        return islice(cursors_from(start, 3), 5)

    first, *rest = taken(Cursor(2, done, ()))
    assert [*taken(first)][:4] == rest
    assert all((after.epoch, after.batches_done) > (before.epoch, before.batches_done) for before, after in pairwise([first, *rest]))
    assert {cursor.batches_done for cursor in rest} == {1, 2, 3}
