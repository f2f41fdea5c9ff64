"""The kinds of sets that a checkpoint is scored on, behind one contract: synthetic shards, TSV sets, COCO's keypoints."""

import logging
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from core.crop import crop_person
from core.errors import InputError
from core.estimator import MeshEstimator
from core.joints import JOINT_NAMES
from core.training.coco import LIMBS, VISIBLE, KeypointPerson, keypoint_scores, read_people, read_picture
from core.training.metrics import correct_keypoints
from core.training.samples import BrokenSample, Sample, SampleDataset, open_dataset
from core.training.scoring import PeopleScorer, shares
from core.training.sheet import Panel
from core.training.tsv_sets import BrokenRows
from core.types import CROP_SIZE_PX, MeshEstimate, PersonCrop

log = logging.getLogger(__name__)

BATCH_SIZE = 16
READERS = 4
"""Threads that read pictures while the network computes."""
OFFICIAL_ORIGIN = "official FastMETRO release"
"""How the origin of the release's own weights begins."""


@dataclass(frozen=True)
class SetScores:
    """What came out on one set: plain values for JSON, and the worst cases."""

    report: dict[str, Any]
    panels: list[Panel]


class ScoredSet(Protocol):
    """A set that checkpoints are scored on. label: kind and name, for tables and reports."""

    label: str

    def open(self, estimator: MeshEstimator) -> Any:
        """The people, found and checked but not yet looked at. Raises InputError."""
        ...

    def score(self, estimator: MeshEstimator, people: Any, num_worst: int) -> SetScores:
        """Estimate everybody that `open` gave and compare."""
        ...


@dataclass(frozen=True)
class PeopleSet:
    """People with 3D truth.

    kind: "shards" or "tsv" of DATASETS; limit: at most so many, spread evenly; 0 = all; crop: "auto", "ours" or "official"
    """

    kind: str
    path: Path
    limit: int = 0
    crop: str = "auto"

    @property
    def label(self) -> str:
        """Kind and folder or file."""
        return f"{self.kind} {self.path}"

    def open(self, estimator: MeshEstimator) -> SampleDataset:
        """Raises InputError for a set of another body, and for what is missing or empty."""
        options = {"path": self.path, "crop_scale": estimator.config.crop_scale, **({"full_mesh": True} if self.kind == "shards" else {})}
        return open_dataset(self.kind, estimator.body, options)

    def score(self, estimator: MeshEstimator, people: SampleDataset, num_worst: int) -> SetScores:
        """Raises InputError when nobody in it can be used."""
        scorer, broken = PeopleScorer(estimator.body, num_worst, with_motion=not self.limit), BrokenRows()
        crop = CROPS[self.chosen_crop(estimator)]
        rows = spread(len(people), self.limit)
        with tqdm(total=len(rows), unit="people", disable=not sys.stderr.isatty()) as bar:
            for samples in loaded(people, rows, broken):
                crops = [crop(sample) for sample in samples]
                scorer.add(samples, crops, estimated(estimator, crops, samples[0].img_key))
                bar.update(len(samples))
        report = scorer.report()
        if "overall" not in report and "pck" not in report:
            raise InputError(f"{self.label}: nobody in it can be used ({broken.count} broken samples, the rest without joints)")
        if "overall" not in report:
            scorer.panels = []
        if broken.count:
            report["broken_samples"] = broken.count
        if self.kind == "tsv":
            report["crop"] = self.chosen_crop(estimator)
            if estimator.body.name != "smpl":
                note = f"joints come from the body {estimator.body.name!r}, not from SMPL: figures do not compare with published ones"
                report.setdefault("notes", []).append(note)
        return SetScores(report, scorer.panels)

    def chosen_crop(self, estimator: MeshEstimator) -> str:
        """The release's own crop for the release's own weights on its own data, ours for all others."""
        official = self.kind == "tsv" and str(estimator.metadata.get("origin", "")).startswith(OFFICIAL_ORIGIN)
        return self.crop if self.crop != "auto" else "official" if official else "ours"


def spread(total: int, limit: int) -> np.ndarray:
    """(n,) indices, at most `limit`, evenly over `total`; 0 = all."""
    return np.unique(np.linspace(0, total - 1, min(limit or total, total)).astype(int))


