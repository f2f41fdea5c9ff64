"""mediapipe's pose landmarker as a detector: boxes from landmarks, and the real model."""

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import app.landmarker  # noqa: F401  registers it
from app.detect import DETECTORS, SearchingDetector
from app.landmarker import LANDMARK_NAMES, PoseLandmarkerDetector, box_from_landmarks, look_of
from core.errors import InputError
from core.joints import JOINT_NAMES
from tests.app.media import frame_of


@pytest.fixture(scope="module")
def detector(repository: Path) -> Iterator[SearchingDetector]:
    folder = repository / "checkpoints"
    assert (folder / "pose_landmarker.task").is_file(), "the model belongs to the repository"
    with closing(DETECTORS["mediapipe"](folder, 6)) as opened:
        yield opened


def standing(x: float = 100.0, y: float = 100.0, size: float = 200.0, visibility: float = 0.9) -> np.ndarray:
    """(33, 4) landmarks of somebody upright, head at the top."""
    heights = {
        "Nose": 0.0,
        "Eye": -0.02,
        "Ear": -0.01,
        "Mouth": 0.03,
        "Shoulder": 0.15,
        "Elbow": 0.32,
        "Wrist": 0.48,
        "Hip": 0.5,
        "Knee": 0.7,
    }
    marks = np.zeros((33, 4))
    for index, name in enumerate(LANDMARK_NAMES):
        side = 0.08 if name.startswith("L_") or name.endswith("_L") else -0.08 if name != "Nose" else 0.0
        height = next((value for part, value in heights.items() if part in name), 0.5 if index < 23 else 0.95)
        marks[index] = (x + side * size, y + height * size, visibility, 0.95)
    return marks


def test_the_box_holds_head_top_and_feet() -> None:
    box = box_from_landmarks(standing())
    assert box.dtype == np.float32
    assert box[1] < 100 - 0.08 * 200
    assert box[3] > 100 + 0.95 * 200
    assert box[0] < 100 - 0.08 * 200
    assert box[2] > 100 + 0.08 * 200


def test_unseen_legs_do_not_stretch_the_box() -> None:
    landmarks = standing()
    landmarks[25:, 2] = 0.02
    assert box_from_landmarks(landmarks)[3] < 100 + 0.6 * 200


def test_visibility_is_mapped_by_name() -> None:
    landmarks = standing(visibility=0.1)
    for name in ("R_Ankle", "L_Wrist", "L_Shoulder", "R_Shoulder", "R_Ear"):
        landmarks[LANDMARK_NAMES.index(name), 2] = 0.9
    seen = dict(zip(JOINT_NAMES, look_of(landmarks).joint_visibility, strict=True))
    assert {name for name, value in seen.items() if value > 0.5} == {"R_Ankle", "L_Wrist", "L_Shoulder", "R_Shoulder", "Neck", "Head"}


def test_half_a_body_seen_well_counts_fully() -> None:
    landmarks = standing()
    landmarks[25:, 2] = 0.02
    assert look_of(landmarks).score > 0.85


def test_missing_model_says_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing.*git checkout"):
        PoseLandmarkerDetector(tmp_path)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04" + bytes(2000)])
def test_damaged_model_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pose_landmarker.task"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a usable pose landmarker bundle") as raised:
        PoseLandmarkerDetector(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 500, 3), (240, 320, 3)])
def test_nobody_in_an_empty_picture(detector: SearchingDetector, shape: tuple[int, int, int]) -> None:
    known = (np.array([0, 0, shape[1], shape[0]], np.float32),)
    assert detector.detect(np.full(shape, 90, np.uint8), known, thorough=True) == []


def test_both_people_are_found_with_boxes_around_them(detector: SearchingDetector, shared: Path) -> None:
    people = detector.detect(frame_of(shared / "data" / "clips" / "two_people.mp4", 0), thorough=True)
    boxes = sorted((person.box_px for person in people[:2]), key=lambda box: box[0])
    for box, expected in zip(boxes, ([240, 315, 570, 1170], [480, 785, 965, 1755]), strict=True):
        assert np.abs(box - expected).max() < 0.12 * 900, (box, expected)


def test_without_the_package_one_line_says_what_to_do(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "mediapipe"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(InputError, match=r"the package mediapipe is not installed .* take another one"):
        DETECTORS["mediapipe"](repository / "checkpoints", 6)
