"""Errors that the user can do something about."""

import os
import sys
from collections.abc import Callable


class InputError(ValueError):
    """Bad input from the user. Its message is one line: what is wrong, got, expected, what to do. launch.py prints it and exits with 1."""


def nobody_reads() -> int:
    """The exit code where standard output is a pipe that nobody reads any more, as that of `| head`; what is left to flush goes nowhere.

    Source: the note on SIGPIPE in Python's documentation of `signal`.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def exit_code(work: Callable[[], int | None]) -> int:
    """Do a command's work; its exit code, 0 where it gives none. Bad input and what the system refuses are told on stderr, and 1.

    Everything else goes on up: a bug keeps its traceback, Ctrl-C ends the process.
    """
    try:
        code = work() or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return nobody_reads()
    except (InputError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
