"""Batches that worker processes prepare."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any

from torch.utils.data import DataLoader

from core.stopping import ASKING
from core.training.batches import Batch, Cursor

PARENT_CHECK_S = 2.0
Stream = AbstractContextManager[Iterator[tuple[Cursor, Batch]]]
"""Endless (cursor after the batch, batch). Leaving it ends the workers that prepare them."""


@contextmanager
def streamed(loader: DataLoader, cursors: Iterable[Cursor], batch_of: Callable[[Any], Batch]) -> Iterator[Iterator[tuple[Cursor, Batch]]]:
    """What the workers of a loader hand over, as a Stream.

    batch_of: makes the batch, in this process, of what was handed over
    """

    def batches() -> Iterator[tuple[Cursor, Batch]]:
        for cursor, loaded in zip(cursors, loader, strict=False):  # nothing else refers to the workers: they end with this loop
            yield cursor, batch_of(loaded)

    with closing(batches()) as stream:
        yield stream


def cursors_from(start: Cursor, batches_per_epoch: int) -> Iterator[Cursor]:
    """Where a run stands after each batch that follows on `start`, in data without shards."""
    epoch, done = start.epoch, start.batches_done
    while True:
        for k in range(done, batches_per_epoch):
            yield Cursor(epoch, k + 1, ())
        epoch, done = epoch + 1, 0


def worker_options(num_workers: int, ahead: int) -> dict[str, Any]:
    """A DataLoader's options for worker processes that read `ahead` batches each. To be called before it forks."""
    import cv2

    if not num_workers:
        return {"num_workers": 0}
    cv2.setNumThreads(1)  # in a worker OpenCV would wait for threads that only the main process has
    return {"num_workers": num_workers, "prefetch_factor": ahead, "worker_init_fn": _begin_worker}


def _begin_worker(_: int) -> None:
    """In a worker: these signals are for the main process, which lets everybody end in order; a process group gets them all at once."""
    for number in ASKING:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_after, args=(os.getppid(),), daemon=True).start()


def _end_after(parent: int) -> None:
    """End this process when its parent is gone: PyTorch's own watchdog would wait for a full pipe that nobody reads."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_S)
    os._exit(1)
