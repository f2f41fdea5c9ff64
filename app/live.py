"""Frame -> Scene as it happens: the counterpart of app.pipeline for cameras, which knows no future.

The detector looks on a stride, at once after a loss or a cut, and when something moves where nobody is known. It may look beside
the frames: what it says then is moved on by as much as the people's meshes moved meanwhile. In between, each person's box follows
from their own mesh, as it lay in the detector's box when that looked last.
"""

import math
import time
from dataclasses import replace

import numpy as np

from app.boxes import as_large_as, box_iou, clipped
from app.config import LiveConfig
from app.detect import Detector
from app.followed import Followed
from app.governor import Plan
from app.lookout import LOOKOUTS, moved_on
from app.looks import Looks
from app.pipeline import MIN_FOLLOW_IOU, Estimator
from app.placing import Clock, Finisher, Placement, mesh_box_px, placement_of, seen_people
from app.smooth import MeshSmoother
from app.spans import is_cut, thumbnail
from app.track import Track, Tracker, known_boxes
from app.types import Frame, Scene, intrinsics_of
from core.bodies import Body
from core.types import MeshEstimate

LONGEST_STEP_S = 1.0
"""A longer gap between two frames (a camera that was away) counts as this for the tracks: people keep their ids."""


class LivePipeline:
    """Turns one camera's frames into scenes, in order of time. One per camera or browser; it remembers people.

    The detector is this pipeline's alone, the estimator may be a SharedEstimator. Not to be called from two threads at once.
    """

    def __init__(self, estimator: Estimator, detector: Detector, config: LiveConfig, lookout: str = "prompt") -> None:
        """lookout: a name in LOOKOUTS; "beside" for cameras, which do not wait for a look."""
        self._estimator, self._lookout, self._config = estimator, LOOKOUTS[lookout](detector), config
        self._tracker = Tracker(config.track, config.max_people)
        self._smoother = MeshSmoother(config.smoothing, config.smooth)
        self._finisher = Finisher(estimator.body, config)
        self._clock = Clock()
        self._people = Followed()
        self._looks = Looks()
        self._start_s = -math.inf
        self._last: Frame | None = None
        self._mark: np.ndarray | None = None
        self._skipped_s = 0.0

    @property
    def body(self) -> Body:
        """The body of the meshes."""
        return self._estimator.body

    @property
    def checkpoint(self) -> str:
        """Name of the network, of two the one that is at work."""
        return self._estimator.checkpoint

    @property
    def warning(self) -> str:
        """Why the network is slower than it could be; "" where it is not."""
        return self._estimator.warning

    def process(self, frame: Frame, plan: Plan | None = None) -> Scene:
        """Everybody in the frame. `timings_ms`: detect (0 when no look ended), track, crop, estimate, smooth, total.

        detect is part of total only where the frame waited for it. Frames must come in order of time_s.
        plan: how often the detector may look
        """
        start_s = time.perf_counter()
        plan = plan or Plan()
        timely = self._begin(frame)
        self._people.begin_frame()
        self._learn(timely)
        known_px = known_boxes(self._tracker, timely)
        if self._looks.due(timely, self._mark, known_px, plan) and not self._lookout.busy:
            self._ask(timely, known_px, plan)
            self._learn(timely)
        pairs = self._estimate(timely)
        smooth_s = time.perf_counter()
        placed = [(replace(placement, frame=frame), estimate) for placement, estimate in pairs]  # filters want the true times
        people = seen_people(placed, self._estimator.body, self._config)
        meshes = self._finisher(people, [self._smoother(person.sample) for person in people])
        self._smoother.forget_before(frame.time_s)
        self._clock.add("smooth", smooth_s)
        self._clock.add("total", start_s)
        timings_ms = {"detect": 0.0} | self._clock.take(1)
        return Scene(frame, intrinsics_of(frame, self._config.focal_px), tuple(mesh for _, mesh in meshes), timings_ms)

    def reset(self) -> None:
        """Forget everybody: another scene. Ids are not used again, and a look at what was before counts no more."""
        self._start_s = math.inf
        self._tracker.reset()
        self._smoother.reset()
        self._finisher.reset()
        self._people = Followed()
        self._looks = Looks()

    def close(self) -> None:
        """Close the detector."""
        self._lookout.close()

    def _begin(self, frame: Frame) -> Frame:
        """Notice cuts and gaps; returns the frame at the tracks' time, in which long gaps are short."""
        mark = thumbnail(frame.image)
        gap_s = 0.0 if self._last is None else frame.time_s - self._last.time_s
        same_size = self._last is None or self._last.size_px == frame.size_px
        away = gap_s > LONGEST_STEP_S
        if not same_size or (self._mark is not None and not away and is_cut(self._mark, mark)):
            self.reset()
        if away:
            self._skipped_s += gap_s - LONGEST_STEP_S
            self._looks.soon = True
        self._last, self._mark = frame, mark
        timely = replace(frame, time_s=frame.time_s - self._skipped_s)
        self._start_s = min(self._start_s, timely.time_s)
        return timely

    def _ask(self, frame: Frame, known_px: tuple[np.ndarray, ...], plan: Plan) -> None:
        """Let the detector look at the frame."""
        expected_px = self._expected_px(frame.time_s)
        question = self._looks.question(frame, self._mark, known_px, expected_px, bool(self._tracker.on_trial), plan)
        self._people.asked(frame.time_s)
        self._lookout.ask(question)

    def _expected_px(self, time_s: float) -> dict[int, np.ndarray]:
        return {track.key: track.box_at(time_s) for track in self._tracker.tracks}

    def _learn(self, frame: Frame) -> None:
        """Take the detector's answer, if there is one: the people as they were in its frame, moved on to this one."""
        answer = self._lookout.take()
        if answer is None or answer.question.frame.time_s < self._start_s:
            return
        self._clock.timings_ms["detect"] = answer.took_ms
        start_s = time.perf_counter()
        expected_px = self._expected_px(frame.time_s)
        before_px, age_s = answer.question.expected_px, frame.time_s - answer.question.frame.time_s
        people = moved_on(answer.people, before_px, expected_px, frame.size_px, self._looks.gone)
        self._tracker.update(frame.time_s, people)
        self._people.found = {track.key for track in self._tracker.tracks if track.last_seen_s == frame.time_s}
        for track in self._tracker.tracks:
            if track.key in self._people.found:
                box_px = self._people.corrected(track, frame, age_s, expected_px.get(track.key), before_px.get(track.key))
                if box_px is not None:
                    self._tracker.follow(track.key, frame.time_s, box_px)
        self._people.forget_all_but({track.key for track in self._tracker.shown})
        missed = any(track.misses for track in self._tracker.shown)
        self._looks.learned(answer, bool(self._tracker.on_trial), missed)
        self._clock.add("track", start_s)

    def _estimate(self, frame: Frame) -> list[tuple[Placement, MeshEstimate]]:
        """Crop and estimate everybody present, and move their tracks to where their meshes are."""
        start_s = time.perf_counter()
        present: list[tuple[Track, Placement]] = []
        for track in self._tracker.shown:
            trust = self._people.trust(track, frame.time_s, self._config.track.hold_s)
            placement = placement_of(track, frame, trust)
            if placement.can_be_followed:
                present.append((track, placement))
            else:
                self._lose(track)
        rolls = self._people.rolls
        crops = [self._estimator.crop(frame.image, placement.box_px, rolls.of(track.key)) for track, placement in present]
        self._clock.add("crop", start_s)
        start_s = time.perf_counter()
        estimates = self._estimator.from_crops(crops)
        self._clock.add("estimate", start_s)
        pairs = []
        for (track, placement), estimate in zip(present, estimates, strict=True):
            if self._follow(track, placement, estimate):
                pairs.append((placement, estimate))
        return pairs

    def _follow(self, track: Track, placement: Placement, estimate: MeshEstimate) -> bool:
        """Move a track with its mesh; False when the mesh no longer lies where the person should be."""
        frame, people = placement.frame, self._people
        whole_px = mesh_box_px(estimate)
        mesh_px = clipped(whole_px, frame.size_px)
        people.estimated(track.key, estimate, mesh_px, frame.time_s)
        late = track.key in people.late
        if track.key in people.found and not late:
            people.anchor(track.key, placement.box_px - mesh_px)
            return True
        if not late and box_iou(mesh_px[None], placement.box_px[None])[0, 0] < MIN_FOLLOW_IOU:
            self._lose(track)
            return False
        box = whole_px + people.offset(track.key)
        box = as_large_as(placement.box_px, box, frame.size_px) if track.misses else clipped(box, frame.size_px)
        self._tracker.follow(track.key, frame.time_s, box)
        return True

    def _lose(self, track: Track) -> None:
        self._tracker.lose(track.key)
        self._people.forget(track.key)
        self._looks.lost(track.key)
