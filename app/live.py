"""Frame -> Scene as it happens: the counterpart of app.pipeline for cameras, which knows no future.

The detector looks on a stride, at once after a loss or a cut, and when something moves where nobody is known. It may look beside
the frames: what it says then is moved on by as much as the people's meshes moved meanwhile. In between, each person's box follows
from their own mesh, as it lay in the detector's box when that looked last.
"""

import math
import threading
import time
from collections.abc import Collection
from dataclasses import replace

import numpy as np

from app.boxes import box_iou, clipped, side_px
from app.config import LiveConfig
from app.detect import Detector, tiles
from app.governor import Plan
from app.lookout import LOOKOUTS, SAME_IOU, Answer, Question
from app.pipeline import MIN_FOLLOW_IOU, Estimator
from app.placing import Clock, Finisher, Placement, mesh_box_px, placement_of, seen_people
from app.rolls import Rolls
from app.smooth import MeshSmoother
from app.spans import THUMBNAIL_PX, is_cut, thumbnail
from app.track import Track, Tracker, known_boxes
from app.types import Frame, Person, Scene, intrinsics_of
from core.bodies import Body
from core.types import MeshEstimate, PersonCrop

LONGEST_LOOK_S = 1.0
"""The detector looks at least this often, however long its stride is."""
SOONEST_LOOK_FRAMES = 3
"""Frames between two looks at somebody missed, or at something that moves."""
SEARCH_S = 1.0
"""Time between two searches of the whole frame for small people while nobody is known."""
LONGEST_STEP_S = 1.0
"""A longer gap between two frames (a camera that was away) counts as this for the tracks: people keep their ids."""
ENTERED_DIFFERENCE, ENTERED_CELLS = 25.0, 12
"""Grey levels by which a cell of the thumbnail must differ from the last look's, and cells outside of known people that must."""
BOX_MARGIN = 0.15
LOOK_WEIGHT = 0.5
"""How far a look moves the box of somebody who is followed: one that jumps makes the network's answer jump."""
BLENDED_IOU = 0.5


