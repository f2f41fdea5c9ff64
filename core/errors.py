"""Errors that the user can do something about."""


class InputError(ValueError):
    """Bad input from the user. Its message is one line: what is wrong, got, expected, what to do. launch.py prints it and exits with 1."""
