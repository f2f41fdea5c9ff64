"""Ctrl-C and SIGTERM ask a run to stop; it saves its state and ends."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class StopRequest:
    """Set by SIGINT and SIGTERM while `listening`; the loop looks at it between steps."""

    def __init__(self) -> None:
        self.signal_name: str | None = None

    def _request(self, number: int, _: object) -> None:
        self.signal_name = signal.Signals(number).name

    @contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Both signals only ask to stop inside this block."""
        previous = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
