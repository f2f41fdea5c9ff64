"""People of a live session between two looks: how each one's box lies around their mesh, and how a look puts that right."""

import math

import numpy as np

from app.boxes import box_iou, clipped
from app.rolls import Rolls
from app.track import Track
from app.types import Frame
from core.types import MeshEstimate

LOOK_WEIGHT = 0.5
"""How far a look moves the box of somebody who is followed: one that jumps makes the network's answer jump."""
BLENDED_IOU = 0.5
"""Overlap of a look's box with the expected one above which the two are blended."""


class Followed:
    """What is remembered of people between two looks: the offset between box and mesh, and since when they are missed.

    found: keys of the tracks that a look found, as far as this frame knows; late: of these, those found as they were some time ago
    rolls: how far their crops are turned
    """

    def __init__(self) -> None:
        self.found: set[int] = set()
        self.late: set[int] = set()
        self.rolls = Rolls()
        self._asked_s = -math.inf
        self._meshes_px: dict[int, np.ndarray] = {}  # boxes (4,) around the meshes in the very frame that the detector was asked about
        self._offsets: dict[int, np.ndarray] = {}
        self._missed_since_s: dict[int, float] = {}

    def begin_frame(self) -> None:
        """No look has found anybody yet, as far as this frame knows."""
        self.found, self.late = set(), set()

    def asked(self, time_s: float) -> None:
        """The detector looks at the frame of this time."""
        self._asked_s, self._meshes_px = time_s, {}

    def estimated(self, key: int, estimate: MeshEstimate, mesh_px: np.ndarray, time_s: float) -> None:
        """Somebody's newest mesh, and the box (4,) around it."""
        self.rolls.learn(key, estimate)
        if time_s == self._asked_s:
            self._meshes_px[key] = mesh_px

    def anchor(self, key: int, offset_px: np.ndarray) -> None:
        """The detector's box minus the mesh's (4,)."""
        self._offsets[key] = offset_px.astype(np.float32)

    def offset(self, key: int) -> np.ndarray:
        """(4,) float32 pixels; 0 for somebody without a look."""
        return self._offsets.get(key, np.zeros(4, np.float32))

    def corrected(
        self, track: Track, frame: Frame, age_s: float, now_px: np.ndarray | None, then_px: np.ndarray | None
    ) -> np.ndarray | None:
        """Box (4,) of somebody whom a look found as they were `age_s` ago; None where the look's own box stands.

        now_px, then_px: their boxes (4,) as expected before the look's answer, for the frame and for the look's; None where nothing was
        """
        found_px = track.box_at(frame.time_s)
        if age_s > 0:
            self.late.add(track.key)
            box_px = clipped(self._caught_up(track, age_s, found_px, now_px, then_px), frame.size_px)
            return box_px if min(box_px[2:] - box_px[:2]) > 1 else None
        if track.key in self._offsets and _agree(found_px, now_px):
            return (now_px + LOOK_WEIGHT * (found_px - now_px)).astype(np.float32)
        return None

    def _caught_up(
        self, track: Track, age_s: float, found_px: np.ndarray, now_px: np.ndarray | None, then_px: np.ndarray | None
    ) -> np.ndarray:
        """Whoever has been followed since the look: it puts right how their box lay around their mesh, in the look's own frame.

        Somebody new goes on as they went, and their mesh alone says where they are until the next look.
        """
        mesh_px = self._meshes_px.get(track.key)
        if track.key not in self._offsets or then_px is None or mesh_px is None:
            self.anchor(track.key, np.zeros(4))
            return found_px + np.tile(track.velocity_px_s * age_s, 2)
        if not _agree(found_px, now_px):
            self.anchor(track.key, np.zeros(4))
            return found_px
        before_px = self.offset(track.key)
        self.anchor(track.key, before_px + LOOK_WEIGHT * (found_px - now_px + then_px - mesh_px - before_px))
        return now_px + self.offset(track.key) - before_px

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


def _agree(first_px: np.ndarray, second_px: np.ndarray) -> bool:
    return bool(box_iou(first_px[None], second_px[None])[0, 0] > BLENDED_IOU)
