"""Score a checkpoint the way it is used: pictures in, full meshes out.

python -m core.training.evaluate --checkpoint NAME [--shards DIR] [--coco DIR] [--json FILE] [--sheet FILE.png]

Synthetic people: MPJPE, PA-MPJPE, MPVPE, facing; overall, per pose family and per joint. Real people with COCO keypoints:
PCK@0.1 on the 12 limb joints, COCO's boxes through `estimator.from_boxes`.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import InputError
from core.estimator import DEVICES, PRECISIONS, MeshEstimator, load_estimator
from core.geometry import HALF_CROP_PX
from core.joints import JOINT_NAMES, LIMB_JOINT_NAMES, indices
from core.training.coco import MIN_KEYPOINTS, VISIBLE, KeypointPerson, keypoint_scores, read_people, read_picture
from core.training.metrics import Estimates, correct_keypoints, joined, joint_errors_mm, mpjpe_mm, score
from core.training.shards import Shard, list_shards, load_good_shards, load_pictures
from core.training.sheet import Panel, write_sheet
from core.types import MeshEstimate, PersonCrop

BATCH_SIZE = 16
SHEET_PANELS = 24
IDENTITY = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
LIMBS = indices(LIMB_JOINT_NAMES)


@dataclass(frozen=True)
class SyntheticSet:
    """Synthetic people with estimates beside their truth; visibility: (B, 14); family: (B,) index into family_names."""

    predicted: Estimates
    true: Estimates
    visibility: np.ndarray
    family: np.ndarray
    family_names: tuple[str, ...]
    worst: list[Panel]


def picked(shards: list[Shard], limit: int) -> list[tuple[Shard, np.ndarray]]:
    """At most `limit` people, spread evenly over all shards; 0 = all."""
    counts = [len(shard) for shard in shards]
    total = sum(counts)
    chosen = np.unique(np.linspace(0, total - 1, min(limit or total, total)).astype(int))
    starts = np.concatenate([[0], np.cumsum(counts)])
    rows = [chosen[(chosen >= low) & (chosen < high)] - low for low, high in pairwise(starts)]
    return [(shard, kept) for shard, kept in zip(shards, rows, strict=True) if len(kept)]


def estimated(estimator: MeshEstimator, shard: Shard, rows: np.ndarray) -> Iterator[tuple[np.ndarray, MeshEstimate]]:
    """(picture, estimate) of these people of a shard."""
    pictures = load_pictures(shard.path)
    for start in range(0, len(rows), BATCH_SIZE):
        images = [pictures.decoded(int(row)) for row in rows[start : start + BATCH_SIZE]]
        yield from zip(images, estimator.from_crops([PersonCrop(image, IDENTITY) for image in images]), strict=True)


def evaluate_synthetic(estimator: MeshEstimator, folder: Path, limit: int, num_worst: int) -> SyntheticSet:
    """Estimate the people of a folder of shards."""
    shards = load_good_shards(list_shards(folder))
    if shards[0].body != estimator.body.name:
        raise InputError(f"shards: {folder} shows the body {shards[0].body!r}, the checkpoint has {estimator.body.name!r}")
    intermediate_ids = estimator.body.levels.intermediate_ids
    predicted, true, visibility, family, panels = [], [], [], [], []
    for shard, rows in picked(shards, limit):
        results = list(estimated(estimator, shard, rows))
        truth = shard.truth
        predicted.append(_estimates([estimate for _, estimate in results], intermediate_ids))
        true.append(Estimates(truth.joints_m[rows], truth.intermediate_m[rows].astype(np.float32), truth.joints_crop[rows]))
        visibility.append(truth.joint_visibility[rows])
        family.append(truth.family[rows])
        errors_mm = mpjpe_mm(predicted[-1].joints_m, true[-1].joints_m)
        panels += [
            Panel(image, estimate, (truth.joints_crop[row] + 1) * HALF_CROP_PX, truth.joint_visibility[row] > 0.5, error,
                  f"{shard.family_names[truth.family[row]]} {error:.0f} mm")
            for (image, estimate), row, error in zip(results, rows, errors_mm, strict=True)
        ]  # fmt: skip
        panels = sorted(panels, key=lambda panel: -panel.error)[:num_worst]
    return SyntheticSet(joined(predicted), joined(true), np.concatenate(visibility), np.concatenate(family), shards[0].family_names, panels)


def _estimates(people: list[MeshEstimate], vertex_ids: np.ndarray) -> Estimates:
    return Estimates(
        np.stack([person.joints_m for person in people]),
        np.stack([person.vertices_m[vertex_ids] for person in people]),
        np.stack([person.joints_px for person in people]) / HALF_CROP_PX - 1,
    )


def synthetic_report(people: SyntheticSet) -> dict[str, Any]:
    """Scores overall, per pose family, and MPJPE per joint."""
    families = {}
    for number, name in enumerate(people.family_names):
        rows = people.family == number
        if rows.any():
            families[name] = asdict(score(people.predicted.rows(rows), people.true.rows(rows), people.visibility[rows]))
    errors_mm = joint_errors_mm(people.predicted.joints_m, people.true.joints_m)
    return {
        "overall": asdict(score(people.predicted, people.true, people.visibility)),
        "families": families,
        "joints_mm": dict(zip(JOINT_NAMES, (round(float(error), 1) for error in errors_mm), strict=True)),
    }


def evaluate_keypoints(estimator: MeshEstimator, people: list[KeypointPerson]) -> list[MeshEstimate]:
    """One estimate for each person, from COCO's box."""
    return [estimator.from_boxes(read_picture(person.picture), person.box_px[None])[0] for person in people]


