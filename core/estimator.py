"""The border between NumPy users and the torch network: crops in, meshes out."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from core.checkpoint import load_checkpoint
from core.cpu import has_fast_bf16_cpu
from core.crop import PlacedCrop, check_image, crop_person, place_person, turned
from core.cuda.problems import cuda_problem, has_no_gpu
from core.errors import InputError
from core.fitters import fitter_for
from core.geometry import weak_to_frame_px
from core.levelling import LOOK_AGAIN_RAD, angle_between, in_upright_crop, roll_of_rad, wanted_roll_rad
from core.model import FastMETRO, Prediction
from core.runtimes import CuttingRuntime, open_runtime, slower_because
from core.types import MeshEstimate, PersonCrop

if TYPE_CHECKING:
    from core.bodies import Body
    from core.body_fit import BodyFitter

log = logging.getLogger(__name__)

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16", "int8")


class MeshEstimator:
    """People's meshes from pictures.

    faces: (F, 3) int32; body: the body contract; config: of the network
    checkpoint: the name or path that it was loaded by; metadata: what that file says (licence, training)
    device: "cpu", "cuda" or "mps"; precision: that it runs in, fp32, tf32, bf16, fp16 or int8; description: one line about both and why
    warning: "" or, where a quicker way to run it fails, one line that says so
    """

    def __init__(
        self,
        model: FastMETRO,
        body: "Body",
        device: str = "cpu",
        precision: str = "fp32",
        description: str = "",
        fitter: "BodyFitter | None" = None,
        runtimes: Sequence[str] = (),
    ) -> None:
        """`model` becomes the estimator's: its runtime changes it in place.

        fitter: finds the body's parameters for a network that does not say them itself
        runtimes: names of core.runtimes to try, instead of the device's
        """
        self.body, self.config, self.device = body, model.config, device
        body.joint_regressor  # noqa: B018  a body without joints says so here, not at the first person
        self.checkpoint = ""
        self.metadata: dict[str, object] = {}
        self._fitter = None if model.config.parametric else fitter
        self.description = description or f"{model.config.name} on {device}, {precision}"
        self._runtime, reason = open_runtime(model, device, precision, runtimes)
        self.precision = self._runtime.precision
        self.warning = slower_because(self._runtime, reason) if reason else ""
        self.description += f", {self._runtime.words}" + f" ({reason})" * bool(reason)
        self._crop = place_person if isinstance(self._runtime, CuttingRuntime) else crop_person

    @property
    def faces(self) -> np.ndarray:
        """(F, 3) int32 triangles, indices into vertices_m."""
        return self.body.faces

    def from_boxes(self, image: np.ndarray, boxes_px: np.ndarray) -> list[MeshEstimate]:
        """One estimate per box, in order.

        image: (H, W, 3) uint8 RGB; boxes_px: (N, 4) x0, y0, x1, y1 in the image, N may be 0
        Raises InputError for another kind of image, and for boxes that are not finite or have no area.
        """
        check_image(image)
        try:
            boxes = np.asarray(boxes_px, np.float64)
        except (TypeError, ValueError) as error:
            raise InputError("boxes_px: got something else than numbers in rows of one length, expected (N, 4): x0, y0, x1, y1") from error
        if boxes.size == 0:
            return []
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise InputError(f"boxes_px: got shape {boxes.shape}, expected (N, 4): x0, y0, x1, y1 of each person")
        return self.from_crops([place_person(image, box, self.config.crop_scale) for box in boxes])

    def crop(self, image: np.ndarray, box_px: np.ndarray, roll_rad: float = 0.0) -> PersonCrop:
        """The square around a box (4,), as wide as the network was trained for. Raises InputError as `from_boxes`.

        roll_rad: how far the square is turned clockwise, for somebody who leans: `core.levelling.wanted_roll_rad` of their last mesh.
        A network that was not trained on turned crops gets it unturned.
        Where the runtime cuts crops itself this only says where; `image` must then stay as it is until `from_crops`.
        """
        return self._crop(image, box_px, self.config.crop_scale, roll_rad if self.config.levelled else 0.0)

    def from_crops(self, crops: Sequence[PersonCrop]) -> list[MeshEstimate]:
        """One estimate per crop, in order; as many at once as the runtime takes.

        Where the network was trained for it, a crop in which somebody leans by far is turned and looked at again; see core.levelling.
        """
        estimates = self._looked_at(crops)
        if self.config.levelled:
            rolls = [wanted_roll_rad(estimate.joints_m) for estimate in estimates]
            off = [angle_between(roll_of_rad(crop.frame_from_crop), roll) for roll, crop in zip(rolls, crops, strict=True)]
            again = [index for index, error in enumerate(off) if abs(error) > LOOK_AGAIN_RAD]
            second = self._looked_at([turned(crops[index], off[index]) for index in again])
            for index, estimate in zip(again, second, strict=True):
                estimates[index] = estimate
        return estimates

    def _looked_at(self, crops: Sequence[PersonCrop]) -> list[MeshEstimate]:
        estimates: list[MeshEstimate] = []
        most = self._runtime.max_batch
        for first in range(0, len(crops), most):
            batch = crops[first : first + most]
            estimates += self._estimates(self._predict(batch), batch)
        return estimates

    def _predict(self, crops: Sequence[PersonCrop]) -> Prediction:
        if isinstance(self._runtime, CuttingRuntime) and all(map(_is_upright_place, crops)):
            return self._runtime.from_placed(crops)
        return self._runtime(np.stack([crop.image for crop in crops]))

    def _estimates(self, prediction: Prediction, crops: Sequence[PersonCrop]) -> list[MeshEstimate]:
        vertices = prediction.levels[2]
        if vertices is None:
            raise RuntimeError("the network gave no full mesh")
        pelvis = self.body.pelvis(vertices)[:, None]
        vertices_m, joints_m = (vertices - pelvis).numpy(), (self.body.joints(vertices) - pelvis).numpy()
        cameras = _as_array(prediction.camera)
        rotmats, shapes = (None if values is None else _as_array(values) for values in (prediction.rotmats, prediction.betas))
        estimates = [
            MeshEstimate(
                vertices_m=vertices_m[index],
                joints_m=joints_m[index],
                joints_px=weak_to_frame_px(joints_m[index], cameras[index], crop.frame_from_crop).astype(np.float32),
                camera=cameras[index],
                frame_from_crop=crop.frame_from_crop,
                rotmats=None if rotmats is None else rotmats[index],
                shape=None if shapes is None else shapes[index],
            )
            for index, crop in enumerate(crops)
        ]
        estimates = [in_upright_crop(estimate) for estimate in estimates]
        return estimates if self._fitter is None else self._fitted(estimates, self._fitter)

    @staticmethod
    def _fitted(estimates: list[MeshEstimate], fitter: "BodyFitter") -> list[MeshEstimate]:
        fit = fitter(torch.from_numpy(np.stack([estimate.vertices_m[fitter.vertex_ids] for estimate in estimates])))
        rows = zip(estimates, fit.rotmats.numpy(), fit.shape.numpy(), strict=True)
        return [replace(estimate, rotmats=rotmats, shape=shape) for estimate, rotmats, shape in rows]


def load_estimator(
    name_or_path: str | Path = "default",
    device: str = "auto",
    precision: str = "auto",
    mesh_dir: str | Path | None = None,
    parametric: bool = False,
) -> MeshEstimator:
    """A ready estimator.

    name_or_path: a name in checkpoints/, a .safetensors file or an official .bin
    device: auto, cpu, cuda, mps; precision: auto, fp32, bf16, int8 (a network made by core.quantize)
    mesh_dir: folder of the SMPL body's files, for networks on SMPL; checkpoints/smpl by default
    parametric: give the body's parameters too: the network's own, or else fitted to the mesh (about 3 ms a person)
    Raises InputError for an unknown or damaged checkpoint, for a device or precision that this machine does not have, and when
    parameters are asked for that this body has no way to.
    """
    device, device_reason = choose_device(device)
    wanted = precision
    precision, precision_reason = choose_precision(wanted, device)
    if wanted not in ("auto", precision):
        log.warning("precision: %s instead (%s)", precision, precision_reason)
    checkpoint = load_checkpoint(name_or_path, mesh_dir)
    description = f"{checkpoint.model.config.name} on {device} ({device_reason}), {precision} ({precision_reason})"
    fitter = None
    if parametric and not checkpoint.model.config.parametric:
        fitter = fitter_for(checkpoint.body)
        if fitter is None:
            raise InputError(f"--parametric: {name_or_path} gives no parameters, and a body {checkpoint.body.name!r} cannot be fitted")
    estimator = MeshEstimator(checkpoint.model, checkpoint.body, device, precision, description, fitter)
    log.info("%s", estimator.description)
    estimator.checkpoint, estimator.metadata = str(name_or_path), checkpoint.metadata
    return estimator


def choose_device(wanted: str) -> tuple[str, str]:
    """The device to use, and why. Raises InputError when it is unknown or not there."""
    if wanted not in DEVICES:
        raise InputError(f"device: got {wanted!r}, expected one of {', '.join(DEVICES)}")
    if wanted == "cpu":
        return wanted, "as asked"
    problem = cuda_problem() if wanted in ("auto", "cuda") else ""
    present = {"cuda": not problem, "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        device = next(name for name in ("cuda", "mps", "cpu") if present[name])
        if device != "cpu":
            return device, "auto: found a GPU"
        return device, "auto: no GPU that PyTorch can use" if has_no_gpu(problem) else f"auto: the GPU is of no use, {problem}"
    if not present[wanted]:
        why = f" ({problem})" if problem else ""
        raise InputError(f"device: got {wanted!r}, but PyTorch {torch.__version__} finds none here{why}; use cpu or auto")
    return wanted, "as asked"


def choose_precision(wanted: str, device: str) -> tuple[str, str]:
    """The precision to use on `device`, and why. Raises InputError when it is unknown."""
    if wanted not in PRECISIONS:
        raise InputError(f"precision: got {wanted!r}, expected one of {', '.join(PRECISIONS)}")
    if wanted == "int8" and device != "cpu":
        raise InputError(f"precision: got 'int8' for the device {device!r}, but 8-bit networks are for the CPU; use bf16 or fp32")
    if wanted == "bf16" and device == "cpu" and not has_fast_bf16_cpu():
        return "fp32", "bf16 was asked for, but this CPU has no native bfloat16"
    if wanted != "auto":
        return wanted, "as asked"
    if device == "cpu":
        if has_fast_bf16_cpu():
            return "bf16", "auto: this CPU multiplies bfloat16 natively"
        return "fp32", "auto: this CPU has no native bfloat16"
    if device == "cuda" and torch.cuda.get_device_capability() >= (8, 0):
        return "bf16", "auto: this GPU multiplies bfloat16 natively"
    return "fp32", "auto: the safe choice on this GPU"


def _is_upright_place(crop: PersonCrop) -> bool:
    """Whether a runtime may cut it: only placed yet, and not turned."""
    return isinstance(crop, PlacedCrop) and not roll_of_rad(crop.frame_from_crop)


def _as_array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()
