"""People with keypoints from a folder in COCO's layout, for evaluation.

FOLDER/annotations/person_keypoints_<split>.json with the pictures in FOLDER/<split>/ or FOLDER/images/<split>/.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from core.crop import crop_person
from core.errors import InputError
from core.geometry import crop_px_from_unit
from core.joints import LIMB_JOINT_NAMES, indices
from core.training.metrics import pck

T = TypeVar("T")

MIN_KEYPOINTS = 12
LIMBS = indices(LIMB_JOINT_NAMES)
"""Of our joints those that COCO has keypoints for."""
SIDES = {"R": "right", "L": "left"}
HIDDEN, VISIBLE = 1, 2
"""COCO's flags of a labelled keypoint; 0 = not labelled."""


@dataclass(frozen=True)
class KeypointPerson:
    """Somebody in a picture.

    box_px: (4,) x0, y0, x1, y1        keypoints_px: (12, 2) in the order of LIMB_JOINT_NAMES
    flags: (12,) 0 not labelled, 1 labelled but hidden, 2 visible
    """

    picture: Path
    box_px: np.ndarray
    keypoints_px: np.ndarray
    flags: np.ndarray


def coco_name(joint: str) -> str:
    """R_Ankle -> right_ankle."""
    side, part = joint.split("_")
    return f"{SIDES[side]}_{part.lower()}"


@dataclass(frozen=True)
class LabelledPicture:
    """A picture and everybody labelled in it.

    boxes_px: (N, 4) x0, y0, x1, y1; num_keypoints: (N,) that are labelled; crowd: (N,) bool, a box around many
    """

    path: Path
    boxes_px: np.ndarray
    num_keypoints: np.ndarray
    crowd: np.ndarray


def read_pictures(folder: Path) -> list[LabelledPicture]:
    """All pictures, also those of nobody; InputError when the folder has no annotations."""
    return [picture for path in annotation_files(folder) for picture in _parsed(path, partial(_pictures_of, folder, path))]


def read_people(folder: Path, min_keypoints: int = MIN_KEYPOINTS) -> list[KeypointPerson]:
    """People with at least so many labelled keypoints, crowds left out; InputError when the folder has none."""
    people = [person for path in annotation_files(folder) for person in _parsed(path, partial(_people_of, folder, path, min_keypoints))]
    if not people:
        raise InputError(f"coco: nobody in {folder} has {min_keypoints} keypoints or more; lower --min-keypoints")
    return people


def annotation_files(folder: Path) -> list[Path]:
    """Of a folder in COCO's layout; InputError when it has none."""
    annotations = sorted((folder / "annotations").glob("person_keypoints_*.json"))
    if not annotations:
        raise InputError(f"coco: {folder} holds no annotations/person_keypoints_*.json; give a folder in COCO's layout")
    return annotations


def _parsed(annotations: Path, read: Callable[[dict], list[T]]) -> list[T]:
    try:
        return read(json.loads(annotations.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"coco: {annotations} is no COCO keypoint file ({type(error).__name__}: {error})") from error


def _people_of(folder: Path, annotations: Path, min_keypoints: int, content: dict) -> list[KeypointPerson]:
    order = next(c["keypoints"] for c in content["categories"] if "keypoints" in c)
    names = {image["id"]: image["file_name"] for image in content["images"]}
    chosen = [a for a in content["annotations"] if _num_keypoints(a) >= min_keypoints and not a.get("iscrowd")]
    return [_person(_picture(folder, _split(annotations), names[a["image_id"]]), a, order) for a in chosen]


def _pictures_of(folder: Path, annotations: Path, content: dict) -> list[LabelledPicture]:
    pictures = []
    for image in content["images"]:
        people = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        boxes = np.array([_box(a) for a in people], np.float32).reshape(-1, 4)
        counts = np.array([_num_keypoints(a) for a in people], int)
        crowd = np.array([bool(a.get("iscrowd")) for a in people], bool)
        pictures.append(LabelledPicture(_picture(folder, _split(annotations), image["file_name"]), boxes, counts, crowd))
    return pictures


def _num_keypoints(annotation: dict) -> int:
    """How many are labelled; sets of one's own may leave the number out."""
    return annotation.get("num_keypoints", sum(flag > 0 for flag in annotation.get("keypoints", [])[2::3]))


def _split(annotations: Path) -> str:
    return annotations.stem.removeprefix("person_keypoints_")


def _box(annotation: dict) -> np.ndarray:
    x, y, width, height = annotation["bbox"]
    return np.array([x, y, x + width, y + height], np.float32)


def _picture(folder: Path, split: str, name: str) -> Path:
    places = [folder / split / name, folder / "images" / split / name]
    for place in places:
        if place.exists():
            return place
    raise InputError(f"coco: picture {name} is not in {folder / split}; the annotations name it")


def _person(picture: Path, annotation: dict, order: list[str]) -> KeypointPerson:
    rows = np.array(annotation["keypoints"], np.float64).reshape(-1, 3)[[order.index(coco_name(j)) for j in LIMB_JOINT_NAMES]]
    return KeypointPerson(picture, _box(annotation), rows[:, :2], rows[:, 2].astype(int))


@lru_cache(maxsize=4)
def read_picture(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB; InputError when it is not readable."""
    import cv2

    picture = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if picture is None:
        raise InputError(f"picture: {path} is not readable")
    return picture


@dataclass(frozen=True)
class KeypointScores:
    """pck: share of the visible keypoints within 0.1 of the person's size; pck_labelled: hidden but labelled ones as well."""

    num_people: int
    num_visible: int
    pck: float
    pck_labelled: float


def keypoint_scores(people: list[KeypointPerson], predicted_px: np.ndarray) -> KeypointScores:
    """predicted_px: (B, 12, 2) in the pictures of `people`."""
    true_px = np.stack([person.keypoints_px for person in people])
    flags = np.stack([person.flags for person in people])
    return KeypointScores(
        num_people=len(people),
        num_visible=int((flags >= VISIBLE).sum()),
        pck=pck(predicted_px, true_px, flags >= VISIBLE),
        pck_labelled=pck(predicted_px, true_px, flags >= HIDDEN),
    )


def crops_of(people: list[KeypointPerson], scale: float) -> tuple[np.ndarray, np.ndarray]:
    """(B, 224, 224, 3) uint8 crops of people, and (B, 2, 3) where each lies in its picture. scale: as in core.crop."""
    crops = [crop_person(read_picture(person.picture), person.box_px, scale) for person in people]
    return np.stack([crop.image for crop in crops]), np.stack([crop.frame_from_crop for crop in crops])


def crop_scores(people: list[KeypointPerson], joints_crop: np.ndarray, frames_from_crops: np.ndarray) -> KeypointScores:
    """Scores of joints (B, 14, 2) that were found in crops, in crop units; frames_from_crops: (B, 2, 3), see `crops_of`."""
    linear, shift_px = frames_from_crops[:, :, :2], frames_from_crops[:, None, :, 2]
    return keypoint_scores(people, crop_px_from_unit(joints_crop[:, LIMBS]) @ linear.swapaxes(1, 2) + shift_px)
