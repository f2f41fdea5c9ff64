"""Score checkpoints the way they are used: pictures in, full meshes out.

python -m core.training.evaluate --checkpoint NAME [--shards DIR] [--tsv YAML ...] [--coco DIR ...] [--json FILE] [--sheet FILE.png]
python -m core.training.evaluate --checkpoint first --compare second third.json --shards DIR

Sets with 3D truth: MPJPE, PA-MPJPE, MPVPE, facing; overall, by pose family, by kind of pose and by joint; for TSV sets whose pictures
follow each other acceleration error and jitter as well. Real people with COCO keypoints: PCK@0.1 on the 12 limb joints, COCO's boxes
through `estimator.from_boxes`. The protocol is the release's: see core.training.metrics.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.errors import InputError, exit_code
from core.estimator import DEVICES, PRECISIONS, MeshEstimator, load_estimator
from core.training.coco import MIN_KEYPOINTS
from core.training.scored_sets import CROPS, KeypointSet, PeopleSet, ScoredSet
from core.training.sheet import Panel, write_sheet
from core.training.tables import comparison_tables, report_tables, sets_of

log = logging.getLogger(__name__)

SHEET_PANELS = 24
"""Worst cases of each set on the sheet."""
REPORT_SUFFIX = ".json"


def build_parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    parser = argparse.ArgumentParser(prog="python -m core.training.evaluate", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--checkpoint", default="default", help="a name in checkpoints/ or a file (default: default)")
    parser.add_argument("--compare", nargs="+", default=[], help="more checkpoints, or reports that --json wrote, to show side by side")
    parser.add_argument("--mesh-dir", type=Path, help="folder of the SMPL body's files, for networks on SMPL (default: checkpoints/smpl)")
    parser.add_argument("--shards", type=Path, help="folder of synthetic people")
    parser.add_argument("--limit", type=int, default=1000, help="at most so many synthetic people, spread evenly; 0 = all (default 1000)")
    parser.add_argument("--tsv", type=Path, nargs="+", default=[], help="yaml files of METRO's TSV sets, e.g. 3dpw/test_has_gender.yaml")
    parser.add_argument("--tsv-limit", type=int, default=0, help="at most so many people of a TSV set, spread evenly; 0 = all (default)")
    parser.add_argument(
        "--crop", default="auto", choices=("auto", *CROPS), help="of TSV sets; auto: official for the release's own weights"
    )
    parser.add_argument("--coco", type=Path, nargs="+", default=[], help="folders of pictures with COCO keypoints")
    parser.add_argument("--min-keypoints", type=int, default=MIN_KEYPOINTS, help=f"keypoints a person needs (default {MIN_KEYPOINTS})")
    parser.add_argument(
        "--parametric", action="store_true", help="score the mesh of the body's fitted parameters too, for networks that give none"
    )
    parser.add_argument("--json", type=Path, help="write the scores here")
    parser.add_argument("--sheet", type=Path, help="draw the worst cases into this PNG; with --compare one for each checkpoint")
    parser.add_argument("--device", default="auto", choices=DEVICES)
    parser.add_argument("--precision", default="auto", choices=PRECISIONS)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    return parser


def wanted_sets(options: argparse.Namespace) -> dict[str, list[ScoredSet]]:
    """Key of the report -> sets under it. Raises InputError for what is not there, or for a limit below 0."""
    if min(options.limit, options.tsv_limit) < 0:
        raise InputError(f"--limit, --tsv-limit: got {options.limit} and {options.tsv_limit}, expected 0 (all) or more")
    sets: dict[str, list[ScoredSet]] = {
        "synthetic": [PeopleSet("shards", options.shards, options.limit)] if options.shards else [],
        "tsv": [PeopleSet("tsv", path, options.tsv_limit, options.crop) for path in options.tsv],
        "keypoints": [KeypointSet(folder, options.min_keypoints) for folder in options.coco],
    }
    given = (("--shards", [options.shards] if options.shards else []), ("--tsv", options.tsv), ("--coco", options.coco))
    for flag, path in ((flag, path) for flag, paths in given for path in paths):  # before a network is loaded
        if not path.exists():
            raise InputError(f"{flag}: got {path}, but there is nothing of that name")
    for flag, path in (("--json", options.json), ("--sheet", options.sheet)):
        if path and not path.absolute().parent.is_dir():
            raise InputError(f"{flag}: got {path}, but there is no folder {path.parent}; make it first")
    return sets


def score_checkpoint(estimator: MeshEstimator, sets: dict[str, list[ScoredSet]]) -> tuple[dict[str, Any], list[Panel]]:
    """The report about one checkpoint, and the worst cases of each set."""
    report: dict[str, Any] = {"estimator": estimator.description}
    panels: list[Panel] = []
    opened = [(key, member, member.open(estimator)) for key, members in sets.items() for member in members]  # what is missing says so first
    for key, member, people in opened:
        log.info("%s", member.label)
        scores = member.score(estimator, people, SHEET_PANELS)
        panels += scores.panels
        if key == "synthetic":
            report[key] = scores.report
        else:
            report.setdefault(key, {})[str(member.path)] = scores.report
    return report, panels


def evaluate(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A report for each checkpoint, --checkpoint first; sheets are drawn on the way. Raises InputError."""
    names = [options.checkpoint, *options.compare]
    sets = wanted_sets(options)
    earlier = {name: read_report(Path(name)) for name in names if Path(name).suffix == REPORT_SUFFIX}
    reports = []
    for name, label in zip(names, unique_labels(names), strict=True):
        if name in earlier:
            reports += earlier[name]
            continue
        estimator = load_estimator(name, options.device, options.precision, options.mesh_dir, options.parametric)
        scores, panels = score_checkpoint(estimator, sets)
        reports.append({"checkpoint": name, **scores})
        if options.sheet and panels:
            sheet = options.sheet if len(names) == 1 else options.sheet.with_stem(f"{options.sheet.stem}-{label}")
            write_sheet(sheet, panels, estimator.faces)
            log.info("%s", sheet)
    return reports


