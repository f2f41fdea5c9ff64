"""Finding people: boxes, merging, tiles; the real detector on real clips where they are at hand."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from app.detect import DETECTORS, LANDMARK_NAMES, Look, PoseLandmarkerDetector, box_from_landmarks, joint_visibility, merge_looks, tiles
from core.errors import InputError
from core.joints import JOINT_NAMES


@pytest.fixture(scope="module")
def detector(repository: Path) -> Iterator[PoseLandmarkerDetector]:
    path = repository / "checkpoints" / "pose_landmarker.task"
    assert path.is_file(), "the person detector belongs to the repository"
    with closing(DETECTORS["pose-landmarker"](path)) as opened:
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


def look(**changes: float) -> Look:
    landmarks = standing(**changes)
    return Look(landmarks, box_from_landmarks(landmarks))


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
    seen = dict(zip(JOINT_NAMES, joint_visibility(landmarks), strict=True))
    assert {name for name, value in seen.items() if value > 0.5} == {"R_Ankle", "L_Wrist", "L_Shoulder", "R_Shoulder", "Neck", "Head"}


def test_looks_at_one_person_become_one() -> None:
    assert len(merge_looks([look(), look(x=103), look(y=96, size=205)])) == 1


def test_people_beside_each_other_stay_two() -> None:
    assert len(merge_looks([look(), look(x=150)])) == 2


def test_the_best_look_is_kept_and_cut_looks_go() -> None:
    upper = standing(visibility=0.6)
    upper[23:, 2] = 0.05
    cut = Look(upper, box_from_landmarks(upper))
    kept = merge_looks([cut, look()])
    assert len(kept) == 1
    assert kept[0].score > 0.85


@pytest.mark.parametrize("size_px", [(1920, 1080), (480, 640), (50, 2000), (1, 1)])
@pytest.mark.parametrize("level", [2, 4])
def test_tiles_cover_the_frame_and_overlap(size_px: tuple[int, int], level: int) -> None:
    covered = np.zeros(size_px[::-1], int)
    for x0, y0, x1, y1 in tiles(*size_px, level):
        assert 0 <= x0 < x1 <= size_px[0]
        assert 0 <= y0 < y1 <= size_px[1]
        covered[y0:y1, x0:x1] += 1
    assert covered.min() >= 1
    assert max(size_px) < 10 or covered.max() > 1


def test_missing_model_says_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing.*git checkout"):
        PoseLandmarkerDetector(tmp_path / "pose_landmarker.task")


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04" + bytes(2000)])
def test_damaged_model_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pose_landmarker.task"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a usable pose landmarker bundle") as raised:
        PoseLandmarkerDetector(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 500, 3), (240, 320, 3)])
def test_nobody_in_an_empty_picture(detector: PoseLandmarkerDetector, shape: tuple[int, int, int]) -> None:
    known = (np.array([0, 0, shape[1], shape[0]], np.float32),)
    assert detector.detect(np.full(shape, 90, np.uint8), known, thorough=True) == []


def frame_of(clip: Path, index: int) -> np.ndarray:
    from app.sources import open_source

    return next(frame.image for frame in open_source(clip) if frame.index == index)


def test_the_small_walker_is_found(detector: PoseLandmarkerDetector, shared: Path) -> None:
    image = frame_of(shared / "data" / "clips" / "walk_outdoors.mp4", 50)
    boxes = [person.box_px for person in detector.detect(image, thorough=True)]
    assert any(1440 < box[[0, 2]].mean() < 1560 and 650 < box[[1, 3]].mean() < 830 for box in boxes), boxes


def test_both_people_are_found_with_boxes_around_them(detector: PoseLandmarkerDetector, shared: Path) -> None:
    people = detector.detect(frame_of(shared / "data" / "clips" / "two_people.mp4", 0), thorough=True)
    boxes = sorted((person.box_px for person in people[:2]), key=lambda box: box[0])
    for box, expected in zip(boxes, ([240, 315, 570, 1170], [480, 785, 965, 1755]), strict=True):
        assert np.abs(box - expected).max() < 0.12 * 900, (box, expected)


def test_only_who_is_small_in_the_frame_is_zoomed_into(detector: PoseLandmarkerDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    regions: list[tuple[int, int, int, int]] = []
    monkeypatch.setattr(detector, "_look", lambda image, region_px, mirrored=False: regions.append(region_px) or [])
    image, whole = np.zeros((360, 640, 3), np.uint8), (0, 0, 640, 360)
    detector.detect(image, (np.array([200, 10, 420, 350], np.float32),))
    assert regions == [whole], "a look that enlarges by less than a quarter shows no more than the whole frame"
    regions.clear()
    detector.detect(image, (np.array([300, 100, 340, 200], np.float32),))
    assert regions == [(235, 65, 405, 235), whole]
