"""Frame -> Scene for recorded videos and for pictures.

A recording knows its future, so the detector looks only where a span of frames begins and ends. Somebody found at both ends
has their box interpolated between: it cannot drift, and all crops of a span go through the network in large batches.
Somebody found only at the start is followed by their own mesh, frame by frame, until it no longer makes sense.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np

from app.boxes import as_large_as, box_iou, clipped, side_px
from app.config import LiveConfig
from app.detect import MIN_BOX_PX, Detector
from app.distance import DistanceSmoother
from app.placing import (
    Clock,
    Finisher,
    Placement,
    Seen,
    in_frame,
    mesh_box_px,
    own_bodies,
    placement_of,
    seen_people,
    smoothed_mesh,
    with_soundness,
)
from app.rolls import Rolls
from app.searches import Searches
from app.shapes import TrackShapes
from app.smooth import RecordingSmoother
from app.spans import Span, max_span_frames, split_spans
from app.stages import Stage, each
from app.track import DUPLICATE_IOU, Track, Tracker, known_boxes
from app.types import Frame, Posture, Scene, intrinsics_of
from core.bodies import Body
from core.types import MeshEstimate, PersonCrop

T = TypeVar("T")

BATCH_SIZE = 16
MIN_FOLLOW_IOU = 0.4
"""Overlap of a followed person's mesh with the box it was estimated from, below which they count as lost."""


class Estimator(Protocol):
    """What the pipeline needs of core.estimator.MeshEstimator."""

    body: Body
    checkpoint: str
    """The name or path that it was loaded by."""
    warning: str
    """Why it is slower than it could be; "" where it is not."""

    def crop(self, image: np.ndarray, box_px: np.ndarray, roll_rad: float = 0.0) -> PersonCrop:
        """The network's view of a box (4,), turned clockwise."""

    def from_crops(self, crops: list[PersonCrop]) -> list[MeshEstimate]:
        """One estimate per crop."""


@dataclass(frozen=True)
class _Sight:
    """A span on its way. to_estimate: whom the network has not seen yet; pairs: those it has seen; timings_ms: per frame, so far."""

    span: Span
    to_estimate: list[Placement]
    pairs: list[tuple[Placement, MeshEstimate]]
    timings_ms: dict[str, float]


@dataclass(frozen=True)
class _Held:
    """A span that waits for what calms it."""

    span: Span
    people: list[Seen]
    timings_ms: dict[str, float]


def until_error(items: Iterable[T], errors: list[BaseException]) -> Iterator[T]:
    """The items; an error that ends them is put into `errors`, for later."""
    try:
        yield from items
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  raised by whoever asked
        errors.append(error)


