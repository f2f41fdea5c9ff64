import dataclasses
import math

import numpy as np
import pytest
import torch

from core.crop import PlacedCrop, crop_person, place_person, sampling, turned
from core.cuda.crops import axis_values
from core.estimator import MeshEstimator
from core.geometry import weak_to_frame_px
from core.joints import JOINT_NAMES
from core.levelling import LEFT_LEANING_RAD, LOOK_AGAIN_RAD, angle_between, in_upright_crop, roll_of_rad, wanted_roll_rad
from core.model import FastMETRO, Prediction
from core.types import MeshEstimate, PersonCrop
from tests.core.test_crop import blob, centroid_px
from tests.core.test_estimator import CONFIG
from tests.toy import ToyBackbone, ToyBody

BOX = np.array([40.0, 30.0, 160.0, 230.0])


def skeleton(trunk: tuple[float, float, float]) -> np.ndarray:
    """(14, 3) with the neck at `trunk` from between the hips."""
    joints = np.zeros((14, 3), np.float32)
    joints[JOINT_NAMES.index("Neck")] = trunk
    return joints


@pytest.mark.parametrize("lean_deg", [-179, -90, -35, -10, 0, 15, 60, 135])
def test_a_crop_is_turned_by_the_lean_less_what_may_stay(lean_deg: float) -> None:
    lean = math.radians(lean_deg)
    roll = wanted_roll_rad(skeleton((math.sin(lean), -math.cos(lean), 0.2)))
    assert roll == pytest.approx(math.copysign(max(abs(lean) - LEFT_LEANING_RAD, 0), lean), abs=1e-5)


def test_a_trunk_that_points_at_the_camera_turns_nothing() -> None:
    assert wanted_roll_rad(skeleton((0.1, 0.1, -0.6))) == 0
    assert 0 < wanted_roll_rad(skeleton((0.3, 0.0, -0.6))) < math.radians(70)


def test_the_shorter_way_round() -> None:
    assert angle_between(math.radians(170), math.radians(-170)) == pytest.approx(math.radians(20))
    assert angle_between(0.2, 0.1) == pytest.approx(-0.1)


@pytest.mark.parametrize("roll_deg", [0, 40, 90, -120])
def test_a_turned_crop_shows_the_same_place_turned(roll_deg: float) -> None:
    image, roll = blob(260, 200, (130.0, 90.0), 4.0), math.radians(roll_deg)
    crop = crop_person(image, BOX, roll_rad=roll)
    np.testing.assert_allclose(crop.frame_from_crop @ np.append(centroid_px(crop.image), 1), [130, 90], atol=0.1)
    np.testing.assert_allclose(crop.center_px, [100, 130])
    assert roll_of_rad(crop.frame_from_crop) == pytest.approx(roll)
    again = turned(place_person(image, BOX), roll)
    np.testing.assert_allclose(again.frame_from_crop, crop.frame_from_crop, atol=1e-9)
    np.testing.assert_array_equal(again.image, crop.image)
    from_picture = turned(crop_person(image, BOX), roll)  # the frame is not at hand: the crop itself is turned
    np.testing.assert_allclose(from_picture.frame_from_crop @ np.append(centroid_px(from_picture.image), 1), [130, 90], atol=0.2)


def test_somebody_who_leans_stands_upright_in_the_turned_crop() -> None:
    hips, neck = np.array([100.0, 150.0]), np.array([160.0, 150.0])  # the neck lies to the right of the hips: 90 degrees clockwise
    roll = wanted_roll_rad(skeleton((*(neck - hips) / 100, 0.0)))
    crop_from_frame = np.linalg.inv(place_person(np.zeros((260, 200, 3), np.uint8), BOX, roll_rad=roll).frame_from_crop[:, :2])
    trunk = crop_from_frame @ (neck - hips)
    assert math.atan2(trunk[0], -trunk[1]) == pytest.approx(LEFT_LEANING_RAD)


def test_turned_back_everything_lies_where_it_lay() -> None:
    random = np.random.default_rng(0)
    points = random.normal(0, 0.4, (44, 3)).astype(np.float32)
    crop = place_person(np.zeros((260, 200, 3), np.uint8), BOX, roll_rad=2.1)
    camera = np.array([0.8, 0.1, -0.2], np.float32)
    rotmats = np.linalg.qr(random.normal(size=(3, 3, 3)))[0].astype(np.float32)
    seen = MeshEstimate(
        points[:30], points[30:], weak_to_frame_px(points[30:], camera, crop.frame_from_crop).astype(np.float32), camera,
        crop.frame_from_crop, rotmats, np.zeros(2, np.float32),
    )  # fmt: skip
    level = in_upright_crop(seen)
    assert roll_of_rad(level.frame_from_crop) == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(level.frame_from_crop, place_person(crop.frame, BOX).frame_from_crop, atol=1e-9)
    for points_before, points_after in ((seen.vertices_m, level.vertices_m), (seen.joints_m, level.joints_m)):
        before = weak_to_frame_px(points_before, seen.camera, seen.frame_from_crop)
        np.testing.assert_allclose(weak_to_frame_px(points_after, level.camera, level.frame_from_crop), before, atol=1e-3)
        np.testing.assert_array_equal(points_before[:, 2], points_after[:, 2])
    np.testing.assert_allclose(level.rotmats[0] @ rotmats[0].T @ seen.vertices_m.T, level.vertices_m.T, atol=1e-5)
    np.testing.assert_array_equal(level.rotmats[1:], rotmats[1:])


