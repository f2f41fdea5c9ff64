"""Finding people: merging, tiles and searching, with a detector that sees what a test says."""

from collections.abc import Callable

import numpy as np
import pytest

from app.detect import TILE_LEVELS, Look, Region, SearchingDetector, merge_looks, shrunk, tiles
from core.joints import JOINT_NAMES

WHOLE = (0, 0, 640, 360)


def points(x: float, y: float, size: float, visibility: float) -> np.ndarray:
    """(14, 3) of somebody upright."""
    heights = np.linspace(0, 1, 14)
    return np.stack([np.full(14, x), y + size * heights, np.full(14, visibility)], 1)


def look(x: float = 100.0, y: float = 100.0, size: float = 200.0, visibility: float = 0.9, cut: bool = False) -> Look:
    """Somebody at x, their head at y; cut: the legs are not seen."""
    marks = points(x, y, size, visibility)
    if cut:
        marks[7:, 2] = 0.05
    height = size * (0.5 if cut else 1.0)
    box = np.array([x - 0.2 * size, y, x + 0.2 * size, y + height], np.float32)
    return Look(box, 0.6 * visibility if cut else visibility, marks, np.full(len(JOINT_NAMES), visibility, np.float32))


class Scripted(SearchingDetector):
    """Sees in each region what `sees` says, and believes in those whose score is above `level` / 10."""

    whole_frame = 0.8

    def __init__(self, sees: Callable[[Region], list[Look]]) -> None:
        super().__init__(2)
        self.regions: list[Region] = []
        self.closeness: list[bool] = []
        self.sees = sees

    def close(self) -> None:
        """Nothing."""

    def _look(self, image: np.ndarray, region_px: Region, mirrored: bool = False, close: bool = False) -> list[Look]:
        self.regions.append(region_px)
        self.closeness.append(close)
        return self.sees(region_px)

    def _is_new(self, image: np.ndarray, look: Look, level: int) -> bool:
        return look.score > level / 10


PICTURE = np.zeros((360, 640, 3), np.uint8)


def test_looks_at_one_person_become_one() -> None:
    assert len(merge_looks([look(), look(x=103), look(y=96, size=205)])) == 1


def test_people_beside_each_other_stay_two() -> None:
    assert len(merge_looks([look(), look(x=150)])) == 2


def test_the_best_look_is_kept_and_cut_looks_go() -> None:
    kept = merge_looks([look(visibility=0.6, cut=True), look()])
    assert len(kept) == 1
    assert kept[0].score > 0.85


@pytest.mark.parametrize(("moved_px", "count"), [(5.0, 1), (60.0, 2)])
def test_a_head_alone_is_part_of_whom_it_lies_in_where_it_lies_on_their_head(moved_px: float, count: int) -> None:
    marks = points(100, 100 + moved_px, 200, 0.9)
    marks[4:, 2] = 0.05
    head = Look(np.array([70, 105, 130, 175], np.float32), 0.5, marks, np.ones(len(JOINT_NAMES), np.float32))
    assert len(merge_looks([look(), head])) == count


@pytest.mark.parametrize("size_px", [(1920, 1080), (480, 640), (50, 2000), (1, 1)])
@pytest.mark.parametrize("level", TILE_LEVELS)
def test_tiles_cover_the_frame_and_overlap(size_px: tuple[int, int], level: int) -> None:
    covered = np.zeros(size_px[::-1], int)
    for x0, y0, x1, y1 in tiles(*size_px, level):
        assert 0 <= x0 < x1 <= size_px[0]
        assert 0 <= y0 < y1 <= size_px[1]
        covered[y0:y1, x0:x1] += 1
    assert covered.min() >= 1
    assert max(size_px) < 10 or covered.max() > 1


def test_only_who_is_small_in_the_frame_is_zoomed_into() -> None:
    detector = Scripted(lambda _: [])
    detector.detect(PICTURE, (np.array([200, 10, 420, 350], np.float32),))
    assert detector.regions == [WHOLE], "a look that enlarges by less than a quarter shows no more than the whole frame"
    detector.regions.clear()
    detector.detect(PICTURE, (np.array([300, 100, 340, 200], np.float32),))
    assert detector.regions == [(235, 65, 405, 235), WHOLE]
    assert detector.closeness == [False, True, False]


def test_strangers_must_be_believed_and_those_known_need_not() -> None:
    doubtful = look(visibility=0.05)
    detector = Scripted(lambda region: [doubtful] if region == WHOLE else [])
    assert detector.detect(PICTURE) == []
    (person,) = detector.detect(PICTURE, (doubtful.box_px + 3,))
    assert person.score == 0.05
    assert person.landmark_visibility is not None


def test_the_best_come_first_and_no_more_than_are_wanted() -> None:
    crowd = [look(x=100 + 150 * index, visibility=0.5 + 0.1 * index) for index in range(3)]
    people = Scripted(lambda region: crowd if region == WHOLE else []).detect(PICTURE)
    assert [round(person.score, 1) for person in people] == [0.7, 0.6]


def test_a_thorough_look_completes_those_whom_a_tile_cuts() -> None:
    whole = look(x=300, size=150)
    first_tile = tiles(640, 360, TILE_LEVELS[0])[0]

    def sees(region: Region) -> list[Look]:
        if region == first_tile:
            return [look(x=300, size=150, cut=True)]
        zoomed = region != WHOLE and region[2] - region[0] < first_tile[2] - first_tile[0]
        return [whole] if zoomed else []

    detector = Scripted(sees)
    assert detector.detect(PICTURE) == []
    (person,) = detector.detect(PICTURE, thorough=True)
    np.testing.assert_array_equal(person.box_px, whole.box_px)


def test_the_finest_tiles_are_for_those_who_found_nobody() -> None:
    somebody = Scripted(lambda region: [look()] if region == WHOLE else [])
    nobody = Scripted(lambda _: [])
    for detector in (somebody, nobody):
        detector.detect(PICTURE, thorough=True)
    fine = set(tiles(640, 360, TILE_LEVELS[1]))
    assert not fine & set(somebody.regions)
    assert fine <= set(nobody.regions)


def test_a_picture_too_small_for_anybody_is_not_looked_at() -> None:
    detector = Scripted(lambda _: [look()])
    assert detector.detect(np.zeros((10, 19, 3), np.uint8), thorough=True) == []
    assert not detector.regions


@pytest.mark.parametrize("region", [WHOLE, (10, 20, 110, 70)])
def test_regions_are_cut_shrunk_and_mirrored(region: Region) -> None:
    x0, y0, x1, y1 = region
    image = np.arange(360 * 640 * 3, dtype=np.uint32).reshape(360, 640, 3).astype(np.uint8)
    np.testing.assert_array_equal(shrunk(image, region, 1000, False), image[y0:y1, x0:x1])
    np.testing.assert_array_equal(shrunk(image, region, 1000, True), image[y0:y1, x0:x1][:, ::-1])
    small = shrunk(image, region, 50, True)
    assert small.shape == (round(50 * (y1 - y0) / (x1 - x0)), 50, 3)
