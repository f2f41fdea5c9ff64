"""People made on the GPU as a source of batches for the common training loop, and held-out ones to validate on."""

import logging
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from core.bodies.anny import AnnyBody
from core.errors import InputError
from core.joints import JOINT_NAMES
from core.pixels import Normaliser
from core.training.batches import Batch, Cursor
from core.training.coco import KeypointScores, crop_scores, crops_of, read_people
from core.training.crew import Crew
from core.training.gpu.people import BatchPeople, Made
from core.training.gpu.plan import Plan, PlanConfig, Plans
from core.training.metrics import Scores
from core.training.objective import Objective
from core.training.picture_validation import person_errors, scores_of
from core.training.posing import FAMILY_NAMES
from core.training.workers import Stream, cursors_from, streamed, worker_options

log = logging.getLogger(__name__)

PLANS_AHEAD = 2
"""Of each worker."""


def packed(plan: Plan) -> list[np.ndarray]:
    """A plan as it leaves a worker: arrays through the pipe. Tensors would go through /dev/shm, of which containers have little, and hold
    a file open each.
    """
    return [getattr(plan, entry.name).numpy() for entry in fields(plan)]


def unpacked(arrays: list[np.ndarray]) -> Plan:
    """The inverse."""
    return Plan(*(torch.from_numpy(np.asarray(array)) for array in arrays))


class Onwards(Sampler):
    """All numbers from one on."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[int]:
        number = self.start
        while True:
            yield number
            number += 1


class Maker:
    """Plans -> batches for a backbone."""

    def __init__(self, people: BatchPeople, backbone: torch.nn.Module) -> None:
        self.people = people
        self.normalise = Normaliser(backbone).to(people.device)

    def batch(self, made: Made) -> Batch:
        """Pictures as the backbone wants them, and their truth."""
        images = self.normalise(made.pictures.permute(0, 2, 3, 1)).contiguous(memory_format=torch.channels_last)
        return Batch((images,), made.targets, made.family, pictures=True)


class RenderedSource:
    """Endless people of one configuration; `epoch` people are called an epoch. Batch n is the same in whatever session it is made."""

    num_broken = 0

    def __init__(self, body: AnnyBody, config: PlanConfig, maker: Maker, epoch: int, workers: int) -> None:
        self.plans, self.maker, self.workers = Plans(body, config), maker, workers
        self.per_epoch = epoch // config.batch
        self.epoch = epoch
        if self.per_epoch < 1:
            raise InputError(f"rendered people: got an epoch of {epoch}, expected at least a batch ({config.batch})")

    def __len__(self) -> int:
        return self.epoch

    def stream(self, batch_size: int, start: Cursor, crew: Crew) -> Stream:
        """Batches from `start` on. Raises InputError for more than one process and for a batch of another size."""
        if crew.size > 1 or batch_size != self.plans.config.batch:
            raise InputError(f"rendered people: for one process and batches of {self.plans.config.batch}, got {crew.size} and {batch_size}")
        numbers = Onwards(start.epoch * self.per_epoch + start.batches_done)
        options = worker_options(self.workers, PLANS_AHEAD)
        loader = DataLoader(self.plans, batch_size=None, sampler=numbers, collate_fn=packed, **options)
        return streamed(loader, cursors_from(start, self.per_epoch), self._batch)

    def _batch(self, arrays: list[np.ndarray]) -> Batch:
        return self.maker.batch(self.maker.people.make(unpacked(arrays)))


class RenderedValidation:
    """Held-out people (other shapes, outfits, backgrounds than training sees), made once; and people of COCO where a folder is there."""

    shared, parametric, panels = False, None, ()

    def __init__(self, plans: Plans, maker: Maker, count: int, coco: Path | None = None) -> None:
        self.plans, self.maker = plans, maker
        self.num_batches = max(count // plans.config.batch, 1)
        self.keypoint_people = read_people(coco) if coco else []
        self._made: list[Made] = []
        self.families: dict[str, float] = {}

    def scores(self, objective: Objective, crew: Crew) -> tuple[Scores, KeypointScores | None]:  # noqa: ARG002
        """Scores of the network as it is now; `families` then holds the MPJPE in mm of each pose family."""
        objective.model.eval()
        if not self._made:
            self._made = [self.maker.people.make(self.plans[number]) for number in range(self.num_batches)]
        errors, family = [], []
        for made in self._made:
            batch = self.maker.batch(made)
            confidence = torch.ones(len(batch), len(JOINT_NAMES), device=objective.device)
            targets = replace(made.targets, joint_confidence=confidence, has_mesh=confidence[:, 0])
            known = Batch(batch.features, targets, batch.family, pictures=True)
            errors.append(person_errors(objective.estimates(known.features, pictures=True), known, full=False))
            family.append(made.family.cpu().numpy())
        every, kind = np.concatenate(errors), np.concatenate(family)
        self.families = {name: round(float(every[kind == k, 0].mean()), 1) for k, name in enumerate(FAMILY_NAMES) if (kind == k).any()}
        log.info("MPJPE in mm by family of poses: %s", self.families)
        return scores_of(every), self._keypoints(objective)

    def _keypoints(self, objective: Objective) -> KeypointScores | None:
        if not self.keypoint_people:
            return None
        pictures, frames_from_crops = crops_of(self.keypoint_people, objective.model.config.crop_scale)
        parts = torch.from_numpy(pictures).to(objective.device).split(64)
        joints_crop = np.concatenate([objective.estimates((self.maker.normalise(part),), pictures=True).joints_crop for part in parts])
        return crop_scores(self.keypoint_people, joints_crop, frames_from_crops)
