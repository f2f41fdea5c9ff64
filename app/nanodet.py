"""The default detector: NanoDet says where somebody may be, MoveNet MultiPose looks closer there, and whoever is new must convince both.

Both know people who are upright: who lies or stands on their hands is found when the frame is turned.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from app.boxes import box_area, box_around, box_intersection, box_iou, clipped, side_px
from app.detect import DETECTORS, EXPECTED_IOU, MIN_BOX_PX, Look, merge_looks, people_of
from app.multipose import MOST_ENLARGED, MultiPoseDetector, weights_in
from app.types import Person
from core.joints import KEYPOINT_NAMES

BOXES_FILE = "person_boxes.safetensors"
SIDES_PX, THOROUGH_SIDES_PX = (416,), (416, 960)
"""Longer sides of the pictures that NanoDet is shown: it was trained on 416; in a larger one it finds people who are far away."""
POSSIBLE = 0.25
"""NanoDet's score from which on a box is looked at closer."""
SAME_BOX_IOU = 0.6
AGREEING_IOU = 0.4
"""Overlap of its box with what the closer look shows from which on both mean the same person."""
WEIGHT = 0.6
"""Of the closer look's score beside NanoDet's."""
BELIEVED, BELIEVED_SMALL, SMALL_PX = 0.375, 0.5, 40.0
"""Score that somebody new needs, and one of fewer pixels: balls and lamps are as small as that, and the meshes of such people rough."""
BELIEVED_TURNED, COVERED = 0.45, 0.5
"""Score that who is seen in a turned frame needs, and the share of their box that somebody who is seen upright may have."""
PROPOSALS = 3
"""Boxes that are looked at closer, times the most people that may be reported."""
UNSEEN = np.zeros((len(KEYPOINT_NAMES), 3))


@DETECTORS.register("nanodet")
class AgreeingDetector(MultiPoseDetector):
    """Two networks, of which one proposes and the other looks closer.

    folder: where the weights lie. Raises InputError when they are missing or damaged.
    """

    def __init__(self, folder: Path, max_people: int = 6) -> None:
        from core.person_finder import BoxFinder

        super().__init__(folder, max_people)
        self._box_finder = BoxFinder(weights_in(folder, BOXES_FILE))

    def detect(self, image: np.ndarray, known_boxes_px: tuple[np.ndarray, ...] = (), thorough: bool = False) -> list[Person]:
        """See Detector. Somebody known need convince only one of the two."""
        size_px = image.shape[1::-1]
        if max(size_px) < MIN_BOX_PX:
            return []
        looks = [self._closer(image, box, score) for box, score in self._boxes(image, THOROUGH_SIDES_PX if thorough else SIDES_PX)]
        found = [look for look in looks if _believed(look) or _overlaps(look, known_boxes_px)]
        for box in known_boxes_px:
            if not any(_overlaps(look, (box,)) for look in found):
                found += [weighed(again, 0.0) for again in self._zoom(image, box) if _overlaps(again, (box,))]
        if thorough:
            upright = np.array([look.box_px for look in found]).reshape(-1, 4)
            found += [look for look in self._turned(image) if look.score >= BELIEVED_TURNED and _covered(look, upright) <= COVERED]
        return people_of(merge_looks(found)[: self._max_people], size_px)

    def _boxes(self, image: np.ndarray, sides_px: tuple[int, ...]) -> list[tuple[np.ndarray, float]]:
        """NanoDet's boxes and scores, the best first, one for each person."""
        import cv2

        most_px = int(MOST_ENLARGED * max(image.shape[:2]))
        seen = [self._box_finder.boxes(image, min(side, most_px), POSSIBLE) for side in sides_px]
        boxes, scores = np.concatenate([one.boxes_px for one in seen]), np.concatenate([one.scores for one in seen])
        corner_and_size = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
        best = cv2.dnn.NMSBoxes(corner_and_size.tolist(), scores.tolist(), POSSIBLE, SAME_BOX_IOU)
        kept = [(clipped(boxes[index], image.shape[1::-1]), float(scores[index])) for index in best]
        shown = [(box, score) for box, score in kept if side_px(box) >= MIN_BOX_PX and min(box[2:] - box[:2]) > 1]
        return shown[: PROPOSALS * self._max_people]

    def _closer(self, image: np.ndarray, box_px: np.ndarray, score: float) -> Look:
        """The look at whoever is in the box, or the box alone."""
        looks = self._zoom(image, box_px)
        overlap = box_iou(np.array([look.box_px for look in looks]).reshape(-1, 4), box_px[None])[:, 0]
        if overlap.max(initial=0) <= AGREEING_IOU:
            return weighed(Look(box_px, 0.0, UNSEEN, None), score)
        return weighed(looks[overlap.argmax()], score)

    def _turned(self, image: np.ndarray) -> Iterator[Look]:
        """Who is seen when the frame is turned by one, two and three quarters, as they are in the frame."""
        for quarters in (1, 2, 3):
            picture = np.ascontiguousarray(np.rot90(image, quarters))
            for box, score in self._boxes(picture, SIDES_PX):
                yield turned_back(self._closer(picture, box, score), quarters, image.shape[1::-1])


def weighed(look: Look, score: float) -> Look:
    """A closer look, with NanoDet's score beside its own."""
    return replace(look, score=(score + WEIGHT * look.score) / (1 + WEIGHT))


def turned_back(look: Look, quarters: int, size_px: tuple[int, int]) -> Look:
    """A look at a frame of width, height that np.rot90 turned by so many quarters, as it is in the frame."""
    width, height = size_px
    turn, shift = {
        1: (((0, -1), (1, 0)), (width, 0)), 2: (((-1, 0), (0, -1)), (width, height)), 3: (((0, 1), (-1, 0)), (0, height)),
    }[quarters]  # fmt: skip
    corners, points = look.box_px.reshape(2, 2) @ np.transpose(turn) + shift, look.points.copy()
    points[:, :2] = points[:, :2] @ np.transpose(turn) + shift
    return replace(look, box_px=box_around(corners), points=points)


def _covered(look: Look, boxes_px: np.ndarray) -> float:
    """Largest share of the smaller box that a look's has in common with one of (N, 4)."""
    smaller = np.minimum(box_area(look.box_px[None]), box_area(boxes_px))
    return float((box_intersection(look.box_px[None], boxes_px)[0] / np.maximum(smaller, 1e-9)).max(initial=0))


def _believed(look: Look) -> bool:
    return look.score >= (BELIEVED if side_px(look.box_px) >= SMALL_PX else BELIEVED_SMALL)


def _overlaps(look: Look, boxes_px: tuple[np.ndarray, ...]) -> bool:
    return bool((box_iou(look.box_px[None], np.array(boxes_px).reshape(-1, 4)) > EXPECTED_IOU).any())
