"""Collapsed meshes are told from bodies."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from app.config import LiveConfig
from app.pipeline import VideoPipeline, scene_of_picture
from app.proportions import soundness
from core.bodies import load_body
from core.types import MeshEstimate
from tests.app.fakes import RectangleDetector, TubeEstimator, walk
from tests.toy import ToyBody


def joints_of(body, vertices_m: np.ndarray) -> np.ndarray:
    return np.asarray(body.joint_regressor @ vertices_m, np.float32)


def test_bodies_of_any_age_size_and_pose_are_sound() -> None:
    body, random = load_body("anny"), np.random.default_rng(0)
    shapes = torch.from_numpy(random.uniform(0, 1, (12, body.num_shape)).astype(np.float32))
    shapes[:4, list(body.phenotype_names).index("age")] = 0.1  # children
    turns = torch.eye(3).expand(12, body.num_bones, 3, 3).clone()
    for person in range(12):
        for bone in random.integers(0, body.num_bones, 12):
            angle = random.uniform(-0.6, 0.6)
            turns[person, bone, :2, :2] = torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for vertices_m in body.vertices(turns, shapes).numpy():
        assert soundness(body, vertices_m, joints_of(body, vertices_m)) > 0.5


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.3])
def test_what_lies_between_front_and_back_is_not(scale: float) -> None:
    body = load_body("anny")
    front = body.levels.template_m * np.float32(scale)
    back = front * np.array([-1, 1, -1], np.float32)
    for share, sound in ((0.0, True), (0.05, True), (0.35, False), (0.5, False)):
        between = (1 - share) * front + share * back
        assert (soundness(body, between, joints_of(body, between)) > 0.5) == sound, share


class Statue(TubeEstimator):
    """Always the rest mesh, squeezed."""

    def __init__(self, squeeze: float) -> None:
        super().__init__(body=load_body("anny"))
        self.mesh_m = self.body.levels.template_m * np.array([squeeze, 1, squeeze], np.float32)

    def from_crops(self, crops):
        joints_m = joints_of(self.body, self.mesh_m)
        camera, px = np.array([1, 0, 0], np.float32), np.zeros((14, 2), np.float32)
        return [MeshEstimate(self.mesh_m, joints_m, px, camera, crop.frame_from_crop) for crop in crops]


def test_a_collapsed_mesh_counts_as_hidden() -> None:
    for squeeze, seen in ((1.0, True), (0.1, False)):
        last = list(VideoPipeline(RectangleDetector(), Statue(squeeze), LiveConfig(mesh="free")).scenes(walk(30)))[-1]
        picture = scene_of_picture(last.frame, RectangleDetector(), Statue(squeeze), LiveConfig(mesh="free"))
        for mesh in (last.meshes[0], picture.meshes[0]):
            assert (mesh.joint_visibility > 0.5).any() == seen
            assert (mesh.joint_visibility < 0.3).all() != seen


def test_a_body_without_a_rest_mesh_is_taken_as_it_is() -> None:
    blank = replace(ToyBody(), levels=replace(ToyBody().levels, template_m=None))
    assert soundness(blank, np.zeros((30, 3)), np.zeros((14, 3))) == 1
