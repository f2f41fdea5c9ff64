"""From an estimate to a person in the frame: camera space, smoothing, joints, visibility. What every pipeline shares."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from app.boxes import box_around, clipped, side_px
from app.config import LiveConfig
from app.detect import MIN_BOX_PX
from app.parametric import Sighting, chosen_fitter, fitted
from app.proportions import soundness
from app.shapes import TrackShapes
from app.smooth import PerTrack
from app.track import Track
from app.types import Frame, Intrinsics, Posture, Sample, SmoothedMesh, intrinsics_of
from app.visibility import VisibilityFilter, joint_visibility
from core.bodies import Body
from core.geometry import project_pinhole, rotation_towards, translation_from_weak_camera, weak_to_frame_px
from core.types import MeshEstimate, crop_center_px


@dataclass(frozen=True)
class Placement:
    """A person in a frame of a span, on the way to the network. trust falls from 1 to 0 while somebody is only followed."""

    frame: Frame
    track_id: int
    box_px: np.ndarray
    score: float
    landmark_visibility: np.ndarray | None
    trust: float = 1.0

    @property
    def can_be_followed(self) -> bool:
        """Whether there is anything left to look at, and any trust."""
        return self.trust > 0 and side_px(self.box_px) >= MIN_BOX_PX and min(self.box_px[2:] - self.box_px[:2]) > 1


@dataclass
class Clock:
    """Milliseconds per stage, added up until they are taken."""

    timings_ms: dict[str, float] = field(default_factory=dict)

    def add(self, stage: str, start_s: float) -> None:
        """Count the time since `start_s` (time.perf_counter)."""
        self.timings_ms[stage] = self.timings_ms.get(stage, 0.0) + (time.perf_counter() - start_s) * 1e3

    def take(self, num_frames: int, before_ms: Mapping[str, float] | None = None) -> dict[str, float]:
        """The times so far, shared out over so many frames, added to what each had taken before; starts again at 0."""
        taken, self.timings_ms = self.timings_ms, {}
        before = dict(before_ms or {})
        return before | {stage: before.get(stage, 0.0) + total_ms / num_frames for stage, total_ms in taken.items()}


@dataclass(frozen=True)
class Seen:
    """A person of whom the network has said something, in the frame's axes.

    joints_m: (14, 3) of it, not smoothed; soundness: 0..1 of its mesh, see app.proportions
    """

    placement: Placement
    estimate: MeshEstimate
    posture: Posture
    joints_m: np.ndarray
    soundness: float

    @property
    def sample(self) -> Sample:
        """What is smoothed."""
        return Sample(self.placement.track_id, self.placement.frame.time_s, self.posture, self.joints_m, self.soundness)


def seen_people(pairs: list[tuple[Placement, MeshEstimate]], body: Body, config: LiveConfig) -> list[Seen]:
    """Everybody in camera space, in order of time and, within a frame, of track id."""
    found = []
    for placement, estimate in sorted(pairs, key=lambda pair: (pair[0].frame.index, pair[0].track_id)):
        posture, joints_m = in_frame(estimate, intrinsics_of(placement.frame, config.focal_px), config.parametric)
        sound = soundness(body, estimate.vertices_m, estimate.joints_m)
        found.append(Seen(placement, estimate, posture, joints_m.astype(np.float32), sound))
    return found


class Finisher:
    """From smoothed postures to meshes: the body's own, its joints, and what is seen of them. Remembers people's shapes for good."""

    def __init__(self, body: Body, config: LiveConfig) -> None:
        self._body, self._config = body, config
        self._shapes = TrackShapes()
        self._visibility = PerTrack(VisibilityFilter, config.smooth.max_gap_s)

    def __call__(self, people: list[Seen], smoothed: list[Posture]) -> list[tuple[int, SmoothedMesh]]:
        """Everybody in order of time, with their smoothed postures -> (frame index, mesh)."""
        if not people:
            return []
        body, config = self._body, self._config
        own = own_bodies([(person.placement, person.estimate) for person in people], smoothed, self._shapes, body, config)
        meshes = []
        for person, calmed, (posture, joints_m) in zip(people, smoothed, own, strict=True):
            placement = with_soundness(person.placement, body, calmed.vertices_m)
            frame = placement.frame
            mesh = smoothed_mesh(placement, person.estimate.camera, posture, joints_m, intrinsics_of(frame, config.focal_px))
            visibility = self._visibility.at(placement.track_id, frame.time_s)(mesh.joint_visibility, frame.time_s)
            meshes.append((frame.index, replace(mesh, joint_visibility=visibility, raw_joints_m=person.joints_m)))
        self._visibility.forget_before(people[-1].placement.frame.time_s)
        return meshes

    def reset(self) -> None:
        """A cut: what was seen of people counts no more."""
        self._visibility.reset()


def own_bodies(
    pairs: list[tuple[Placement, MeshEstimate]], postures: list[Posture], shapes: TrackShapes, body: Body, config: LiveConfig
) -> list[tuple[Posture, np.ndarray]]:
    """The postures with the pelvis at 0 and joints_m (14, 3); with fitted parameters and meshes where these are wanted."""
    bodies = with_joints(body, np.stack([posture.vertices_m for posture in postures]))
    postures = [replace(posture, vertices_m=vertices_m) for posture, (vertices_m, _) in zip(postures, bodies, strict=True)]
    joints_m = [joints for _, joints in bodies]
    if all(estimate.rotmats is None for _, estimate in pairs) and chosen_fitter(body, config) is not None:
        sightings = []
        for (placement, _), posture, joints in zip(pairs, postures, joints_m, strict=True):
            intrinsics = intrinsics_of(placement.frame, config.focal_px)
            seen = seen_joints(placement, project_pinhole(joints + posture.translation_m, intrinsics.focal_px, intrinsics.principal_px))
            sightings.append(Sighting(placement.track_id, posture, joints, float(seen.mean()), intrinsics))
        postures = fitted(sightings, shapes, body, config)
        joints_m = [joints_of(body, posture.vertices_m) for posture in postures]
    return list(zip(postures, joints_m, strict=True))


def with_soundness(placement: Placement, body: Body, vertices_m: np.ndarray) -> Placement:
    """The placement, trusted as far as the network's mesh (V, 3) is a body: what has collapsed is hidden."""
    return replace(placement, trust=placement.trust * soundness(body, vertices_m, joints_of(body, vertices_m)))


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