def keypoint_report(people: list[KeypointPerson], estimates: list[MeshEstimate]) -> dict[str, Any]:
    """PCK overall and per joint, visible keypoints only unless the name says otherwise."""
    predicted_px = np.stack([estimate.joints_px[LIMBS] for estimate in estimates])
    true_px = np.stack([person.keypoints_px for person in people])
    visible = np.stack([person.flags for person in people]) >= VISIBLE
    correct = correct_keypoints(predicted_px, true_px, visible)
    per_joint = {name: round(float(correct[:, k].sum() / max(visible[:, k].sum(), 1)), 3) for k, name in enumerate(LIMB_JOINT_NAMES)}
    return {**asdict(keypoint_scores(people, predicted_px)), "joints": per_joint}


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


def print_report(report: dict[str, Any]) -> None:
    """Tables for people to read."""
    if "synthetic" in report:
        columns = ("num_people", "mpjpe_mm", "pa_mpjpe_mm", "mpvpe_mm", "facing_error_median_deg", "facing_over_60_deg")
        print(f"{'synthetic people':24}" + "".join(f"{name:>25}" for name in columns))
        for name, row in {"overall": report["synthetic"]["overall"], **report["synthetic"]["families"]}.items():
            print(f"{name:24}" + "".join(f"{row[column]:25.3g}" if column != "num_people" else f"{row[column]:25}" for column in columns))
        print("error per joint, mm: " + "  ".join(f"{name} {value:.0f}" for name, value in report["synthetic"]["joints_mm"].items()))
    for folder, row in report.get("keypoints", {}).items():
        print(f"{folder}: {row['num_people']} people, PCK@0.1 {row['pck']:.3f} on {row['num_visible']} visible keypoints, "
              f"{row['pck_labelled']:.3f} with hidden ones")  # fmt: skip
        print("PCK per joint: " + "  ".join(f"{name} {value:.2f}" for name, value in row["joints"].items()))


def build_parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    parser = argparse.ArgumentParser(prog="python -m core.training.evaluate", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--checkpoint", default="default", help="a name in checkpoints/ or a file (default: default)")
    parser.add_argument("--mesh-dir", type=Path, help="folder of the SMPL body's files, for networks on SMPL (default: checkpoints/smpl)")
    parser.add_argument("--shards", type=Path, help="folder of synthetic people")
    parser.add_argument("--limit", type=int, default=1000, help="at most so many synthetic people, spread evenly; 0 = all (default 1000)")
    parser.add_argument("--coco", type=Path, nargs="+", default=[], help="folders of pictures with COCO keypoints")
    parser.add_argument("--min-keypoints", type=int, default=MIN_KEYPOINTS, help=f"keypoints a person needs (default {MIN_KEYPOINTS})")
    parser.add_argument("--json", type=Path, help="write the scores here")
    parser.add_argument("--sheet", type=Path, help="draw the worst cases into this PNG")
    parser.add_argument("--device", default="auto", choices=DEVICES)
    parser.add_argument("--precision", default="auto", choices=PRECISIONS)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    return parser


def evaluate(options: argparse.Namespace) -> tuple[dict[str, Any], list[Panel]]:
    """Everything that was asked for: scores, and the worst cases."""
    if not options.shards and not options.coco:
        raise InputError("evaluate: got neither --shards nor --coco, so there is nothing to measure; give one of them")
    estimator = load_estimator(options.checkpoint, options.device, options.precision, options.mesh_dir)
    report: dict[str, Any] = {"checkpoint": options.checkpoint, "estimator": estimator.description}
    panels: list[Panel] = []
    if options.shards:
        synthetic = evaluate_synthetic(estimator, options.shards, options.limit, SHEET_PANELS)
        report["synthetic"] = synthetic_report(synthetic)
        panels += synthetic.worst
    for folder in options.coco:
        people = read_people(folder, options.min_keypoints)
        estimates = evaluate_keypoints(estimator, people)
        report.setdefault("keypoints", {})[str(folder)] = keypoint_report(people, estimates)
        panels += keypoint_panels(estimator, people, estimates, SHEET_PANELS)
    if options.sheet and panels:
        write_sheet(options.sheet, panels, estimator.faces)
    return report, panels


def main(arguments: list[str] | None = None) -> int:
    """Command line entry point; the exit code."""
    import torch

    options = build_parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        report, _ = evaluate(options)
        if options.json:
            options.json.write_text(json.dumps(report, indent=1))
    except (InputError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print_report(report)
    for path in (options.json, options.sheet):
        if path:
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
