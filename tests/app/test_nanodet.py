"""The default detector: whom it believes, what it looks at, real pictures and clips where they are at hand."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import app.engine
from app.config import LiveConfig
from app.detect import Look
from app.nanodet import BELIEVED, BELIEVED_SMALL, SIDES_PX, SMALL_PX, THOROUGH_SIDES_PX, WEIGHT, AgreeingDetector, turned_back
from app.recall import measure
from core.errors import InputError
from core.nanodet import Boxes
from core.training.coco import read_pictures
from tests.app.media import frame_of

IMAGE = np.zeros((400, 800, 3), np.uint8)
BOX = np.array([300, 100, 360, 250], np.float32)
SMALL = np.array([300, 100, 312, 130], np.float32)


@pytest.fixture(scope="module")
def opened(repository: Path) -> Iterator[AgreeingDetector]:
    with closing(app.engine.open_detector(LiveConfig())) as detector:
        assert type(detector) is AgreeingDetector
        yield detector


class Told:
    """Both networks say what they are told. boxes_px, scores: NanoDet; closer: MoveNet, in every look."""

    def __init__(self, detector: AgreeingDetector, monkeypatch: pytest.MonkeyPatch) -> None:
        self.detector = detector
        self.boxes_px, self.scores = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
        self.closer: list[Look] = []
        self.sides_px: list[int] = []
        monkeypatch.setattr(detector, "_box_finder", self)
        monkeypatch.setattr(detector, "_look", self._look)

    def boxes(self, picture: np.ndarray, side_px: int, least: float) -> Boxes:
        self.sides_px.append(side_px)
        kept = self.scores > least
        return Boxes(self.boxes_px[kept], self.scores[kept])

    def _look(self, image: np.ndarray, region_px: tuple[int, ...], mirrored: bool = False, close: bool = False) -> list[Look]:
        return self.closer

    def propose(self, *found: tuple[np.ndarray, float]) -> None:
        self.boxes_px, self.scores = np.stack([box for box, _ in found]), np.array([score for _, score in found], np.float32)


@pytest.fixture
def told(opened: AgreeingDetector, monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(opened, monkeypatch)


def look_at(box: np.ndarray, score: float) -> Look:
    points = np.concatenate([np.linspace(box[:2], box[2:], 17), np.ones((17, 1))], 1)
    return Look(box, score, points, np.full(14, 0.5, np.float32))


@pytest.mark.parametrize(
    ("proposed", "closer", "believed"), [(0.4, 0.4, True), (0.3, 0.6, True), (0.3, 0.4, False), (0.65, 0.0, True), (0.5, 0.0, False)]
)
def test_who_is_new_must_convince_both_or_one_of_them_very_much(told: Told, proposed: float, closer: float, believed: bool) -> None:
    told.propose((BOX, proposed))
    told.closer = [look_at(BOX + 3, closer)] if closer else []
    people = told.detector.detect(IMAGE)
    assert bool(people) is believed
    if people:
        assert people[0].score == pytest.approx((proposed + WEIGHT * closer) / (1 + WEIGHT))
        np.testing.assert_allclose(people[0].box_px, BOX + 3 if closer else BOX, err_msg="the closer look's box is the better one")
        assert (people[0].landmark_visibility is None) is not closer


def test_a_closer_look_at_somebody_else_does_not_count(told: Told) -> None:
    told.propose((BOX, 0.4))
    told.closer = [look_at(BOX + 80, 0.9)]
    assert not told.detector.detect(IMAGE)


def test_who_is_small_must_convince_more(told: Told) -> None:
    assert max(SMALL[2:] - SMALL[:2]) < SMALL_PX
    middling = (BELIEVED + BELIEVED_SMALL) / 2
    for box, found in ((BOX, True), (SMALL, False)):
        told.propose((box, middling))
        told.closer = [look_at(box, middling)]
        assert bool(told.detector.detect(IMAGE)) is found


def test_somebody_known_need_convince_only_one(told: Told) -> None:
    told.propose((BOX, 0.3))
    assert not told.detector.detect(IMAGE)
    assert len(told.detector.detect(IMAGE, (BOX + 5,))) == 1
    told.propose((BOX, 0.0))
    told.closer = [look_at(BOX, 0.25)]
    assert len(told.detector.detect(IMAGE, (BOX + 5,))) == 1
    assert not told.detector.detect(IMAGE, (BOX + 80,))


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_look_is_where_it_was(quarters: int) -> None:
    image = np.zeros((40, 80), np.uint8)
    image[10:14, 50:60] = 1
    y, x = np.nonzero(np.rot90(image, quarters))
    points = np.concatenate([np.stack([x, y], 1) + 0.5, np.ones((len(x), 1))], 1)
    look = Look(np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], np.float32), 0.5, points, None)
    back = turned_back(look, quarters, (80, 40))
    assert back.box_px.tolist() == [50, 10, 60, 14]
    assert sorted(map(tuple, back.points[:, :2] - 0.5)) == sorted((x, y) for y, x in zip(*np.nonzero(image), strict=True))


def test_who_lies_is_found_in_thorough_searches(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen only where the frame is turned; whom both ways see is not there twice."""
    lying, standing = np.array([100, 300, 300, 360], np.float32), BOX
    image = IMAGE.copy()
    image[0, 0] = 255

    def boxes(picture: np.ndarray, side_px: int, least: float) -> Boxes:
        if picture[0, 0].any():
            seen = standing[None]
        elif picture[-1, 0].any():  # turned by one quarter
            seen = np.array([[box[1], 800 - box[2], box[3], 800 - box[0]] for box in (lying, standing)], np.float32)
        else:
            seen = np.zeros((0, 4), np.float32)
        return Boxes(seen, np.full(len(seen), 0.9, np.float32))

    monkeypatch.setattr(told, "boxes", boxes)
    assert [person.box_px.tolist() for person in told.detector.detect(image)] == [standing.tolist()]
    assert [person.box_px.tolist() for person in told.detector.detect(image, thorough=True)] == [standing.tolist(), lying.tolist()]


