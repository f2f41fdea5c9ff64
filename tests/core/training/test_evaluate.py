import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from core.errors import InputError
from core.estimator import MeshEstimator
from core.joints import JOINT_NAMES, LIMB_JOINT_NAMES
from core.training import evaluate, scored_sets, shard_people
from core.training.coco import LIMBS, coco_name, crop_scores, crops_of, keypoint_scores, read_people, read_pictures
from core.training.scored_sets import PeopleSet, spread
from core.training.tables import report_tables
from core.types import MeshEstimate
from tests.core.training.toy_people import FAMILIES, tiny_model, write_toy_shards
from tests.toy import ToyBody

COCO_KEYPOINTS = [
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow",
    "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
]  # fmt: skip


@pytest.fixture
def estimator() -> MeshEstimator:
    return MeshEstimator(tiny_model(), ToyBody())


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """One picture, red on the left, blue on the right, with two people and a crowd. Keypoint k of COCO lies at (10 k, 5 k)."""
    folder = tmp_path / "coco"
    (folder / "annotations").mkdir(parents=True)
    (folder / "val2017").mkdir()
    picture = np.zeros((120, 200, 3), np.uint8)
    picture[:, :100, 2] = picture[:, 100:, 0] = 255  # OpenCV writes blue first
    cv2.imwrite(str(folder / "val2017" / "a.png"), picture)
    flags = [2] * 15 + [1, 0]  # the left ankle hidden, the right one not labelled
    keypoints = [value for k, flag in enumerate(flags) for value in (10 * k, 5 * k, flag)]
    person = {"image_id": 1, "bbox": [10, 20, 60, 80], "keypoints": keypoints, "num_keypoints": 16, "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"name": "person", "keypoints": COCO_KEYPOINTS}],
        "annotations": [person, {**person, "num_keypoints": 3}, {**person, "iscrowd": 1}],
    }
    (folder / "annotations" / "person_keypoints_val2017.json").write_text(json.dumps(content))
    return folder


def test_coco_people_come_in_our_order(coco: Path) -> None:
    (person,) = read_people(coco)
    assert person.box_px.tolist() == [10, 20, 70, 100]
    for k, name in enumerate(LIMB_JOINT_NAMES):
        number = COCO_KEYPOINTS.index(coco_name(name))
        assert person.keypoints_px[k].tolist() == [10 * number, 5 * number], name
    assert person.flags[LIMB_JOINT_NAMES.index("L_Ankle")] == 1
    assert person.flags[LIMB_JOINT_NAMES.index("R_Ankle")] == 0
    assert len(read_people(coco, min_keypoints=3)) == 2


def test_a_set_of_ones_own_may_leave_the_number_of_keypoints_out(coco: Path) -> None:
    (place,) = (coco / "annotations").iterdir()
    content = json.loads(place.read_text())
    for annotation in content["annotations"]:
        del annotation["num_keypoints"]
    place.write_text(json.dumps(content))
    assert len(read_people(coco)) == len(read_people(coco, min_keypoints=16)) == 2
    assert read_pictures(coco)[0].num_keypoints.tolist() == [16, 16, 16]
    with pytest.raises(InputError, match="nobody"):
        read_people(coco, min_keypoints=17)


def test_hidden_keypoints_count_in_their_own_score_only(coco: Path) -> None:
    people = read_people(coco)
    predicted_px = people[0].keypoints_px[None].copy()
    predicted_px[0, LIMB_JOINT_NAMES.index("L_Ankle")] += 1000
    predicted_px[0, LIMB_JOINT_NAMES.index("R_Ankle")] += 1000
    scores = keypoint_scores(people, predicted_px)
    assert (scores.num_visible, scores.pck) == (10, 1.0)
    assert scores.pck_labelled == pytest.approx(10 / 11)