def mesh_box_px(estimate: MeshEstimate) -> np.ndarray:
    """(4,) float32 box around the mesh, which may reach out of the frame."""
    return box_around(weak_to_frame_px(estimate.vertices_m, estimate.camera, estimate.frame_from_crop))


def placement_of(track: Track, frame: Frame, trust: float = 1.0) -> Placement:
    """Where a track is expected at the frame's time, within the frame."""
    box = clipped(track.box_at(frame.time_s), frame.size_px)
    return Placement(frame, track.track_id, box, track.score_at(frame.time_s), track.visibility_at(frame.time_s), trust)


def with_joints(body: Body, vertices_m: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(B, V, 3) -> for each body vertices (V, 3) and joints (14, 3), float32, pelvis at 0 again: smoothing each vertex by itself
    moves it a little.
    """
    import torch

    pelvis_m = body.pelvis(torch.from_numpy(vertices_m)).numpy()
    centred = (vertices_m - pelvis_m[:, None]).astype(np.float32)
    return [(vertices, joints_of(body, vertices)) for vertices in centred]


def joints_of(body: Body, vertices_m: np.ndarray) -> np.ndarray:
    """(V, 3) -> joints (14, 3), float32."""
    return np.asarray(body.joint_regressor @ vertices_m, np.float32)


def seen_joints(placement: Placement, joints_px: np.ndarray) -> np.ndarray:
    """(14,) how far each joint can be seen."""
    side = side_px(placement.box_px)
    return joint_visibility(joints_px, placement.frame.size_px, side, placement.landmark_visibility, placement.trust)


def smoothed_mesh(
    placement: Placement,
    camera: np.ndarray,
    posture: Posture,
    joints_m: np.ndarray,
    intrinsics: Intrinsics,
) -> SmoothedMesh:
    """A smoothed posture with what the sinks need beside it."""
    joints_px = project_pinhole(joints_m + posture.translation_m, intrinsics.focal_px, intrinsics.principal_px).astype(np.float32)
    visibility = seen_joints(placement, joints_px)
    return SmoothedMesh(
        track_id=placement.track_id, score=placement.score, box_px=placement.box_px, vertices_m=posture.vertices_m,
        joints_m=joints_m, joints_px=joints_px, joint_visibility=visibility, camera=camera,
        translation_m=posture.translation_m.astype(np.float32), rotmats=posture.rotmats, shape=posture.shape,
    )  # fmt: skip
