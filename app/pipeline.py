"""Frame -> Scene for recorded videos and for pictures.

A recording knows its future, so the detector looks only where a span of frames begins and ends. Somebody found at both ends
has their box interpolated between: it cannot drift, and all crops of a span go through the network in large batches.
Somebody found only at the start is followed by their own mesh, frame by frame, until it no longer makes sense.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from app.boxes import box_around, box_iou, clipped, side_px
from app.config import LiveConfig
from app.detect import MIN_BOX_PX, Detector
from app.smooth import MeshSmoother, Posture
from app.spans import Span, split_spans
from app.track import Track, Tracker
from app.types import Frame, Intrinsics, Scene, SmoothedMesh
from app.visibility import joint_visibility
from core.bodies import Body
from core.geometry import default_focal_px, project_pinhole, rotation_towards, translation_from_weak_camera, weak_to_frame_px
from core.types import MeshEstimate, PersonCrop, crop_center_px

BATCH_SIZE = 16
MIN_FOLLOW_IOU = 0.4
"""Overlap of a followed person's mesh with the box it was estimated from, below which they count as lost."""


class Estimator(Protocol):
    """What the pipeline needs of core.estimator.MeshEstimator."""

    body: Body

    def crop(self, image: np.ndarray, box_px: np.ndarray) -> PersonCrop:
        """The network's view of a box (4,)."""

    def from_crops(self, crops: list[PersonCrop]) -> list[MeshEstimate]:
        """One estimate per crop."""


@dataclass(frozen=True)
class Placement:
    """A person in a frame of a span, on the way to the network. trust falls from 1 to 0 while somebody is only followed."""

    frame: Frame
    track_id: int
    box_px: np.ndarray
    score: float
    landmark_visibility: np.ndarray | None
    trust: float = 1.0


@dataclass
class Clock:
    """Milliseconds per stage, added up until they are taken."""

    timings_ms: dict[str, float] = field(default_factory=dict)

    def add(self, stage: str, start_s: float) -> None:
        """Count the time since `start_s` (time.perf_counter)."""
        self.timings_ms[stage] = self.timings_ms.get(stage, 0.0) + (time.perf_counter() - start_s) * 1e3

    def take(self, num_frames: int) -> dict[str, float]:
        """The times so far, per frame; starts again at 0."""
        taken, self.timings_ms = self.timings_ms, {}
        return {stage: total_ms / num_frames for stage, total_ms in taken.items()}


