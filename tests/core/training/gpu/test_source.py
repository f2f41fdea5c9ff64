"""Batches in order from any cursor, and validation that measures what it says."""

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from core.bodies import load_body
from core.bodies.anny import AnnyBody
from core.crop import crop_person
from core.errors import InputError
from core.joints import JOINT_NAMES, LIMB_JOINT_NAMES
from core.training.batches import Cursor
from core.training.coco import coco_name
from core.training.crew import Crew
from core.training.gpu.people import BatchPeople
from core.training.gpu.plan import PlanConfig, Plans
from core.training.gpu.source import Maker, RenderedSource, RenderedValidation
from core.training.metrics import Estimates
from tests.toy import ToyBackbone


@pytest.fixture(scope="module")
def maker() -> Maker:
    return Maker(BatchPeople(AnnyBody(), torch.device("cpu")), ToyBackbone())


def test_batches_go_on_from_a_cursor(maker: Maker) -> None:
    source = RenderedSource(load_body("anny"), PlanConfig(seed=2, batch=1, scenes=1), maker, epoch=2, workers=0)
    with source.stream(1, Cursor(0, 0, ()), Crew()) as stream:
        first = [next_one for next_one, _ in zip(stream, range(3), strict=False)]
    assert [(cursor.epoch, cursor.batches_done) for cursor, _ in first] == [(0, 1), (0, 2), (1, 1)]
    with source.stream(1, first[1][0], Crew()) as stream:
        cursor, batch = next(iter(stream))
    assert cursor == first[2][0]
    assert torch.equal(batch.features[0], first[2][1].features[0])
    assert batch.features[0].is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(InputError, match="batches of 1"):
        source.stream(3, Cursor(0, 0, ()), Crew())


def coco_folder(folder: Path) -> np.ndarray:
    """One picture with one person; returns the keypoints (12, 2)."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "val2017").mkdir()
    cv2.imwrite(str(folder / "val2017/a.jpg"), np.full((300, 400, 3), 90, np.uint8))
    keypoints = np.random.default_rng(0).uniform((110, 60), (190, 240), (12, 2))
    names = [coco_name(name) for name in LIMB_JOINT_NAMES]
    person = {
        "image_id": 1, "bbox": [100, 50, 100, 200], "num_keypoints": 12, "iscrowd": 0,
        "keypoints": np.concatenate([keypoints, np.full((12, 1), 2)], 1).ravel().tolist(),
    }  # fmt: skip
    content = {"categories": [{"keypoints": names}], "images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [person]}
    (folder / "annotations/person_keypoints_val2017.json").write_text(json.dumps(content))
    return keypoints


class Knowing:
    """Stands for a network that knows the truth, moved by some share of the crop."""

    device = torch.device("cpu")

    def __init__(self, truth: list[Estimates], crop_scale: float = 1.1) -> None:
        self.truth = list(truth)
        self.model = SimpleNamespace(config=SimpleNamespace(crop_scale=crop_scale), eval=lambda: None)

    def estimates(self, features: tuple[torch.Tensor, ...], pictures: bool) -> Estimates:
        assert pictures
        assert features[0].shape[1:] == (3, 224, 224)
        return self.truth.pop(0)


def test_validation_scores_the_truth_as_right_and_what_is_off_as_off(maker: Maker, tmp_path: Path) -> None:
    keypoints = coco_folder(tmp_path)
    plans = Plans(load_body("anny"), PlanConfig(seed=3, batch=2, scenes=1, held_out=True))
    validation = RenderedValidation(plans, maker, 2, tmp_path)
    frame = crop_person(np.zeros((300, 400, 3), np.uint8), np.array([100, 50, 200, 250], np.float32), 1.1).frame_from_crop
    crop_px = np.linalg.solve(frame[:, :2], (keypoints - frame[:, 2]).T).T
    seen = np.zeros((1, 14, 2))
    seen[0, [JOINT_NAMES.index(name) for name in LIMB_JOINT_NAMES]] = crop_px / 112 - 1
    targets = maker.people.make(plans[0]).targets
    right = Estimates(targets.joints_m.numpy(), targets.intermediate_m.numpy(), targets.joints_crop.numpy())
    bent = right.joints_m + np.float32([0.05, 0, 0]) * (np.arange(14) == 0)[:, None]
    off = Estimates(bent, right.vertices_m + np.float32(0.01), right.joints_crop)
    for estimates, place, pck in ((right, seen, 1.0), (off, seen + 0.9, 0.0)):
        scores, found = validation.scores(Knowing([estimates, Estimates(right.joints_m[:1], right.vertices_m[:1], place)]), Crew())
        assert found.num_people == 1
        assert found.pck == pck
        assert (scores.mpjpe_mm < 1e-3) == (pck == 1.0)
    assert scores.mpjpe_mm == pytest.approx(50 / 14, rel=1e-3)
    assert scores.mpvpe_mm == pytest.approx(10 * 3**0.5, rel=1e-3)
    assert validation.families
