"""The chatter of native libraries is held back, and nothing else, whoever loads them at the same time."""

import os
from contextlib import ExitStack

import pytest

from app.native_logs import native_noise_filtered


def test_only_the_chatter_is_missing(capfd: pytest.CaptureFixture[str]) -> None:
    with native_noise_filtered():
        os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate\nE0000 00:00:00 a fault\n")
        assert capfd.readouterr().err == ""
    assert capfd.readouterr().err == "E0000 00:00:00 a fault\n"


def test_the_first_to_begin_may_be_the_first_to_end(capfd: pytest.CaptureFixture[str]) -> None:
    before = os.fstat(2)
    first, second = ExitStack(), ExitStack()
    first.enter_context(native_noise_filtered())
    second.enter_context(native_noise_filtered())
    os.write(2, b"of both\n")
    first.close()
    os.write(2, b"W0000 00:00:00 chatter\nof the second\n")
    assert capfd.readouterr().err == "", "the second still filters"
    second.close()
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "of both\nof the second\nafterwards\n"
    assert os.path.samestat(os.fstat(2), before)
