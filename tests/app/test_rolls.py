"""Whoever lies is turned upright for the network, frame after frame."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from app.config import LiveConfig
from app.live import LivePipeline
from app.pipeline import VideoPipeline
from app.rolls import Rolls
from app.types import Frame
from core.crop import rotation_2d
from core.geometry import project_pinhole, weak_to_frame_px
from core.levelling import LEFT_LEANING_RAD, wanted_roll_rad
from core.types import MeshEstimate, PersonCrop
from tests.app.fakes import RectangleDetector, TubeEstimator, rectangle_frame

LEAN_RAD = math.radians(90)


class LyingTube(TubeEstimator):
    """The tube, head to the right."""

    def from_crops(self, crops: list[PersonCrop]) -> list[MeshEstimate]:
        """One per crop."""
        return [lying(estimate) for estimate in super().from_crops(crops)]


def lying(estimate: MeshEstimate) -> MeshEstimate:
    turn = np.eye(3, dtype=np.float32)
    turn[:2, :2] = rotation_2d(LEAN_RAD)
    vertices, joints = estimate.vertices_m @ turn.T, estimate.joints_m @ turn.T
    camera = np.concatenate([estimate.camera[:1], turn[:2, :2] @ estimate.camera[1:]])
    px = weak_to_frame_px(joints, camera, estimate.frame_from_crop).astype(np.float32)
    return replace(estimate, vertices_m=vertices, joints_m=joints, camera=camera, joints_px=px)


def crawl(num_frames: int) -> Iterator[Frame]:
    for index in range(num_frames):
        yield rectangle_frame(index, index / 30, (40 + index, 100, 160 + index, 140))


def wanted(estimator: TubeEstimator) -> float:
    joints = np.asarray(estimator.body.joint_regressor @ estimator.body.levels.template_m)
    return wanted_roll_rad(np.concatenate([joints[:, :2] @ rotation_2d(LEAN_RAD).T, joints[:, 2:]], 1))


def test_a_recording_turns_the_crops_from_the_second_batch_on() -> None:
    estimator = LyingTube()
    pipeline = VideoPipeline(RectangleDetector(), estimator, LiveConfig())
    assert all(len(scene.meshes) == 1 for scene in pipeline.scenes(crawl(60)))
    expected = wanted(estimator)
    assert abs(expected) > math.radians(40), "the toy body has a trunk"
    first = estimator.batches[0]
    assert estimator.rolls_rad[:first] == [0.0] * first
    np.testing.assert_allclose(estimator.rolls_rad[first:], expected, atol=1e-4)


def test_a_cut_turns_nobody() -> None:
    def shots() -> Iterator[Frame]:
        for frame in crawl(60):
            yield replace(frame, image=np.maximum(frame.image, 90) if frame.index >= 40 else frame.image)

    estimator = LyingTube()
    scenes = list(VideoPipeline(RectangleDetector(), estimator, LiveConfig()).scenes(shots()))
    assert {mesh.track_id for scene in scenes for mesh in scene.meshes} == {1, 2}
    rolls = np.array(estimator.rolls_rad)
    starts = np.flatnonzero((rolls[1:] == 0) & (rolls[:-1] != 0))
    assert len(starts) == 1, "the first batch after the cut starts anew"


def test_a_camera_turns_the_crop_from_the_second_frame_on() -> None:
    estimator = LyingTube()
    live = LivePipeline(estimator, RectangleDetector(), LiveConfig())
    for frame in crawl(20):
        live.process(frame)
    assert estimator.rolls_rad[0] == 0.0
    np.testing.assert_allclose(estimator.rolls_rad[1:], wanted(estimator), atol=1e-4)
    live.reset()
    for frame in crawl(2):
        live.process(replace(frame, time_s=frame.time_s + 5))
    assert estimator.rolls_rad[-1] == 0.0


def test_what_is_remembered_of_somebody() -> None:
    rolls = Rolls()
    assert rolls.of(7) == 0.0
    estimator = LyingTube()
    crop = estimator.crop(np.zeros((50, 50, 3), np.uint8), np.array([0.0, 0, 50, 50]))
    rolls.learn(7, estimator.from_crops([crop])[0])
    assert rolls.of(7) == pytest.approx(wanted(estimator), abs=1e-5)
    assert abs(rolls.of(7)) < LEAN_RAD - LEFT_LEANING_RAD + 0.2
    rolls.forget(7)
    assert rolls.of(7) == 0.0


@pytest.mark.parametrize("quarter_turns", [1, 2])
def test_the_shipped_network_sees_a_walker_who_lies_as_one_who_walks(quarter_turns: int) -> None:
    from app.walker import Walker
    from core import load_estimator
    from core.bodies.anny import AnnyBody
    from core.geometry import procrustes_align

    estimator = load_estimator("default", device="cpu", precision="fp32")
    walker = Walker(AnnyBody())
    errors = {"walking": [], "lying": []}
    for time_s in (0.4, 2.0, 3.7, 5.1):
        frame = walker.frame(time_s)
        px = project_pinhole(frame.joints_m + frame.translation_m, walker.intrinsics.focal_px, walker.intrinsics.principal_px)
        box = np.concatenate([px.min(0) - 15, px.max(0) + 15])
        height, width = frame.image.shape[:2]
        image = np.ascontiguousarray(np.rot90(frame.image, -quarter_turns))  # clockwise
        turn, shift = rotation_2d(quarter_turns * math.pi / 2), {1: (height, 0), 2: (width, height)}[quarter_turns]
        corners = box.reshape(2, 2) @ turn.T + shift
        lying_box = np.concatenate([corners.min(0), corners.max(0)])
        truth = {"walking": frame.joints_m, "lying": frame.joints_m @ np.block([[turn.T, np.zeros((2, 1))], [0, 0, 1]])}
        for name, (picture, place) in {"walking": (frame.image, box), "lying": (image, lying_box)}.items():
            found = estimator.from_boxes(picture, place[None])[0].joints_m
            aligned = procrustes_align(found.astype(np.float64), truth[name].astype(np.float64))
            errors[name].append((np.linalg.norm(found - truth[name], axis=1).mean(), np.linalg.norm(aligned - truth[name], axis=1).mean()))
    (walking_m, walking_pa_m), (lying_m, lying_pa_m) = (np.mean(errors[name], 0) for name in ("walking", "lying"))
    assert lying_pa_m < walking_pa_m + 0.03
    assert lying_m < walking_m + 0.1
