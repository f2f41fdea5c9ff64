import numpy as np
import pytest

from core.crop import CROP_SCALE, crop_person, square_box, zoomed
from core.errors import InputError
from core.types import CROP_SIZE_PX


def blob(height: int, width: int, center_px: tuple[float, float], sigma_px: float) -> np.ndarray:
    y, x = np.mgrid[:height, :width] + 0.5  # centres of pixels
    bump = np.exp(-((x - center_px[0]) ** 2 + (y - center_px[1]) ** 2) / (2 * sigma_px**2))
    return np.repeat((bump * 255).astype(np.uint8)[..., None], 3, axis=2)


def centroid_px(image: np.ndarray) -> np.ndarray:
    weight = image[..., 0].astype(np.float64)
    y, x = np.mgrid[: len(image), : image.shape[1]] + 0.5
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


@pytest.mark.parametrize("size_px", [40.0, 130.0, 187.0, 400.0, 900.0])
def test_a_place_in_the_crop_maps_back_to_its_place_in_the_image(size_px: float) -> None:
    place_px = np.array([603.3, 421.8])
    image = blob(1000, 1400, tuple(place_px), sigma_px=size_px / 20)
    box = np.array([600 - size_px / 2, 430 - size_px / 3, 600 + size_px / 2, 430 + size_px / 3])
    crop = crop_person(image, box)
    found = crop.frame_from_crop @ np.append(centroid_px(crop.image), 1.0)
    np.testing.assert_allclose(found, place_px, atol=0.05 * max(1.0, crop.side_px / CROP_SIZE_PX))


def test_the_square_is_centred_and_scaled() -> None:
    center_px, side_px = square_box(np.array([10, 20, 50, 120]))
    np.testing.assert_allclose(center_px, [30, 70])
    assert side_px == pytest.approx(CROP_SCALE * 100)
    crop = crop_person(np.zeros((200, 200, 3), np.uint8), np.array([10, 20, 50, 120]))
    np.testing.assert_allclose(crop.center_px, [30, 70])
    assert crop.side_px == pytest.approx(CROP_SCALE * 100)


def test_whole_pixels_are_copied() -> None:
    image = np.random.default_rng(0).integers(0, 256, (300, 300, 3)).astype(np.uint8)
    crop = crop_person(image, np.array([20, 30, 244, 254]), scale=1.0)
    np.testing.assert_array_equal(crop.image, image[30:254, 20:244])


def test_outside_of_the_image_is_black() -> None:
    image = np.full((100, 100, 3), 200, np.uint8)
    crop = crop_person(image, np.array([50, 0, 150, 100]), scale=1.0)
    assert (crop.image[2:-2, :110] == 200).all()  # at the picture's very edge it is half black
    assert (crop.image[:, 114:] == 0).all()


def test_shrinking_does_not_alias() -> None:
    checks = np.indices((2240, 2240)).sum(0) % 2 * 255
    image = np.repeat(checks.astype(np.uint8)[..., None], 3, axis=2)
    crop = crop_person(image, np.array([3.0, 5.0, 2203.0, 2205.0]), scale=1.0)
    assert np.abs(crop.image[5:-5, 5:-5].astype(int) - 127).max() <= 3


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 5000, 3), (4320, 7680, 3), (7, 3, 3)])
@pytest.mark.parametrize(
    "box", [(0, 0, 1, 1), (-50, -50, 20, 20), (1e6, 1e6, 1e6 + 10, 1e6 + 10), (-1e9, -1e9, 1e9, 1e9), (0.2, 0.2, 0.3, 0.3)]
)
def test_any_image_and_any_box_give_a_crop(shape: tuple[int, int, int], box: tuple[float, ...]) -> None:
    crop = crop_person(np.full(shape, 255, np.uint8), np.array(box))
    assert crop.image.shape == (CROP_SIZE_PX, CROP_SIZE_PX, 3)
    assert np.isfinite(crop.frame_from_crop).all()


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (5, 9, 8, 2), (0, 0, np.nan, 4), (0, 0, np.inf, 4), (1, 2, 3)])
def test_a_box_without_area_is_refused(box: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="box"):
        crop_person(np.zeros((10, 10, 3), np.uint8), np.array(box, float))


@pytest.mark.parametrize(("shape", "dtype"), [((8, 8), np.uint8), ((8, 8, 4), np.uint8), ((8, 8, 3), np.float32), ((0, 8, 3), np.uint8)])
def test_another_kind_of_image_is_refused(shape: tuple[int, ...], dtype: type) -> None:
    image = np.zeros(shape, dtype)
    with pytest.raises(InputError, match="image"):
        crop_person(image, np.array([0, 0, 4, 4]))


def test_the_image_is_not_changed() -> None:
    image = np.full((50, 50, 3), 7, np.uint8)
    crop_person(image, np.array([-5, -5, 60, 60]))
    assert (image == 7).all()


def test_the_middle_of_a_wide_crop_is_the_narrow_crop() -> None:
    image, box = blob(500, 500, (270.0, 230.0), 30.0), np.array([150.0, 150.0, 350.0, 350.0])
    wide, narrow = (crop_person(image, box, scale).image.astype(int) for scale in (1.5, 1.2))
    assert np.abs(zoomed(wide.astype(np.uint8), 1.5 / 1.2).astype(int) - narrow).max() <= 3
    assert (zoomed(wide.astype(np.uint8), 1.0) == wide).all()
