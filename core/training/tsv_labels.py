"""Labels and pictures in the columns of METRO's TSV files. All of it is checked: what is broken raises BrokenSample with a reason."""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from core.training.samples import JOINTS_24, BrokenSample

LABEL_SHAPES = {"2d_joints": (len(JOINTS_24), 3), "3d_joints": (len(JOINTS_24), 4), "pose": (72,), "betas": (10,)}
FLAG_OF = {"2d_joints": "has_2d_joints", "3d_joints": "has_3d_joints", "pose": "has_smpl", "betas": "has_smpl"}
FLAGS = ("has_2d_joints", "has_3d_joints", "has_smpl")
GENDERS = {"m": "male", "f": "female", "n": "neutral"}
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"


@dataclass(frozen=True)
class Label:
    """A row of a label file. What a flag denies is zeros.

    centre_px: (2,) of the square crop in the picture, scale: its side over 200 px
    joints_2d: (24, 3) float32 x, y in pixels of the picture, visibility
    joints_3d: (24, 4) float32 x, y, z in metres, confidence         pose: (72,) float32 radians      betas: (10,) float32
    gender: "male", "female", "neutral", or "none" where the file says nothing
    """

    centre_px: np.ndarray
    scale: float
    joints_2d: np.ndarray
    joints_3d: np.ndarray
    pose: np.ndarray
    betas: np.ndarray
    has_2d_joints: bool
    has_3d_joints: bool
    has_smpl: bool
    gender: str


def parse_label(text: bytes) -> Label:
    """The label in a column of JSON. Raises BrokenSample for anything that is not one."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BrokenSample(f"its label is no JSON ({' '.join(str(error).split())})") from error
    if isinstance(content, list) and content:
        content = content[0]
    if not isinstance(content, dict):
        raise BrokenSample(f"its label is {_short(content)}, expected a list with one object")
    flags = {flag: _flag(content, flag) for flag in FLAGS}
    arrays = {name: _numbers(content, name, shape, flags[FLAG_OF[name]]) for name, shape in LABEL_SHAPES.items()}
    centre_px, scale = _square(content)
    gender = str(content.get("gender", "none"))
    return Label(
        centre_px, scale, arrays["2d_joints"], arrays["3d_joints"], arrays["pose"], arrays["betas"],
        **flags, gender=GENDERS.get(gender, gender),
    )  # fmt: skip


def _square(content: dict[str, Any]) -> tuple[np.ndarray, float]:
    """Centre (2,) and scale of the crop."""
    try:
        center, scale = np.asarray(content["center"], np.float64).reshape(2), float(np.asarray(content["scale"], np.float64).reshape(()))
    except (KeyError, TypeError, ValueError) as error:
        raise BrokenSample(f"its center or scale is missing or no number ({_short(error)})") from error
    if not np.isfinite(center).all() or not np.isfinite(scale) or scale <= 0:
        raise BrokenSample(f"its crop has center {center.tolist()} and scale {scale}, expected numbers, and a scale above 0")
    return center, scale


def _flag(content: dict[str, Any], name: str) -> bool:
    value = content.get(name, 0)
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value not in (0, 1):  # 0.0 and True pass as well
        raise BrokenSample(f"its {name} is {_short(value)}, expected 0 or 1")
    return bool(value)


def _numbers(content: dict[str, Any], name: str, shape: tuple[int, ...], wanted: bool) -> np.ndarray:
    """A field as float32 of this shape; zeros where its flag says that it is not there."""
    if not wanted:
        return np.zeros(shape, np.float32)
    try:
        array = np.asarray(content[name], np.float32)
    except KeyError as error:
        raise BrokenSample(f"it has no {name}, though {FLAG_OF[name]} is 1") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise BrokenSample(f"its {name} are no numbers ({_short(error)})") from error
    if array.ndim == len(shape) + 1 and len(array) == 1:
        array = array[0]
    if array.shape != shape:
        raise BrokenSample(f"its {name} have shape {array.shape}, expected {shape}")
    if not np.isfinite(array).all():
        raise BrokenSample(f"its {name} hold NaN or infinity")
    return array


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def decode_picture(text: bytes) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a base64 column. Raises BrokenSample when it is no whole picture."""
    import cv2

    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise BrokenSample(f"its picture is no base64 ({error})") from error
    if data.startswith(JPEG_START) and JPEG_END not in data[-4096:]:
        raise BrokenSample("its JPEG is cut short")  # OpenCV would fill the rest with grey
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
    if picture is None:
        raise BrokenSample("its picture cannot be decoded")
    return picture