def test_the_picture_is_shown_larger_in_thorough_searches_but_never_blown_up(told: Told) -> None:
    told.detector.detect(IMAGE)
    told.detector.detect(IMAGE, thorough=True)
    told.detector.detect(IMAGE[:90, :160])
    assert told.sides_px == [*SIDES_PX, *THOROUGH_SIDES_PX, *3 * SIDES_PX, 240]


def test_several_boxes_of_one_person_are_one(told: Told) -> None:
    beside = BOX + np.array([200, 0, 200, 0], np.float32)
    told.propose((BOX, 0.7), (BOX + 4, 0.9), (beside, 0.8))
    assert [person.box_px.tolist() for person in told.detector.detect(IMAGE)] == [(BOX + 4).tolist(), beside.tolist()]


def test_boxes_end_with_the_picture(told: Told) -> None:
    told.propose((np.array([700, 300, 900, 500], np.float32), 0.9), (np.array([799.5, 0, 900, 300], np.float32), 0.9))
    assert [person.box_px.tolist() for person in told.detector.detect(IMAGE)] == [[700, 300, 800, 400]]


def test_missing_weights_say_where_they_belong(tmp_path: Path, repository: Path) -> None:
    with pytest.raises(InputError, match=r"person detector.*person_detector.*missing.*git checkout"):
        AgreeingDetector(tmp_path)
    (tmp_path / "person_detector.safetensors").write_bytes((repository / "checkpoints" / "person_detector.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"person detector.*person_boxes.*missing.*git checkout"):
        AgreeingDetector(tmp_path)


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 500, 3), (240, 320, 3)])
def test_nobody_in_an_empty_picture(opened: AgreeingDetector, shape: tuple[int, int, int]) -> None:
    known = (np.array([0, 0, shape[1], shape[0]], np.float32),)
    assert opened.detect(np.full(shape, 90, np.uint8), known, thorough=True) == []


def test_who_will_jump_and_who_walks_are_found(opened: AgreeingDetector, shared: Path) -> None:
    image = frame_of(shared / "data" / "clips" / "walk_outdoors.mp4", 130)
    boxes = [person.box_px for person in opened.detect(image)]
    assert len(boxes) == 2, boxes


def test_all_three_are_found_with_boxes_around_them(opened: AgreeingDetector, shared: Path) -> None:
    people = opened.detect(frame_of(shared / "data" / "clips" / "two_people.mp4", 0))
    boxes = sorted((person.box_px for person in people), key=lambda box: box[0])
    assert len(boxes) == 3
    for box, expected in zip(boxes[1:], ([240, 315, 570, 1170], [480, 785, 965, 1755]), strict=True):
        assert np.abs(box - expected).max() < 0.12 * 900, (box, expected)
    assert boxes[0][2] < 160, "the woman at the back"


def test_most_people_of_photographs_are_found_and_few_others(opened: AgreeingDetector, shared: Path) -> None:
    """Half of the pictures."""
    pictures = [picture for picture in read_pictures(shared / "data" / "images" / "coco") if picture.path.parent.name == "val2017"]
    measured = measure(opened, pictures, thorough=False)
    assert measured.people[:2] == (123, 43)
    assert measured.found[0] >= 48, "MoveNet alone finds 35"
    assert measured.found[1] >= 31, "MoveNet alone finds 25"
    assert measured.false_alarms <= 4
    assert measured.spare <= 4
