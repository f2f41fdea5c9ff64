"""The loop with a detector and a network that know the answer; one run on a real clip at the end."""

import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.config import LiveConfig
from app.pipeline import VideoPipeline, is_theirs, scene_of_picture
from app.spans import split_spans
from app.stages import Stages
from app.types import Frame, Scene
from app.visibility import HIDDEN_BELOW
from core.geometry import project_pinhole
from core.types import MeshEstimate, PersonCrop
from tests.app.fakes import Noting, RectangleDetector, ShrinkingEstimator, TubeEstimator, rectangle_frame, walk

CONFIG = LiveConfig()


def run(
    frames: Iterator[Frame], detector: RectangleDetector | None = None, estimator: TubeEstimator | None = None, **changes: object
) -> list[Scene]:
    return list(VideoPipeline(detector or RectangleDetector(), estimator or TubeEstimator(), replace(CONFIG, **changes)).scenes(frames))


def test_a_walker_is_seen_in_every_frame_with_one_id() -> None:
    detector, estimator = RectangleDetector(), TubeEstimator()
    scenes = run(walk(60), detector, estimator)
    assert [scene.frame.index for scene in scenes] == list(range(60))
    assert [[mesh.track_id for mesh in scene.meshes] for scene in scenes] == [[1]] * 60
    assert detector.looks < 60 / 6, "the detector looks on a stride"
    assert max(estimator.batches) > 4, "the network gets batches across frames"


def test_boxes_and_joints_follow_the_walker() -> None:
    for scene in run(walk(60), smoothing="none"):
        mesh = scene.meshes[0]
        left = 40 + 60 * scene.frame.time_s
        assert np.abs(mesh.box_px - [left, 60, left + 40, 180]).max() < 2.5
        center = (mesh.joints_px.min(0) + mesh.joints_px.max(0)) / 2
        assert abs(center[0] - (left + 20)) < 20


def test_projection_and_pelvis_are_as_contracted() -> None:
    for scene in run(walk(30), estimator=TubeEstimator(noise_m=0.02)):
        mesh, camera = scene.meshes[0], scene.intrinsics
        assert np.abs(mesh.joints_m[2:4].mean(0)).max() < 1e-5
        assert camera.focal_px == pytest.approx(400)
        assert camera.principal_px == (160, 120)
        expected = project_pinhole(mesh.joints_m + mesh.translation_m, camera.focal_px, camera.principal_px)
        assert np.abs(expected - mesh.joints_px).max() < 0.01
        assert {"detect", "estimate", "smooth"} <= set(scene.timings_ms)


def test_smoothing_calms_the_mesh() -> None:
    def shake(smoothing: str) -> float:
        scenes = run(walk(60), estimator=TubeEstimator(noise_m=0.01), smoothing=smoothing)
        return float(np.diff([scene.meshes[0].vertices_m for scene in scenes[15:]], axis=0).std())

    assert shake("one-euro") < 0.5 * shake("none")


def test_focal_length_given_is_used() -> None:
    near, far = (run(walk(10), focal_px=focal_px)[-1] for focal_px in (300.0, 900.0))
    assert (near.intrinsics.focal_px, far.intrinsics.focal_px) == (300.0, 900.0)
    assert far.meshes[0].translation_m[2] == pytest.approx(3 * near.meshes[0].translation_m[2], rel=0.1)


def test_two_people_cross_without_changing_ids() -> None:
    def crossing() -> Iterator[Frame]:
        for index in range(90):
            shift = 2.2 * index
            yield rectangle_frame(index, index / 30, (30 + shift, 60, 66 + shift, 180), (240 - shift, 64, 276 - shift, 184))

    scenes = run(crossing())
    first, last = ({mesh.track_id: mesh.box_px[0] for mesh in scenes[index].meshes} for index in (0, -1))
    assert set(first) == set(last) == {1, 2}
    left = min(first, key=first.get)
    assert last[left] == max(last.values())


def test_short_blindness_is_bridged_by_the_mesh() -> None:
    scenes = run(walk(75), RectangleDetector(blind_at_s=(0.6, 0.95)))
    assert all(len(scene.meshes) == 1 for scene in scenes)
    assert {mesh.track_id for scene in scenes for mesh in scene.meshes} == {1}
    blind = [scene.meshes[0].joint_visibility.max() for scene in scenes if 0.7 < scene.frame.time_s < 0.8]
    assert max(blind) < 1, "somebody only followed counts as less visible"


