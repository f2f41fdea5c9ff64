"""From views of samples to a batch: stacked in a worker, made into targets on the training's device."""

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from core.bodies import Body
from core.errors import InputError
from core.geometry import hip_centred, rotmats_from_rotvecs
from core.pixels import Normaliser
from core.training.augmentation import View
from core.training.losses import Targets, pelvis_row


@dataclass(frozen=True)
class ViewBatch:
    """Views in tensors, zeros where something is unknown. `has_*`: (B,) 1 or 0.

    pictures: (B, 224, 224, 3) uint8      joints_crop: (B, 14, 3)      joints_m: (B, 14, 4)
    pose, betas: (B, 3 * num_bones), (B, num_shape)      vertices_m: (B, N, 3)      camera: (B, 3)
    """

    pictures: Tensor
    joints_crop: Tensor
    joints_m: Tensor
    pose: Tensor
    betas: Tensor
    vertices_m: Tensor
    camera: Tensor
    has_pose: Tensor
    has_vertices: Tensor
    has_camera: Tensor

    def __len__(self) -> int:
        return len(self.pictures)

    def to(self, device: torch.device) -> "ViewBatch":
        """On a device, without waiting for it."""
        return ViewBatch(**{entry.name: getattr(self, entry.name).to(device, non_blocking=True) for entry in fields(self)})

    def pin_memory(self) -> "ViewBatch":
        """In memory that a GPU reads by itself; DataLoader asks for it."""
        return ViewBatch(**{entry.name: getattr(self, entry.name).pin_memory() for entry in fields(self)})


OPTIONAL = ("pose", "betas", "vertices_m", "camera")


def stacked(views: list[View]) -> ViewBatch:
    """A batch of views, all of one body."""
    columns = {name: torch.from_numpy(np.stack([getattr(view, name) for view in views])) for name in ("joints_crop", "joints_m")}
    pictures = torch.from_numpy(np.stack([view.picture for view in views]))
    for name in OPTIONAL:
        known = [getattr(view, name) for view in views]
        blank = next((np.zeros_like(array) for array in known if array is not None), np.zeros((0, 3) if name == "vertices_m" else 0))
        stack = np.stack([blank if array is None else array for array in known])
        columns[name] = torch.from_numpy(np.ascontiguousarray(stack, np.float32))
    has = {
        "has_pose": [view.pose is not None and view.betas is not None for view in views],
        "has_vertices": [view.vertices_m is not None for view in views],
        "has_camera": [view.camera is not None for view in views],
    }
    return ViewBatch(pictures, **columns, **{name: torch.tensor(values, dtype=torch.float32) for name, values in has.items()})


@dataclass(frozen=True)
class BodySizes:
    """What the truth about a body must measure; small enough to go to workers."""

    name: str
    num_bones: int
    num_shape: int
    num_intermediate: int
    num_full: int

    @staticmethod
    def of(body: Body) -> "BodySizes":
        """Those of a body."""
        return BodySizes(body.name, body.num_bones, body.num_shape, *body.levels.sizes[1:])

    def check(self, view: View, key: str) -> None:
        """Raise InputError when the truth of a view cannot belong to this body."""
        wanted = {"pose": 3 * self.num_bones, "betas": self.num_shape}
        for name, expected in wanted.items():
            got = getattr(view, name)
            if got is not None and len(got) != expected:
                raise InputError(f"sample {key}: its {name} holds {len(got)} numbers, the body {self.name!r} has {expected}; mixed bodies?")
        if view.vertices_m is not None and len(view.vertices_m) not in (self.num_intermediate, self.num_full):
            raise InputError(
                f"sample {key}: its mesh has {len(view.vertices_m)} vertices, the body {self.name!r} has {self.num_full}, "
                f"{self.num_intermediate} on the intermediate level; mixed bodies?"
            )


class TargetMaker:
    """Views -> pictures as the backbone wants them, and targets. Poses bodies on the batch's device."""

    def __init__(self, body: Body, backbone: torch.nn.Module, device: torch.device) -> None:
        self.body, self.device = body.to(device), device
        self.num_bones = body.num_bones
        _, self.num_intermediate, self.num_full = body.levels.sizes
        self.intermediate_ids = torch.from_numpy(np.asarray(body.levels.intermediate_ids, np.int64)).to(device)
        self.pelvis = pelvis_row(body).to(device)
        self.normalise = Normaliser(backbone).to(device)

    def images(self, batch: ViewBatch) -> Tensor:
        """(B, 3, 224, 224) float32 normalised, channels last in memory."""
        return self.normalise(batch.pictures)

    @torch.no_grad()
    def targets(self, batch: ViewBatch) -> Targets:
        """The truth of a batch. Joints are centred on the hips, meshes on the body's pelvis."""
        count, device = len(batch), self.device
        joints_m = hip_centred(batch.joints_m[..., :3])
        targets = Targets(
            intermediate_m=torch.zeros(count, self.num_intermediate, 3, device=device),
            joints_m=joints_m,
            joints_crop=batch.joints_crop[..., :2],
            joint_visibility=batch.joints_crop[..., 2],
            camera=batch.camera if batch.camera.shape[1] else torch.zeros(count, 3, device=device),
            has_mesh=torch.maximum(batch.has_pose, batch.has_vertices),
            joint_confidence=batch.joints_m[..., 3],
            has_camera=batch.has_camera,
        )
        if batch.pose.shape[1]:
            targets = self._with_parameters(targets, batch)
        if batch.vertices_m.shape[1]:
            targets = self._with_vertices(targets, batch)
        return targets

    def _with_parameters(self, targets: Targets, batch: ViewBatch) -> Targets:
        rotmats = rotmats_from_rotvecs(batch.pose.view(len(batch), self.num_bones, 3))
        full_m = self.body.vertices(rotmats, batch.betas)
        full_m = full_m - (self.pelvis @ full_m)[:, None]
        full_m = full_m * batch.has_pose.view(-1, 1, 1)
        return replace(
            targets, full_m=full_m, has_full=batch.has_pose, intermediate_m=full_m[:, self.intermediate_ids],
            rotmats=rotmats, shape=batch.betas, has_parameters=batch.has_pose,
        )  # fmt: skip

    def _with_vertices(self, targets: Targets, batch: ViewBatch) -> Targets:
        """Meshes that came as vertices; where there are parameters as well these stand."""
        is_mesh = (batch.has_vertices > batch.has_pose).view(-1, 1, 1)
        if batch.vertices_m.shape[1] == self.num_intermediate:
            return replace(targets, intermediate_m=torch.where(is_mesh, batch.vertices_m, targets.intermediate_m))
        full_m = batch.vertices_m - (self.pelvis @ batch.vertices_m)[:, None]
        full_m = torch.where(is_mesh, full_m, torch.zeros_like(full_m) if targets.full_m is None else targets.full_m)
        intermediate_m = torch.where(is_mesh, full_m[:, self.intermediate_ids], targets.intermediate_m)
        return replace(targets, full_m=full_m, has_full=targets.has_mesh, intermediate_m=intermediate_m)
