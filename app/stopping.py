"""Being asked to stop, from outside."""

import logging
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)

Handler = Callable[[int, FrameType | None], object]
ASKING = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C and a polite kill."""


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """An event that Ctrl-C and a polite kill set. A second Ctrl-C interrupts as usual."""
    stop = threading.Event()

    def ask(number: int, _: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    with handled_by(ask, ASKING):
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