class VideoPipeline:
    """Turns the frames of one video into scenes, in order. Not to be used for a second video: it remembers people."""

    def __init__(self, detector: Detector, estimator: Estimator, config: LiveConfig) -> None:
        self._detector, self._estimator, self._config = detector, estimator, config
        self._tracker = Tracker(config.track, config.max_people)
        self._smoother = RecordingSmoother(config.smoothing, config.smooth)
        self._distances = None if config.smoothing == "none" else DistanceSmoother(config.smooth)
        self._finisher = Finisher(estimator.body, config)
        self._rolls, self._followed_rolls = Rolls(), Rolls()  # two, since a thread of its own fills each
        self._searches = Searches(config.detect.search_every, config.detect.search_at_least_every)
        self._num_found = 0

    @property
    def stages(self) -> dict[str, Stage]:
        """What is done to the frames, name -> stage for app.stages. No two share what they change, so all may run at once."""
        return {
            "look": self._looked,
            "estimate": each(self._estimated),
            "place": self._scenes,
        }

    def max_held_frames(self, frame_bytes: int) -> int:
        """How many frames of this size the stages hold back at most: those of three spans that wait for what calms them, those of the next
        one, and the frame that shows that it is complete.
        """
        return 4 * max_span_frames(frame_bytes, self._config.detect.max_interval_frames) + 1

    def scenes(self, frames: Iterable[Frame]) -> Iterator[Scene]:
        """One Scene per Frame, made when it is asked for; `timings_ms` are a span's times shared out evenly over its frames."""
        items: Iterable = frames
        for stage in self.stages.values():
            items = stage(items)
        return iter(items)

    def _looked(self, frames: Iterable[Frame]) -> Iterator[_Sight]:
        detect = self._config.detect
        return map(self._look_at, split_spans(frames, detect.interval_s, detect.max_interval_frames))

    def _scenes(self, sights: Iterable[_Sight]) -> Iterator[Scene]:
        """Each span once enough of what follows is there to calm it."""
        held: deque[_Held] = deque()
        errors: list[BaseException] = []
        for sight in until_error(sights, errors):
            span, done = self._calmed(sight)
            held.append(span)
            for postures in done:
                yield from self._finished(held.popleft(), postures)
        for postures in self._smoother.rest():
            yield from self._finished(held.popleft(), postures)
        yield from self._distances.rest() if self._distances else ()
        for error in errors:  # nothing is lost of what came before it
            raise error

    def _look_at(self, span: Span) -> _Sight:
        """Who is where: everything that the tracker takes part in."""
        clock = Clock()
        if span.starts_scene:
            self._tracker.reset()
            self._followed_rolls.clear()
            self._look(span.frames[0], clock, first=True)
        if span.closing.index != span.frames[0].index:
            self._look(span.closing, clock)
        elif span.starts_scene:
            self._tracker.confirm_all()
        found = self._found(span)
        pairs = self._follow_unfound(span, found, clock)
        return _Sight(span, found, pairs, clock.take(len(span.frames)))

    def _estimated(self, sight: _Sight) -> _Sight:
        """With the meshes of everybody found, all frames at once."""
        clock = Clock()
        if sight.span.starts_scene:
            self._rolls.clear()
        estimates = self._estimate(sight.to_estimate, self._rolls, clock)
        pairs = list(zip(sight.to_estimate, estimates, strict=True)) + sight.pairs
        return replace(sight, to_estimate=[], pairs=pairs, timings_ms=clock.take(len(sight.span.frames), sight.timings_ms))

    def _calmed(self, sight: _Sight) -> tuple[_Held, list[list[Posture]]]:
        """A span with everybody in camera space, and the smoothed postures of the spans that are finished."""
        clock, start_s = Clock(), time.perf_counter()
        people = seen_people(sight.pairs, self._estimator.body, self._config)
        done = self._smoother([person.sample for person in people], sight.span.starts_scene)
        clock.add("smooth", start_s)
        return _Held(sight.span, people, clock.take(len(sight.span.frames), sight.timings_ms)), done

    def _finished(self, held: _Held, calmed: list[Posture]) -> list[Scene]:
        """Everybody before the frame's camera: the scenes that this span finishes, those of the span before."""
        frames, clock, start_s = held.span.frames, Clock(), time.perf_counter()
        if held.span.starts_scene:
            self._finisher.reset()
        meshes = self._finisher(held.people, calmed)
        clock.add("smooth", start_s)
        timings_ms = clock.take(len(frames), held.timings_ms)
        people = {frame.index: tuple(mesh for index, mesh in meshes if index == frame.index) for frame in frames}
        scenes = [Scene(frame, intrinsics_of(frame, self._config.focal_px), people[frame.index], dict(timings_ms)) for frame in frames]
        scenes[0] = replace(scenes[0], cuts=held.span.starts_scene)
        return self._distances(scenes) if self._distances else scenes  # ids are not used again after a cut, so it has nothing to forget

    def _look(self, frame: Frame, clock: Clock, first: bool = False) -> None:
        """Find people and tell the tracker. Small people are searched for now and then, and whenever fewer are found than before."""
        start_s = time.perf_counter()
        if first:
            self._searches.start()
            self._num_found = 0
        known, search = known_boxes(self._tracker, frame), self._searches.due
        people = self._detector.detect(frame.image, known, thorough=search)
        if not search and len(people) < self._num_found:
            people, search = self._detector.detect(frame.image, known, thorough=True), True
        self._searches.looked(search, somebody_new=len(people) > self._num_found, nobody=not people)
        self._num_found = len(people)
        clock.add("detect", start_s)
        start_s = time.perf_counter()
        self._tracker.update(frame.time_s, people)
        clock.add("track", start_s)

    def _found(self, span: Span) -> list[Placement]:
        """Everybody known at the span's start and found at its end, in all its frames."""
        start, end = span.frames[0].time_s, span.closing.time_s
        tracks = [track for track in self._tracker.shown if track.observed_at(start) and track.seen_at(end)]
        placements = [placement_of(track, frame) for frame in span.frames for track in tracks]
        return [placement for placement in placements if side_px(placement.box_px) >= MIN_BOX_PX]

    def _follow_unfound(self, span: Span, found: list[Placement], clock: Clock) -> list[tuple[Placement, MeshEstimate]]:
        """Everybody known at the start but not found at the end: the box comes from the mesh of the frame before, for hold_s at most.

        found: the others; whoever is followed onto one of them is nobody else.
        """
        start, end = span.frames[0].time_s, span.closing.time_s
        keys = {track.key for track in self._tracker.shown if track.observed_at(start) and not track.seen_at(end)}
        pairs: list[tuple[Placement, MeshEstimate]] = []
        for frame in span.frames:
            tracks = [track for track in self._tracker.shown if track.key in keys]
            placements = [self._followed(track, frame) for track in tracks]
            kept = [item for item in placements if item.can_be_followed]
            estimates = dict(zip([item.track_id for item in kept], self._estimate(kept, self._followed_rolls, clock), strict=True))
            others_px = np.array([item.box_px for item in found if item.frame is frame]).reshape(-1, 4)
            for track, placement in zip(tracks, placements, strict=True):
                estimate = estimates.get(placement.track_id)
                mesh_box = None if estimate is None else mesh_box_px(estimate)
                if mesh_box is None or not is_theirs(clipped(mesh_box, frame.size_px), placement.box_px, others_px):
                    self._tracker.lose(track.key)
                else:  # what the detector misses shows too little of somebody to tell their size, and smaller boxes would show less still
                    self._tracker.follow(track.key, frame.time_s, as_large_as(placement.box_px, mesh_box, frame.size_px))
                    pairs.append((placement, estimate))
        if span.follower is not None:
            self._bridge(keys, end)
        return pairs

    def _bridge(self, keys: set[int], time_s: float) -> None:
        """Carry the followed over to the next span's first frame, so that they count as known there."""
        for track in self._tracker.shown:
            if track.key in keys:
                self._tracker.follow(track.key, time_s, track.box_at(time_s))

    def _followed(self, track: Track, frame: Frame) -> Placement:
        trust = 1 - (frame.time_s - track.last_seen_s) / max(self._config.track.hold_s, 1e-6)
        return placement_of(track, frame, float(np.clip(trust, 0, 1)))

    def _estimate(self, placements: list[Placement], rolls: Rolls, clock: Clock) -> list[MeshEstimate]:
        estimates: list[MeshEstimate] = []
        for start in range(0, len(placements), BATCH_SIZE):
            batch = placements[start : start + BATCH_SIZE]
            start_s = time.perf_counter()
            crops = [self._estimator.crop(item.frame.image, item.box_px, rolls.of(item.track_id)) for item in batch]
            clock.add("crop", start_s)
            start_s = time.perf_counter()
            found = self._estimator.from_crops(crops)
            clock.add("estimate", start_s)
            for item, estimate in zip(batch, found, strict=True):
                rolls.learn(item.track_id, estimate)
            estimates += found
        return estimates


