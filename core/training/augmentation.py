"""From a sample to the network's picture and the truth about it, with the release's augmentation and some that it does not have."""

from dataclasses import dataclass, fields

import cv2
import numpy as np

from core.bodies.smpl_files import SMPL_JOINTS
from core.crop import rotation_2d, sample_crop
from core.errors import InputError
from core.geometry import HALF_CROP_PX
from core.joints import mirrored
from core.training.samples import Sample
from core.training.settings import setting
from core.types import CROP_SIZE_PX

MIRRORED_JOINTS, MIRRORED_BONES = mirrored(), mirrored(SMPL_JOINTS)
MIRROR_POINT, MIRROR_ROTVEC = np.array([-1, 1, 1], np.float32), np.array([1, -1, -1], np.float32)
"""What a mirror in x does to a place and to a rotation vector."""


@dataclass(frozen=True)
class Augmentation:
    """How a sample is disturbed; amounts of 0 turn a kind off. The defaults are the release's.

    Source: augm_params in the METRO data loader, which the release uses (noise 0.4, rotation 30, scale 0.25, 3 of 5 not turned)
    """

    flip: float = setting(0.5, "share of people that are mirrored, where their truth can be")
    rotation_deg: float = setting(30.0, "standard deviation of the rotation in the picture; it is cut at twice this")
    rotation_share: float = setting(0.4, "share of people that are turned")
    scale: float = setting(0.25, "standard deviation of the crop's scale around 1, and where it is cut")
    colour_noise: float = setting(0.4, "each colour channel is multiplied by 1 -+ this")
    shift: float = setting(0.0, "standard deviation of the crop's shift, in sides; cut at twice this; not in the release")
    occlusion: float = setting(0.0, "share of pictures with a rectangle or an ellipse over a part; not in the release")
    blur: float = setting(0.0, "share of pictures that are blurred, in all directions or along one; not in the release")
    jpeg: float = setting(0.0, "share of pictures that are compressed anew, quality 15 to 75; not in the release")
    grey: float = setting(0.0, "share of pictures without colour; not in the release")

    def __post_init__(self) -> None:
        for entry in fields(self):
            value, share = getattr(self, entry.name), entry.metadata["help"].startswith("share")
            if value < 0 or (share and value > 1):
                raise InputError(f"augmentation.{entry.name}: got {value}, expected {'0 to 1' if share else '0 or more'}")
        if self.scale >= 1 or self.colour_noise > 1:
            raise InputError(f"augmentation: got scale {self.scale} and colour_noise {self.colour_noise}, expected below 1")


NO_AUGMENTATION = Augmentation(**{entry.name: 0.0 for entry in fields(Augmentation)})
"""The plain crop, as evaluation sees it."""


@dataclass(frozen=True)
class View:
    """A sample as the network sees it, and its truth in the same axes; float32.

    picture: (224, 224, 3) uint8      joints_crop: (14, 3) crop units and confidence      joints_m: (14, 4) metres and confidence
    pose, betas, vertices_m, camera: as in Sample, None = unknown       crop_from_frame: (2, 3) float64
    """

    picture: np.ndarray
    joints_crop: np.ndarray
    joints_m: np.ndarray
    pose: np.ndarray | None
    betas: np.ndarray | None
    vertices_m: np.ndarray | None
    camera: np.ndarray | None
    crop_from_frame: np.ndarray


@dataclass(frozen=True)
class Change:
    """What happens to a crop. scale: of the square's side; angle_rad: turns the picture from x to y; shift: of the centre, in sides."""

    scale: float = 1.0
    angle_rad: float = 0.0
    flip: bool = False
    shift: tuple[float, float] = (0.0, 0.0)


