"""MoveNet as a detector: scores, visibility, mirrored looks, whom it believes; real clips where they are at hand."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from app.detect import Look, joint_evidence
from app.multipose import BELIEVED, FACE, SEEN_HEAT, MultiPoseDetector
from app.recall import measure
from core.errors import InputError
from core.joints import JOINT_NAMES, KEYPOINT_NAMES, mirrored
from core.multipose import Found
from core.training.coco import read_pictures
from tests.app.media import frame_of


@pytest.fixture(scope="module")
def detector(repository: Path) -> Iterator[MultiPoseDetector]:
    with closing(MultiPoseDetector(repository / "checkpoints")) as opened:
        yield opened


class Blob:
    """Finds whoever is painted white, with a keypoint on each side; `heat` of a keypoint is its red."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def people(self, picture: np.ndarray, side_px: int, max_people: int, min_heat: float = 0.0) -> Found:
        del min_heat
        self.shapes.append((*picture.shape[:2], side_px, max_people))
        y, x = np.nonzero(picture[..., 1] > 200)
        if not len(x):
            return Found(np.zeros((0, 4)), np.zeros(0), np.zeros((0, 17, 3)))
        box = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], np.float32)
        keypoints = np.zeros((1, 17, 3), np.float32)
        names = {"L_Wrist": (box[0], box[1]), "R_Wrist": (box[2], box[3])}
        for name, place in names.items():
            keypoints[0, KEYPOINT_NAMES.index(name)] = (*place, 0.3)
        keypoints[0, :3, 2] = 0.9
        return Found(box[None], np.array([0.5], np.float32), keypoints)


def with_finder(detector: MultiPoseDetector, monkeypatch: pytest.MonkeyPatch) -> Blob:
    finder = Blob()
    monkeypatch.setattr(detector, "_finder", finder)
    return finder


def painted(box: tuple[int, int, int, int], size: tuple[int, int] = (400, 800)) -> np.ndarray:
    image = np.zeros((*size, 3), np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 255
    return image


def test_looks_are_in_frame_pixels_and_mirrored_ones_turned_back(detector: MultiPoseDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    with_finder(detector, monkeypatch)
    image, region = painted((300, 100, 340, 220)), (200, 40, 600, 340)
    (plain,), (turned,) = (detector._look(image, region, way) for way in (False, True))
    np.testing.assert_allclose(plain.box_px, [300, 100, 340, 220], atol=1.5)
    np.testing.assert_allclose(turned.box_px, plain.box_px, atol=1.5)
    left, right = (KEYPOINT_NAMES.index(name) for name in ("L_Wrist", "R_Wrist"))
    np.testing.assert_allclose(plain.points[[left, right], :2], [[300, 100], [340, 220]], atol=1.5)
    # the mirrored picture's left wrist is the upper left corner there: the person's right one, at the upper right
    np.testing.assert_allclose(turned.points[[right, left], :2], [[340, 100], [300, 220]], atol=1.5)
    assert mirrored(KEYPOINT_NAMES)[left] == right


def test_the_score_mixes_the_centre_and_the_hottest_keypoints(detector: MultiPoseDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    with_finder(detector, monkeypatch)
    (look,) = detector._look(painted((300, 100, 340, 220)), (0, 0, 700, 400))
    assert look.score == pytest.approx(np.sqrt(0.5 * np.mean([0.9, 0.9, 0.9, 0.3, 0.3])))
    seen = dict(zip(JOINT_NAMES, look.joint_visibility, strict=True))
    assert seen["L_Wrist"] == pytest.approx(0.3 / SEEN_HEAT)
    assert seen["Head"] == 1
    assert seen["L_Ankle"] == 0


def test_the_network_sees_people_in_the_size_it_knows(detector: MultiPoseDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    finder = with_finder(detector, monkeypatch)
    image = painted((300, 100, 340, 220))
    looks = detector._look(image, (0, 0, 800, 400))
    assert len(looks) == 2, "the whole frame is shown twice: for people far away, and for those who fill it"
    detector._look(image, (200, 0, 600, 400))
    detector._look(image, (200, 0, 400, 200), close=True)
    detector._look(image, (280, 80, 380, 180))
    assert [shape[2] for shape in finder.shapes] == [384, 224, 384, 256, 150]
    assert max(finder.shapes[0][:2]) <= 384, "shrunk once, for both"


@pytest.mark.parametrize(("first", "second", "believed"), [(0.5, 0.5, True), (0.9, 0.1, False), (0.4, 0.5, True), (0.15, 1.0, False)])
def test_somebody_new_must_be_seen_in_a_mirrored_look_too(
    detector: MultiPoseDetector, monkeypatch: pytest.MonkeyPatch, first: float, second: float, believed: bool
) -> None:
    box, points = np.array([10, 10, 60, 110], np.float32), np.zeros((17, 3))
    monkeypatch.setattr(detector, "_look", lambda *_, **__: [Look(box, second, points, np.ones(14, np.float32))])
    look = Look(box, first, points, np.ones(14, np.float32))
    assert detector._is_new(np.zeros((200, 200, 3), np.uint8), look, 1) is believed
    assert BELIEVED[1] < BELIEVED[2] < BELIEVED[4]


def test_visibility_is_mapped_by_name() -> None:
    heat = np.full(17, 0.1)
    for name in ("R_Ankle", "L_Wrist", "L_Shoulder", "R_Shoulder", "R_Ear"):
        heat[KEYPOINT_NAMES.index(name)] = 1.4
    seen = dict(zip(JOINT_NAMES, joint_evidence(heat, KEYPOINT_NAMES, FACE), strict=True))
    assert {name for name, value in seen.items() if value > 0.5} == {"R_Ankle", "L_Wrist", "L_Shoulder", "R_Shoulder", "Neck", "Head"}
    assert max(seen.values()) == 1


def test_missing_weights_say_where_they_belong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"person detector.*missing.*git checkout"):
        MultiPoseDetector(tmp_path)


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 500, 3), (240, 320, 3)])
def test_nobody_in_an_empty_picture(detector: MultiPoseDetector, shape: tuple[int, int, int]) -> None:
    known = (np.array([0, 0, shape[1], shape[0]], np.float32),)
    assert detector.detect(np.full(shape, 90, np.uint8), known, thorough=True) == []


def test_the_small_walker_is_found(detector: MultiPoseDetector, shared: Path) -> None:
    image = frame_of(shared / "data" / "clips" / "walk_outdoors.mp4", 50)
    boxes = [person.box_px for person in detector.detect(image, thorough=True)]
    assert any(1440 < box[[0, 2]].mean() < 1560 and 650 < box[[1, 3]].mean() < 830 for box in boxes), boxes


def test_most_people_of_photographs_are_found_and_few_others(detector: MultiPoseDetector, shared: Path) -> None:
    """Half of the pictures. On all 100 it finds 62 of 91 people with five keypoints or more without searching tiles, and 5 false alarms."""
    pictures = [picture for picture in read_pictures(shared / "data" / "images" / "coco") if picture.path.parent.name == "val2017"]
    measured = measure(detector, pictures, thorough=False)
    assert measured.people[1] == 43
    assert measured.found[1] >= 25, "mediapipe's detector, searching tiles, finds 14"
    assert measured.false_alarms <= 6