def is_theirs(mesh_box_px: np.ndarray, box_px: np.ndarray, others_px: np.ndarray) -> bool:
    """Whether a mesh lies in the box (4,) where somebody is expected and not in one of others (N, 4)."""
    overlaps = box_iou(mesh_box_px[None], np.concatenate([box_px[None], others_px]))[0]
    return bool(overlaps[0] >= MIN_FOLLOW_IOU and (overlaps[1:] <= DUPLICATE_IOU).all())


def scene_of_picture(frame: Frame, detector: Detector, estimator: Estimator, config: LiveConfig) -> Scene:
    """A single picture: search for everybody, estimate, no smoothing. Ids count from 1, the surest person first."""
    clock = Clock()
    start_s = time.perf_counter()
    people = detector.detect(frame.image, thorough=True)[: config.max_people]
    clock.add("detect", start_s)
    start_s = time.perf_counter()
    estimates = estimator.from_crops([estimator.crop(frame.image, person.box_px) for person in people]) if people else []
    clock.add("estimate", start_s)
    intrinsics = intrinsics_of(frame, config.focal_px)
    start_s = time.perf_counter()
    pairs = [
        (Placement(frame, track_id, person.box_px, person.score, person.landmark_visibility), estimate)
        for track_id, (person, estimate) in enumerate(zip(people, estimates, strict=True), start=1)
    ]
    postures = [in_frame(estimate, intrinsics, config.parametric)[0] for _, estimate in pairs]
    own = own_bodies(pairs, postures, TrackShapes(), estimator.body, config) if pairs else []
    meshes = [
        smoothed_mesh(with_soundness(placement, estimator.body, free.vertices_m), estimate.camera, posture, joints_m, intrinsics)
        for (placement, estimate), free, (posture, joints_m) in zip(pairs, postures, own, strict=True)
    ]
    clock.add("body", start_s)
    return Scene(frame, intrinsics, tuple(meshes), clock.timings_ms)