def drawn_change(augmentation: Augmentation, sample: Sample, random: np.random.Generator) -> Change:
    """A random change. The same numbers are drawn whatever the sample, so that one with other truth sees the same crop."""
    flip = random.random() < augmentation.flip
    scale = 1 + np.clip(random.standard_normal(), -1, 1) * augmentation.scale
    angle_deg = np.clip(random.standard_normal(), -2, 2) * augmentation.rotation_deg
    turned = random.random() < augmentation.rotation_share
    shift = np.clip(random.standard_normal(2), -2, 2) * augmentation.shift
    return Change(float(scale), float(np.radians(angle_deg)) if turned else 0.0, flip and can_mirror(sample), tuple(shift.tolist()))


def can_mirror(sample: Sample) -> bool:
    """Whether the truth of a sample can be mirrored: joints can, SMPL's parameters can, other bodies' and bare vertices cannot."""
    return sample.vertices_m is None and (sample.pose is None or len(sample.pose) == 3 * len(SMPL_JOINTS))


def viewed(sample: Sample, augmentation: Augmentation, random: np.random.Generator) -> View:
    """A sample after a random change and disturbances of its picture."""
    view = changed(sample, drawn_change(augmentation, sample, random))
    return View(**{**vars(view), "picture": disturbed(view.picture, augmentation, random)})


def plain_view(sample: Sample) -> View:
    """A sample as it is."""
    return changed(sample, Change())


def changed(sample: Sample, change: Change) -> View:
    """The crop and the truth after `change`: scaled and moved, then turned, then mirrored.

    People whose camera is known were rendered: what of them leaves the crop is not visible. Other confidences stay, as in the release.
    """
    turn = rotation_2d(change.angle_rad)
    crop_from_frame = _crop_from_frame(sample, change, turn)
    linear, offset = crop_from_frame[:, :2], crop_from_frame[:, 2]
    frame_from_crop = np.linalg.inv(linear)
    frame_from_crop = np.concatenate([frame_from_crop, -(frame_from_crop @ offset)[:, None]], 1)
    joints_2d, joints_3d = sample.joints_2d, sample.joints_3d
    joints_crop = (joints_2d[:, :2] @ linear.T + offset) / HALF_CROP_PX - 1
    believed = joints_2d[:, 2:]
    if sample.camera is not None:
        believed = believed * (np.abs(joints_crop) < 1).all(-1, keepdims=True)
    joints_m = _moved(joints_3d[:, :3], turn, change.flip)
    rows = MIRRORED_JOINTS if change.flip else slice(None)
    return View(
        picture=sample_crop(sample.image, frame_from_crop),
        joints_crop=np.concatenate([joints_crop, believed], 1, dtype=np.float32)[rows],
        joints_m=np.concatenate([joints_m, joints_3d[:, 3:]], 1, dtype=np.float32)[rows],
        pose=None if sample.pose is None else changed_pose(sample.pose, change),
        betas=None if sample.betas is None else sample.betas.astype(np.float32),
        vertices_m=None if sample.vertices_m is None else _moved(sample.vertices_m, turn, change.flip),
        camera=None if sample.camera is None else _changed_camera(sample.camera, change, turn),
        crop_from_frame=crop_from_frame,
    )


def _crop_from_frame(sample: Sample, change: Change, turn: np.ndarray) -> np.ndarray:
    """(2, 3) frame pixels -> crop pixels."""
    side_px = sample.side_px * change.scale
    centre_px = np.asarray(sample.centre_px, np.float64) + np.array(change.shift) * side_px
    linear = turn * (CROP_SIZE_PX / side_px)
    if change.flip:
        linear = np.diag([-1.0, 1.0]) @ linear
    return np.concatenate([linear, (HALF_CROP_PX - linear @ centre_px)[:, None]], 1)


def _moved(points_m: np.ndarray, turn: np.ndarray, flip: bool) -> np.ndarray:
    """(N, 3) turned in the picture's plane, then mirrored."""
    turned = np.concatenate([points_m[:, :2] @ turn.T, points_m[:, 2:]], 1).astype(np.float32)
    return turned * MIRROR_POINT if flip else turned


