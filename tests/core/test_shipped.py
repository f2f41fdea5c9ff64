"""What we ship, on real photographs; skips where they are not."""

from pathlib import Path

import numpy as np
import pytest
import torch

from core import load_estimator
from core.checkpoint import load_checkpoint
from core.crop import place_person
from core.joints import KEYPOINT_NAMES, LIMB_JOINT_NAMES, indices
from core.training.coco import KeypointPerson, keypoint_scores, read_people, read_picture

LIMBS = indices(LIMB_JOINT_NAMES)


@pytest.fixture(scope="module")
def people(shared: Path) -> list[KeypointPerson]:
    folder = shared / "data" / "images" / "coco"
    if not folder.is_dir():
        pytest.skip("needs COCO pictures in ../shared/data/images/coco")
    return read_people(folder)


def test_the_default_finds_the_joints_of_people_on_photographs(people: list[KeypointPerson]) -> None:
    estimator = load_estimator("default", device="cpu", precision="fp32")
    joints_px = [estimator.from_boxes(read_picture(person.picture), person.box_px[None])[0].joints_px[LIMBS] for person in people]
    assert keypoint_scores(people, np.stack(joints_px)).pck > 0.81  # measured: 0.854


def test_its_second_trunk_sees_keypoints_as_movenet_does(people: list[KeypointPerson]) -> None:
    """The hottest pixel of each heat map, without MoveNet's own reasoning about whose it is."""
    model = load_checkpoint("default").model
    crops = [place_person(read_picture(person.picture), person.box_px, model.config.crop_scale) for person in people]
    pictures = torch.from_numpy(np.stack([crop.image for crop in crops])).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        heat = model.backbone.second.heat_maps(pictures)[:, indices(LIMB_JOINT_NAMES, KEYPOINT_NAMES)]
    hottest = heat.flatten(2).argmax(2).numpy()
    scale = crops[0].image.shape[0] / heat.shape[-1]
    places = (np.stack([hottest % heat.shape[-1], hottest // heat.shape[-1]], -1) + 0.5) * scale
    joints_px = [place @ crop.frame_from_crop[:, :2].T + crop.frame_from_crop[:, 2] for place, crop in zip(places, crops, strict=True)]
    assert keypoint_scores(people, np.stack(joints_px)).pck > 0.72
