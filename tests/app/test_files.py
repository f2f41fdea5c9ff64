import os
from pathlib import Path

import pytest

from app.files import check_file, folder_problem
from app.session import SessionReader
from app.sources import VideoSource, read_picture
from core.errors import InputError


def test_a_file_with_something_in_it_is_fine(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    check_file(tmp_path / "a", "a letter")


@pytest.mark.parametrize(
    ("read", "expected", "of_folder"), [
        (VideoSource, "a video file", r"; for all videos in it: python -m app\.many"),
        (SessionReader, "a file of --record", "$"),
        (read_picture, "a picture", "$"),
    ],
)  # fmt: skip
def test_what_is_no_such_file_is_said_alike(read: type, expected: str, of_folder: str, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name, text in (
        ("", f"a folder, expected {expected}{of_folder}"),
        ("nowhere", f"no such file; expected {expected}$"),
        ("empty", rf"empty \(0 bytes\), expected {expected}; copy or download it again$"),
    ):
        with pytest.raises(InputError, match=text):
            read(tmp_path / name)


def test_what_speaks_against_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert folder_problem(tmp_path) is None
    assert folder_problem(tmp_path / "new" / "deep") is None
    assert "a file, expected a folder" in folder_problem(tmp_path / "file")
    assert f"{tmp_path / 'file'} is a file, expected a folder" in folder_problem(tmp_path / "file" / "sub")


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert f"nothing can be written to {tmp_path}" in folder_problem(tmp_path / "new")
