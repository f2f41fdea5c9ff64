"""From a smoothed mesh to the body's own: one shape for each person, the bones' rotations, and the clean mesh that these pose."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from app.config import LiveConfig
from app.shapes import TrackShapes
from app.types import Intrinsics, Posture
from core.bodies import Body
from core.body_fit import BodyFitter, Fit
from core.fitters import FAITHFUL, fitter_for
from core.geometry import project_pinhole, translation_onto
from core.posing import posed_meshes

BATCH_SIZE = 16
POSE_STEPS = 2
"""Of the fit with a known shape. On five clips the mesh is then 0.6 to 3.8 mm (mean of all vertices) from where many steps end; three steps
with the shape free and one without, which take three times as long, leave 1.2 to 5.0 mm.
"""
TYPICAL_ERROR_M = 0.03
"""Left over by a fit to a good mesh; the shape of one that leaves more counts less."""


@dataclass(frozen=True)
class Sighting:
    """One person in one frame on the way to their own body.

    joints_m: (14, 3) of the posture's mesh; confidence: 0..1, how much of the person is seen
    """

    track_id: int
    posture: Posture
    joints_m: np.ndarray
    confidence: float
    intrinsics: Intrinsics


def shows_fitted(body: Body, config: LiveConfig) -> bool:
    """Whether the meshes shown are the fitted ones: as the config says, or else where they are as accurate."""
    return config.mesh == "parametric" or (config.mesh == "auto" and body.name in FAITHFUL)


def chosen_fitter(body: Body, config: LiveConfig) -> BodyFitter | None:
    """What fits the body's parameters; None where neither they nor the mesh that they pose are wanted."""
    return fitter_for(body) if config.parametric or shows_fitted(body, config) else None


def fitted(sightings: Sequence[Sighting], shapes: TrackShapes, body: Body, config: LiveConfig) -> list[Posture]:
    """The postures with rotmats and shape, and with the mesh that these pose if it is to be shown.

    Everybody's shape is learned first, so that the sightings of one call share it.
    """
    fitter = chosen_fitter(body, config)
    if fitter is None:
        return [sighting.posture for sighting in sightings]
    deviation = fitter.shape_deviation.numpy()
    for part in _batches([sighting for sighting in sightings if shapes.wants(sighting.track_id)]):
        fit = fitter(_targets(part, fitter))
        for sighting, shape, error_m in zip(part, fit.shape.numpy(), fit.error_m.tolist(), strict=True):
            trust = sighting.confidence / (1 + (error_m / TYPICAL_ERROR_M) ** 2)
            shapes.add(sighting.track_id, shape, trust, deviation)
    show = shows_fitted(body, config)
    found: list[Posture] = []
    for part in _batches(sightings):
        target, kept = _targets(part, fitter), torch.from_numpy(np.stack([shapes.of(sighting.track_id) for sighting in part]))
        found += _posed(part, target, fitter(target, kept, num_steps=POSE_STEPS), fitter, body, show)
    shapes.forget_old(len({sighting.track_id for sighting in sightings}))
    return found


def _batches(sightings: Sequence[Sighting]) -> Iterator[Sequence[Sighting]]:
    return (sightings[first : first + BATCH_SIZE] for first in range(0, len(sightings), BATCH_SIZE))


def _targets(sightings: Sequence[Sighting], fitter: BodyFitter) -> torch.Tensor:
    """(B, V, 3) the vertices that are fitted."""
    return torch.from_numpy(np.stack([sighting.posture.vertices_m[fitter.vertex_ids] for sighting in sightings]))


def _posed(sightings: Sequence[Sighting], target: torch.Tensor, fit: Fit, fitter: BodyFitter, body: Body, show: bool) -> list[Posture]:
    """The postures with what was fitted. target: (B, V, 3) the vertices that it was fitted to."""
    rotmats, shape = fit.rotmats.numpy(), fit.shape.numpy()
    own = [replace(s.posture, rotmats=r, shape=p) for s, r, p in zip(sightings, rotmats, shape, strict=True)]
    if not show:
        return own
    vertices, joints = posed_meshes(body, rotmats, shape)
    moved_m = (target - torch.from_numpy(vertices)[:, fitter.vertex_ids]).mean(1).numpy()  # from the free mesh's pelvis to the fitted one's
    return [
        replace(posture, vertices_m=mesh, translation_m=_onto(sighting, joints_m, posture.translation_m + moved))
        for posture, sighting, mesh, joints_m, moved in zip(own, sightings, vertices, joints, moved_m, strict=True)
    ]


def _onto(sighting: Sighting, joints_m: np.ndarray, start_m: np.ndarray) -> np.ndarray:
    """Where the fitted body stands so that it covers the free mesh in the picture, though its size may differ a little."""
    camera = sighting.intrinsics.focal_px, sighting.intrinsics.principal_px
    seen_px = project_pinhole(sighting.joints_m + sighting.posture.translation_m, *camera)
    return translation_onto(joints_m, seen_px, *camera, start_m)