def changed_pose(pose: np.ndarray, change: Change) -> np.ndarray:
    """(3 * num_bones,) rotation vectors, the root turned in the picture's plane; all mirrored where `change.flip`, which SMPL's can be."""
    rotvecs = pose.astype(np.float64).reshape(-1, 3)
    if change.angle_rad:
        root = cv2.Rodrigues(np.array([0.0, 0.0, change.angle_rad]))[0] @ cv2.Rodrigues(rotvecs[0])[0]
        rotvecs = np.concatenate([cv2.Rodrigues(root)[0].reshape(1, 3), rotvecs[1:]])
    if change.flip:
        rotvecs = rotvecs[MIRRORED_BONES] * MIRROR_ROTVEC
    return rotvecs.reshape(-1).astype(np.float32)


def _changed_camera(camera: np.ndarray, change: Change, turn: np.ndarray) -> np.ndarray:
    """The weak-perspective camera (3,) of the changed crop: u = scale * (xy + t) must hold for the moved points."""
    scale = camera[0] / change.scale
    translation = camera[1:] - 2 * np.array(change.shift) / max(scale, 1e-6)
    translation = turn @ translation * (np.array([-1, 1]) if change.flip else 1)
    return np.array([scale, *translation], np.float32)


def disturbed(picture: np.ndarray, augmentation: Augmentation, random: np.random.Generator) -> np.ndarray:
    """The picture with occlusion, blur, colour noise, without colour, compressed: each as `augmentation` says."""
    for share, disturb in (
        (augmentation.occlusion, _occluded),
        (augmentation.blur, _blurred),
        (augmentation.grey, _grey),
        (float(augmentation.colour_noise > 0), lambda image, r: _coloured(image, augmentation.colour_noise, r)),
        (augmentation.jpeg, _compressed),
    ):
        if share and random.random() < share:
            picture = disturb(picture, random)
    return picture


def _coloured(picture: np.ndarray, amount: float, random: np.random.Generator) -> np.ndarray:
    factors = random.uniform(1 - amount, 1 + amount, 3)
    return np.clip(np.rint(picture * factors.astype(np.float32)), 0, 255).astype(np.uint8)


def _occluded(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A turned rectangle or ellipse, a tenth to a half of the crop across, of one colour with noise."""
    size = np.rint(random.uniform(0.1, 0.5, 2) * CROP_SIZE_PX)
    centre, angle_deg = random.uniform(0, CROP_SIZE_PX, 2), random.uniform(0, 180)
    mask = np.zeros(picture.shape[:2], np.uint8)
    box = (tuple(centre.tolist()), tuple(size.tolist()), float(angle_deg))
    if random.random() < 0.5:
        cv2.ellipse(mask, box, 255, -1)
    else:
        cv2.fillConvexPoly(mask, np.rint(cv2.boxPoints(box)).astype(np.int32), 255)
    grain = random.normal(0, random.uniform(0, 25), picture.shape)
    cover = np.clip(random.uniform(0, 255, 3) + grain, 0, 255).astype(np.uint8)
    return np.where(mask[..., None] > 0, cover, picture)


def _blurred(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Out of focus or moving."""
    if random.random() < 0.5:
        return cv2.GaussianBlur(picture, (0, 0), random.uniform(0.5, 2.5))
    length, angle = random.uniform(3, 13), random.uniform(0, np.pi)
    kernel = np.zeros((15, 15), np.float32)
    half = np.array([np.cos(angle), np.sin(angle)]) * length / 2
    ends = [tuple(np.rint(7 + sign * half).astype(int).tolist()) for sign in (-1, 1)]
    cv2.line(kernel, *ends, 1.0)
    return cv2.filter2D(picture, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT)


def _compressed(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    quality = int(random.integers(15, 76))
    return cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


def _grey(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:  # noqa: ARG001  drawn like the others
    return np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
