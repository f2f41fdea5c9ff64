"""Scores during training: from cached features, on the intermediate mesh, without drawing anything."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from core.crop import crop_person
from core.geometry import crop_px_from_unit, project
from core.joints import LIMB_JOINT_NAMES, indices
from core.training.batches import People
from core.training.coco import KeypointPerson, KeypointScores, keypoint_scores, read_people, read_picture
from core.training.features import normalised
from core.training.losses import HIPS, Criterion
from core.training.metrics import Estimates, Scores, joined, score

BATCH_SIZE = 64
LIMBS = indices(LIMB_JOINT_NAMES)


class Network:
    """A model seen from its cached features, at the precision of the training."""

    def __init__(self, model: nn.Module, criterion: Criterion, dtype: torch.dtype) -> None:
        self.model, self.criterion, self.dtype = model, criterion, dtype

    def autocast(self) -> torch.autocast:
        """The precision of the training as a context."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    @torch.inference_mode()
    def estimates(self, features: tuple[Tensor, ...]) -> Estimates:
        """Pelvis-centred meshes of the intermediate level, their joints, and these projected."""
        with self.autocast():
            prediction = self.model.decode(self.model.backbone.tail(*features), num_levels=2)
        vertices = prediction.levels[1].float()
        joints = self.criterion.joints(vertices)
        pelvis = joints[:, HIPS].mean(1, keepdim=True)
        projected = project(joints - pelvis, prediction.camera.float())
        return Estimates(*((tensor.numpy()) for tensor in (joints - pelvis, vertices - pelvis, projected)))


class Validation:
    """A fixed set of synthetic people, and where given a folder of real ones with keypoints."""

    def __init__(self, people: People, limit: int, coco: Path | None = None) -> None:
        """limit: at most so many synthetic people, spread evenly over the set."""
        self.people = people
        self.chosen = np.unique(np.linspace(0, len(people) - 1, min(limit, len(people))).astype(int))
        self.keypoint_people = read_people(coco) if coco else []
        self._coco: tuple[tuple[Tensor, ...], np.ndarray] | None = None

    def scores(self, network: Network) -> tuple[Scores, KeypointScores | None]:
        """Scores of the network as it is now."""
        network.model.eval()
        predicted, true, visibility = [], [], []
        for rows in np.array_split(self.chosen, -(-len(self.chosen) // BATCH_SIZE)):
            batch = self.people.gather(rows, network.dtype)
            predicted.append(network.estimates(batch.features))
            targets = batch.targets
            true.append(Estimates(targets.joints_m.numpy(), targets.intermediate_m.numpy(), targets.joints_crop.numpy()))
            visibility.append(targets.joint_visibility.numpy())
        synthetic = score(joined(predicted), joined(true), np.concatenate(visibility))
        return synthetic, self._keypoint_scores(network)

    def _keypoint_scores(self, network: Network) -> KeypointScores | None:
        if not self.keypoint_people:
            return None
        if self._coco is None:
            self._coco = prepared(self.keypoint_people, network)
        features, frames_from_crops = self._coco
        projected = joined([network.estimates(part) for part in _split(features)]).joints_crop[:, LIMBS]
        homogeneous = np.concatenate([crop_px_from_unit(projected), np.ones((*projected.shape[:2], 1))], axis=-1)
        return keypoint_scores(self.keypoint_people, np.einsum("bij,bkj->bki", frames_from_crops, homogeneous))


def _split(features: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(tensor.split(BATCH_SIZE) for tensor in features), strict=True)


@torch.inference_mode()
def prepared(people: list[KeypointPerson], network: Network) -> tuple[tuple[Tensor, ...], np.ndarray]:
    """Frozen features of people's crops, and (B, 2, 3) where each crop lies in its picture."""
    crops = [crop_person(read_picture(person.picture), person.box_px, network.model.config.crop_scale) for person in people]
    images = normalised(np.stack([crop.image for crop in crops]), network.model.backbone)
    with network.autocast():
        kept = [network.model.backbone.frozen(part) for part in images.split(BATCH_SIZE)]
    features = tuple(torch.cat(tensors).to(network.dtype) for tensors in zip(*kept, strict=True))
    return features, np.stack([crop.frame_from_crop for crop in crops])
