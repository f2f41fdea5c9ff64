import base64
import json
import logging
import multiprocessing
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace

import numpy as np
import pytest
from torch.utils.data import DataLoader

from core.config import VARIANTS
from core.errors import InputError
from core.joints import JOINT_NAMES
from core.training import tsv, tsv_sets
from core.training.picture_run import open_people
from core.training.samples import JOINTS_24, BrokenSample, open_dataset
from core.training.tsv import TsvFile, index_path, make_index
from core.training.tsv_labels import decode_picture, parse_label
from core.training.tsv_sets import TsvSet
from tests.core.training.tsv_files import jpeg, label, picture_color, write_composite, write_rows, write_set, write_yaml
from tests.toy import ToyBody


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """The yaml of six people."""
    write_set(tmp_path / "up3d", 6)
    return write_yaml(tmp_path / "up3d" / "train.yaml")


def person_number(image: np.ndarray) -> int:
    """The inverse of picture_color."""
    return round(float(image[60, 80, 1]) / 20)


def test_a_sample_is_what_the_files_say(people: Path) -> None:
    data = TsvSet(None, people)
    sample = data[3]
    assert len(data) == 6
    assert sample.image.shape == (120, 160, 3)
    assert np.abs(sample.image[60, 80].astype(int) - picture_color(3)).max() < 6  # RGB, not BGR
    assert (sample.centre_px.tolist(), sample.scale, sample.side_px) == ([83.0, 60.0], 0.5, 100.0)
    ankle, head = JOINTS_24.index("L_Ankle"), JOINTS_24.index("Head")
    assert sample.joints_2d[JOINT_NAMES.index("L_Ankle")].tolist() == [30 + ankle, ankle, 1]
    np.testing.assert_allclose(sample.joints_3d[JOINT_NAMES.index("Head")], [0.03, head / 100, -head / 100, 1], rtol=1e-6)
    np.testing.assert_allclose(sample.pose, np.full(72, 0.03), rtol=1e-6)
    np.testing.assert_allclose(sample.betas, np.full(10, 0.3), rtol=1e-6)
    assert (sample.has_2d, sample.has_3d, sample.has_smpl) == (True, True, True)
    assert (sample.gender, sample.img_key) == ("male", "person_3.jpg")


def test_a_composite_follows_its_linelist(tmp_path: Path) -> None:
    order = [(1, 2), (0, 1), (1, 0), (1, 2)]
    data = TsvSet(None, write_composite(tmp_path, [("human3.6m", 2), ("muco", 3)], order))
    assert [person_number(data[index].image) for index in range(len(data))] == [4, 1, 2, 4]
    assert [data[index].img_key for index in range(len(data))] == [f"person_{number}.jpg" for number in (4, 1, 2, 4)]
    assert data.source_names == ("human3.6m", "muco")
    assert data.name == "mix/train"


def test_without_a_linelist_every_row_is_a_sample(tmp_path: Path) -> None:
    path = write_composite(tmp_path, [("mpii", 2), ("up3d", 3)], [(0, 0)])
    path.write_text(path.read_text().replace("linelist: train.linelist.tsv\n", ""))
    data = TsvSet(None, path)
    assert [person_number(data[index].image) for index in range(len(data))] == [0, 1, 2, 3, 4]


def test_files_may_be_listed_in_a_text_file(tmp_path: Path) -> None:
    path = write_composite(tmp_path, [("mpii", 2), ("up3d", 3)], [(1, 1)])
    for key in ("img", "label"):
        (path.parent / f"{key}.txt").write_text(f"../mpii/train.{key}.tsv\n../up3d/train.{key}.tsv\n")
    path.write_text("composite: true\nimg: img.txt\nlabel: label.txt\nlinelist: train.linelist.tsv\n")
    assert person_number(TsvSet(None, path)[0].image) == 3


def test_flags_are_each_samples_own(tmp_path: Path) -> None:
    texts = [json.dumps([label(0, has_smpl=0, pose=[], betas=None, has_3d_joints=[0])]), json.dumps([label(1, has_2d_joints=0.0)])]
    write_set(tmp_path, 2, labels=texts)
    data = TsvSet(None, write_yaml(tmp_path / "train.yaml"))
    assert [(sample.has_2d, sample.has_3d, sample.has_smpl) for sample in (data[0], data[1])] == [(True, False, False), (False, True, True)]
    assert data[0].pose is None and data[0].betas is None
    assert not data[0].joints_3d.any() and data[0].joints_2d.any()


