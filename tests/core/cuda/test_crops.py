import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode

from core.crop import PlacedCrop, crop_person, place_person, sampling
from core.cuda.crops import NUM_VALUES, axis_values, axis_weights, cut
from core.types import CROP_SIZE_PX
from tests.core.cuda.pretend import built_with_cuda

BOXES = {
    "enlarged": [200, 100, 260, 220],
    "a little smaller": [100, 50, 300, 320],
    "much smaller": [0, 0, 640, 480],
    "over the edge": [-80, -50, 130, 300],
    "wholly outside": [900, 900, 1000, 1000],
    "thin": [300, 20, 310, 460],
    "one pixel of it": [630, 470, 700, 520],
}


def picture(height: int = 480, width: int = 640, seed: int = 0) -> np.ndarray:
    """Smooth with some texture, as photos are."""
    rng = np.random.default_rng(seed)
    rough = torch.from_numpy(rng.random((1, 3, 24, 32)) * 255)
    smooth = torch.nn.functional.interpolate(rough, size=(height, width), mode="bicubic", align_corners=False)[0].permute(1, 2, 0).numpy()
    return np.clip(smooth + rng.normal(0, 8, (height, width, 1)), 0, 255).astype(np.uint8)


def on_device(image: np.ndarray, crops: list[PlacedCrop]) -> np.ndarray:
    values = np.stack([axis_values(sampling(image.shape[1], image.shape[0], crop.frame_from_crop)) for crop in crops])
    return cut(torch.from_numpy(image), torch.from_numpy(values)).numpy()


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_it_cuts_as_the_host_does(box: list[int]) -> None:
    image = picture()
    crop = place_person(image, np.array(box, float))
    ours, theirs = on_device(image, [crop])[0].astype(int), crop.image.astype(int)
    difference = np.abs(ours - theirs)
    assert difference.mean() < 0.6  # OpenCV rounds twice, and places to a 32nd of a pixel
    assert np.quantile(difference, 0.999) <= 4


def test_thin_lines_do_not_alias() -> None:
    image = np.zeros((1000, 1000, 3), np.uint8)
    image[:, ::2] = 254
    crop = place_person(image, np.array([100.0, 100, 900, 900]))
    inside, host = (pixels[40:-40, 40:-40].astype(int) for pixels in (on_device(image, [crop])[0], crop.image))
    assert np.abs(inside - 127).max() <= 12  # samples without an average would be 0 or 254
    assert np.abs(inside - host).max() <= 2


def test_weights_are_a_mean_inside_and_nothing_outside() -> None:
    how = sampling(640, 480, place_person(picture(), np.array([100.0, 50, 300, 320])).frame_from_crop)
    weights = axis_weights(torch.from_numpy(axis_values(how))[None, 0], 640)[0]
    torch.testing.assert_close(weights[2:-2].sum(1), torch.ones(CROP_SIZE_PX - 4), atol=1e-4, rtol=0)
    assert (axis_weights(torch.from_numpy(axis_values(None))[None, 0], 640) == 0).all()


def test_people_of_a_frame_do_not_mix() -> None:
    image = picture()
    crops = [place_person(image, np.array(box, float)) for box in BOXES.values()]
    together = on_device(image, crops)
    for row, crop in enumerate(crops):
        np.testing.assert_allclose(together[row].astype(int), on_device(image, [crop])[0].astype(int), atol=1)


def test_a_placed_crop_is_the_crop_for_those_who_look() -> None:
    image, box = picture(), np.array([100.0, 50, 300, 320])
    placed, cut_here = place_person(image, box), crop_person(image, box)
    np.testing.assert_array_equal(placed.image, cut_here.image)
    np.testing.assert_array_equal(placed.frame_from_crop, cut_here.frame_from_crop)
    assert placed.image is placed.image
    assert placed.side_px == cut_here.side_px


@built_with_cuda
def test_no_tensor_stays_on_the_host() -> None:
    with FakeTensorMode():
        frame = torch.empty(480, 640, 3, dtype=torch.uint8, device="cuda")
        crops = cut(frame, torch.empty(3, 2, NUM_VALUES, dtype=torch.float64, device="cuda"))
    assert crops.device.type == "cuda"
    assert crops.shape == (3, CROP_SIZE_PX, CROP_SIZE_PX, 3)
