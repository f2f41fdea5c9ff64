"""NanoDet: what its maps mean, and the shipped network on a picture whose truth is known."""

from pathlib import Path

import numpy as np
import pytest
import torch

from app.boxes import box_iou
from app.walker import Walker
from core.bodies.anny import AnnyBody
from core.errors import InputError
from core.geometry import project_pinhole
from core.nanodet import KEPT, REACH, SIDES, STRIDES, NanoDet, boxes_in
from core.person_finder import BoxFinder

SURE = 40.0


def maps(*people: tuple[int, int, int, float, tuple[int, int, int, int]]) -> tuple[np.ndarray, ...]:
    """Of a picture of 96x64. people: level, row and column of the cell, score, cells to the left, top, right and bottom side."""
    values = tuple(np.zeros((1 + SIDES, 64 // stride, 96 // stride), np.float32) for stride in STRIDES)
    for level, y, x, score, sides in people:
        values[level][0, y, x] = score
        for side, cells in enumerate(sides):
            values[level][1 + side * (REACH + 1) + cells, y, x] = SURE
    return values


def test_number_of_parameters_and_maps() -> None:
    network = NanoDet().eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == 3_755_495
    with torch.inference_mode():
        said = network(torch.zeros(1, 64, 96, 3, dtype=torch.uint8))
    assert [tuple(value.shape[1:]) for value in said] == [value.shape for value in maps()]
    assert all(0 < float(value[:, 0].min()) <= float(value[:, 0].max()) < 1 for value in said)
    assert len(KEPT) == 1 + SIDES
    assert (KEPT[1], KEPT[-1]) == (80, 123)


def test_a_box_reaches_from_its_cell_as_far_as_is_said() -> None:
    found = boxes_in(maps((0, 3, 5, 0.5, (1, 2, 0, 10)), (2, 1, 2, 0.9, (2, 1, 1, 1))), 0.3)
    np.testing.assert_allclose(found.scores, [0.9, 0.5])
    coarse = np.array([2 * 32 + 15.5] * 2 + [0] * 2)[[0, 2, 0, 2]] + np.array([0, 32 + 15.5, 0, 32 + 15.5]) + np.array([-64, -32, 32, 32])
    np.testing.assert_allclose(found.boxes_px[0], coarse, atol=1e-3)
    np.testing.assert_allclose(found.boxes_px[1], [5 * 8 + 3.5 - 8, 3 * 8 + 3.5 - 16, 5 * 8 + 3.5, 3 * 8 + 3.5 + 80], atol=1e-3)
    assert found.boxes_px.dtype == np.float32


def test_a_side_that_may_be_in_two_places_is_between_them() -> None:
    values = maps((0, 3, 5, 0.5, (4, 1, 1, 1)))
    values[0][1 + 2, 3, 5] = SURE  # the left side, two cells away as well
    assert boxes_in(values, 0.3).boxes_px[0, 0] == pytest.approx(5 * 8 + 3.5 - 3 * 8, abs=1e-3)


def test_nobody() -> None:
    found = boxes_in(maps((1, 1, 1, 0.2, (1, 1, 1, 1))), 0.3)
    assert (found.boxes_px.shape, found.scores.shape) == ((0, 4), (0,))


@pytest.fixture(scope="module")
def finder(repository: Path) -> BoxFinder:
    return BoxFinder(repository / "checkpoints" / "person_boxes.safetensors")


@pytest.fixture(scope="module")
def walker() -> Walker:
    return Walker(AnnyBody())


@pytest.mark.parametrize("side_px", [320, 416])
@pytest.mark.parametrize("turned", [False, True])
def test_the_shipped_network_finds_a_walker_in_pictures_of_any_shape(finder: BoxFinder, walker: Walker, side_px: int, turned: bool) -> None:
    frame = walker.frame(1.0)
    px = project_pinhole(frame.vertices_m + frame.translation_m, walker.intrinsics.focal_px, walker.intrinsics.principal_px)
    box, image = np.concatenate([px.min(0), px.max(0)]), frame.image
    if turned:
        image, box = image[:, ::-1], np.array([image.shape[1] - box[2], box[1], image.shape[1] - box[0], box[3]])
    found = finder.boxes(image[: int(box[3]) + 20], side_px, 0.2)
    assert found.scores[0] > 0.3
    assert box_iou(found.boxes_px[:1], box[None].astype(np.float32))[0, 0] > 0.7


def test_an_empty_room_holds_nobody(finder: BoxFinder, walker: Walker) -> None:
    assert not len(finder.boxes(walker.empty_room, 416, 0.25).scores)


def test_the_weights_of_another_network_are_refused(repository: Path) -> None:
    with pytest.raises(InputError, match=r"holds 'movenet-multipose', expected 'nanodet-g'"):
        BoxFinder(repository / "checkpoints" / "person_detector.safetensors")
