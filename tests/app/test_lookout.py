"""The detector beside the frames: no frame waits for it, and what it says late still fits."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from app.config import LiveConfig
from app.governor import Plan
from app.live import LivePipeline
from app.lookout import LOOKOUTS, Lookout, Question, moved_on
from app.types import Frame, Person
from core.types import CROP_SIZE_PX, MeshEstimate, PersonCrop
from tests.app.fakes import WHITE_ABOVE, RectangleDetector, TubeEstimator, rectangle_frame, walk

CONFIG = LiveConfig(smoothing="none")
BOX = (100, 40, 160, 200)


class HeldDetector(RectangleDetector):
    """Answers when it is let: `hold` before, `release` after."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.threads = threading.Event(), set()
        self.gate.set()

    def detect(self, image: np.ndarray, known_boxes_px: tuple = (), thorough: bool = False) -> list[Person]:
        self.threads.add(threading.current_thread().name)
        assert self.gate.wait(20)
        return super().detect(image, known_boxes_px, thorough)


def question(index: int = 0) -> Question:
    frame = rectangle_frame(index, index / 30, BOX)
    return Question(frame, {})


def answered(lookout: Lookout) -> object:
    end_s = time.perf_counter() + 20
    while (answer := lookout.take()) is None:
        assert time.perf_counter() < end_s
        time.sleep(0.002)
    return answer


def wait_for_the_look(live: LivePipeline) -> None:
    """Until its answer lies ready."""
    end_s = time.perf_counter() + 20
    while live._lookout.busy and live._lookout._answers._item is None:
        assert time.perf_counter() < end_s
        time.sleep(0.002)


@pytest.mark.parametrize("name", sorted(LOOKOUTS))
def test_every_lookout_answers_and_closes_the_detector(name: str) -> None:
    detector = RectangleDetector()
    lookout = LOOKOUTS[name](detector)
    assert lookout.take() is None
    lookout.ask(replace(question(), tile_px=(80, 20, 320, 240)))
    answer = answered(lookout)
    assert np.allclose(answer.people[0].box_px, BOX)
    assert answer.candidates == (), "who is found already is no candidate"
    assert not lookout.busy
    assert lookout.take() is None
    lookout.close()
    assert detector.closed


@pytest.mark.parametrize("name", sorted(LOOKOUTS))
def test_a_failing_detector_reaches_the_loop(name: str) -> None:
    class Broken(RectangleDetector):
        def detect(self, *_: object, **__: object) -> list[Person]:
            raise RuntimeError("the model is gone")

    lookout = LOOKOUTS[name](Broken())

    def ask_and_wait() -> None:
        lookout.ask(question())
        answered(lookout)

    with pytest.raises(RuntimeError, match="the model is gone"):
        ask_and_wait()
    lookout.close()


def test_no_frame_waits_for_a_look_and_a_late_answer_keeps_the_person() -> None:
    detector = HeldDetector()
    live = LivePipeline(TubeEstimator(), detector, CONFIG, "beside")
    frames = list(walk(120, speed_px_s=90))
    for frame in frames[:40]:  # found, confirmed, followed
        live.process(frame)
        wait_for_the_look(live)
    detector.gate.clear()
    while not live._lookout.busy:
        live.process(frames[40])
        frames.pop(40)
    asked_s = frames[39].time_s
    for frame in frames[40:55]:
        start_s = time.perf_counter()
        scene = live.process(frame)
        assert time.perf_counter() - start_s < 5
        assert scene.timings_ms["detect"] == 0
        assert [mesh.track_id for mesh in scene.meshes] == [1]
    detector.gate.set()
    wait_for_the_look(live)
    scene = live.process(frames[55])
    live.close()
    assert scene.timings_ms["detect"] > 0
    assert scene.frame.time_s - asked_s > 0.4, "the answer is about a picture of long ago"
    assert [mesh.track_id for mesh in scene.meshes] == [1]
    assert detector.threads == {"live-look"}


class SeeingEstimator(TubeEstimator):
    """Lays the toy body over what is white in the crop, as a good network would."""

    def from_crops(self, crops: list[PersonCrop]) -> list[MeshEstimate]:
        estimates = []
        for crop, estimate in zip(crops, super().from_crops(crops), strict=True):
            rows, columns = np.nonzero(crop.image[..., 0] > WHITE_ABOVE)
            middle = np.array([columns.min() + columns.max() + 1, rows.min() + rows.max() + 1]) / CROP_SIZE_PX - 1
            scale = 2 * (rows.max() + 1 - rows.min()) / CROP_SIZE_PX / np.ptp(estimate.vertices_m[:, 1])
            shift = middle / scale - (estimate.vertices_m.max(0) + estimate.vertices_m.min(0))[:2] / 2
            estimates.append(replace(estimate, camera=np.array([scale, *shift], np.float32)))
        return estimates


