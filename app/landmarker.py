"""mediapipe's pose landmarker as a person detector: `--detector mediapipe`, with our bundle or an official one in its place.

It was made for one person before a camera. Its detector looks at 224 x 224 pixels, so whoever is new must show up in two of three
mirrored looks: on 100 COCO pictures that keeps 87 % of the people it finds and 24 % of its false alarms.
"""

from pathlib import Path
from typing import Any

import numpy as np

from app.boxes import clipped, side_px
from app.detect import DETECTORS, MIN_BOX_PX, SHOWN, Look, Region, SearchingDetector, joint_evidence, same_person, shrunk
from app.native_logs import native_noise_filtered
from core.errors import InputError
from core.lean_imports import imported_later

MODEL_FILE = "pose_landmarker.task"
MIN_CONFIDENCE = 0.4
"""mediapipe's own; on COCO pictures 0.4 finds a quarter more people than 0.5."""
LANDMARK_NAMES: tuple[str, ...] = (
    "Nose", "L_Eye_Inner", "L_Eye", "L_Eye_Outer", "R_Eye_Inner", "R_Eye", "R_Eye_Outer", "L_Ear", "R_Ear", "Mouth_L",
    "Mouth_R", "L_Shoulder", "R_Shoulder", "L_Elbow", "R_Elbow", "L_Wrist", "R_Wrist", "L_Pinky", "R_Pinky", "L_Index",
    "R_Index", "L_Thumb", "R_Thumb", "L_Hip", "R_Hip", "L_Knee", "R_Knee", "L_Ankle", "R_Ankle", "L_Heel", "R_Heel",
    "L_Foot", "R_Foot",
)  # fmt: skip
"""The 33 landmarks of BlazePose in their order."""

FACE_LANDMARKS = list(range(11))
BODY_LANDMARKS = list(range(11, 33))
FACE = ("Nose", "L_Ear", "R_Ear")
"""Landmarks that say whether the head is seen."""
MIRRORED_LANDMARKS = [LANDMARK_NAMES.index(name.translate(str.maketrans("LR", "RL")) if "_" in name else name) for name in LANDMARK_NAMES]
"""For each landmark the index of its mirror image."""
LOOK_SIDE_PX = 512
"""A look is shrunk to this before mediapipe sees it: its detector uses 224, its landmarks 256 of a person."""
CONFIRMING_ZOOMS = (1.7, 2.4, 1.3)
VOTES_NEEDED = 2


@DETECTORS.register("mediapipe")
class PoseLandmarkerDetector(SearchingDetector):
    """mediapipe's Tasks PoseLandmarker in picture mode: one model, many looks.

    folder: where the bundle lies, ours or the user's own official one. Raises InputError when it is missing or damaged.
    """

    whole_frame = 0.8

    def __init__(self, folder: Path, max_people: int = 6) -> None:
        super().__init__(max_people)
        self._landmarker = _open_landmarker(folder / MODEL_FILE, max_people)

    def close(self) -> None:
        """Close the landmarker."""
        self._landmarker.close()

    def _is_new(self, image: np.ndarray, look: Look, level: int) -> bool:  # noqa: ARG002  the contract
        votes = 0
        for index, zoom in enumerate(CONFIRMING_ZOOMS):
            votes += any(same_person(look, again) for again in self._zoom(image, look.box_px, zoom, mirrored=True))
            if votes >= VOTES_NEEDED or votes + len(CONFIRMING_ZOOMS) - index - 1 < VOTES_NEEDED:
                break
        return votes >= VOTES_NEEDED

    def _look(self, image: np.ndarray, region_px: Region, mirrored: bool = False, close: bool = False) -> list[Look]:  # noqa: ARG002
        import mediapipe

        x0, y0, x1, y1 = region_px
        view = np.ascontiguousarray(shrunk(image, region_px, LOOK_SIDE_PX, mirrored))
        picture = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=view)
        looks = []
        with native_noise_filtered():
            poses = self._landmarker.detect(picture).pose_landmarks
        for pose in poses:
            unit = np.array([(mark.x, mark.y, mark.visibility, mark.presence) for mark in pose], np.float64)
            if mirrored:
                unit = unit[MIRRORED_LANDMARKS] * (-1, 1, 1, 1) + (1, 0, 0, 0)
            look = look_of(unit * (x1 - x0, y1 - y0, 1, 1) + (x0, y0, 0, 0))
            if side_px(clipped(look.box_px, image.shape[1::-1])) >= MIN_BOX_PX:
                looks.append(look)
        return looks