class _Compass:
    """A network that sees one thing, which way up the crop is: the neck of its toy body points to where the picture is bright."""

    words, precision, max_batch = "compass", "fp32", 2

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def __call__(self, crops: np.ndarray) -> Prediction:
        self.seen += list(crops)
        body = ToyBody()
        meshes = []
        for crop in crops:
            direction = centroid_px(crop) - 112
            meshes.append(_mesh_with_trunk(body, direction / np.linalg.norm(direction)))
        vertices = torch.from_numpy(np.stack(meshes))
        return Prediction(torch.tensor([[1.0, 0, 0]] * len(crops)), body.joints(vertices), (vertices, vertices, vertices), None, None)


def _mesh_with_trunk(body: ToyBody, direction: np.ndarray) -> np.ndarray:
    """(30, 3) vertices whose joints have the trunk in that direction of the picture."""
    joints = skeleton((*direction, 0.0))
    return (np.linalg.pinv(body.joint_regressor.toarray()) @ joints).astype(np.float32)


@pytest.mark.parametrize(("lean_deg", "looks"), [(10, 1), (45, 1), (80, 2), (-170, 2)])
def test_a_second_look_at_whoever_leans_by_far(lean_deg: float, looks: int) -> None:
    lean = math.radians(lean_deg)
    place = (100 + 60 * math.sin(lean), 130 - 60 * math.cos(lean))
    image = blob(260, 200, place, 6.0)
    network = _Compass()
    estimator = MeshEstimator(FastMETRO(CONFIG, ToyBackbone(), ToyBody()), ToyBody())
    estimator._runtime = network
    estimator.config = dataclasses.replace(CONFIG, levelled=True)
    for crops in ([place_person(image, BOX)], [crop_person(image, BOX)]):
        network.seen.clear()
        found = estimator.from_crops(crops)[0]
        assert len(network.seen) == looks
        trunk = found.joints_m[JOINT_NAMES.index("Neck"), :2]
        assert math.degrees(abs(angle_between(math.atan2(trunk[0], -trunk[1]), lean))) < 1
        if looks == 2:
            upright = centroid_px(network.seen[1]) - 112
            assert abs(math.atan2(upright[0], -upright[1])) == pytest.approx(LEFT_LEANING_RAD, abs=0.03)
    known = estimator.crop(image, BOX, wanted_roll_rad(found.joints_m))  # as the app does, which knows the frame before
    network.seen.clear()
    estimator.from_crops([known])
    assert len(network.seen) == 1


def test_a_runtime_that_cuts_is_not_asked_to_turn() -> None:
    class Cutter(_Compass):
        placed = 0

        def from_placed(self, crops: list[PlacedCrop]) -> Prediction:
            self.placed += len(crops)
            return self(np.stack([crop.image for crop in crops]))

    network = Cutter()
    estimator = MeshEstimator(FastMETRO(CONFIG, ToyBackbone(), ToyBody()), ToyBody())
    estimator._runtime = network
    estimator.config = dataclasses.replace(CONFIG, levelled=True)
    image = blob(260, 200, (160.0, 130.0), 6.0)  # lies
    found = estimator.from_boxes(image, BOX[None])[0]
    assert (len(network.seen), network.placed) == (2, 1)
    estimator.from_crops([place_person(image, BOX, roll_rad=wanted_roll_rad(found.joints_m)), place_person(image, BOX)])
    assert network.placed == 1, "one that is turned: the host cuts the whole batch"
    with pytest.raises(ValueError, match="turned"):
        axis_values(sampling(200, 260, place_person(image, BOX, roll_rad=1.0).frame_from_crop))


def test_other_networks_get_crops_as_they_are() -> None:
    image = blob(260, 200, (100.0, 190.0), 6.0)  # upside down
    network = _Compass()
    estimator = MeshEstimator(FastMETRO(CONFIG, ToyBackbone(), ToyBody()), ToyBody())
    estimator._runtime = network
    assert roll_of_rad(estimator.crop(image, BOX, 1.0).frame_from_crop) == 0
    estimator.from_boxes(image, BOX[None])
    assert len(network.seen) == 1
    assert LOOK_AGAIN_RAD > LEFT_LEANING_RAD


def test_crops_are_looked_at_again_in_their_order() -> None:
    network = _Compass()
    estimator = MeshEstimator(FastMETRO(CONFIG, ToyBackbone(), ToyBody()), ToyBody())
    estimator._runtime = network
    estimator.config = dataclasses.replace(CONFIG, levelled=True)
    leans = [math.radians(degrees) for degrees in (0, 90, 10, -90, 180)]
    crops: list[PersonCrop] = [crop_person(blob(260, 200, (100 + 60 * math.sin(a), 130 - 60 * math.cos(a)), 6.0), BOX) for a in leans]
    for lean, found in zip(leans, estimator.from_crops(crops), strict=True):
        trunk = found.joints_m[JOINT_NAMES.index("Neck"), :2]
        assert abs(angle_between(math.atan2(trunk[0], -trunk[1]), lean)) < 0.02