def test_another_body_learns_from_joints_alone(people: Path, caplog: pytest.LogCaptureFixture) -> None:
    sample = TsvSet(ToyBody(), people)[0]
    assert (sample.has_smpl, sample.pose, sample.has_3d) == (False, None, True)
    assert [record.getMessage() for record in caplog.records] == [
        "up3d/train: its meshes are SMPL's, the network has the body 'toy'; only its joints are used"
    ]


def test_a_missing_index_is_made_once_and_equals_metros(people: Path) -> None:
    places = [index_path(people.with_name(f"train.{key}.tsv")) for key in ("img", "label")]
    metros = [place.read_bytes() for place in places]
    for place in places:
        place.unlink()
    assert person_number(TsvSet(None, people)[5].image) == 5
    assert [place.read_bytes() for place in places] == metros
    assert sorted(place.name for place in people.parent.iterdir() if "tmp" in place.name) == []


@pytest.mark.parametrize("ending", ["", "\n"])
@pytest.mark.parametrize("chunk", [3, 1 << 24])
def test_rows_are_found_across_chunks_and_without_a_last_newline(
    tmp_path: Path, ending: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tsv, "CHUNK_BYTES", chunk)
    path = tmp_path / "a.tsv"
    path.write_bytes(f"k1\tab\nk2\tä\nk3\t\tx{ending}".encode())
    rows = TsvFile(path)
    assert [rows.row(number) for number in range(len(rows))] == [[b"k1", b"ab"], [b"k2", "ä".encode()], [b"k3", b"", b"x"]]


