"""Being asked to stop, from outside."""

import logging
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)

Handler = Callable[[int, FrameType | None], object]
ASKING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Ctrl-C, a polite kill, and a terminal that is closed."""


class StopRequest(threading.Event):
    """Set when somebody asks work to end. reason: who or what, for people; "" until then."""

    reason = ""

    def ask(self, reason: str) -> None:
        """Ask."""
        self.reason = reason
        self.set()


@contextmanager
def interrupted_politely() -> Iterator[None]:
    """A polite kill and a terminal that is closed do what Ctrl-C does, unless somebody wants them ignored (nohup)."""
    with handled_by(signal.default_int_handler, [number for number in ASKING if signal.getsignal(number) is signal.SIG_DFL]):
        yield


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """A request that Ctrl-C, a polite kill and the terminal's end make. A second Ctrl-C interrupts as usual."""
    stop = StopRequest()

    def ask(number: int, _: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.ask(signal.Signals(number).name)

    with handled_by(ask, [number for number in ASKING if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGINT]):
        yield stop


@contextmanager
def orderly_end() -> Iterator[None]:
    """For an end that others rely on, such as that of threads within a library that is closed next.

    What would interrupt it (a second Ctrl-C) is said to take a moment, and interrupts when the block is left; one more kills at once.
    """
    late: list[int] = []
    before = {number: handler for number in ASKING if callable(handler := signal.getsignal(number))}

    def note(number: int, frame: FrameType | None) -> None:
        try:
            before[number](number, frame)
        except KeyboardInterrupt:
            log.warning("ending, which takes a moment; once more kills at once, and what is not written yet is lost")
            late.append(number)
            signal.signal(number, signal.SIG_DFL)

    try:
        with handled_by(note, before):
            yield
    finally:
        if late:
            raise KeyboardInterrupt


@contextmanager
def handled_by(handler: Handler, numbers: Iterable[int]) -> Iterator[None]:
    """These signals go to `handler` meanwhile. Beside the main thread, which alone gets signals, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