FPS, ASKED = 30.0, 45
PATHS: dict[str, Callable[[float], tuple[float, float, float, float]]] = {
    "goes on": lambda time_s: (40 + 80 * time_s, 60, 80 + 80 * time_s, 180),
    "turns round": lambda time_s: (160 - abs(120 - 80 * time_s), 60, 200 - abs(120 - 80 * time_s), 180),
    "comes nearer": lambda time_s: (186 - 6 * time_s, 80 - 20 * time_s, 214 + 6 * time_s, 170 + 20 * time_s),
}
"""Time -> box of somebody who walks; who turns does so at frame ASKED, when the detector is asked."""


@pytest.mark.parametrize("late_by", [1, 6, 15])
@pytest.mark.parametrize("path", sorted(PATHS))
def test_a_late_look_places_the_box_where_the_person_is_by_now(path: str, late_by: int) -> None:
    detector, plan = HeldDetector(), Plan(detect_stride=15)
    live = LivePipeline(SeeingEstimator(), detector, CONFIG, "beside")
    frames = [rectangle_frame(index, index / FPS, PATHS[path](index / FPS)) for index in range(ASKED + late_by + 10)]
    for frame in frames[:ASKED]:
        live.process(frame, plan)
        wait_for_the_look(live)
    detector.gate.clear()
    live._looks.soon = True
    for frame in frames[ASKED : ASKED + late_by]:
        live.process(frame, plan)
        assert live._lookout.busy
    detector.gate.set()
    wait_for_the_look(live)
    for frame in frames[ASKED + late_by :]:  # the look's own frame, and those that follow the mesh from there
        scene = live.process(frame, plan)
        wait_for_the_look(live)
        (person,) = scene.meshes
        off_px = np.abs(person.box_px - PATHS[path](frame.time_s)).max()
        assert off_px < 6, f"{off_px:.1f} px off at frame {frame.index}"
    live.close()
    assert scene.meshes[0].track_id == 1


def test_a_late_look_at_somebody_new_lets_them_go_on_as_they_went() -> None:
    """Two looks, as late as each other, find them where they were; nothing has followed them meanwhile."""
    path, late_by = PATHS["goes on"], 6
    detector = HeldDetector()
    live = LivePipeline(SeeingEstimator(), detector, CONFIG, "beside")
    frames = [rectangle_frame(index, index / FPS, path(index / FPS)) for index in range(2 * late_by + 4)]
    detector.gate.clear()
    for frame in frames:
        scene = live.process(frame)
        assert len(scene.meshes) == (frame.index >= 2 * late_by)
        for person in scene.meshes:
            assert np.abs(person.box_px - path(frame.time_s)).max() < 6, frame.index
        if frame.index in (late_by - 1, 2 * late_by - 1):
            detector.gate.set()
            wait_for_the_look(live)
            detector.gate.clear()
    detector.gate.set()
    live.close()


def test_an_answer_about_what_was_before_a_cut_is_dropped() -> None:
    detector = HeldDetector()
    live = LivePipeline(TubeEstimator(), detector, CONFIG, "beside")
    detector.gate.clear()
    live.process(rectangle_frame(0, 0.0, BOX))
    white = rectangle_frame(1, 1 / 30)
    scene = live.process(Frame(np.maximum(white.image, 100), white.time_s, 1))
    detector.gate.set()
    wait_for_the_look(live)
    scene = live.process(Frame(np.maximum(white.image, 100), 2 / 30, 2))
    assert scene.meshes == ()
    assert not live._tracker.tracks, "nobody of the old scene is on trial"
    live.close()


def test_closing_does_not_wait_for_a_long_look() -> None:
    detector = HeldDetector()
    lookout = LOOKOUTS["beside"](detector)
    detector.gate.clear()
    lookout.ask(question())
    start_s = time.perf_counter()
    lookout.close()
    assert time.perf_counter() - start_s < 1
    assert not detector.closed, "not under a look that still runs"
    detector.gate.set()
    lookout._thread.join(20)
    assert detector.closed


def test_people_move_as_the_track_they_lay_on() -> None:
    person, stranger = (Person(np.array(box, np.float32), 0.9) for box in ((100, 40, 160, 200), (250, 40, 300, 200)))
    before, now = {7: np.array([104.0, 40, 164, 200])}, {7: np.array([124.0, 44, 184, 204]), 9: np.array([250.0, 40, 300, 200])}
    moved = moved_on((person, stranger), before, now, (320, 240))
    assert np.allclose(moved[0].box_px, [120, 44, 180, 204])
    assert np.allclose(moved[1].box_px, stranger.box_px)
    assert moved_on((person,), {}, now, (320, 240)) == [person]
    (left,) = moved_on((person, stranger), before, now, (320, 240), gone={7})
    assert left.box_px.tolist() == stranger.box_px.tolist(), "lost since the look: there no more"
    away = moved_on((person,), before, {7: np.array([400.0, 40, 460, 200])}, (320, 240))
    assert away == [person], "a box outside of the frame is none"
