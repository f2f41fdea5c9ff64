"""MoveNet MultiPose: what its maps mean, and the shipped network on a picture whose truth is known."""

from pathlib import Path

import numpy as np
import pytest
import torch

from core.errors import InputError
from core.joints import KEYPOINT_NAMES
from core.multipose import CELL_PX, HEADS, MultiPose, people_in
from core.person_finder import PersonFinder

SIZE = (16, 24)
NUM = len(KEYPOINT_NAMES)


def maps(*people: tuple[int, int, float, tuple[float, float]]) -> dict[str, np.ndarray]:
    """Maps of people with centres in cells y, x, of a heat and a size (height, width) in cells; keypoints lie on the centres."""
    values = {name: np.zeros((channels, *SIZE), np.float32) for name, channels in HEADS.items()}
    for y, x, heat, size in people:
        values["center"][0, y, x] = heat
        values["box_scale"][:, y, x] = size
    return values


def found(values: dict[str, np.ndarray], max_people: int = 3):
    return people_in(tuple(values[name] for name in HEADS), max_people)


def test_number_of_parameters_and_maps() -> None:
    network = MultiPose().eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_717_432
    with torch.inference_mode():
        said = network(torch.zeros(1, 64, 96, 3, dtype=torch.uint8))
    assert [tuple(value.shape) for value in said] == [(1, channels, *SIZE) for channels in HEADS.values()]
    assert said[0].min() >= 0
    assert said[0].max() <= 1


def test_boxes_stand_on_the_peaks_with_their_offsets_the_hottest_first() -> None:
    values = maps((4, 6, 0.5, (8, 4)), (10, 18, 0.9, (4, 2)))
    values["box_offset"][:, 10, 18] = 0.25, -0.5
    people = found(values, 2)
    np.testing.assert_allclose(people.scores, [0.9, 0.5])
    first = np.array([17.5 - 1, 10.25 - 2, 17.5 + 1, 10.25 + 2])
    np.testing.assert_allclose(people.boxes_px, np.array([first, [6 - 2, 4 - 4, 6 + 2, 4 + 4]]) * CELL_PX)
    assert len(found(values, 1).scores) == 1


def test_who_is_too_cool_is_left_out() -> None:
    values = tuple(maps((4, 6, 0.05, (8, 4)), (10, 18, 0.9, (4, 2)))[name] for name in HEADS)
    np.testing.assert_allclose(people_in(values, 3, 0.04).scores, [0.9, 0.05])
    np.testing.assert_allclose(people_in(values, 3, 0.06).scores, [0.9])
    nobody = people_in(values, 3, 0.95)
    assert (nobody.boxes_px.shape, nobody.scores.shape, nobody.keypoints.shape) == ((0, 4), (0,), (0, 17, 3))


def test_a_slope_is_one_peak() -> None:
    values = maps((8, 12, 0.9, (4, 4)), (8, 13, 0.8, (4, 4)), (7, 12, 0.7, (4, 4)))
    assert np.count_nonzero(found(values).scores) == 1


def test_keypoints_lie_where_they_are_said_to_and_are_as_hot_as_the_picture_near_there() -> None:
    values = maps((8, 12, 0.9, (10, 10)))
    values["kpt_regress"][2 * 5 : 2 * 5 + 2, 8, 12] = -3, 2  # up and to the right
    values["kpt_heatmap"][5, 5, 14] = 0.8
    values["kpt_heatmap"][6, 4, 12] = 0.8  # four cells above where it should be
    values["kpt_heatmap"][7, 8, 20] = 0.8  # beside the box
    keypoints = found(values, 1).keypoints[0]
    np.testing.assert_allclose(keypoints[5], [14 * CELL_PX, 5 * CELL_PX, 0.8], rtol=1e-6)
    np.testing.assert_allclose(keypoints[6, 2], 0.8 * np.exp(-16 / (0.3 * min(SIZE))), rtol=1e-5)
    assert keypoints[7, 2] == 0


def test_a_box_beyond_the_picture_has_no_heat() -> None:
    values = maps((8, 23, 0.9, (2, 2)))
    values["box_offset"][1, 8, 23] = 10
    values["kpt_heatmap"][:] = 1
    assert found(values, 1).keypoints[0, :, 2].max() == 0


@pytest.fixture(scope="module")
def finder(repository: Path) -> PersonFinder:
    return PersonFinder(repository / "checkpoints" / "person_detector.safetensors")


@pytest.fixture(scope="module")
def walker() -> tuple[np.ndarray, np.ndarray]:
    """A picture, and the box around its person."""
    from app.walker import Walker
    from core.bodies.anny import AnnyBody
    from core.geometry import project_pinhole

    walker = Walker(AnnyBody())
    frame = walker.frame(1.0)
    px = project_pinhole(frame.vertices_m + frame.translation_m, walker.intrinsics.focal_px, walker.intrinsics.principal_px)
    return frame.image, np.concatenate([px.min(0), px.max(0)])


@pytest.mark.parametrize("side_px", [256, 384])
@pytest.mark.parametrize("turned", [False, True])
def test_the_shipped_network_finds_a_walker_in_pictures_of_any_shape(
    finder: PersonFinder, walker: tuple[np.ndarray, np.ndarray], side_px: int, turned: bool
) -> None:
    image, box = walker
    image, box = (image[:, ::-1], np.array([image.shape[1] - box[2], box[1], image.shape[1] - box[0], box[3]])) if turned else (image, box)
    image = image[: int(box[3]) + 20]  # another height, no multiple of anything
    people = finder.people(image, side_px, 4)
    assert people.scores[0] > 0.4
    assert (people.scores[1:] < 0.3).all()
    np.testing.assert_allclose(people.boxes_px[0], box, atol=0.08 * (box[3] - box[1]))
    assert np.median(people.keypoints[0, :, 2]) > 0.3


def test_an_empty_room_holds_nobody(finder: PersonFinder) -> None:
    from app.walker import Walker
    from core.bodies.anny import AnnyBody

    assert finder.people(Walker(AnnyBody()).empty_room, 384, 3).scores.max() < 0.2


@pytest.mark.parametrize(("content", "said"), [(None, "missing|not found|no such"), (b"nonsense", "not a|damaged|no safetensors")])
def test_weights_that_are_missing_or_damaged_are_one_line(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "person_detector.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"(?i){said}") as caught:
        PersonFinder(path)
    assert "\n" not in str(caught.value)
