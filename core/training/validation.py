"""Scores during training: from cached features, on the intermediate mesh, without drawing anything."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.pixels import Normaliser
from core.training.batches import People
from core.training.coco import KeypointPerson, KeypointScores, crop_scores, crops_of, read_people
from core.training.crew import Crew
from core.training.metrics import Estimates, Scores, joined, score
from core.training.objective import Objective

BATCH_SIZE = 64


class Validation:
    """A fixed set of synthetic people, and where given a folder of real ones with keypoints."""

    shared, parametric, panels = False, None, ()

    def __init__(self, people: People, limit: int, coco: Path | None = None) -> None:
        """limit: at most so many synthetic people, spread evenly over the set; 0 = all."""
        self.people = people
        self.chosen = spread(len(people), limit)
        self.keypoint_people = read_people(coco) if coco else []
        self._coco: tuple[tuple[Tensor, ...], np.ndarray] | None = None

    def scores(self, network: Objective, crew: Crew | None = None) -> tuple[Scores, KeypointScores | None]:  # noqa: ARG002
        """Scores of the network as it is now, by this process alone."""
        network.model.eval()
        predicted, true, visibility = [], [], []
        for rows in np.array_split(self.chosen, -(-len(self.chosen) // BATCH_SIZE)):
            batch = self.people.gather(rows, network.dtype)
            predicted.append(network.estimates(batch.to(network.device).features))
            targets = batch.targets
            true.append(Estimates(targets.joints_m.numpy(), targets.intermediate_m.numpy(), targets.joints_crop.numpy()))
            visibility.append(targets.joint_visibility.numpy())
        synthetic = score(joined(predicted), joined(true), np.concatenate(visibility))
        return synthetic, self._keypoint_scores(network)

    def _keypoint_scores(self, network: Objective) -> KeypointScores | None:
        if not self.keypoint_people:
            return None
        if self._coco is None:
            self._coco = prepared(self.keypoint_people, network)
        features, frames_from_crops = self._coco
        parts = [tuple(tensor.to(network.device) for tensor in part) for part in _split(features)]
        found = joined([network.estimates(part) for part in parts])
        return crop_scores(self.keypoint_people, found.joints_crop, frames_from_crops)


def spread(count: int, limit: int) -> np.ndarray:
    """At most `limit` numbers below `count`, spread evenly; 0 = all."""
    return np.unique(np.linspace(0, count - 1, min(limit or count, count)).astype(int))


def _split(features: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(tensor.split(BATCH_SIZE) for tensor in features), strict=True)


@torch.inference_mode()
def prepared(people: list[KeypointPerson], network: Objective) -> tuple[tuple[Tensor, ...], np.ndarray]:
    """Frozen features of people's crops, and (B, 2, 3) where each crop lies in its picture."""
    pictures, frames_from_crops = crops_of(people, network.model.config.crop_scale)
    images = Normaliser(network.model.backbone)(torch.from_numpy(pictures))
    with network.autocast():
        kept = [network.model.backbone.frozen(part.to(network.device)) for part in images.split(BATCH_SIZE)]
    features = tuple(torch.cat(tensors).to(network.dtype) for tensors in zip(*kept, strict=True))
    return features, frames_from_crops
