import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from core.errors import InputError
from core.estimator import MeshEstimator
from core.joints import JOINT_NAMES, LIMB_JOINT_NAMES
from core.training import evaluate
from core.training.coco import coco_name, keypoint_scores, read_people
from core.training.shards import list_shards, load_good_shards
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


def test_hidden_keypoints_count_in_their_own_score_only(coco: Path) -> None:
    people = read_people(coco)
    predicted_px = people[0].keypoints_px[None].copy()
    predicted_px[0, LIMB_JOINT_NAMES.index("L_Ankle")] += 1000
    predicted_px[0, LIMB_JOINT_NAMES.index("R_Ankle")] += 1000
    scores = keypoint_scores(people, predicted_px)
    assert (scores.num_visible, scores.pck) == (10, 1.0)
    assert scores.pck_labelled == pytest.approx(10 / 11)


def test_pictures_reach_the_estimator_as_rgb_with_cocos_box(coco: Path) -> None:
    seen = []

    class Spy:
        def from_boxes(self, image: np.ndarray, boxes_px: np.ndarray) -> list[None]:
            seen.append((image[0, 0].tolist(), boxes_px.tolist()))
            return [None]

    evaluate.evaluate_keypoints(Spy(), read_people(coco))
    assert seen == [([255, 0, 0], [[10, 20, 70, 100]])]


def test_a_perfect_estimate_scores_one(coco: Path, estimator: MeshEstimator) -> None:
    people = read_people(coco)
    joints_px = np.zeros((len(JOINT_NAMES), 2), np.float32)
    joints_px[evaluate.LIMBS] = people[0].keypoints_px
    estimate = MeshEstimate(
        np.zeros((30, 3), np.float32), np.zeros((14, 3), np.float32), joints_px, np.ones(3, np.float32), np.eye(3)[:2].copy()
    )
    report = evaluate.keypoint_report(people, [estimate])
    assert report["pck"] == 1.0
    assert report["joints"]["R_Knee"] == 1.0
    (panel,) = evaluate.keypoint_panels(estimator, people, [estimate], 5)
    assert panel.error == 0.0
    assert panel.seen.sum() == 10
    np.testing.assert_allclose(panel.true_px[evaluate.LIMBS], people[0].keypoints_px)  # this estimate's crop is the frame


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


@pytest.mark.parametrize("limit", [0, 1, 5, 100])
def test_people_are_picked_evenly_and_once(tmp_path: Path, limit: int) -> None:
    shards = load_good_shards(list_shards(write_toy_shards(tmp_path, num_shards=3, count=4)))
    picked = evaluate.picked(shards, limit)
    rows = [(shard.path.name, int(row)) for shard, kept in picked for row in kept]
    assert len(rows) == len(set(rows)) == min(limit or 12, 12)
    if limit == 5:
        assert len(picked) == 3


def test_synthetic_people_are_scored_against_their_own_truth(tmp_path: Path, estimator: MeshEstimator) -> None:
    write_toy_shards(tmp_path, num_shards=2, count=6)
    people = evaluate.evaluate_synthetic(estimator, tmp_path, limit=0, num_worst=3)
    report = evaluate.synthetic_report(people)
    families = report["families"]
    assert set(families) <= set(FAMILIES)
    assert report["overall"]["num_people"] == 12 == sum(family["num_people"] for family in families.values())
    mean = sum(family["num_people"] * family["mpjpe_mm"] for family in families.values()) / 12
    assert report["overall"]["mpjpe_mm"] == pytest.approx(mean, rel=1e-5)
    assert np.mean(list(report["joints_mm"].values())) == pytest.approx(mean, rel=1e-2)
    errors = [panel.error for panel in people.worst]
    assert len(errors) == 3
    assert errors == sorted(errors, reverse=True)
    assert errors[0] >= mean


def test_another_body_is_refused(tmp_path: Path, estimator: MeshEstimator) -> None:
    write_toy_shards(tmp_path, num_shards=1, count=2, body="another")
    with pytest.raises(InputError, match="the checkpoint has 'toy'"):
        evaluate.evaluate_synthetic(estimator, tmp_path, limit=0, num_worst=1)


def test_the_command_writes_scores_and_a_sheet(
    tmp_path: Path, coco: Path, estimator: MeshEstimator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate, "load_estimator", lambda *_: estimator)
    write_toy_shards(tmp_path / "people", num_shards=1, count=3)
    scores, sheet = tmp_path / "scores.json", tmp_path / "sheet.png"
    flags = ["--shards", tmp_path / "people", "--coco", coco, "--json", scores, "--sheet", sheet, "--threads", "1"]
    assert evaluate.main(list(map(str, flags))) == 0
    report = json.loads(scores.read_text())
    assert report["synthetic"]["overall"]["num_people"] == 3
    assert report["keypoints"][str(coco)]["num_people"] == 1
    assert cv2.imread(str(sheet)).shape == (242, 4 * 448, 3)  # three synthetic panels and a real one in a row
    printed = capsys.readouterr().out
    assert "PCK@0.1" in printed
    assert "overall" in printed


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, message in (([], "neither --shards nor --coco"), (["--checkpoint", "no-such", "--coco", str(tmp_path)], "no-such")):
        assert evaluate.main(flags) == 1
        error = capsys.readouterr().err
        assert message in error
        assert len(error.strip().splitlines()) == 1
