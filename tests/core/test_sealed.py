from pathlib import Path

import pytest

from core.sealed import read_sealed, write_sealed


def test_what_was_written_is_read_by_who_knows_the_word(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"", b"first", bytes(range(256))):
        write_sealed(path, content, "word")
        assert read_sealed(path, "word") == content
        with pytest.raises(ValueError, match="file is damaged"):
            read_sealed(path, "other")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("change", [lambda whole: whole[:-1], lambda whole: whole + b"x", lambda whole: b"x" + whole[1:], lambda _: b""])
def test_damage_is_found(change: object, tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_sealed(path, b"content")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match="damaged"):
        read_sealed(path)


def test_what_cannot_be_written_leaves_what_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_sealed(path, b"content")

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="disk full"):
        write_sealed(path, b"other")
    assert read_sealed(path) == b"content" and list(tmp_path.iterdir()) == [path]