def read_report(path: Path) -> list[dict[str, Any]]:
    """The reports in a file that --json wrote. Raises InputError when it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"report {path}: not readable ({' '.join(str(error).split())})") from error
    reports = content.get("compared", [content]) if isinstance(content, dict) else []
    if not reports or not all(isinstance(report, dict) and "checkpoint" in report for report in reports):
        raise InputError(f"report {path}: no scores in it; expected a file that --json wrote")
    return reports


def unique_labels(names: Sequence[str]) -> list[str]:
    """Short names for tables: stems, with the folder before them where stems repeat, numbered where that is not enough."""
    labels = [Path(name).stem for name in names]
    if len(set(labels)) < len(labels):
        labels = [f"{Path(name).parent.name}-{Path(name).stem}" if Path(name).parent.name else Path(name).stem for name in names]
    counts = {label: labels.count(label) for label in labels}
    return [label if counts[label] == 1 else f"{label}-{number}" for number, label in enumerate(labels, start=1)]


def print_reports(reports: list[dict[str, Any]]) -> None:
    """Tables for people to read."""
    labels = unique_labels([str(report["checkpoint"]) for report in reports])
    tables = report_tables(reports[0]) if len(reports) == 1 else comparison_tables(labels, reports)
    print("\n\n".join(table.text() for table in tables))
    for label, report in zip(labels, reports, strict=True):
        for name, scores in sets_of(report).items():
            for note in scores.get("notes", []):
                print(f"{label}, {name}: {note}")
    if not tables:
        print("these reports have no set in common, so there is nothing to compare")


def report_scores(options: argparse.Namespace) -> None:
    """The command: score, write the report where that is asked for, print the tables. Raises InputError and OSError."""
    reports = evaluate(options)
    if options.json:
        options.json.write_text(json.dumps(reports[0] if len(reports) == 1 else {"compared": reports}, indent=1), encoding="utf-8")
    print_reports(reports)
    if options.json:
        print(options.json)


def main(arguments: list[str] | None = None) -> int:
    """Command line entry point; the exit code."""
    import torch

    parser = build_parser()
    options = parser.parse_args(arguments)
    if not (options.shards or options.tsv or options.coco):
        parser.error("got neither --shards nor --coco nor --tsv, so there is nothing to measure; give one of them")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    torch.set_num_threads(options.threads)
    return exit_code(lambda: report_scores(options))


if __name__ == "__main__":
    sys.exit(main())
