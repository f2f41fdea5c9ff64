import multiprocessing
from collections.abc import Iterator
from itertools import islice, pairwise

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from core.errors import InputError
from core.training.batches import Batch, Cursor
from core.training.workers import Stream, cursors_from, streamed, worker_options

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
