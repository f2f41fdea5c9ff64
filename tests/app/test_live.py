"""The causal pipeline with a detector and a network that know the answer."""

import threading
import time
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from app.config import LiveConfig
from app.governor import Plan
from app.live import LivePipeline
from app.page.models import SharedEstimator
from app.types import Frame, Scene
from tests.app.fakes import Noting, RectangleDetector, ShrinkingEstimator, TubeEstimator, rectangle_frame, walk

CONFIG = LiveConfig()
BOX = (100, 40, 160, 200)


def run(
    frames: Iterable[Frame],
    detector: RectangleDetector | None = None,
    estimator: TubeEstimator | None = None,
    plan: Plan | None = None,
    **changes: object,
) -> list[Scene]:
    live = LivePipeline(estimator or TubeEstimator(), detector or RectangleDetector(), replace(CONFIG, **changes))
    return [live.process(frame, plan) for frame in frames]


def ids(scenes: list[Scene]) -> list[list[int]]:
    return [[mesh.track_id for mesh in scene.meshes] for scene in scenes]


def test_somebody_is_shown_from_the_second_frame_on_and_rarely_looked_for() -> None:
    detector = RectangleDetector()
    scenes = run(walk(90), detector)
    assert ids(scenes) == [[]] + [[1]] * 89
    looked = [scene.timings_ms["detect"] > 0 for scene in scenes]
    assert sum(looked) <= 2 + 90 / Plan().detect_stride * 2
    assert {"detect", "crop", "estimate", "smooth", "total"} <= set(scenes[5].timings_ms)


def test_who_is_near_is_not_kept_waiting_by_a_search_for_small_people() -> None:
    detector = Noting()
    run(walk(3), detector)
    assert detector.thorough[:2] == [False, False], "nor the second, which only has to confirm"


def test_a_first_look_that_shows_nobody_is_followed_by_a_search_at_once() -> None:
    detector = Noting()
    scenes = run((rectangle_frame(index, index / 30) for index in range(6)), detector, plan=Plan(detect_stride=1000))
    assert [scene.timings_ms["detect"] > 0 for scene in scenes] == [True, True, False, False, False, False]
    assert detector.thorough == [False, True]


def test_who_was_behind_somebody_who_left_is_searched_for() -> None:
    detector = Noting()

    def leaving() -> Iterable[Frame]:
        for index in range(90):
            left = 40 + 8 * index
            yield rectangle_frame(index, index / 30, *([(left, 60, left + 40, 180)] if left < 300 else []))

    run(leaving(), detector)
    assert not any(detector.thorough[:2]) and any(detector.thorough), "though the track is remembered for longer"


def test_between_looks_the_mesh_leads_the_box() -> None:
    for scene in run(walk(80, speed_px_s=90), smoothing="none", plan=Plan(detect_stride=24))[1:]:
        left = 40 + 90 * scene.frame.time_s
        box = scene.meshes[0].box_px
        assert np.abs(box - [left, 60, left + 40, 180]).max() < 14, scene.frame.index
        joints = scene.meshes[0].joints_px
        assert abs((joints[:, 0].min() + joints[:, 0].max()) / 2 - left - 20) < 24


@pytest.mark.parametrize(("stride", "most"), [(4, 40), (16, 12)])
def test_the_plan_says_how_often_to_look(stride: int, most: int) -> None:
    detector = RectangleDetector()
    frames = (rectangle_frame(index, index / 60, BOX) for index in range(120))
    run(frames, detector, plan=Plan(detect_stride=stride))
    assert 120 / stride / 2 <= detector.looks / 2 + 2
    assert detector.looks <= 2 * most, "a look is one call, and one for a tile when the plan is full"


def test_a_long_stride_still_looks_once_a_second() -> None:
    scenes = run((rectangle_frame(index, index / 5, BOX) for index in range(40)), plan=Plan(detect_stride=1000))
    looks = [scene.frame.time_s for scene in scenes if scene.timings_ms["detect"] > 0]
    assert max(np.diff(looks)) < 1.3


def test_whoever_enters_is_seen_before_the_stride_is_over() -> None:
    def entering() -> Iterable[Frame]:
        for index in range(60):
            boxes = [BOX] + ([(220, 40, 290, 200)] if index >= 30 else [])
            yield rectangle_frame(index, index / 30, *boxes)

    scenes = run(entering(), plan=Plan(detect_stride=1000))
    first = next(index for index, found in enumerate(ids(scenes)) if len(found) == 2)
    assert 30 <= first <= 35