@pytest.mark.parametrize("text", ["0\n1\n", "0\n", "zero\n", "", "0\n9\n4\n", "0\n7\n99999\n"])
def test_an_index_of_another_file_is_made_again(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(b"k1\tabc\nk2\tde\nk3\tf\n")
    index_path(path).write_text(text)
    rows = TsvFile(path)
    assert [rows.row(number)[0] for number in range(len(rows))] == [b"k1", b"k2", b"k3"]
    assert "made again" in caplog.text
    assert index_path(path).read_text() == "0\n7\n13\n"


def test_a_folder_that_cannot_be_written_keeps_the_index_in_memory(
    people: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    index_path(people.with_name("train.img.tsv")).unlink()

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    data = TsvSet(None, people)
    assert person_number(data[4].image) == 4
    (record,) = caplog.records
    assert "kept in memory" in record.getMessage() and "Permission denied" in record.getMessage()
    assert not [place for place in people.parent.iterdir() if place.suffix == ".tmp"]
    monkeypatch.setattr(tsv, "make_index", lambda _: pytest.fail("a process that gets the set must not count again"))
    assert person_number(pickle.loads(pickle.dumps(data))[4].image) == 4  # noqa: S301


def test_processes_that_start_together_make_one_index(people: Path) -> None:
    path = people.with_name("train.img.tsv")
    metros = index_path(path).read_bytes()
    index_path(path).unlink()
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        counts = [len(offsets) for offsets in pool.map(make_index, [path] * 6)]
    assert counts == [6] * 6
    assert index_path(path).read_bytes() == metros


def numbers_of(samples: list[object]) -> list[int]:
    return [person_number(sample.image) for sample in samples]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_loader_workers_read_at_random_after_the_parent_did(people: Path, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system does not {method}")
    data = TsvSet(None, people)
    assert person_number(data[0].image) == 0  # handles are open in the parent
    order = [5, 0, 3, 3, 1, 4, 2, 0, 5, 1]
    loader = DataLoader(data, batch_size=2, sampler=order, num_workers=2, collate_fn=numbers_of, multiprocessing_context=method)
    assert [number for batch in loader for number in batch] == order


def test_threads_may_open_a_file_together(people: Path) -> None:
    """A handle that one thread uses is not closed because another one opened the file in the same moment."""
    path = people.with_name("train.img.tsv")
    with ThreadPoolExecutor(8) as pool:
        for _ in range(300):
            rows = TsvFile(path)
            barrier = Barrier(8)

            def read(number: int, rows: TsvFile = rows, barrier: Barrier = barrier) -> bytes:
                barrier.wait()
                return rows.row(number % 6)[0]

            assert list(pool.map(read, range(8))) == [f"person_{number % 6}.jpg".encode() for number in range(8)]


def test_threads_do_not_disturb_each_other(people: Path) -> None:
    data = TsvSet(None, people)
    order = [number % 6 for number in range(240)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda index: person_number(data[index].image), order)) == order


BREAKAGES: dict[str, tuple[str, str]] = {
    "no JSON": ("{", "no JSON"),
    "no person": ("[]", "expected a list with one object"),
    "a number": ("7", "expected a list with one object"),
    "13 joints": (json.dumps([label(1, **{"2d_joints": [[0, 0, 1]] * 13})]), r"2d_joints have shape \(13, 3\), expected \(24, 3\)"),
    "no confidence": (json.dumps([label(1, **{"3d_joints": [[0, 0, 1]] * 24})]), r"3d_joints have shape \(24, 3\), expected \(24, 4\)"),
    "ragged": (json.dumps([label(1, **{"3d_joints": [[0, 0, 1, 1], [0]]})]), "3d_joints are no numbers"),
    "NaN": (json.dumps([label(1, **{"3d_joints": [[float("nan"), 0, 1, 1]] * 24})]), "3d_joints hold NaN"),
    "short pose": (json.dumps([label(1, pose=[0.0] * 69)]), r"pose have shape \(69,\)"),
    "no betas": (json.dumps([{k: v for k, v in label(1).items() if k != "betas"}]), "has no betas, though has_smpl is 1"),
    "no centre": (json.dumps([{k: v for k, v in label(1).items() if k != "center"}]), "center or scale is missing"),
    "no scale": (json.dumps([label(1, scale=0)]), "scale above 0"),
    "odd flag": (json.dumps([label(1, has_smpl="yes")]), "has_smpl is yes, expected 0 or 1"),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_a_broken_label_says_where_and_why(tmp_path: Path, name: str) -> None:
    text, message = BREAKAGES[name]
    write_set(tmp_path, 2, labels=[json.dumps([label(0)]), text])
    data = TsvSet(None, write_yaml(tmp_path / "train.yaml"))
    assert data[0].has_smpl
    with pytest.raises(BrokenSample, match=message) as caught:
        data[1]
    assert "train.label.tsv, row 1: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda data: base64.b64encode(data)[:-3] + b"!", "no base64"),
        (lambda data: base64.b64encode(data[: len(data) // 2]), "cut short"),
        (lambda _: base64.b64encode(b"no picture at all"), "cannot be decoded"),
        (lambda _: b"", "cannot be decoded"),
    ],
)
def test_a_broken_picture_says_why(harm: Callable[[bytes], bytes], message: str) -> None:
    with pytest.raises(BrokenSample, match=message):
        decode_picture(harm(jpeg((1, 2, 3))))


def test_a_row_without_columns_is_broken(people: Path) -> None:
    for key in ("img", "label"):
        write_rows(people.with_name(f"train.{key}.tsv"), [["only_a_key"]] * 6)
        with pytest.raises(BrokenSample, match=f"its {'picture' if key == 'img' else 'label'} has 1 column"):
            TsvSet(None, people)[0] if key == "label" else TsvSet(None, people).picture(0)


def test_a_file_that_shrinks_breaks_rows_not_the_run(people: Path) -> None:
    data = TsvSet(None, people)
    path = people.with_name("train.img.tsv")
    os.truncate(path, path.stat().st_size - 100)
    assert person_number(data[0].image) == 0
    with pytest.raises(BrokenSample, match=r"train\.img\.tsv ends at"):
        data[5]


def test_old_files_keep_the_picture_in_the_last_column(people: Path) -> None:
    path = people.with_name("train.img.tsv")
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    write_rows(path, [[key, "[]", data] for key, data in rows])
    assert person_number(TsvSet(None, people)[2].image) == 2


def test_a_label_without_gender_has_none() -> None:
    assert parse_label(json.dumps({k: v for k, v in label(0).items() if k != "gender"}).encode()).gender == "none"


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: path.unlink(), "train.yaml: not there; get up3d.tar as https://github.com/microsoft/MeshTransformer"),
        (lambda path: path.with_name("train.img.tsv").unlink(), "train.img.tsv: not there; get up3d.tar"),
        (lambda path: path.with_name("train.linelist.tsv").unlink(), "train.linelist.tsv: not there"),
        (lambda path: path.write_text("img: ["), "no yaml"),
        (lambda path: path.write_text("img: train.img.tsv"), "names no label"),
        (lambda path: path.write_text("img: [a, b]\nlabel: c"), "composite: true"),
        (lambda path: path.write_text("composite: true\nimg: [train.img.tsv, train.img.tsv]\nlabel: [train.label.tsv]"), "1 label files"),
        (lambda path: write_rows(path.with_name("train.label.tsv"), [["k", "[]"]] * 5), "has 6 rows, .* 5; expected the same number"),
        (lambda path: path.with_name("train.label.tsv").write_bytes(b""), "train.label.tsv: it is empty"),
        (lambda path: path.with_name("train.linelist.tsv").write_text("0\n6\n"), "line 2 names row 6 of source 0"),
        (lambda path: path.with_name("train.linelist.tsv").write_text("-1\n"), "line 1 names row -1"),
        (lambda path: path.with_name("train.linelist.tsv").write_text("0\tx\n"), "one row number a line"),
        (lambda path: path.with_name("train.linelist.tsv").write_text(""), "has no samples"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_one_line(people: Path, harm: Callable[[Path], object], message: str) -> None:
    harm(people)
    with pytest.raises(InputError, match=message) as caught:
        TsvSet(None, people)
    assert "\n" not in str(caught.value)


def test_the_command_counts_flags_and_broken_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order = [(0, row) for row in range(3)] + [(1, row) for row in range(8)]
    path = write_composite(tmp_path, [("coco_smpl", 3), ("mpii", 8)], order)
    texts = [json.dumps([label(0, has_smpl=0)])] + ["{"] * 7
    write_rows(tmp_path / "mpii" / "train.label.tsv", [["k", text] for text in texts])
    rows = [line.split("\t") for line in (tmp_path / "coco_smpl" / "train.img.tsv").read_text().splitlines()]
    write_rows(tmp_path / "coco_smpl" / "train.img.tsv", [*rows[:2], ["k", "????"]])
    assert tsv_sets.main([str(path)]) == 0
    table = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert table["coco_smpl"] == ["3", "0", "3", "3", "3"]
    assert table["mpii"] == ["8", "7", "1", "1", "0"]
    assert tsv_sets.main([str(path), "--pictures"]) == 0
    assert "11 samples, 8 broken" in capsys.readouterr().out
    assert tsv_sets.main([str(tmp_path / "no.yaml")]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_broken_samples_are_told_a_few_times_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        broken = tsv_sets.BrokenRows()
        for number in range(20):
            broken.add(BrokenSample(f"row {number}"))
    assert broken.count == 20
    assert len(caplog.records) == tsv_sets.WARNED_ROWS + 1


def test_in_training_too_the_crop_is_as_wide_as_the_network_asks(people: Path) -> None:
    options = {"kind": "tsv", "path": str(people)}
    for variant, side in (("fastmetro-s-r50", 1.0), ("fastmetro-s-blazepose", 1.35 / 1.2)):
        parts = SimpleNamespace(config=VARIANTS[variant], body=SimpleNamespace(name="smpl"))
        plain, wide = open_people(options | {"crop_scale": 1.2}, parts)[0], open_people(options, parts)[0]
        assert wide.side_px == pytest.approx(side * plain.side_px)


def test_a_config_opens_it_by_name(people: Path) -> None:
    body = ToyBody(name="smpl")
    assert open_dataset("tsv", body, {"path": str(people)})[2].has_smpl
    with pytest.raises(InputError, match="its options are path"):
        open_dataset("tsv", body, {"yaml": str(people)})
