"""When the detector of a live session looks, and what it is asked: on a stride, and sooner after a loss or when something has entered."""

import numpy as np

from app.boxes import side_px
from app.detect import Region, tiles
from app.governor import Plan
from app.lookout import Answer, Question
from app.spans import THUMBNAIL_PX
from app.types import Frame

LONGEST_LOOK_S = 1.0
"""The detector looks at least this often, however long its stride is."""
SOONEST_LOOK_FRAMES = 3
"""Frames between two looks at somebody missed, or at something that moves."""
SEARCH_S = 1.0
"""Time between two searches of the whole frame for small people while nobody is known."""
ENTERED_DIFFERENCE, ENTERED_CELLS = 25.0, 12
"""Grey levels by which a cell of the thumbnail must differ from the last look's, and cells outside of known people that must."""
BOX_MARGIN = 0.15


class Looks:
    """When the detector looked, and whether it should again.

    soon: whether it should as soon as it can; gone: keys of the tracks that were lost since it was asked
    """

    def __init__(self) -> None:
        self.soon, self._looked, self._searched_s = True, False, -1e9
        self.gone: set[int] = set()
        self._candidates: tuple[np.ndarray, ...] = ()
        self._missed = False
        self._num_frames, self._time_s = 0, -1e9
        self._mark: np.ndarray | None = None
        self._num_tiles = 0

    def due(self, frame: Frame, mark: np.ndarray, known_px: tuple[np.ndarray, ...], plan: Plan) -> bool:
        """Called once a frame. mark: its thumbnail; known_px: boxes of everybody known"""
        self._num_frames += 1
        if self.soon or self._num_frames >= plan.detect_stride or frame.time_s - self._time_s >= LONGEST_LOOK_S:
            return True
        if self._num_frames < SOONEST_LOOK_FRAMES * max(1, plan.detect_stride // Plan().detect_stride):
            return False
        return self._missed or self._something_entered(frame, mark, known_px)

    def question(
        self,
        frame: Frame,
        mark: np.ndarray,
        known_px: tuple[np.ndarray, ...],
        expected_px: dict[int, np.ndarray],
        on_trial: bool,
        plan: Plan,
    ) -> Question:
        """What the detector is asked about the frame, at which it looks now. on_trial: somebody new must be found once more.

        While nobody is known the whole frame is searched, but not by the first look, which is to show as soon as possible who is near,
        nor for those on trial, who want an answer soon. Beside people who are known that would take too long: it is a tile in turn.
        """
        thorough = not known_px and not on_trial and self._looked and frame.time_s - self._searched_s >= SEARCH_S
        tile_px = self._next_tile(frame.size_px) if known_px and plan.detect_stride <= Plan().detect_stride else None
        asked = Question(frame, expected_px, (*known_px, *self._candidates), thorough, tile_px)
        self.soon, self._missed, self._candidates = False, False, ()
        self.gone.clear()
        self._num_frames, self._time_s, self._mark = 0, frame.time_s, mark
        return asked

    def learned(self, answer: Answer, on_trial: bool, missed: bool) -> None:
        """on_trial: somebody new must be found once more; missed: somebody known was not found."""
        first, self._looked = not self._looked, True
        self.soon = self.soon or on_trial or bool(answer.candidates) or (first and not answer.people)
        self._missed, self._candidates = missed, answer.candidates
        if answer.question.thorough:
            self._searched_s = answer.question.frame.time_s

    def lost(self, key: int) -> None:
        """Somebody is no longer where they should be: a look soon, and what an older one will say of them is of no use."""
        self.soon = True
        self.gone.add(key)

    def _next_tile(self, size_px: tuple[int, int]) -> Region:
        self._num_tiles += 1
        all_tiles = tiles(*size_px, 2)
        return all_tiles[self._num_tiles % len(all_tiles)]

    def _something_entered(self, frame: Frame, mark: np.ndarray, known_px: tuple[np.ndarray, ...]) -> bool:
        """Whether the picture changed since the last look where nobody is known."""
        if self._mark is None:
            return False
        changed = np.abs(mark - self._mark).max(axis=2) > ENTERED_DIFFERENCE
        cells = np.array(THUMBNAIL_PX) / frame.size_px
        for box in known_px:
            margin = BOX_MARGIN * side_px(box)
            x0, y0 = np.maximum(np.floor((box[:2] - margin) * cells), 0).astype(int)
            x1, y1 = np.ceil((box[2:] + margin) * cells).astype(int)
            changed[y0:y1, x0:x1] = False
        return int(changed.sum()) >= ENTERED_CELLS
