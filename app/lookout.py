"""The person detector of a live session: a question about the newest frame, an answer when there is one.

A look takes as long as several frames, so it runs beside them in a thread of its own: LOOKOUTS maps a name to a way of asking.
"""

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from app.boxes import box_area, box_intersection, box_iou, clipped
from app.detect import Detector, Region
from app.threads import Mailbox
from app.types import Frame, Person
from core.registry import Registry

SAME_IOU = 0.3
CLOSE_S = 0.2
"""How long closing waits for a look; one that takes longer closes the detector itself when it is done."""


@dataclass(frozen=True)
class Question:
    """Who is in the frame?

    frame: at the tracks' time; expected_px: track key -> box (4,) where everybody remembered should be
    zoom_px: boxes to zoom into; thorough: search the whole frame for small people
    tile_px: x0, y0, x1, y1, a part of the frame to be searched for small people, None for none
    """

    frame: Frame
    expected_px: dict[int, np.ndarray]
    zoom_px: tuple[np.ndarray, ...] = ()
    thorough: bool = False
    tile_px: Region | None = None


@dataclass(frozen=True)
class Answer:
    """people: as they were in the question's frame; candidates: boxes of small people in its tile, to be zoomed into next."""

    question: Question
    people: tuple[Person, ...]
    candidates: tuple[np.ndarray, ...]
    took_ms: float


class Lookout(Protocol):
    """Asks a detector. `busy`: an answer is still to come, and nothing can be asked."""

    busy: bool

    def ask(self, question: Question) -> None:
        """To be called when not busy."""

    def take(self) -> Answer | None:
        """The answer, once; None when there is none yet. Raises what the detector raised."""

    def close(self) -> None:
        """Close the detector."""


LOOKOUTS: Registry[Callable[[Detector], Lookout]] = Registry("lookout")


@LOOKOUTS.register("prompt")
class PromptLookout:
    """Answers at once; the frame waits meanwhile. For files, where every run should give the same."""

    busy = False

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._answer: Answer | None = None

    def ask(self, question: Question) -> None:
        """Look."""
        self._answer = look(self._detector, question)

    def take(self) -> Answer | None:
        """The answer."""
        answer, self._answer = self._answer, None
        return answer

    def close(self) -> None:
        """Close the detector."""
        self._detector.close()


@LOOKOUTS.register("beside")
class LookoutBeside:
    """Looks in a thread of its own. `ask`, `take` and `close` belong to one thread."""

    def __init__(self, detector: Detector) -> None:
        self._detector, self.busy = detector, False
        self._questions: Mailbox[Question] = Mailbox()
        self._answers: Mailbox[Answer | Exception] = Mailbox()
        self._thread = threading.Thread(target=self._run, name="live-look", daemon=True)
        self._thread.start()

    def ask(self, question: Question) -> None:
        """Returns at once."""
        self.busy = True
        self._questions.put(question)

    def take(self) -> Answer | None:
        """Never waits."""
        answer = self._answers.take(0.0)
        if answer is None:
            return None
        self.busy = False
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """Returns soon, even during a long look."""
        self._questions.close()
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        try:
            while (question := self._questions.take()) is not None:
                self._answers.put(self._look(question))
        finally:
            self._detector.close()

    def _look(self, question: Question) -> Answer | Exception:
        try:
            return look(self._detector, question)
        except Exception as error:  # noqa: BLE001 - raised again by `take`
            return error


def look(detector: Detector, question: Question) -> Answer:
    """The answer."""
    start_s = time.perf_counter()
    image = question.frame.image
    people = detector.detect(image, question.zoom_px, thorough=question.thorough)
    candidates: tuple[np.ndarray, ...] = ()
    if question.tile_px is not None:
        x0, y0, x1, y1 = question.tile_px
        shift = np.array([x0, y0, x0, y0], np.float32)
        boxes = [person.box_px + shift for person in detector.detect(image[y0:y1, x0:x1])]
        known = np.array([person.box_px for person in people], np.float32).reshape(-1, 4)
        candidates = tuple(box for box in boxes if not len(known) or _covered(box, known) < SAME_IOU)
    return Answer(question, tuple(people), candidates, (time.perf_counter() - start_s) * 1e3)


def _covered(box_px: np.ndarray, others_px: np.ndarray) -> float:
    """Largest share of a box (4,) that lies in one of the others (N, 4)."""
    return float(box_intersection(box_px[None], others_px).max() / max(float(box_area(box_px[None])[0]), 1e-9))


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
