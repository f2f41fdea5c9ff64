"""The two networks that find people in pictures of any size: MoveNet MultiPose with their keypoints, NanoDet their boxes alone."""

from pathlib import Path

import numpy as np

from core import multipose, nanodet
from core.multipose import Found, MultiPose, people_in
from core.nanodet import Boxes, NanoDet, boxes_in
from core.picture_network import PictureNetwork


class PersonFinder(PictureNetwork):
    """Finds people and their keypoints; knows people of some 100 pixels best. See PictureNetwork."""

    def __init__(self, path: Path, folder: Path | None = None) -> None:
        """path: checkpoints/person_detector.safetensors."""
        super().__init__(MultiPose(), multipose.NAME, multipose.STRIDE, path, folder)

    def people(self, picture: np.ndarray, side_px: int, max_people: int, min_heat: float = 0.0) -> Found:
        """People in a picture (H, W, 3) uint8 RGB, which is resized until its longer side has `side_px`. min_heat: as in people_in."""
        maps, unit = self(picture, side_px)
        found = people_in(maps, max_people, min_heat)
        return Found(found.boxes_px * np.tile(unit, 2), found.scores, found.keypoints * np.append(unit, np.float32(1)))


class BoxFinder(PictureNetwork):
    """Finds the boxes of people. See PictureNetwork."""

    def __init__(self, path: Path, folder: Path | None = None) -> None:
        """path: checkpoints/person_boxes.safetensors."""
        super().__init__(NanoDet(), nanodet.NAME, nanodet.STRIDE, path, folder)

    def boxes(self, picture: np.ndarray, side_px: int, least: float) -> Boxes:
        """Boxes in a picture (H, W, 3) uint8 RGB, which is resized until its longer side has `side_px`. least: as in boxes_in."""
        maps, unit = self(picture, side_px)
        found = boxes_in(maps, least)
        return Boxes(found.boxes_px * np.tile(unit, 2), found.scores)
