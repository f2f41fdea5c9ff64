"""MoveNet MultiPose as a person detector: several people and their keypoints at once. The default looks closer with it (app.nanodet)."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from app.boxes import clipped, side_px
from app.detect import DETECTORS, MIN_BOX_PX, Look, Region, SearchingDetector, joint_evidence, same_person, shrunk
from core.errors import InputError
from core.joints import KEYPOINT_NAMES
from core.joints import mirrored as mirror_images

if TYPE_CHECKING:
    from core.multipose import Found

MODEL_FILE = "person_detector.safetensors"
FRAME_SIDES_PX, TILE_SIDES_PX, CLOSE_SIDES_PX = (384, 224), (384,), (256,)
"""Longer sides of the pictures that the network is shown of the whole frame, a tile of it, and a region around one person. It knows people
of some 100 pixels best: in the larger picture it finds them far away, in the smaller one those who fill the frame.
"""
MOST_ENLARGED = 1.5
"""Pixels that are made of one: more would show nothing new."""
POSSIBLE = 0.2
"""Score from which on a look at somebody known counts."""
BELIEVED = {1: 0.42, 2: 0.5, 4: 0.64}
"""Level of a look (1: the whole frame, else of tiles) -> what somebody new needs, the geometric mean of their scores there and in a
mirrored, zoomed look. More looks mean more false alarms, so tiles ask for more. On 100 COCO pictures the whole frame then shows 80 people
and 5 false alarms, with tiles 94 and 11.
"""
HOTTEST = 5
"""A person's score is the geometric mean of their centre's heat and the mean of so many of their hottest keypoints."""
SEEN_HEAT = 0.45
"""Heat of a keypoint that counts as fully visible. On COCO's people visible ones have 0.49 in the median, unlabelled ones 0.09."""
MIRRORED_KEYPOINTS = mirror_images(KEYPOINT_NAMES)
FACE = ("Nose", "L_Eye", "R_Eye", "L_Ear", "R_Ear")
"""Keypoints that say whether the head is seen."""


def weights_in(folder: Path, name: str) -> Path:
    """A detector's file. Raises InputError when it is missing."""
    path = folder / name
    if not path.is_file():
        raise InputError(f"person detector: {path} is missing; it belongs to the repository (git checkout -- checkpoints)")
    return path


@DETECTORS.register("movenet")
class MultiPoseDetector(SearchingDetector):
    """MoveNet MultiPose, one look for all.

    folder: where the weights lie. Raises InputError when they are missing or damaged.
    """

    whole_frame = 0.5

    def __init__(self, folder: Path, max_people: int = 6) -> None:
        from core.person_finder import PersonFinder

        super().__init__(max_people)
        self._finder = PersonFinder(weights_in(folder, MODEL_FILE))

    def close(self) -> None:
        """Nothing is held that Python would not free."""

    def _is_new(self, image: np.ndarray, look: Look, level: int) -> bool:
        needed = BELIEVED[level] ** 2
        if look.score < needed:  # not even a perfect second look would do
            return False
        again = [other.score for other in self._zoom(image, look.box_px, mirrored=True) if same_person(look, other)]
        return look.score * max(again, default=0.0) >= needed

    def _look(self, image: np.ndarray, region_px: Region, mirrored: bool = False, close: bool = False) -> list[Look]:
        whole = region_px == (0, 0, image.shape[1], image.shape[0])
        sides_px = CLOSE_SIDES_PX if close else FRAME_SIDES_PX if whole else TILE_SIDES_PX
        view = shrunk(image, region_px, sides_px[0], mirrored)
        most_px = int(MOST_ENLARGED * max(view.shape[:2]))
        found = [self._finder.people(view, min(side_px, most_px), self._max_people, POSSIBLE**2) for side_px in sides_px]
        return [look for people in found for look in self._looks(people, view, region_px, mirrored)]

    @staticmethod
    def _looks(found: "Found", view: np.ndarray, region_px: Region, mirrored: bool) -> list[Look]:
        """Those of whom it is possible; `view` shows the region."""
        x0, y0, x1, y1 = region_px
        scale = np.array([(x1 - x0) / view.shape[1], (y1 - y0) / view.shape[0]])
        looks = []
        for box, center, keypoints in zip(found.boxes_px, found.scores, found.keypoints, strict=True):
            heat = np.sort(keypoints[:, 2])[-HOTTEST:].mean()
            score = float(np.sqrt(center * heat))
            box_px = (clipped(box, view.shape[1::-1]) * np.tile(scale, 2) + (x0, y0, x0, y0)).astype(np.float32)
            if score < POSSIBLE or side_px(box_px) < MIN_BOX_PX:
                continue
            points = keypoints * (*scale, 1 / SEEN_HEAT) + (x0, y0, 0)
            if mirrored:
                points = points[MIRRORED_KEYPOINTS] * (-1, 1, 1) + (x0 + x1, 0, 0)
                box_px = box_px[[2, 1, 0, 3]] * np.float32((-1, 1, -1, 1)) + np.float32((x0 + x1, 0, x0 + x1, 0))
            looks.append(Look(box_px, score, points, joint_evidence(points[:, 2], KEYPOINT_NAMES, FACE)))
        return looks