class SharedEstimator:
    """One network for several threads: they take turns."""

    def __init__(self, estimator: Estimator) -> None:
        self._estimator, self._turn = estimator, threading.Lock()
        self.body: Body = estimator.body
        self.warning = estimator.warning

    def crop(self, image: np.ndarray, box_px: np.ndarray, roll_rad: float = 0.0) -> PersonCrop:
        """As the estimator's; needs no turn."""
        return self._estimator.crop(image, box_px, roll_rad)

    def from_crops(self, crops: list[PersonCrop]) -> list[MeshEstimate]:
        """As the estimator's, one caller at a time."""
        if not crops:
            return []
        with self._turn:
            return self._estimator.from_crops(crops)


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
        self._people = _Followed()
        self._looks = _Looks()
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
        return getattr(self._estimator, "checkpoint", self._config.checkpoint)

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
        self._people.found, self._people.late = set(), set()
        self._learn(timely)
        if self._looks.due(timely, self._mark, self._known(timely), plan) and not self._lookout.busy:
            self._ask(timely, plan)
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
        self._people = _Followed()
        self._looks = _Looks()

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

    def _known(self, frame: Frame) -> tuple[np.ndarray, ...]:
        return known_boxes(self._tracker, frame)

    def _ask(self, frame: Frame, plan: Plan) -> None:
        """Let the detector look at the frame."""
        known = self._known(frame)
        thorough = not known and not self._tracker.on_trial and self._looks.may_search(frame.time_s)  # those on trial want an answer soon
        tile_px = None
        if known and plan.detect_stride <= Plan().detect_stride:  # a whole search for small people would take too long
            all_tiles = tiles(*frame.size_px, 2)
            tile_px = all_tiles[self._looks.next_tile() % len(all_tiles)]
        expected_px = {track.key: track.box_at(frame.time_s) for track in self._tracker.tracks}
        zoom_px = (*known, *self._looks.candidates)
        self._looks.asked(frame, self._mark)
        self._people.asked_s, self._people.meshes_px = frame.time_s, {}
        self._lookout.ask(Question(frame, self._mark, expected_px, zoom_px, thorough, tile_px))

    def _learn(self, frame: Frame) -> None:
        """Take the detector's answer, if there is one: the people as they were in its frame, moved on to this one."""
        answer = self._lookout.take()
        if answer is None or answer.question.frame.time_s < self._start_s:
            return
        self._clock.timings_ms["detect"] = answer.took_ms
        start_s = time.perf_counter()
        tracks = self._tracker.tracks
        expected_px = {track.key: track.box_at(frame.time_s) for track in tracks}
        before_px, age_s = answer.question.expected_px, frame.time_s - answer.question.frame.time_s
        people = moved_on(answer.people, before_px, expected_px, frame.size_px, self._looks.gone)
        followed = {track.key for track in tracks if self._people.knows(track.key)}
        self._tracker.update(frame.time_s, people)
        self._people.found = {track.key for track in self._tracker.tracks if track.last_seen_s == frame.time_s}
        for track in self._tracker.tracks:
            if track.key in self._people.found:
                now_px, then_px = expected_px.get(track.key), before_px.get(track.key)
                if age_s > 0:
                    known = track.key in followed and now_px is not None and then_px is not None
                    seen_px = track.box_at(frame.time_s) - now_px + then_px if known else None
                    self._catch_up(track, frame, age_s, seen_px, now_px)
                elif track.key in followed:
                    self._blend(track, expected_px[track.key], frame)
        self._people.forget_all_but({track.key for track in self._tracker.shown})
        missed = any(track.misses for track in self._tracker.shown)
        self._looks.learned(answer, bool(self._tracker.on_trial), missed)
        self._clock.add("track", start_s)

    def _blend(self, track: Track, expected_px: np.ndarray, frame: Frame) -> None:
        """Let the box of somebody followed drift towards the detector's, where the two agree."""
        found_px = track.box_at(frame.time_s)
        if box_iou(found_px[None], expected_px[None])[0, 0] > BLENDED_IOU:
            blended = (expected_px + LOOK_WEIGHT * (found_px - expected_px)).astype(np.float32)
            self._tracker.follow(track.key, frame.time_s, blended)

    def _catch_up(self, track: Track, frame: Frame, age_s: float, seen_px: np.ndarray | None, expected_px: np.ndarray | None) -> None:
        """Somebody was found as they were `age_s` ago.

        seen_px: their box (4,) then, where they have been followed since; it corrects how their box lies around their mesh, for that
        same moment. Somebody new goes on as they went, and their mesh alone says where they are until the next look.
        """
        people, size_px = self._people, frame.size_px
        people.late.add(track.key)
        mesh_px = people.meshes_px.get(track.key)
        box_px = track.box_at(frame.time_s)
        if seen_px is None or expected_px is None or mesh_px is None:
            people.anchor(track.key, np.zeros(4, np.float32))
            box_px = box_px + np.tile(track.velocity_px_s * age_s, 2)
        elif box_iou(box_px[None], expected_px[None])[0, 0] > BLENDED_IOU:
            before_px = people.offset(track.key)
            people.anchor(track.key, before_px + LOOK_WEIGHT * (seen_px - mesh_px - before_px))
            box_px = expected_px + people.offset(track.key) - before_px
        else:
            people.anchor(track.key, np.zeros(4, np.float32))
        box_px = clipped(box_px, size_px)
        if min(box_px[2:] - box_px[:2]) > 1:
            self._tracker.follow(track.key, frame.time_s, box_px)

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
        frame = placement.frame
        self._people.rolls.learn(track.key, estimate)
        mesh_px = clipped(mesh_box_px(estimate), frame.size_px)
        if frame.time_s == self._people.asked_s:
            self._people.meshes_px[track.key] = mesh_px
        if track.key in self._people.found and track.key not in self._people.late:
            self._people.anchor(track.key, placement.box_px - mesh_px)
            return True
        if track.key not in self._people.late and box_iou(mesh_px[None], placement.box_px[None])[0, 0] < MIN_FOLLOW_IOU:
            self._lose(track)
            return False
        box = clipped(mesh_px + self._people.offset(track.key), frame.size_px)
        self._tracker.follow(track.key, frame.time_s, box)
        return True

    def _lose(self, track: Track) -> None:
        self._tracker.lose(track.key)
        self._people.forget(track.key)
        self._looks.lost(track.key)


class _Followed:
    """What is remembered of people between two looks: the offset between box and mesh, and since when they are missed.

    found: keys of the tracks that a look found, as far as this frame knows; late: of these, those found as they were some time ago
    asked_s, meshes_px: when the detector was last asked, and track key -> box (4,) around the mesh in that very frame
    rolls: how far their crops are turned
    """

    def __init__(self) -> None:
        self.found: set[int] = set()
        self.late: set[int] = set()
        self.asked_s = -math.inf
        self.meshes_px: dict[int, np.ndarray] = {}
        self.rolls = Rolls()
        self._offsets: dict[int, np.ndarray] = {}
        self._missed_since_s: dict[int, float] = {}

    def anchor(self, key: int, offset_px: np.ndarray) -> None:
        """The detector's box minus the mesh's (4,)."""
        self._offsets[key] = offset_px.astype(np.float32)

    def knows(self, key: int) -> bool:
        """Whether somebody is being followed."""
        return key in self._offsets

    def offset(self, key: int) -> np.ndarray:
        """(4,) float32 pixels; 0 for somebody without a look."""
        return self._offsets.get(key, np.zeros(4, np.float32))

    def trust(self, track: Track, time_s: float, hold_s: float) -> float:
        """1 until a look misses somebody, then falling to 0 within hold_s."""
        if not track.misses:
            self._missed_since_s.pop(track.key, None)
            return 1.0
        since_s = self._missed_since_s.setdefault(track.key, time_s)
        return float(np.clip(1 - (time_s - since_s) / max(hold_s, 1e-6), 0, 1))

    def forget_all_but(self, keys: set[int]) -> None:
        """Who is not shown is not followed."""
        for key in (self._offsets.keys() | self._missed_since_s.keys()) - keys:
            self.forget(key)

    def forget(self, key: int) -> None:
        """Somebody lost."""
        self.rolls.forget(key)
        self._offsets.pop(key, None)
        self._missed_since_s.pop(key, None)


