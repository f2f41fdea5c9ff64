import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.errors import InputError
from core.training.shards import TRUTH_FIELDS, JpegPictures, Truth, list_shards, load_good_shards, load_pictures, load_shard
from tests.core.training.toy_people import FAMILIES, toy_jpegs, toy_truth, write_shard, write_toy_shards


def test_what_is_written_is_read(tmp_path: Path) -> None:
    truth, amount = toy_truth(5)
    path = tmp_path / "shard-00000.npz"
    write_shard(path, truth, toy_jpegs(amount), "toy", 7)
    shard, pictures = load_shard(path), load_pictures(path)
    for name in TRUTH_FIELDS:
        np.testing.assert_array_equal(getattr(shard.truth, name), getattr(truth, name))
    assert (shard.body, shard.family_names, len(shard), len(pictures)) == ("toy", FAMILIES, 5, 5)
    for k in range(5):
        blue = pictures.decoded(k)[..., 2].mean()  # OpenCV writes blue first, we read red first
        assert abs(blue - 255 * amount[k, 0]) < 3
    assert not list(tmp_path.glob("*.tmp"))


def test_a_missing_or_empty_folder_says_what_to_run(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"core\.training\.synthesize"):
            list_shards(folder)


def test_broken_shards_are_skipped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_toy_shards(tmp_path, num_shards=4, count=3)
    whole = (tmp_path / "shard-00001.npz").read_bytes()
    (tmp_path / "shard-00001.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "shard-00002.npz").write_bytes(b"")
    (tmp_path / "shard-00004.npz").write_text("no archive at all")
    with caplog.at_level(logging.WARNING):
        shards = load_good_shards(list_shards(tmp_path))
    assert [shard.path.name for shard in shards] == ["shard-00000.npz", "shard-00003.npz"]
    assert "3 of 5 shards are broken" in caplog.text


def test_only_broken_shards_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "shard-00000.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match="none of 1 files is readable"):
        load_good_shards(list_shards(tmp_path))


def test_a_missing_array_and_an_unnamed_family_break_a_shard(tmp_path: Path) -> None:
    truth, amount = toy_truth(3)
    write_shard(tmp_path / "shard-00000.npz", replace(truth, family=np.full(3, 9, np.uint8)), toy_jpegs(amount), "toy", 0)
    with pytest.raises(ValueError, match="family 9"):
        load_shard(tmp_path / "shard-00000.npz")
    np.savez(tmp_path / "shard-00001.npz", camera=truth.camera)
    with pytest.raises(ValueError, match=r"shard-00001.*intermediate_m"):
        load_shard(tmp_path / "shard-00001.npz")


def test_no_people_break_a_shard(tmp_path: Path) -> None:
    truth, _ = toy_truth(2)
    nobody = Truth(**{name: getattr(truth, name)[:0] for name in TRUTH_FIELDS})
    write_shard(tmp_path / "shard-00000.npz", nobody, [], "toy", 0)
    with pytest.raises(ValueError, match="holds no people"):
        load_shard(tmp_path / "shard-00000.npz")


def test_different_bodies_do_not_mix(tmp_path: Path) -> None:
    write_toy_shards(tmp_path, num_shards=1, count=3)
    truth, amount = toy_truth(3)
    write_shard(tmp_path / "shard-00001.npz", truth, toy_jpegs(amount), "another", 0)
    with pytest.raises(InputError, match="body another"):
        load_good_shards(list_shards(tmp_path))


@pytest.mark.parametrize("name", ["joints_m", "camera", "intermediate_m"])
def test_not_a_number_is_refused(name: str) -> None:
    truth, _ = toy_truth(3)
    broken = getattr(truth, name).copy()
    broken[1, 0] = np.nan
    with pytest.raises(ValueError, match=f"{name}.*not finite"):
        replace(truth, **{name: broken})


def test_rows_must_agree() -> None:
    truth, _ = toy_truth(3)
    with pytest.raises(ValueError, match="camera: got shape"):
        replace(truth, camera=truth.camera[:2])


@pytest.mark.parametrize("offsets", [[0, 5], [1, 10], [0, 6, 6, 10], [0, 7, 4, 10], []])
def test_offsets_must_divide_the_bytes(offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="do not divide"):
        JpegPictures(np.zeros(10, np.uint8), np.array(offsets, np.int64))


def test_a_damaged_picture_is_named() -> None:
    with pytest.raises(ValueError, match="picture 0 is no readable JPEG"):
        JpegPictures(np.zeros(10, np.uint8), np.array([0, 10], np.int64)).decoded(0)
