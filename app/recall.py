"""How many people of photographs the person detector finds, and whom it makes up.

python -m app.recall COCO [--detector NAME] [--quick]

COCO: a folder in COCO's layout, annotations/person_keypoints_*.json and the pictures.
"""

import argparse
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.boxes import box_intersection, box_iou
from app.config import LiveConfig
from app.detect import DETECTORS, Detector
from app.engine import open_detector
from core.errors import InputError
from core.training.coco import LabelledPicture, read_picture, read_pictures

FOUND_IOU, STRANGER_IOU = 0.5, 0.3
"""Overlap from which on a box is somebody's, and below which with everybody it is a false alarm."""
FEW, MANY = 5, 12
"""Labelled keypoints."""


@dataclass(frozen=True)
class Recall:
    """found, people: of everybody, of those with FEW and with MANY keypoints or more

    false_alarms: boxes of nobody, in all pictures; spare: boxes of somebody who has another one already, or that fit nobody well
    """

    found: tuple[int, int, int]
    people: tuple[int, int, int]
    false_alarms: int
    spare: int
    num_pictures: int
    ms_per_picture: float

    def __str__(self) -> str:
        parts = [f"{found} of {people} {who}" for found, people, who in zip(self.found, self.people, WHO, strict=True)]
        return (
            f"found {', '.join(parts)}; {self.false_alarms} false alarms and {self.spare} spare boxes in {self.num_pictures} pictures; "
            f"{self.ms_per_picture:.0f} ms a picture"
        )


WHO = ("people", f"with {FEW} keypoints or more", f"with {MANY} or more")


def measure(detector: Detector, pictures: list[LabelledPicture], thorough: bool) -> Recall:
    """A detector on labelled pictures. thorough: it searches tiles for small people, too, as it does for --images."""
    found, people, false_alarms, spare, took_s = np.zeros(3, int), np.zeros(3, int), 0, 0, 0.0
    for picture in pictures:
        image = read_picture(picture.path)
        start_s = time.perf_counter()
        seen = detector.detect(image, thorough=thorough)
        took_s += time.perf_counter() - start_s
        boxes = np.array([person.box_px for person in seen], np.float32).reshape(-1, 4)
        overlap = box_iou(boxes, picture.boxes_px)
        in_crowd = box_intersection(boxes, picture.boxes_px[picture.crowd]).max(1, initial=0) > 0
        shown = assigned(overlap * ~picture.crowd)
        hits = shown >= 0
        unasked = ~in_crowd & ~np.isin(np.arange(len(boxes)), shown)
        strangers = overlap.max(1, initial=0) < STRANGER_IOU
        false_alarms += int((unasked & strangers).sum())
        spare += int((unasked & ~strangers).sum())
        for level, least in enumerate((0, FEW, MANY)):
            wanted = ~picture.crowd & (picture.num_keypoints >= least)
            people[level] += wanted.sum()
            found[level] += (hits & wanted).sum()
    return Recall(tuple(found.tolist()), tuple(people.tolist()), false_alarms, spare, len(pictures), took_s * 1e3 / max(len(pictures), 1))


def assigned(overlap: np.ndarray) -> np.ndarray:
    """(N, M) overlaps of boxes, the best first, with people -> (M,) which box shows them, -1: none; each box shows one of them at most."""
    shown = np.full(overlap.shape[1], -1)
    for box, row in enumerate(overlap):
        free = np.where(shown >= 0, 0, row)
        if free.max(initial=0) > FOUND_IOU:
            shown[free.argmax()] = box
    return shown


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m app.recall", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("coco", type=Path, metavar="COCO", help="folder in COCO's layout")
    parser.add_argument("--detector", default=LiveConfig().detector, choices=sorted(DETECTORS), help="as launch.py's")
    parser.add_argument("--quick", action="store_true", help="one look at each picture, as live; without it tiles are searched too")
    flags = parser.parse_args(arguments)
    try:
        pictures = read_pictures(flags.coco)
        with closing(open_detector(LiveConfig(detector=flags.detector))) as detector:
            print(measure(detector, pictures, not flags.quick))
    except InputError as error:
        print(f"app.recall: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