class VideoPipeline:
    """Turns the frames of one video into scenes, in order. Not to be used for a second video: it remembers people."""

    def __init__(self, detector: Detector, estimator: Estimator, config: LiveConfig) -> None:
        self._detector, self._estimator, self._config = detector, estimator, config
        self._tracker = Tracker(config.track, config.max_people)
        self._smoother = MeshSmoother(config.smoothing, config.smooth)
        self._clock = Clock()
        self._num_looks = 0
        self._num_found = 0

    def scenes(self, frames: Iterable[Frame]) -> Iterator[Scene]:
        """One Scene per Frame; `timings_ms` are a span's times shared out evenly over its frames."""
        detect = self._config.detect
        for span in split_spans(frames, detect.interval_s, detect.max_interval_frames):
            yield from self._span_scenes(span)

    def _span_scenes(self, span: Span) -> Iterator[Scene]:
        if span.starts_scene:
            self._tracker.reset()
            self._smoother.reset()
            self._look(span.frames[0], first=True)
        if span.closing.index != span.frames[0].index:
            self._look(span.closing)
        elif span.starts_scene:
            self._tracker.confirm_all()
        pairs = self._estimate_found(span) + self._follow_unfound(span)
        meshes = self._place(pairs)
        timings_ms = self._clock.take(len(span.frames))
        for frame in span.frames:
            scene_meshes = tuple(mesh for index, mesh in meshes if index == frame.index)
            yield Scene(frame, self._intrinsics(frame), scene_meshes, dict(timings_ms))
        self._smoother.forget_before(span.frames[-1].time_s)

    def _look(self, frame: Frame, first: bool = False) -> None:
        """Find people and tell the tracker. Small people are searched for now and then, and whenever fewer are found than before."""
        start_s = time.perf_counter()
        known = tuple(clipped(track.box_at(frame.time_s), frame.size_px) for track in self._tracker.tracks if track.confirmed)
        known = tuple(box for box in known if min(box[2:] - box[:2]) > 1)
        search = first or self._num_looks % self._config.detect.search_every == 0
        people = self._detector.detect(frame.image, known, thorough=search)
        if not search and len(people) < max(self._num_found, 1):
            people = self._detector.detect(frame.image, known, thorough=True)
        self._num_looks = 1 if first else self._num_looks + 1
        self._num_found = len(people)
        self._clock.add("detect", start_s)
        start_s = time.perf_counter()
        self._tracker.update(frame.time_s, people)
        self._clock.add("track", start_s)

    def _estimate_found(self, span: Span) -> list[tuple[Placement, MeshEstimate]]:
        """Everybody known at the span's start and found at its end, all frames at once."""
        start, end = span.frames[0].time_s, span.closing.time_s
        tracks = [track for track in self._tracker.tracks if track.confirmed and track.last.seen and track.observed_at(end)]
        tracks = [track for track in tracks if track.observed_at(start)]
        placements = [_placement(track, frame) for frame in span.frames for track in tracks]
        placements = [placement for placement in placements if side_px(placement.box_px) >= MIN_BOX_PX]
        estimates = self._estimate(placements)
        return list(zip(placements, estimates, strict=True))

    def _follow_unfound(self, span: Span) -> list[tuple[Placement, MeshEstimate]]:
        """Everybody known at the start but not found at the end: the box comes from the mesh of the frame before."""
        start, end = span.frames[0].time_s, span.closing.time_s
        keys = {track.key for track in self._tracker.held(end) if track.observed_at(start) and not track.observed_at(end)}
        pairs: list[tuple[Placement, MeshEstimate]] = []
        for frame in span.frames:
            tracks = [track for track in self._tracker.held(frame.time_s) if track.key in keys]
            placements = [self._followed(track, frame) for track in tracks]
            visible = [side_px(item.box_px) >= MIN_BOX_PX and min(item.box_px[2:] - item.box_px[:2]) > 1 for item in placements]
            kept = [item for item, shown in zip(placements, visible, strict=True) if shown]
            estimates = dict(zip([item.track_id for item in kept], self._estimate(kept), strict=True))
            for track, placement in zip(tracks, placements, strict=True):
                estimate = estimates.get(placement.track_id)
                mesh_box = None if estimate is None else mesh_box_px(estimate, frame.size_px)
                if mesh_box is None or box_iou(mesh_box[None], placement.box_px[None])[0, 0] < MIN_FOLLOW_IOU:
                    self._tracker.lose(track.key)
                else:
                    self._tracker.follow(track.key, frame.time_s, mesh_box)
                    pairs.append((placement, estimate))
        if span.follower is not None:
            self._bridge(keys, end)
        return pairs

    def _bridge(self, keys: set[int], time_s: float) -> None:
        """Carry the followed over to the next span's first frame, so that they count as known there."""
        for track in self._tracker.held(time_s):
            if track.key in keys:
                self._tracker.follow(track.key, time_s, track.box_at(time_s))

    def _followed(self, track: Track, frame: Frame) -> Placement:
        trust = 1 - (frame.time_s - track.last_seen_s) / max(self._config.track.hold_s, 1e-6)
        return _placement(track, frame, float(np.clip(trust, 0, 1)))

    def _estimate(self, placements: list[Placement]) -> list[MeshEstimate]:
        estimates: list[MeshEstimate] = []
        for start in range(0, len(placements), BATCH_SIZE):
            batch = placements[start : start + BATCH_SIZE]
            start_s = time.perf_counter()
            crops = [self._estimator.crop(item.frame.image, item.box_px) for item in batch]
            self._clock.add("crop", start_s)
            start_s = time.perf_counter()
            estimates += self._estimator.from_crops(crops)
            self._clock.add("estimate", start_s)
        return estimates

    def _place(self, pairs: list[tuple[Placement, MeshEstimate]]) -> list[tuple[int, SmoothedMesh]]:
        """Camera space and smoothing, each person in order of time -> (frame index, mesh), by track id."""
        if not pairs:
            return []
        start_s = time.perf_counter()
        pairs = sorted(pairs, key=lambda pair: (pair[0].frame.index, pair[0].track_id))
        smoothed = []
        for placement, estimate in pairs:
            posture, _ = in_frame(estimate, self._intrinsics(placement.frame), self._config.parametric)
            smoothed.append(self._smoother(placement.track_id, posture, placement.frame.time_s))
        bodies = with_joints(self._estimator.body, np.stack([posture.vertices_m for posture in smoothed]))
        meshes = []
        for (placement, estimate), posture, (vertices_m, joints_m) in zip(pairs, smoothed, bodies, strict=True):
            centred = replace(posture, vertices_m=vertices_m)
            mesh = _smoothed(placement, estimate.camera, centred, joints_m, self._intrinsics(placement.frame))
            meshes.append((placement.frame.index, mesh))
        self._clock.add("smooth", start_s)
        return meshes

    def _intrinsics(self, frame: Frame) -> Intrinsics:
        return intrinsics_of(frame, self._config.focal_px)


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
    meshes = []
    for track_id, (person, estimate) in enumerate(zip(people, estimates, strict=True), start=1):
        placement = Placement(frame, track_id, person.box_px, person.score, person.landmark_visibility)
        posture, joints_m = in_frame(estimate, intrinsics, config.parametric)
        meshes.append(_smoothed(placement, estimate.camera, posture, joints_m, intrinsics))
    return Scene(frame, intrinsics, tuple(meshes), clock.timings_ms)