@pytest.mark.parametrize("fps", [15, 24, 30, 60])
def test_somebody_no_longer_found_fades_for_as_long_as_they_are_held(fps: int) -> None:
    scenes = run(walk(round(2.2 * fps), fps, speed_px_s=0), RectangleDetector(blind_at_s=(0.7, 9.0)))
    looks_s = [time_s for time_s in np.arange(0, 0.7, CONFIG.detect.interval_s) if time_s < 0.7]
    last_s = max(scene.frame.time_s for scene in scenes if scene.meshes)
    assert looks_s[-1] + CONFIG.track.hold_s - 0.15 < last_s < looks_s[-1] + CONFIG.track.hold_s + 0.05
    seen = [float(scene.meshes[0].joint_visibility.max()) for scene in scenes if scene.meshes]
    assert seen[-1] <= HIDDEN_BELOW
    assert all(one >= other for one, other in itertools.pairwise(seen[-3:]))


def test_whoever_is_followed_onto_somebody_found_is_nobody_else() -> None:
    mesh, expected, beside = (np.array([x, 40, x + 60, 200], np.float32) for x in (100, 112, 190))
    assert is_theirs(mesh, expected, np.zeros((0, 4), np.float32))
    assert is_theirs(mesh, expected, np.stack([expected, beside])), "the other one is near, but not the same"
    assert not is_theirs(mesh, expected, np.stack([beside, mesh + 4]))
    assert not is_theirs(beside, mesh, np.zeros((0, 4), np.float32)), "the mesh has gone elsewhere"


@pytest.mark.parametrize("num_frames", range(15, 28))
def test_somebody_followed_is_there_in_the_last_frame_too(num_frames: int) -> None:
    held = replace(CONFIG.track, hold_s=5.0)
    scenes = run(walk(num_frames, speed_px_s=0), RectangleDetector(blind_at_s=(0.4, 9.0)), track=held)
    assert [len(scene.meshes) for scene in scenes] == [1] * num_frames


@pytest.mark.parametrize("x", [-20, 100])
def test_who_is_missed_does_not_shrink(x: float) -> None:
    """Each box that follows a mesh that is too small would make the next one smaller; in the picture or cut by its edge."""
    estimator, held = ShrinkingEstimator(), replace(CONFIG.track, hold_s=5.0)
    frames = (rectangle_frame(index, index / 30, (x, 60, x + 40, 180)) for index in range(45))
    scenes = run(frames, RectangleDetector(blind_at_s=(0.4, 9.0)), estimator, track=held, smoothing="none")
    boxes = np.stack([scene.meshes[0].box_px for scene in scenes])
    np.testing.assert_allclose(np.ptp(boxes[:, [1, 3]], axis=1), 120, atol=2)
    distances_m = np.array([scene.meshes[0].translation_m[2] for scene in scenes])
    np.testing.assert_allclose(distances_m, distances_m[0], rtol=0.05)


def test_an_empty_video_is_rarely_searched() -> None:
    detector = Noting()
    run((rectangle_frame(index, index / 30) for index in range(300)), detector)
    assert sum(detector.thorough) <= 1 + len(detector.thorough) / CONFIG.detect.search_every


def test_who_comes_back_is_not_one_too_many() -> None:
    def two_in_turn() -> Iterator[Frame]:
        for index in range(70):
            boxes = [(50, 60, 90, 180)] * (not 0.7 < index / 30 < 1.75) + [(200, 60, 240, 180)] * (index / 30 > 0.8)
            yield rectangle_frame(index, index / 30, *boxes)

    scenes = run(two_in_turn(), max_people=1)
    assert max(len(scene.meshes) for scene in scenes) == 1
    assert scenes[-1].meshes


def test_long_blindness_ends_the_person_and_the_id_returns() -> None:
    scenes = run(walk(75), RectangleDetector(blind_at_s=(0.4, 1.6)))
    present = {round(scene.frame.time_s, 3): [mesh.track_id for mesh in scene.meshes] for scene in scenes}
    assert present[1.5] == []
    assert present[round(74 / 30, 3)] == [1]


def test_leaving_the_picture_ends_the_person() -> None:
    scenes = run(walk(90, speed_px_s=250))
    assert scenes[0].meshes
    assert not scenes[-1].meshes


