"""Helpers for work beside the main thread: reading ahead, writing behind, the newest of a stream. Errors come back to the main thread."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")

POLL_S = 0.1
"""How often a wait looks whether it should end."""


class _End:
    """Marks the end of a stream, with the error that ended it."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class ReadAhead(Generic[T]):
    """Iterates over `items` in a thread, at most `capacity` ahead. Use as a context manager: leaving it stops the thread."""

    def __init__(self, items: Iterable[T], capacity: int) -> None:
        self._items, self._queue = items, queue.Queue(maxsize=max(1, capacity))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="read-ahead", daemon=True)

    def __enter__(self) -> "ReadAhead[T]":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def __iter__(self) -> Iterator[T]:
        while True:
            item = self._queue.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item

    def _read(self) -> None:
        error: BaseException | None = None
        try:
            for item in self._items:
                if not self._put(item):
                    return
        except Exception as problem:  # noqa: BLE001 - raised again in the main thread
            error = problem
        self._put(_End(error))

    def _put(self, item: object) -> bool:
        """False when stopped before there was room."""
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=POLL_S)
            except queue.Full:
                continue
            return True
        return False


class WriteBehind(Generic[T]):
    """Hands items to `write` in a thread, in order, at most `capacity` waiting.

    Leaving the context waits until all is written, also after an error outside; an error of `write` is raised by the next
    call or on leaving, and what comes after it is dropped.
    """

    def __init__(self, write: Callable[[T], None], capacity: int) -> None:
        self._write, self._queue = write, queue.Queue(maxsize=max(1, capacity))
        self._error: BaseException | None = None
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="write-behind", daemon=True)

    def __enter__(self) -> "WriteBehind[T]":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._put(_End())
        self._thread.join()
        if error is None:
            self._raise()

    def __call__(self, item: T) -> None:
        """Queue one item; waits while the queue is full."""
        self._raise()
        self._put(item)

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _put(self, item: object) -> None:
        while self._thread.is_alive():
            try:
                self._queue.put(item, timeout=POLL_S)
            except queue.Full:
                continue
            return

    def _run(self) -> None:
        while not isinstance(item := self._queue.get(), _End):
            if self._failed:
                continue
            try:
                self._write(item)
            except Exception as problem:  # noqa: BLE001 - raised again in the main thread
                self._error, self._failed = problem, True


class Mailbox(Generic[T]):
    """One place between two threads; the newest item wins, so that whoever takes is never behind."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._item: T | None = None
        self._closed = False

    def put(self, item: T) -> bool:
        """Replace what was not taken yet; True when something was thrown away for it."""
        with self._news:
            replaced, self._item = self._item is not None, item
            self._news.notify()
            return replaced

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
        """True after `close`, when the last item is taken."""
        with self._news:
            return self._closed and self._item is None