def test_people_for_whom_there_is_no_room_are_not_looked_for_all_the_time() -> None:
    frames = [rectangle_frame(index, index / 30, (60, 40, 110, 200), (200, 40, 250, 200)) for index in range(120)]
    looked = {most: sum(scene.timings_ms["detect"] > 0 for scene in run(frames, max_people=most)) for most in (2, 1)}
    assert looked[1] <= looked[2] + 2


class Ghost(RectangleDetector):
    """Sees somebody more, once, beside the one who is there."""

    def detect(self, image: np.ndarray, known_boxes_px: tuple = (), thorough: bool = False) -> list:
        people = super().detect(image, known_boxes_px, thorough)
        if self.looks == 3:
            people.append(replace(people[0], box_px=people[0].box_px + np.float32([60, 0, 60, 0]), score=0.4))
        return people


@pytest.mark.parametrize(("fps", "stride"), [(30, 8), (10, 8), (5, 8), (15, 16)])
def test_slow_looks_and_a_false_alarm_cost_nobody_their_id(fps: int, stride: int) -> None:
    frames = [rectangle_frame(index, index / fps, BOX) for index in range(8 * fps)]
    seen = ids(run(frames, Ghost(), plan=Plan(detect_stride=stride)))
    assert {tuple(one) for one in seen[2:]} == {(1,)}


def test_somebody_who_comes_back_is_not_one_too_many() -> None:
    frames = []
    for index in range(90):
        boxes = [(50, 60, 90, 180)] * (not 20 < index < 60) + [(200, 60, 240, 180)] * (index > 22)
        frames.append(rectangle_frame(index, index / 30, *boxes))
    assert max(len(one) for one in ids(run(frames, max_people=1))) == 1


def test_short_blindness_is_bridged_and_trusted_less() -> None:
    scenes = run(walk(75), RectangleDetector(blind_at_s=(0.6, 0.95)))
    assert ids(scenes) == [[]] + [[1]] * 74
    blind = [scene.meshes[0].joint_visibility.max() for scene in scenes if 0.88 < scene.frame.time_s < 0.95]
    assert max(blind) < 1


@pytest.mark.parametrize("x", [-20, 100])
def test_who_is_missed_does_not_shrink(x: float) -> None:
    """As when somebody leaves the picture and the network sees less and less of them."""
    estimator, held = ShrinkingEstimator(share=1.0), replace(CONFIG.track, hold_s=5.0)

    def frames() -> Iterable[Frame]:
        for index in range(60):
            estimator.share = 1.0 if index < 30 else 0.9
            yield rectangle_frame(index, index / 30, (x, 60, x + 40, 180))

    scenes = run(frames(), RectangleDetector(blind_at_s=(0.4, 9.0)), estimator, track=held, smoothing="none")
    boxes = np.stack([scene.meshes[0].box_px for scene in scenes[1:]])
    np.testing.assert_allclose(np.ptp(boxes[:, [1, 3]], axis=1), 120, atol=4)


def test_long_blindness_ends_the_person_and_the_id_returns() -> None:
    scenes = run(walk(75), RectangleDetector(blind_at_s=(0.4, 1.6)))
    present = {round(scene.frame.time_s, 3): [mesh.track_id for mesh in scene.meshes] for scene in scenes}
    assert present[1.5] == []
    assert present[round(74 / 30, 3)] == [1]


def test_a_camera_that_was_away_brings_everybody_back_with_their_ids() -> None:
    def away() -> Iterable[Frame]:
        for index in range(60):
            time_s = index / 30 + (45.0 if index >= 30 else 0.0)
            shift = 20 if index >= 30 else 0
            yield rectangle_frame(index, time_s, (60 + shift, 40, 110 + shift, 200), (200 + shift, 40, 250 + shift, 200))

    scenes = run(away())
    before, after = ({mesh.track_id: mesh.box_px[0] for mesh in scenes[index].meshes} for index in (29, 32))
    assert set(before) == set(after) == {1, 2}
    assert min(before, key=before.get) == min(after, key=after.get)
    assert scenes[-1].frame.time_s > 45, "scenes keep the true times"