class _Looks:
    """When the detector looked, and whether it should again. gone: keys of the tracks that were lost since."""

    def __init__(self) -> None:
        self.soon, self._looked, self._searched_s = True, False, -1e9
        self.gone: set[int] = set()
        self.candidates: tuple[np.ndarray, ...] = ()
        self._missed = False
        self._num_frames, self._time_s = 0, -1e9
        self._mark: np.ndarray | None = None
        self._tile = 0

    def due(self, frame: Frame, mark: np.ndarray | None, known_px: tuple[np.ndarray, ...], plan: Plan) -> bool:
        """Called once a frame."""
        self._num_frames += 1
        if self.soon or self._num_frames >= plan.detect_stride or frame.time_s - self._time_s >= LONGEST_LOOK_S:
            return True
        if self._num_frames < SOONEST_LOOK_FRAMES * max(1, plan.detect_stride // Plan().detect_stride):
            return False
        return self._missed or self._something_entered(frame, mark, known_px)

    def asked(self, frame: Frame, mark: np.ndarray | None) -> None:
        """The detector looks at this frame."""
        self.soon, self._missed, self.candidates = False, False, ()
        self.gone.clear()
        self._num_frames, self._time_s, self._mark = 0, frame.time_s, mark

    def learned(self, answer: Answer, trial: bool, missed: bool) -> None:
        """trial: somebody new must be found once more; missed: somebody known was not found."""
        first, self._looked = not self._looked, True
        self.soon = self.soon or trial or bool(answer.candidates) or (first and not answer.people)
        self._missed, self.candidates = missed, answer.candidates
        if answer.question.thorough:
            self._searched_s = answer.question.frame.time_s

    def may_search(self, time_s: float) -> bool:
        """Whether tiles may be searched while nobody is known; not by the first look, which is to show as soon as possible who is near."""
        return self._looked and time_s - self._searched_s >= SEARCH_S

    def lost(self, key: int) -> None:
        """Somebody is no longer where they should be: a look soon, and what an older one will say of them is of no use."""
        self.soon = True
        self.gone.add(key)

    def next_tile(self) -> int:
        """A number that grows with each tile searched."""
        self._tile += 1
        return self._tile

    def _something_entered(self, frame: Frame, mark: np.ndarray | None, known_px: tuple[np.ndarray, ...]) -> bool:
        """Whether the picture changed since the last look where nobody is known."""
        if mark is None or self._mark is None:
            return False
        changed = np.abs(mark - self._mark).max(axis=2) > ENTERED_DIFFERENCE
        cells = np.array(THUMBNAIL_PX) / frame.size_px
        for box in known_px:
            margin = BOX_MARGIN * side_px(box)
            x0, y0 = np.maximum(np.floor((box[:2] - margin) * cells), 0).astype(int)
            x1, y1 = np.ceil((box[2:] + margin) * cells).astype(int)
            changed[y0:y1, x0:x1] = False
        return int(changed.sum()) >= ENTERED_CELLS


def moved_on(
    people: tuple[Person, ...],
    before_px: dict[int, np.ndarray],
    now_px: dict[int, np.ndarray],
    size_px: tuple[int, int],
    gone: Collection[int] = (),
) -> list[Person]:
    """People where they should be by now: each moves as the track (key -> box (4,), before and now) that they overlapped most.

    gone: keys of tracks that were lost meanwhile; whoever overlapped one of these is where they were no more
    """
    keys = [key for key in before_px if key in now_px]
    if not keys or not people:
        return list(people)
    overlaps = box_iou(np.stack([person.box_px for person in people]), np.stack([before_px[key] for key in keys]))
    moved = []
    for person, row in zip(people, overlaps, strict=True):
        best = int(row.argmax())
        if keys[best] in gone and row[best] >= SAME_IOU:
            continue
        step_px = now_px[keys[best]] - before_px[keys[best]]
        box_px = clipped(person.box_px + step_px, size_px) if row[best] >= SAME_IOU and step_px.any() else person.box_px
        moved.append(replace(person, box_px=box_px) if min(box_px[2:] - box_px[:2]) > 1 else person)
    return moved