def test_joints_found_in_crops_are_scored_in_their_pictures(coco: Path) -> None:
    people = read_people(coco) * 2
    pictures, frames_from_crops = crops_of(people, 1.2)
    assert pictures.shape == (2, 224, 224, 3)
    assert pictures.dtype == np.uint8
    joints_crop = np.full((2, len(JOINT_NAMES), 2), 9, np.float32)
    for joints, person, place in zip(joints_crop, people, frames_from_crops, strict=True):
        crop_px = (person.keypoints_px - place[:, 2]) @ np.linalg.inv(place[:, :2]).T
        joints[LIMBS] = crop_px / 112 - 1
    assert crop_scores(people, joints_crop, frames_from_crops).pck == 1.0
    joints_crop[1] += 1
    assert crop_scores(people, joints_crop, frames_from_crops).pck == 0.5


def test_pictures_reach_the_estimator_as_rgb_with_cocos_box(coco: Path) -> None:
    seen = []

    class Spy:
        def from_boxes(self, image: np.ndarray, boxes_px: np.ndarray) -> list[None]:
            seen.append((image[0, 0].tolist(), boxes_px.tolist()))
            return [None]

    scored_sets.estimated_in_box(Spy(), read_people(coco)[0])
    assert seen == [([255, 0, 0], [[10, 20, 70, 100]])]


def test_a_perfect_estimate_scores_one(coco: Path, estimator: MeshEstimator) -> None:
    people = read_people(coco)
    joints_px = np.zeros((len(JOINT_NAMES), 2), np.float32)
    joints_px[LIMBS] = people[0].keypoints_px
    estimate = MeshEstimate(
        np.zeros((30, 3), np.float32), np.zeros((14, 3), np.float32), joints_px, np.ones(3, np.float32), np.eye(3)[:2].copy()
    )
    report = scored_sets.keypoint_report(people, [estimate])
    assert report["pck"] == 1.0
    assert report["joints"]["R_Knee"] == 1.0
    assert "R_Ankle" not in report["joints"]  # not labelled
    hidden = [replace(people[0], flags=np.minimum(people[0].flags, 1))]
    assert scored_sets.keypoint_report(hidden, [estimate])["pck"] is None
    (panel,) = scored_sets.keypoint_panels(estimator, people, [estimate], 5)
    assert panel.error == 0.0
    assert panel.seen.sum() == 10
    np.testing.assert_allclose(panel.true_px[LIMBS], people[0].keypoints_px)  # this estimate's crop is the frame


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / "val2017" / "a.png").unlink(), "picture a.png is not in"),
        (lambda folder: (folder / "annotations" / "person_keypoints_val2017.json").write_text("{"), "no COCO keypoint file"),
        (lambda folder: (folder / "annotations" / "person_keypoints_val2017.json").write_text("{}"), "no COCO keypoint file"),
        (lambda folder: (folder / "annotations" / "person_keypoints_val2017.json").unlink(), "holds no annotations"),
    ],
)
def test_a_broken_folder_is_told_in_one_line(coco: Path, harm: object, message: str) -> None:
    harm(coco)
    with pytest.raises(InputError, match=message):
        read_people(coco)


def test_nobody_with_enough_keypoints_is_an_error(coco: Path) -> None:
    with pytest.raises(InputError, match="lower --min-keypoints"):
        read_people(coco, min_keypoints=17)


@pytest.mark.parametrize(("limit", "count"), [(0, 12), (1, 1), (5, 5), (100, 12)])
def test_people_are_picked_evenly_and_once(limit: int, count: int) -> None:
    rows = spread(12, limit)
    assert len(rows) == len(set(rows.tolist())) == count
    if limit == 5:
        assert rows.tolist() == [0, 2, 5, 8, 11]


def scored(kind: str, path: Path, estimator: MeshEstimator, **options: object) -> scored_sets.SetScores:
    people = PeopleSet(kind, path, **options)
    return people.score(estimator, people.open(estimator), 3)