def intrinsics_of(frame: Frame, focal_px: float | None) -> Intrinsics:
    """The frame's camera: its centre as the principal point; the focal length given, or else the frame's diagonal."""
    width, height = frame.size_px
    return Intrinsics(focal_px or default_focal_px(width, height), (width / 2, height / 2))


def in_frame(estimate: MeshEstimate, intrinsics: Intrinsics, parametric: bool = False) -> tuple[Posture, np.ndarray]:
    """The estimate before the frame's camera, in its axes, float32; and joints_m (14, 3). parametric: with the body's parameters.

    The network speaks as if its camera looked straight at the crop, so what it says is turned by the angle between that
    ray and the optical axis. The 14 joints stand for the mesh in the least squares of the translation.
    """
    rotation = rotation_towards(crop_center_px(estimate.frame_from_crop), intrinsics.focal_px, intrinsics.principal_px)
    translation_m = translation_from_weak_camera(
        estimate.joints_m, estimate.camera, estimate.frame_from_crop, intrinsics.focal_px, intrinsics.principal_px, rotation
    )
    turn = rotation.T.astype(np.float32)
    posture = Posture(estimate.vertices_m @ turn, translation_m)
    if parametric and estimate.rotmats is not None:
        root = rotation.astype(np.float32) @ estimate.rotmats[:1]
        posture = replace(posture, rotmats=np.concatenate([root, estimate.rotmats[1:]]), shape=estimate.shape)
    return posture, estimate.joints_m @ turn


def mesh_box_px(estimate: MeshEstimate, size_px: tuple[int, int]) -> np.ndarray:
    """(4,) float32 box around the mesh in the frame, clipped to it."""
    return clipped(box_around(weak_to_frame_px(estimate.vertices_m, estimate.camera, estimate.frame_from_crop)), size_px)


def _placement(track: Track, frame: Frame, trust: float = 1.0) -> Placement:
    box = clipped(track.box_at(frame.time_s), frame.size_px)
    return Placement(frame, track.track_id, box, track.score_at(frame.time_s), track.visibility_at(frame.time_s), trust)


def with_joints(body: Body, vertices_m: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(B, V, 3) -> for each body vertices (V, 3) and joints (14, 3), float32, pelvis at 0 again: smoothing each vertex by itself
    moves it a little.
    """
    import torch

    pelvis_m = body.pelvis(torch.from_numpy(vertices_m)).numpy()
    centred = (vertices_m - pelvis_m[:, None]).astype(np.float32)
    return [(vertices, np.asarray(body.joint_regressor @ vertices, np.float32)) for vertices in centred]


def _smoothed(
    placement: Placement,
    camera: np.ndarray,
    posture: Posture,
    joints_m: np.ndarray,
    intrinsics: Intrinsics,
) -> SmoothedMesh:
    joints_px = project_pinhole(joints_m + posture.translation_m, intrinsics.focal_px, intrinsics.principal_px).astype(np.float32)
    side = side_px(placement.box_px)
    visibility = joint_visibility(joints_px, placement.frame.size_px, side, placement.landmark_visibility, placement.trust)
    return SmoothedMesh(
        track_id=placement.track_id, score=placement.score, box_px=placement.box_px, vertices_m=posture.vertices_m,
        joints_m=joints_m, joints_px=joints_px, joint_visibility=visibility, camera=camera,
        translation_m=posture.translation_m.astype(np.float32), rotmats=posture.rotmats, shape=posture.shape,
    )  # fmt: skip