def look_of(landmarks: np.ndarray) -> Look:
    """(33, 4) x, y px, visibility, presence -> what is kept of them. The score is the mean visibility of the 12 best seen of the 22 body
    landmarks: half a body seen well counts fully.
    """
    score = float(np.sort(landmarks[BODY_LANDMARKS, 2])[-12:].mean())
    return Look(
        box_from_landmarks(landmarks),
        score,
        landmarks[:, :3],
        joint_evidence(np.minimum(landmarks[:, 2], landmarks[:, 3]), LANDMARK_NAMES, FACE),
    )


def box_from_landmarks(landmarks: np.ndarray) -> np.ndarray:
    """(4,) float32 box around the visible body, like a person box of COCO: with the top of the head, hands and soles.

    landmarks: (33, 4) x, y px, visibility, presence. BlazePose has no landmark above the eyes; the skull reaches about as
    far above the eyes as 1.6 times the distance from mouth to eyes. On COCO's people the edges differ by 2 % of the box in the median.
    """
    shown = landmarks[:, 2] > SHOWN
    if shown.sum() < 4:
        shown = landmarks[:, 3] > 0.5 if (landmarks[:, 3] > 0.5).sum() >= 4 else np.ones(len(landmarks), bool)
    points = landmarks[shown, :2]
    size_px = float(np.ptp(points, axis=0).max())
    if shown[list(FACE_LANDMARKS)].any():
        points = np.vstack([points, _head_top(landmarks)])
    pad = 0.03 * size_px
    return np.concatenate([points.min(0) - pad, points.max(0) + pad]).astype(np.float32)


def _head_top(landmarks: np.ndarray) -> np.ndarray:
    """(2,) px: from the mouth through the eyes and on."""
    mouth, eyes = landmarks[[9, 10], :2].mean(0), landmarks[[2, 5], :2].mean(0)
    return eyes + 1.6 * (eyes - mouth)


def _open_landmarker(model_path: Path, max_people: int) -> Any:
    """Mediapipe's landmarker; InputError when the bundle is missing or cannot be read."""
    if not model_path.is_file():
        raise InputError(
            f"person detector: {model_path} is missing; it belongs to the repository (git checkout -- checkpoints), or put "
            "an official pose_landmarker .task file there"
        )
    try:
        with imported_later("matplotlib", "matplotlib.pyplot", "sounddevice"):  # it could draw and listen; they take most of its second
            from mediapipe.tasks.python import BaseOptions, vision
    except ModuleNotFoundError as error:
        raise InputError(
            "--detector mediapipe: the package mediapipe is not installed (there is none for Linux on ARM); install it or take another one"
        ) from error
    options = vision.PoseLandmarkerOptions(
        base_options=BaseOptions(model_asset_buffer=model_path.read_bytes()),
        running_mode=vision.RunningMode.IMAGE,
        num_poses=max_people,
        min_pose_detection_confidence=MIN_CONFIDENCE,
    )
    try:
        with native_noise_filtered():
            return vision.PoseLandmarker.create_from_options(options)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise InputError(
            f"person detector: {model_path} ({model_path.stat().st_size} bytes) is not a usable pose landmarker bundle "
            f"({reason}); restore it with: git checkout -- checkpoints"
        ) from error