def test_a_cut_starts_afresh() -> None:
    def two_shots() -> Iterable[Frame]:
        for index in range(60):
            frame = rectangle_frame(index, index / 30, BOX)
            yield frame if index < 30 else Frame(np.maximum(frame.image, 100), frame.time_s, index)

    scenes = run(two_shots())
    assert ids(scenes)[29] == [1]
    assert ids(scenes)[-1] == [2]


def test_another_picture_size_starts_afresh() -> None:
    frames = [rectangle_frame(index, index / 30, BOX, size_px=(320, 240) if index < 10 else (400, 300)) for index in range(20)]
    assert ids(run(frames))[9] == [1]
    assert ids(run(frames))[-1] == [2]


def test_leaving_ends_the_person_soon() -> None:
    scenes = run(walk(90, speed_px_s=250))
    gone_s = (320 - 40) / 250
    assert all(not scene.meshes for scene in scenes if scene.frame.time_s > gone_s + 0.7)


def test_two_people_cross_without_changing_ids() -> None:
    def crossing() -> Iterable[Frame]:
        for index in range(90):
            shift = 2.2 * index
            yield rectangle_frame(index, index / 30, (30 + shift, 60, 66 + shift, 180), (240 - shift, 64, 276 - shift, 184))

    scenes = run(crossing())
    first, last = ({mesh.track_id: mesh.box_px[0] for mesh in scenes[index].meshes} for index in (2, -1))
    assert set(first) == set(last) == {1, 2}
    left = min(first, key=first.get)
    assert last[left] == max(last.values())


def test_the_detectors_evidence_holds_between_looks() -> None:
    class HalfSeen(RectangleDetector):
        def detect(self, image: np.ndarray, known_boxes_px: tuple = (), thorough: bool = False) -> list:
            hidden = np.array([0.0] * 6 + [1.0] * 8, np.float32)
            return [replace(person, landmark_visibility=hidden) for person in super().detect(image, known_boxes_px, thorough)]

    for scene in run((rectangle_frame(index, index / 30, BOX) for index in range(40)), HalfSeen(), plan=Plan(detect_stride=20))[1:]:
        visibility = scene.meshes[0].joint_visibility
        assert visibility[:6].max() == 0
        assert visibility[6:].min() > 0


def test_smoothing_calms_the_mesh() -> None:
    def shake(smoothing: str) -> float:
        scenes = run(walk(60), estimator=TubeEstimator(noise_m=0.01), smoothing=smoothing)
        return float(np.diff([scene.meshes[0].vertices_m for scene in scenes[15:]], axis=0).std())

    assert shake("one-euro") < 0.5 * shake("none")


def test_nobody_tiny_frames_and_too_many_do_no_harm() -> None:
    assert ids(run(rectangle_frame(i, i / 30) for i in range(20))) == [[]] * 20
    assert ids(run(Frame(np.zeros((1, 1, 3), np.uint8), i / 30, i) for i in range(5))) == [[]] * 5
    boxes = [(10 + 60 * k, 40, 50 + 60 * k, 200) for k in range(5)]
    scenes = run((rectangle_frame(i, i / 30, *boxes) for i in range(20)), max_people=3)
    assert all(len(scene.meshes) == 3 for scene in scenes[1:])


def test_reset_forgets_everybody() -> None:
    live = LivePipeline(TubeEstimator(), RectangleDetector(), CONFIG)
    frames = [rectangle_frame(index, index / 30, BOX) for index in range(10)]
    scenes = [live.process(frame) for frame in frames[:5]]
    live.reset()
    scenes += [live.process(frame) for frame in frames[5:]]
    assert ids(scenes) == [[]] + [[1]] * 4 + [[]] + [[2]] * 4


def test_closing_closes_the_detector() -> None:
    detector = RectangleDetector()
    LivePipeline(TubeEstimator(), detector, CONFIG).close()
    assert detector.closed


def test_a_shared_estimator_serves_one_at_a_time() -> None:
    inside, most = [], []

    class Slow(TubeEstimator):
        def from_crops(self, crops: list) -> list:
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.002)
            try:
                return super().from_crops(crops)
            finally:
                inside.pop()

    shared = SharedEstimator(Slow())
    results: list[list[list[int]]] = []
    threads = [threading.Thread(target=lambda: results.append(ids(run(walk(30), estimator=shared)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert results == [[[]] + [[1]] * 29] * 4