def test_synthetic_people_are_scored_against_their_own_truth(tmp_path: Path, estimator: MeshEstimator) -> None:
    write_toy_shards(tmp_path, num_shards=2, count=6)
    scores = scored("shards", tmp_path, estimator)
    report = scores.report
    families = report["families"]
    assert set(families) <= set(FAMILIES)
    assert report["overall"]["num_people"] == 12 == sum(family["num_people"] for family in families.values())
    mean = sum(family["num_people"] * family["mpjpe_mm"] for family in families.values()) / 12
    assert report["overall"]["mpjpe_mm"] == pytest.approx(mean, rel=1e-5)
    assert np.mean(list(report["joints_mm"].values())) == pytest.approx(mean, rel=1e-2)
    assert np.mean(list(report["aligned_joints_mm"].values())) == pytest.approx(report["overall"]["pa_mpjpe_mm"], rel=1e-2)
    errors = [panel.error for panel in scores.panels]
    assert len(errors) == 3
    assert errors == sorted(errors, reverse=True)
    assert errors[0] >= mean


def test_bodies_framing_and_everyday_poses_have_tables_of_their_own(tmp_path: Path, estimator: MeshEstimator) -> None:
    path = write_toy_shards(tmp_path, num_shards=1, count=6) / "shard-00000.npz"
    with np.load(path) as content:
        arrays = dict(content)
    arrays |= {"family_names": np.array(["walking", "kicking"]), "family": np.array([0, 0, 0, 0, 1, 1], np.uint8)}
    arrays |= {"group_names": np.array(["child", "adult"]), "group": np.array([0, 1, 1, 1, 1, 0])}
    arrays |= {"framing_names": np.array(["webcam"]), "framing": np.zeros(6, int)}
    np.savez(path, **arrays)
    report = scored("shards", tmp_path, estimator).report
    assert {name: row["num_people"] for name, row in report["group"].items()} == {"adult": 4, "child": 2}
    assert report["framing"]["webcam"] == report["overall"]
    assert report["everyday"] == report["families"]["walking"]
    titles = [table.title for table in report_tables({"synthetic": report})]
    assert "synthetic people, by bodies" in titles and "synthetic people, by framing" in titles
    rows = [row[0] for row in report_tables({"synthetic": report})[0].rows]
    assert rows == ["overall", "everyday poses", "walking", "kicking"]


def test_full_meshes_are_used_where_a_shard_keeps_them(tmp_path: Path, estimator: MeshEstimator) -> None:
    path = write_toy_shards(tmp_path, num_shards=1, count=4) / "shard-00000.npz"
    report = scored("shards", tmp_path, estimator).report
    assert report["notes"] == ["MPVPE is of the intermediate mesh, as the truth does not hold all vertices"]
    people = PeopleSet("shards", tmp_path).open(estimator)
    estimates = estimator.from_crops([scored_sets.our_crop(people[row]) for row in range(4)])
    shifted = np.stack([e.vertices_m for e in estimates]) + np.array([0, 0.03, 0.04])  # everybody is off by 50 mm
    with np.load(path) as content:
        arrays = dict(content)
    shard_people._full_meshes.cache_clear()
    np.savez(path, **arrays, vertices_m=shifted.astype(np.float16))
    report = scored("shards", tmp_path, estimator).report
    assert report["overall"]["mpvpe_mm"] == pytest.approx(50, abs=0.5)
    assert "notes" not in report


def test_pictures_of_shards_reach_the_network_unchanged(tmp_path: Path, estimator: MeshEstimator) -> None:
    write_toy_shards(tmp_path, num_shards=1, count=2)
    people = PeopleSet("shards", tmp_path).open(estimator)
    np.testing.assert_array_equal(scored_sets.our_crop(people[1]).image, people[1].image)


def test_another_body_is_refused(tmp_path: Path, estimator: MeshEstimator) -> None:
    write_toy_shards(tmp_path, num_shards=1, count=2, body="another")
    with pytest.raises(InputError, match="the network has 'toy'"):
        scored("shards", tmp_path, estimator)


def run(flags: list[object]) -> int:
    return evaluate.main([*map(str, flags), "--threads", "1"])


