"""Helpers for work beside the main thread: the newest of a stream; how many processors there are; libraries' own threads kept in bounds."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


def usable_cores() -> int:
    """Processors that this process may use, 1 or more."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def cores_shared(num_threads: int) -> Iterator[None]:
    """For PyTorch and OpenCV calls in `num_threads` threads at once: each call spreads over its share of the cores only, 1 or more.

    More threads than cores would wait for each other within every call, which costs more than it brings. Holds for threads begun within.
    """
    import cv2
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    share = max(1, before[0] // num_threads)
    try:
        torch.set_num_threads(share)
        cv2.setNumThreads(share)
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


class Begun(Generic[T]):
    """A function that runs in a thread of its own from now on; the thread never keeps the program from ending."""

    def __init__(self, name: str, function: Callable[[], T]) -> None:
        self._function, self._lock = function, threading.Lock()
        self._value: T | None = None
        self._error: Exception | None = None
        self._done = self._taken = False
        self._dispose: Callable[[T], None] | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def result(self) -> T:
        """Wait for it; raises what the function raised. From then on the value is the caller's."""
        self._thread.join()
        with self._lock:
            self._taken = True
        if self._error is not None:
            raise self._error
        return self._value

    def wait(self, limit_s: float) -> bool:
        """Wait for its end; False where that takes longer."""
        self._thread.join(limit_s)
        return not self._thread.is_alive()

    def abandon(self, dispose: Callable[[T], None]) -> None:
        """Never wait: a value that nobody took is handed to `dispose`, now or once it is there."""
        with self._lock:
            self._dispose = dispose
        self._clear_away()

    def _run(self) -> None:
        try:
            self._value = self._function()
            self._done = True
        except Exception as error:  # noqa: BLE001 - raised by `result`
            self._error = error
        self._clear_away()

    def _clear_away(self) -> None:
        with self._lock:
            due = self._dispose is not None and self._done and not self._taken
            self._taken |= due
        if due:
            self._dispose(self._value)


class Mailbox(Generic[T]):
    """One place between two threads; the newest item wins, so that whoever takes is never behind."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._item: T | None = None
        self._closed = False

    def put(self, item: T) -> None:
        """Replace what was not taken yet; after `close` nothing is taken any more."""
        with self._news:
            if not self._closed:
                self._item = item
                self._news.notify()

    def take(self, timeout_s: float | None = None) -> T | None:
        """The newest item, taken out; None when there is none within the time or the mailbox was closed empty."""
        with self._news:
            self._news.wait_for(lambda: self._item is not None or self._closed, timeout_s)
            item, self._item = self._item, None
            return item

    def close(self) -> None:
        """Nothing more will come: whoever waits is let go."""
        with self._news:
            self._closed = True
            self._news.notify_all()

    @property
    def closed(self) -> bool:
        """True after `close`, once the last item is taken; it stays so."""
        with self._news:
            return self._closed and self._item is None
