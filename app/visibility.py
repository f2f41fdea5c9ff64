"""How far each joint can be seen: in the picture at all, and by the detector's evidence. What follows for each vertex.

Legs below a desk are a guess of the network's. They are not drawn, and their joints' visibility says so in every file.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from core.bodies import Body

MARGIN_SIDES = 0.03
"""Width of the ramp at the frame's edge, in box sides: half of it inside, half outside."""
UNSEEN_EVIDENCE, SEEN_EVIDENCE = 0.1, 0.5
"""Detector's visibility below which a joint counts as hidden, above which as seen."""

HIDDEN_BELOW, SHOWN_ABOVE = 0.3, 0.6
"""Visibility that turns a seen joint into a hidden one, and a hidden one into a seen one. Between them a body part fades."""
FADE_S = 0.4
"""How long a joint takes from fully seen to fully hidden or back."""
JOINT_BLEND_M = 0.03
"""How gently the body passes from one joint's visibility to the next one's."""


def visibility_in_frame(joints_px: np.ndarray, size_px: tuple[int, int], side_px: float) -> np.ndarray:
    """(14,) float32: 1 well inside the frame, 0 outside. joints_px: (14, 2); size_px: width, height; side_px: of the person's box."""
    ramp_px = max(MARGIN_SIDES * side_px, 1.0)
    inside_px = np.minimum(joints_px, np.asarray(size_px) - joints_px).min(axis=-1)
    return np.clip(inside_px / ramp_px + 0.5, 0, 1).astype(np.float32)


def evidence(landmark_visibility: np.ndarray | None) -> np.ndarray | float:
    """(14,) 0..1 from the detector's visibility; 1 when it did not look."""
    if landmark_visibility is None:
        return 1.0
    return np.clip((landmark_visibility - UNSEEN_EVIDENCE) / (SEEN_EVIDENCE - UNSEEN_EVIDENCE), 0, 1)


def joint_visibility(
    joints_px: np.ndarray, size_px: tuple[int, int], side_px: float, landmark_visibility: np.ndarray | None, trust: float = 1.0
) -> np.ndarray:
    """(14,) float32 0..1: in the frame, seen by the detector, and `trust` (falls while somebody is only followed)."""
    return (visibility_in_frame(joints_px, size_px, side_px) * evidence(landmark_visibility) * trust).astype(np.float32)


class VisibilityFilter:
    """One person's joints over time: a joint at the picture's edge does not flicker, and what changes fades instead of switching."""

    def __init__(self) -> None:
        self._time_s = 0.0
        self._level: np.ndarray | None = None
        self._seen: np.ndarray | None = None

    def __call__(self, measured: np.ndarray, time_s: float) -> np.ndarray:
        """(14,) 0..1 as joint_visibility gives it -> the same, calmed.

        A seen joint stays seen down to HIDDEN_BELOW, a hidden one hidden up to SHOWN_ABOVE.
        """
        if self._level is None or self._seen is None:
            self._seen = measured >= (HIDDEN_BELOW + SHOWN_ABOVE) / 2
            self._level = self._target(measured)
        elif time_s > self._time_s:
            self._seen = np.where(self._seen, measured >= HIDDEN_BELOW, measured > SHOWN_ABOVE)
            step = (time_s - self._time_s) / FADE_S
            self._level = self._level + np.clip(self._target(measured) - self._level, -step, step)
        self._time_s = time_s
        return self._level.astype(np.float32)

    def _target(self, measured: np.ndarray) -> np.ndarray:
        return np.where(self._seen, np.maximum(measured, SHOWN_ABOVE), np.minimum(measured, HIDDEN_BELOW))


def shown_share(visibility: np.ndarray) -> np.ndarray:
    """How far what has such a visibility is shown: 0 from HIDDEN_BELOW down, 1 from SHOWN_ABOVE up, evenly between."""
    return np.clip((visibility - HIDDEN_BELOW) / (SHOWN_ABOVE - HIDDEN_BELOW), 0, 1)


def vertex_visibility(joints: np.ndarray, vertex_weights: np.ndarray) -> np.ndarray:
    """(V,) float32: 0 where the joints around are hidden, 1 where they are seen, smooth between.

    joints: (14,) 0..1; vertex_weights: (V, 14) from vertex_joint_weights
    """
    t = shown_share(vertex_weights @ joints)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def with_smooth_edge(vertices_m: np.ndarray, faces: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For renderers that show or hide whole triangles: vertices (V, 3), and (V,) bool; triangles are shown whose corners all are.

    Hidden vertices beside shown ones move onto the line between them where `seen` (V,) crosses the middle of the fade, so that the
    body ends in a smooth line and not in the zigzag of its triangles.
    """
    level = (HIDDEN_BELOW + SHOWN_ABOVE) / 2
    shown = seen > level
    if shown.all() or not shown.any():
        return vertices_m, shown
    mixed = faces[shown[faces].any(axis=1) & ~shown[faces].all(axis=1)]
    pairs = np.concatenate([mixed[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0), (1, 0), (2, 1), (0, 2))])
    inner, outer = pairs[shown[pairs[:, 0]] & ~shown[pairs[:, 1]]].T
    share = ((seen[inner] - level) / np.maximum(seen[inner] - seen[outer], 1e-6))[:, None]
    crossings_m = vertices_m[inner] + share * (vertices_m[outer] - vertices_m[inner])
    counts = np.bincount(outer, minlength=len(vertices_m))
    edge = np.flatnonzero(counts)
    moved_m = vertices_m.copy()
    for axis in range(3):
        sums = np.bincount(outer, weights=crossings_m[:, axis], minlength=len(vertices_m))
        moved_m[edge, axis] = sums[edge] / counts[edge]
    shown[edge] = True
    return moved_m, shown


def vertex_joint_weights(template_m: np.ndarray, joints_m: np.ndarray) -> np.ndarray:
    """(V, 14) float32, rows sum to 1: how much each joint's visibility decides about a vertex.

    template_m: (V, 3), joints_m: (14, 3), both of the body at rest. Nearly all weight lies on the nearest joint; half-way
    between two joints both count, so that the edge of what is drawn fades.
    """
    distances_m = np.linalg.norm(template_m[:, None].astype(np.float32) - joints_m[None].astype(np.float32), axis=-1)
    weights = np.exp(-(distances_m - distances_m.min(axis=1, keepdims=True)) / JOINT_BLEND_M)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def body_joint_weights(body: "Body") -> np.ndarray:
    """vertex_joint_weights of the body's rest mesh; even ones where it is not known (then there are no faces to draw either)."""
    template_m = body.levels.template_m
    if template_m is None:
        return np.full((body.levels.sizes[2], len(body.joint_names)), 1 / len(body.joint_names), np.float32)
    return vertex_joint_weights(template_m, np.asarray(body.joint_regressor @ template_m))