def test_the_command_writes_scores_and_a_sheet(
    tmp_path: Path, coco: Path, estimator: MeshEstimator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate, "load_estimator", lambda *_: estimator)
    write_toy_shards(tmp_path / "people", num_shards=1, count=3)
    scores, sheet = tmp_path / "scores.json", tmp_path / "sheet.png"
    assert run(["--shards", tmp_path / "people", "--coco", coco, "--json", scores, "--sheet", sheet]) == 0
    report = json.loads(scores.read_text())
    assert report["synthetic"]["overall"]["num_people"] == 3
    assert report["keypoints"][str(coco)]["num_people"] == 1
    assert cv2.imread(str(sheet)).shape == (2 * 242, 3 * 672, 3)  # three synthetic panels in a row, a real one below
    printed = capsys.readouterr().out
    assert "PCK@0.1" in printed
    assert "overall" in printed


def test_checkpoints_side_by_side(
    tmp_path: Path, coco: Path, estimator: MeshEstimator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = MeshEstimator(tiny_model(), ToyBody())
    with torch.no_grad():
        other._runtime.model.xyz_regressor.bias += 0.5  # off by more in no metric but the projection: everything else is centred
    monkeypatch.setattr(evaluate, "load_estimator", lambda name, *_: other if "second" in str(name) else estimator)
    write_toy_shards(tmp_path / "people", num_shards=1, count=5)
    sets = ["--shards", tmp_path / "people", "--coco", coco]
    assert run(["--checkpoint", "first", *sets, "--json", tmp_path / "first.json"]) == 0
    capsys.readouterr()
    both, sheet = tmp_path / "both.json", tmp_path / "sheet.png"
    assert run(["--checkpoint", tmp_path / "first.json", "--compare", "second", "first", *sets, "--json", both, "--sheet", sheet]) == 0
    lines = capsys.readouterr().out.splitlines()
    compared = json.loads(both.read_text())["compared"]
    assert [report["checkpoint"] for report in compared] == ["first", "second", "first"]
    assert compared[0]["synthetic"] == compared[2]["synthetic"]
    header = next(line for line in lines if line.startswith("synthetic people"))
    assert header.split()[2:] == ["first-1", "second", "first-3", "change"]
    row = next(line for line in lines if line.startswith("MPJPE mm")).split()
    assert row[2] == f"{compared[0]['synthetic']['overall']['mpjpe_mm']:.1f}"
    assert row[-1] == "+0.0"
    assert sorted(place.name for place in tmp_path.glob("sheet*")) == ["sheet-first.png", "sheet-second.png"]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["default", "runs/a/best.safetensors"], ["default", "best"]),
        (["runs/a/best.safetensors", "runs/b/best.safetensors"], ["a-best", "b-best"]),
        (["default", "default"], ["default-1", "default-2"]),
    ],
)
def test_labels_tell_checkpoints_apart(names: list[str], labels: list[str]) -> None:
    assert evaluate.unique_labels(names) == labels


def test_a_network_without_numbers_is_one_line(
    tmp_path: Path, coco: Path, estimator: MeshEstimator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with torch.no_grad():
        estimator._runtime.model.xyz_regressor.bias.fill_(float("nan"))
    monkeypatch.setattr(evaluate, "load_estimator", lambda *_: estimator)
    write_toy_shards(tmp_path / "people", num_shards=1, count=2)
    for flags in (["--shards", tmp_path / "people"], ["--coco", coco]):
        assert run(flags) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("no usable mesh from the network")


def test_nothing_to_measure_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run([])
    assert caught.value.code == 2
    assert "neither --shards nor --coco nor --tsv" in capsys.readouterr().err


def test_mistakes_are_one_line(tmp_path: Path, coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "no-report.json").write_text("[1, 2]")
    for flags, message in (
        (["--coco", tmp_path / "none"], "there is nothing of that name"),
        (["--shards", tmp_path / "none"], "there is nothing of that name"),
        (["--checkpoint", "no-such", "--coco", tmp_path], "no-such"),
        (["--coco", coco, "--tsv-limit", -1], "expected 0"),
        (["--coco", coco, "--json", tmp_path / "no" / "a.json"], "make it first"),
        (["--coco", coco, "--compare", tmp_path / "no-report.json"], "no scores in it"),
        (["--coco", coco, "--compare", tmp_path / "missing.json"], "not readable"),
    ):
        assert run(flags) == 1
        error = capsys.readouterr().err
        assert message in error
        assert len(error.strip().splitlines()) == 1
