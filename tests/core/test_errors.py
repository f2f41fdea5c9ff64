from collections.abc import Callable

import pytest

from core.errors import InputError, exit_code


def failing(error: BaseException) -> Callable[[], int]:
    def work() -> int:
        raise error

    return work


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (1, 1), (2, 2)])
def test_the_work_says_how_it_ended_and_nothing_means_well(result: int | None, code: int, capfd: pytest.CaptureFixture) -> None:
    assert exit_code(lambda: result) == code
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "text"), [
        (InputError("--crops: got 4, expected 5 or more"), "--crops: got 4, expected 5 or more"),
        (InputError("problem: this\nproblem: that"), "problem: this\nproblem: that"),  # a dry run's: a line for each
        (FileNotFoundError(2, "No such file or directory", "c.npz"), "[Errno 2] No such file or directory: 'c.npz'"),
    ],
)  # fmt: skip
def test_what_the_user_can_mend_is_told_on_stderr(error: Exception, text: str, capfd: pytest.CaptureFixture) -> None:
    assert exit_code(failing(error)) == 1
    assert capfd.readouterr() == ("", f"{text}\n")


@pytest.mark.parametrize("error", [ValueError("a bug"), RuntimeError("another"), KeyboardInterrupt(), SystemExit(2)])
def test_all_else_goes_on_up(error: BaseException, capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(type(error)):
        exit_code(failing(error))
    assert capfd.readouterr() == ("", "")
