"""Errors that the user can do something about."""

import sys
from collections.abc import Callable


class InputError(ValueError):
    """Bad input from the user. Its message is one line: what is wrong, got, expected, what to do. launch.py prints it and exits with 1."""


def exit_code(work: Callable[[], int | None]) -> int:
    """Do a command's work; its exit code, 0 where it gives none. Bad input and what the system refuses are told on stderr, and 1.

    Everything else goes on up: a bug keeps its traceback, Ctrl-C ends the process.
    """
    try:
        return work() or 0
    except (InputError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