def loaded(dataset: SampleDataset, indices: np.ndarray, broken: BrokenRows) -> Iterator[list[Sample]]:
    """The good ones among these samples in batches, read ahead by threads; the others are noted in `broken`."""

    def read(index: int) -> Sample | BrokenSample:
        try:
            return dataset[int(index)]
        except BrokenSample as error:
            return error

    batches = np.array_split(indices, -(-len(indices) // BATCH_SIZE))
    with ThreadPoolExecutor(READERS) as pool:
        ahead = [pool.submit(read, index) for index in batches[0]]
        for number in range(len(batches)):
            present, ahead = ahead, [pool.submit(read, index) for index in batches[number + 1]] if number + 1 < len(batches) else []
            found = [job.result() for job in present]
            for error in found:
                if isinstance(error, BrokenSample):
                    broken.add(error)
            samples = [sample for sample in found if isinstance(sample, Sample)]
            if samples:
                yield samples


def estimated(estimator: MeshEstimator, crops: Sequence[PersonCrop], where: str) -> list[MeshEstimate]:
    """One estimate for each crop; InputError when the network gives no numbers."""
    try:
        return estimator.from_crops(crops)
    except InputError:
        raise
    except ValueError as error:  # MeshEstimate refuses NaN and infinity
        raise InputError(f"no usable mesh from the network near {where or 'the start'}: {error}; its training may have diverged") from error


def our_crop(sample: Sample) -> PersonCrop:
    """The square of a sample as training and the live app cut it."""
    half_px = sample.side_px / 2
    return crop_person(sample.image, np.concatenate([sample.centre_px - half_px, sample.centre_px + half_px]), 1.0)


def official_crop(sample: Sample) -> PersonCrop:
    """The square as the release cuts it: whole pixels, black outside, bilinear without an average where it shrinks.

    Source: crop and transform in the release's image_ops.py, written anew
    """
    import cv2

    corner_px = np.asarray(sample.centre_px, np.float64) - sample.side_px / 2
    low = np.trunc(corner_px).astype(int)
    high = np.trunc(corner_px + sample.side_px).astype(int)
    width, height = np.maximum(high - low, 1)
    square = np.zeros((height, width, 3), np.uint8)
    from_low, from_high = np.maximum(low, 0), np.minimum([low[0] + width, low[1] + height], sample.image.shape[1::-1])
    if (from_high > from_low).all():
        (x0, y0), (x1, y1) = from_low - low, from_high - low
        square[y0:y1, x0:x1] = sample.image[from_low[1] : from_high[1], from_low[0] : from_high[0]]
    image = cv2.resize(square, (CROP_SIZE_PX, CROP_SIZE_PX), interpolation=cv2.INTER_LINEAR)
    frame_from_crop = np.array([[width / CROP_SIZE_PX, 0.0, low[0]], [0.0, height / CROP_SIZE_PX, low[1]]])
    return PersonCrop(image, frame_from_crop)


CROPS = {"ours": our_crop, "official": official_crop}


@dataclass(frozen=True)
class KeypointSet:
    """People with COCO's keypoints, each cropped by COCO's box."""

    path: Path
    min_keypoints: int

    @property
    def label(self) -> str:
        """Kind and folder."""
        return f"coco {self.path}"

    def open(self, estimator: MeshEstimator) -> list[KeypointPerson]:  # noqa: ARG002  the same for all
        """Raises InputError when the folder holds nobody with enough keypoints."""
        return read_people(self.path, self.min_keypoints)

    def score(self, estimator: MeshEstimator, people: list[KeypointPerson], num_worst: int) -> SetScores:
        """As the contract says."""
        estimates = [estimated_in_box(estimator, person) for person in people]
        return SetScores(keypoint_report(people, estimates), keypoint_panels(estimator, people, estimates, num_worst))


def estimated_in_box(estimator: MeshEstimator, person: KeypointPerson) -> MeshEstimate:
    """One estimate, from COCO's box."""
    try:
        return estimator.from_boxes(read_picture(person.picture), person.box_px[None])[0]
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"no usable mesh from the network for {person.picture.name}: {error}; its training may have diverged") from error


def keypoint_report(people: list[KeypointPerson], estimates: list[MeshEstimate]) -> dict[str, Any]:
    """PCK overall and per joint, visible keypoints only unless the name says otherwise."""
    predicted_px = np.stack([estimate.joints_px[LIMBS] for estimate in estimates])
    true_px = np.stack([person.keypoints_px for person in people])
    visible = np.stack([person.flags for person in people]) >= VISIBLE
    correct = correct_keypoints(predicted_px, true_px, visible)
    scores = {name: None if np.isnan(value) else value for name, value in asdict(keypoint_scores(people, predicted_px)).items()}
    return {**scores, "joints": shares(correct.sum(0), visible.sum(0))}


def keypoint_panels(estimator: MeshEstimator, people: list[KeypointPerson], estimates: list[MeshEstimate], num_worst: int) -> list[Panel]:
    """The people with the smallest share of correct keypoints."""
    panels = []
    for person, estimate in zip(people, estimates, strict=True):
        visible = person.flags >= VISIBLE
        if not visible.any():
            continue
        correct = correct_keypoints(estimate.joints_px[None, LIMBS], person.keypoints_px[None], visible[None])[0]
        share = float(correct.sum() / visible.sum())
        to_frame = estimate.frame_from_crop
        points = np.full((len(JOINT_NAMES), 2), np.nan)
        points[LIMBS] = (person.keypoints_px - to_frame[:, 2]) @ np.linalg.inv(to_frame[:, :2]).T
        seen = np.zeros(len(JOINT_NAMES), bool)
        seen[LIMBS] = visible
        crop = estimator.crop(read_picture(person.picture), person.box_px)
        panels.append(Panel(crop.image, estimate, points, seen, 1 - share, f"{person.picture.stem} PCK {share:.2f}"))
    return sorted(panels, key=lambda panel: -panel.error)[:num_worst]
