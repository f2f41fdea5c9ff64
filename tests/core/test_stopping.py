"""What asks a program to end, and what it does then."""

import signal
import sys
from collections.abc import Callable

import pytest

from core.stopping import ASKING, stop_on_signal


@pytest.mark.parametrize("number", ASKING)
def test_a_signal_only_asks(number: int, request: pytest.FixtureRequest) -> None:
    inherited = signal.signal(number, signal.SIG_DFL)  # a run under nohup inherits that hang-ups are ignored
    request.addfinalizer(lambda: signal.signal(number, inherited))
    before = signal.getsignal(number)
    with stop_on_signal() as stop:
        assert (stop.is_set(), stop.reason) == (False, "")
        signal.raise_signal(number)
        assert (stop.is_set(), stop.reason) == (True, signal.Signals(number).name)
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_interrupts() -> None:
    with stop_on_signal() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.skipif(sys.platform == "win32", reason="no terminal there ends with a signal")
def test_who_ignores_the_end_of_the_terminal_goes_on(request: pytest.FixtureRequest) -> None:
    before: Callable | int | None = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    request.addfinalizer(lambda: signal.signal(signal.SIGHUP, before))
    with stop_on_signal() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert not stop.is_set()