def test_a_cut_starts_afresh() -> None:
    def two_shots() -> Iterator[Frame]:
        for index in range(40):
            yield rectangle_frame(index, index / 30, (100, 40, 160, 200))
        for index in range(40, 80):
            frame = rectangle_frame(index, index / 30, (104, 40, 164, 200))
            yield Frame(np.maximum(frame.image, 100), frame.time_s, index)

    scenes = run(two_shots())
    assert [scene.meshes[0].track_id for scene in scenes] == [1] * 40 + [2] * 40
    assert [index for index, scene in enumerate(scenes) if scene.cuts] == [0, 40]


def test_one_frame_and_nobody() -> None:
    assert len(run(iter([rectangle_frame(0, 0.0, (100, 40, 160, 200))]))[0].meshes) == 1
    assert [scene.meshes for scene in run(rectangle_frame(i, i / 30) for i in range(20))] == [()] * 20
    assert run(iter(())) == []


def test_tiny_frames_do_no_harm() -> None:
    frames = (Frame(np.zeros((1, 1, 3), np.uint8), index / 30, index) for index in range(5))
    assert [scene.meshes for scene in run(frames)] == [()] * 5


def test_more_people_than_wanted() -> None:
    boxes = [(10 + 60 * k, 40, 50 + 60 * k, 200) for k in range(5)]
    scenes = run((rectangle_frame(i, i / 30, *boxes) for i in range(20)), max_people=3)
    assert all(len(scene.meshes) == 3 for scene in scenes)


def test_irregular_times_and_long_gaps() -> None:
    times = np.cumsum(np.random.default_rng(0).uniform(0.001, 0.12, 50))
    scenes = run(rectangle_frame(i, float(t), (100, 40, 160, 200)) for i, t in enumerate(times))
    assert len(scenes) == 50
    assert all(len(scene.meshes) == 1 for scene in scenes)


def test_a_picture_shows_everybody() -> None:
    frame = rectangle_frame(0, 0.0, (20, 40, 80, 200), (200, 40, 260, 200))
    scene = scene_of_picture(frame, RectangleDetector(), TubeEstimator(), CONFIG)
    assert [mesh.track_id for mesh in scene.meshes] == [1, 2]
    assert scene_of_picture(rectangle_frame(0, 0.0), RectangleDetector(), TubeEstimator(), CONFIG).meshes == ()


def test_spans_end_at_cuts_and_hold_every_frame_once() -> None:
    def shots() -> Iterator[Frame]:
        for index in range(50):
            yield Frame(np.full((20, 30, 3), 200 if index >= 23 else 20, np.uint8), index / 30, index)

    spans = list(split_spans(shots(), 0.25, 16))
    assert [frame.index for span in spans for frame in span.frames] == list(range(50))
    assert [span.frames[0].index for span in spans if span.starts_scene] == [0, 23]
    for before, after in itertools.pairwise(spans):
        assert (before.follower is None) == after.starts_scene
        assert before.follower in (None, after.frames[0])


def test_huge_frames_make_short_spans() -> None:
    image = np.zeros((4320, 7680, 3), np.uint8)
    spans = list(split_spans((Frame(image, index / 30, index) for index in range(4)), 0.25, 16))
    assert max(len(span.frames) for span in spans) <= 2


def overlapped(frames: Iterable[Frame], estimator: TubeEstimator, detector: RectangleDetector | None = None, room: int = 64) -> list[Scene]:
    """As `run`, each stage in a thread of its own."""
    pipeline = VideoPipeline(detector or RectangleDetector(), estimator, CONFIG)
    with Stages(frames, pipeline.stages, room) as scenes:
        return list(scenes)


class _ShakyByPlace(TubeEstimator):
    """Another noise for each crop, that tells where it was cut and not when it was estimated."""

    def from_crops(self, crops: list[PersonCrop]) -> list[MeshEstimate]:
        noise_m = [np.float32(crop.frame_from_crop[0, 2] % 0.01) for crop in crops]
        return [replace(found, vertices_m=found.vertices_m + more) for found, more in zip(super().from_crops(crops), noise_m, strict=True)]


