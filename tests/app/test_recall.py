"""Counting whom a detector finds."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from app.recall import assigned, main, measure
from app.types import Person
from core.training.coco import read_pictures


class Says:
    """Finds the same boxes in every picture."""

    def __init__(self, *boxes: tuple[float, float, float, float]) -> None:
        self.boxes = boxes

    def detect(self, image: np.ndarray, known_boxes_px: tuple[np.ndarray, ...] = (), thorough: bool = False) -> list[Person]:
        return [Person(np.array(box, np.float32), 0.9) for box in self.boxes]

    def close(self) -> None:
        """Nothing."""


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Two pictures: three people and a crowd, and nobody."""
    (tmp_path / "annotations").mkdir()
    (tmp_path / "few").mkdir()
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / "few" / name), np.zeros((100, 200, 3), np.uint8))
    people = [((0, 0, 20, 80), 17, 0), ((50, 0, 20, 80), 6, 0), ((100, 0, 20, 80), 1, 0), ((150, 0, 50, 100), 0, 1)]
    content = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "categories": [{"keypoints": []}],
        "annotations": [{"image_id": 1, "bbox": box, "num_keypoints": count, "iscrowd": crowd} for box, count, crowd in people],
    }
    (tmp_path / "annotations" / "person_keypoints_few.json").write_text(json.dumps(content))
    return tmp_path


def test_people_and_false_alarms_are_counted(coco: Path) -> None:
    pictures = read_pictures(coco)
    assert [len(picture.boxes_px) for picture in pictures] == [4, 0]
    found_first, beside, in_crowd, half = (0, 0, 20, 80), (75, 20, 95, 90), (160, 50, 170, 80), (50, 0, 70, 35)
    result = measure(Says(found_first, beside, in_crowd, half), pictures, thorough=True)
    assert result.people == (3, 2, 1)
    assert result.found == (1, 1, 1)
    assert result.false_alarms == 1 + 4, "the one beside, and all four where nobody is; a part of somebody and one of a crowd are none"
    assert result.spare == 1, "half of somebody"
    assert "1 of 2 with 5 keypoints or more" in str(result)


def test_a_box_finds_one_person_and_the_best_boxes_choose_first() -> None:
    overlap = np.array([[0.6, 0.9, 0.0], [0.7, 0.8, 0.0], [0.0, 0.0, 0.5]])
    assert assigned(overlap).tolist() == [1, 0, -1]
    assert assigned(overlap[:1]).tolist() == [-1, 0, -1]
    assert assigned(np.zeros((0, 2))).tolist() == [-1, -1]


def test_a_folder_of_something_else_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
