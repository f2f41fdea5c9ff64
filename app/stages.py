"""Work in stages that overlap: each in a thread of its own, items in order, a bounded number of them under way.

A stage is a function from the items before it to the items after it, in most cases a generator, so the same stages also run without
threads, by calling one on the other. It may hold items back (to take several at once) and must give as many as it takes in the end.
Memory is bounded as in oneTBB's parallel_pipeline: not queue by queue, but by the number of items between the source and whoever takes
the results. A slow stage may then have everything waiting before it, and none has to be given a size of its own.
"""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Generic, TypeVar

from core.stopping import orderly_end

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")

Stage = Callable[[Iterable[Any]], Iterable[Any]]

SOURCE = "read"
POLL_S = 0.1
"""How often whoever waits for results looks for Ctrl-C, where the system does not interrupt a wait, and whether to go on."""


def _nothing() -> None:
    pass


def each(work: Callable[[A], B]) -> Callable[[Iterable[A]], Iterator[B]]:
    """The stage that does `work` on one item after the other."""
    return lambda items: map(work, items)


class _Stopped(BaseException):
    """Ends a stage whose results nobody wants any more. No Exception, so that no stage takes it for an error of its work."""


class _End:
    """Comes after the last item, with the error that ended them."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class Stages(Generic[T]):
    """Iterates over what the last stage gives for the items of `source`.

    An error of the source or of a stage is raised here once all that came before it has been given. Use as a context manager: leaving
    it, for whatever reason, ends the threads as soon as each is through with what it is doing, and waits for them, also when Ctrl-C comes
    once more meanwhile.

    names: of the threads, the source's first; busy_s: seconds that each has worked so far, waiting left out
    """

    def __init__(
        self, source: Iterable[Any], stages: Mapping[str, Stage], max_under_way: int, check: Callable[[], None] = _nothing
    ) -> None:
        """max_under_way: items taken from `source` and not yet given, at most; above what the stages together hold back.

        check: called every POLL_S while somebody waits for a result; what it raises is raised there
        """
        self._check_caller = check
        self.names = (SOURCE, *stages)
        self.busy_s = dict.fromkeys(self.names, 0.0)
        self._stopped = threading.Event()
        self._room = threading.Semaphore(max_under_way)
        self._outboxes: list[queue.SimpleQueue] = [queue.SimpleQueue() for _ in self.names]
        work: list[Iterable[Any]] = [self._admitted(source)]
        work += [stage(self._taken(name, box)) for (name, stage), box in zip(stages.items(), self._outboxes, strict=False)]
        self._threads = [
            threading.Thread(target=self._run, args=job, name=f"stage {job[0]}", daemon=True)
            for job in zip(self.names, work, self._outboxes, strict=True)
        ]

    def __enter__(self) -> "Stages[T]":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with orderly_end():  # what the threads use is closed next
            self._stopped.set()
            self._room.release()
            for box in self._outboxes:
                box.put(_End())
            for thread in self._threads:
                thread.join()

    def __iter__(self) -> Iterator[T]:
        while True:
            try:
                item = self._outboxes[-1].get(timeout=POLL_S)
            except queue.Empty:
                self._check_caller()
                continue
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            self._room.release()
            yield item
            del item  # nobody keeps what is done with while waiting

    def _admitted(self, source: Iterable[A]) -> Iterator[A]:
        """The items of the source, each once there is room for it."""
        items = iter(source)
        try:
            while True:
                start_s = time.perf_counter()
                self._room.acquire()
                self.busy_s[SOURCE] -= time.perf_counter() - start_s
                self._check()
                try:
                    item = next(items)
                except StopIteration:
                    return
                yield item
                del item
        finally:
            _close(items)

    def _taken(self, name: str, inbox: queue.SimpleQueue) -> Iterator[Any]:
        """What the stage `name` is given, as it comes."""
        while True:
            start_s = time.perf_counter()
            item = inbox.get()
            self.busy_s[name] -= time.perf_counter() - start_s
            self._check()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
            del item

    def _check(self) -> None:
        if self._stopped.is_set():
            raise _Stopped

    def _run(self, name: str, work: Iterable[Any], outbox: queue.SimpleQueue) -> None:
        """One thread: put all that `work` gives into `outbox`. The time that it waits for its items is taken off by `_taken`."""
        end = _End()
        start_s = time.perf_counter()
        items = iter(work)
        try:
            for item in items:
                self._check()
                outbox.put(item)
                del item
                now_s = time.perf_counter()
                self.busy_s[name] += now_s - start_s
                start_s = now_s
        except _Stopped:
            pass
        except BaseException as problem:  # noqa: BLE001 - raised again where the results are taken
            end = _End(problem)
        finally:
            _close(items)
            self.busy_s[name] += time.perf_counter() - start_s
            outbox.put(end)


def _close(items: object) -> None:
    """End a generator now, in the thread that ran it, so that files it holds are closed."""
    if isinstance(items, Generator):
        items.close()