def test_overlapping_stages_give_the_same_meshes_to_the_last_bit() -> None:
    def clip() -> Iterator[Frame]:
        for frame in walk(90):  # the detector loses the walker for a while, who is then followed by their own mesh; later there is a cut
            yield replace(frame, image=np.maximum(frame.image, 90) if frame.index >= 70 else frame.image)

    blind_s = (0.7, 1.0)
    apart = run(clip(), RectangleDetector(blind_s), _ShakyByPlace())
    together = overlapped(clip(), _ShakyByPlace(), RectangleDetector(blind_s))
    assert [scene.frame.index for scene in together] == list(range(90))
    assert sum(len(scene.meshes) for scene in together) > 60
    assert {mesh.track_id for scene in together for mesh in scene.meshes} == {1, 2}, "the cut was seen"
    for one, other in zip(apart, together, strict=True):
        assert [mesh.track_id for mesh in one.meshes] == [mesh.track_id for mesh in other.meshes]
        for mesh, same in zip(one.meshes, other.meshes, strict=True):
            for name in ("vertices_m", "translation_m", "joints_px", "joint_visibility", "box_px"):
                np.testing.assert_array_equal(getattr(mesh, name), getattr(same, name))


def test_what_the_stages_hold_back_is_what_the_pipeline_says() -> None:
    frames = list(walk(40))
    held = VideoPipeline(RectangleDetector(), TubeEstimator(), CONFIG).max_held_frames(frames[0].image.nbytes)
    assert len(overlapped(frames, TubeEstimator(), room=held)) == 40


def test_what_comes_before_an_error_is_not_lost() -> None:
    def broken() -> Iterator[Frame]:
        yield from walk(41)
        raise RuntimeError("the disk is gone")

    pipeline, seen = VideoPipeline(RectangleDetector(), TubeEstimator(), CONFIG), []
    with Stages(broken(), pipeline.stages, 64) as scenes, pytest.raises(RuntimeError, match="the disk is gone"):
        seen.extend(scenes)
    assert [scene.frame.index for scene in seen] == list(range(40)), "all spans that were complete"


def test_a_failing_model_stops_the_loop() -> None:
    class Broken(TubeEstimator):
        def from_crops(self, crops: list) -> list:
            raise RuntimeError("no network today")

    read: list[int] = []

    def frames() -> Iterator[Frame]:
        for frame in walk(3000):
            read.append(frame.index)
            yield frame

    with pytest.raises(RuntimeError, match="no network today"):
        overlapped(frames(), Broken())
    count = len(read)
    time.sleep(0.2)
    assert len(read) == count < 200, "the reading thread has ended too"


def test_contract_file_of_a_real_clip(shared: Path, repository: Path, tmp_path: Path) -> None:
    if not (repository / "checkpoints" / "default.safetensors").is_file():
        pytest.skip("needs checkpoints/default.safetensors, which this checkout does not have")
    from app.export.mp4 import Mp4Writer
    from app.jobs import run_videos
    from app.sources import VideoSource

    source = VideoSource(shared / "data" / "clips" / "two_people.mp4")
    short = tmp_path / "short.mp4"
    writer = Mp4Writer(short, source.size_px, source.fps)
    for frame in itertools.islice(source, 20):
        writer.write(frame.image, frame.time_s)
    writer.close()
    report = run_videos([short], tmp_path / "out", CONFIG)
    assert not report.failed
    assert "20 frames, 3 people" in report.done[0], "two in front, and a woman at the back"
    with np.load(tmp_path / "out" / "short" / "meshes.npz") as rows:
        data = {name: rows[name] for name in rows.files}
    assert len(data["frame_index"]) == 60
    assert set(data["track_id"].tolist()) == {1, 2, 3}
    placed = data["joints_m"] + data["translation_m"][:, None]
    projected = data["focal_px"] * placed[..., :2] / placed[..., 2:] + data["principal_px"]
    assert np.abs(projected - data["joints_px"]).max() < 0.1
    box_center = (data["box_px"][:, :2] + data["box_px"][:, 2:]) / 2
    body_center = (data["joints_px"].min(1) + data["joints_px"].max(1)) / 2
    side = (data["box_px"][:, 2:] - data["box_px"][:, :2]).max(1)
    assert (np.linalg.norm(body_center - box_center, axis=1) < 0.25 * side).all()
    assert data["vertices_m"].dtype == np.float32
    assert data["vertices_m"].shape[1] > data["faces"].max()
