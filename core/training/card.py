"""A model card from what a training run leaves: data and licences, samples, figures, known failures, pictures.

python -m core.training.card RUN|CHECKPOINT --out DIR [--evaluation REPORT.json ...] [--worst SHEET.png]
python -m core.training.card RUN --out DIR --shards VALIDATION        scores the checkpoint for the card first

Writes DIR/model-card.md and, where there is something to show, curves.png, worst.jpg and people.jpg beside it.
"""

import argparse
import json
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from core.checkpoint import BODY_PREFIX, SUFFIX, find_checkpoint
from core.config import ModelConfig
from core.errors import InputError, exit_code
from core.training.curves import JOURNAL, draw_curves, read_journal
from core.training.evaluate import read_report, unique_labels
from core.training.failures import known_failures
from core.training.sheet import CAPTION_PX
from core.training.sources import SOURCES, SYNTHETIC_KINDS, Source, commercial_use, sources_of
from core.training.tables import comparison_tables, report_tables, sets_of
from core.types import CROP_SIZE_PX

log = logging.getLogger(__name__)

CARD, CURVES, WORST, PEOPLE = "model-card.md", "curves.png", "worst.jpg", "people.jpg"
EVALUATION, WORST_SHEET = "evaluation.json", "worst.png"
"""In a run's folder: what `python -m core.training.evaluate --json RUN/evaluation.json --sheet RUN/worst.png` leaves."""
SHEET_ROWS = 3
PICTURE_WIDTH_PX, JPEG_QUALITY = 1344, 82
CARD_PEOPLE = 1000
"""So many people of --shards are scored for the card."""


@dataclass(frozen=True)
class Facts:
    """What is known about a checkpoint. path: its file; reports: evaluations, the newest last; folder: of its run, None = unknown."""

    path: Path
    config: Mapping[str, Any]
    metadata: Mapping[str, Any]
    num_parameters: int
    reports: list[dict[str, Any]] = field(default_factory=list)
    folder: Path | None = None

    @property
    def name(self) -> str:
        """Of the file; of a run its folder's."""
        return self.folder.name if self.folder else self.path.stem

    @property
    def sources(self) -> list[Source]:
        """Data and weights that it was made with."""
        return sources_of(self.config, self.metadata)

    @property
    def own_report(self) -> dict[str, Any]:
        """The evaluation of this checkpoint: the last one; without any, the last scores of the training itself."""
        if self.reports:
            return self.reports[-1]
        scores = self.metadata.get("scores") or {}
        return {"synthetic": {"overall": scores["synthetic"]}} if scores.get("synthetic") else {}


def write_card(
    run_dir: Path, out_dir: Path, reports: list[Path] | None = None, worst: Path | None = None, sources: Sequence[str] = ()
) -> Path:
    """Write the card of a run into `out_dir` and return its path.

    reports: files that core.training.evaluate wrote; RUN/evaluation.json by default, where it is. Of several the last is this run's.
    worst: a sheet of worst cases that may be shown; RUN/worst.png by default
    sources: names in core.training.sources of what it was trained with, beside those that its checkpoint names
    Raises InputError when the run has no checkpoint yet, and for unknown sources.
    """
    checkpoint = checkpoint_of(run_dir)
    default = [run_dir / EVALUATION] if (run_dir / EVALUATION).is_file() else []
    facts = read_facts(checkpoint, default if reports is None else reports, run_dir, sources)
    sheet = run_dir / WORST_SHEET if worst is None and (run_dir / WORST_SHEET).is_file() else worst
    return write_facts(facts, out_dir, sheet)


def checkpoint_of(run_dir: Path) -> Path:
    """The best weights of a run, or its last ones. Raises InputError when there are none yet."""
    found = [path for path in (run_dir / f"best{SUFFIX}", run_dir / f"last{SUFFIX}") if path.is_file()]
    if not found:
        raise InputError(f"card: {run_dir} holds no best{SUFFIX} and no last{SUFFIX}; give the folder of a run that was validated once")
    return found[0]


def read_facts(checkpoint: Path, reports: list[Path], folder: Path | None = None, sources: Sequence[str] = ()) -> Facts:
    """What a checkpoint and evaluations of it say, and these sources beside its own. Raises InputError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(checkpoint, framework="np") as file:
            header = {key: json.loads(text) for key, text in (file.metadata() or {}).items() if key in ("config", "metadata")}
            counted = [name for name in file.keys() if not name.startswith(BODY_PREFIX)]  # noqa: SIM118  not a dict
            num_parameters = sum(math.prod(file.get_slice(name).get_shape()) for name in counted)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"card: {checkpoint} is no checkpoint of ours ({' '.join(str(error).split())})") from error
    if "config" not in header:
        raise InputError(f"card: {checkpoint} holds no configuration, so it is no checkpoint of ours")
    found = [report for path in reports for report in read_report(path)]
    defaults = {entry.name: entry.default for entry in fields(ModelConfig) if entry.default is not MISSING}
    metadata = header.get("metadata", {})
    data = metadata.get("data") or {}
    for name in sources:
        SOURCES[name]  # an unknown one says so
    named = {"sources": [*data.get("sources", []), *sources]} if sources else {}
    return Facts(checkpoint, defaults | header["config"], {**metadata, "data": {**data, **named}}, num_parameters, found, folder)


def write_facts(facts: Facts, out_dir: Path, worst: Path | None = None) -> Path:
    """The card and its pictures in a folder; returns the card's path."""
    out_dir.mkdir(parents=True, exist_ok=True)
    pictures = {CURVES: _curves(facts, out_dir / CURVES)}
    if worst is not None:
        pictures[WORST] = small_picture(worst, out_dir / WORST, SHEET_ROWS * (CROP_SIZE_PX + CAPTION_PX))
    people = last_people(facts)
    if people is not None:
        pictures[PEOPLE] = small_picture(people, out_dir / PEOPLE)
    path = out_dir / CARD
    path.write_text(card_text(facts, {name for name, there in pictures.items() if there}), encoding="utf-8")
    return path


def _curves(facts: Facts, path: Path) -> bool:
    """Draw the run's curves; False, with a line, where there is no log or no matplotlib."""
    if facts.folder is None or not (facts.folder / JOURNAL).is_file():
        return False
    try:
        draw_curves(read_journal(facts.folder / JOURNAL), path)
    except ImportError:
        log.warning("no learning curves: matplotlib is not installed (pip install matplotlib)")
        return False
    return True


def last_people(facts: Facts) -> Path | None:
    """The newest of the pictures that a run draws of its validation; None where there are none, or they show somebody real."""
    if facts.folder is None or not is_synthetic(facts.metadata):
        return None
    return max((facts.folder / "pictures").glob("*.png"), default=None, key=lambda path: path.name)


def is_synthetic(metadata: Mapping[str, Any]) -> bool:
    """Whether the pictures that a run validates on are synthetic people."""
    validation = ((metadata.get("run") or {}).get("data") or {}).get("validation") or {"kind": "features"}
    return validation.get("kind") in SYNTHETIC_KINDS


def small_picture(source: Path, target: Path, height_px: int | None = None) -> bool:
    """Write the upper rows of a picture as a small JPEG. Raises InputError when it cannot be read or written."""
    import cv2

    picture = cv2.imread(str(source))
    if picture is None:
        raise InputError(f"card: {source} is no readable picture")
    picture = picture[:height_px]
    scale = min(PICTURE_WIDTH_PX / picture.shape[1], 1)
    size = tuple(round(length * scale) for length in picture.shape[1::-1])
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA) if scale < 1 else np.ascontiguousarray(picture)
    if not cv2.imwrite(str(target), small, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
        raise InputError(f"card: cannot write {target}")
    return True


def card_text(facts: Facts, pictures: set[str]) -> str:
    """The card in Markdown. pictures: names of those that lie beside it."""
    sections = {
        "What it is": architecture(facts),
        "What it is for": INTENDED_USE,
        "Licence": licences(facts),
        "Training": training(facts, pictures),
        "Figures": figures(facts),
        "Known failures": failures(facts, pictures),
    }
    return "\n\n".join([f"# {facts.name}: model card", *(f"## {title}\n\n{text}" for title, text in sections.items())]) + "\n"


INTENDED_USE = """Estimating a body mesh of every person in pictures and videos, live or recorded: animation, graphics, fitness, research.

It is not made to tell who somebody is, to measure bodies or health, or to decide about people; distances and sizes are guesses,
because one picture does not hold them. Film people only with their consent."""


def architecture(facts: Facts) -> str:
    """Network, body and file."""
    config, layers = facts.config, facts.config.get("num_layers", 1)
    size_mb, digest = facts.path.stat().st_size / 1e6, sha256(facts.path.read_bytes()).hexdigest()
    widths = " and ".join(map(str, config.get("widths", ())))
    return (
        f"`{config.get('name')}`: a FastMETRO with the backbone {config.get('backbone')} and two transformers, {widths} wide, each with "
        f"{layers} encoder and {layers} decoder layer{'s' * (layers > 1)}, on the body {config.get('body')}; "
        f"{facts.num_parameters / 1e6:.1f} M parameters in {size_mb:.1f} MB.\n\n"
        f"It takes a crop of 224 x 224 px, {config.get('crop_scale')} times as wide as the longer side of the person's box, and gives "
        "three levels of mesh, 14 joints and a weak-perspective camera."
        f"{' People who lean by far are turned upright before it sees them.' if config.get('levelled') else ''}\n\n"
        f"sha256 of `{facts.path.name}`: `{digest}`"
    )


def licences(facts: Facts) -> str:
    """Of the weights, and of each source."""
    rows = [f"| {source.name} | {source.what} | {source.licence} | {source.commercial} |" for source in facts.sources]
    table = "\n".join(["| source | used for | licence | commercial use |", "|---|---|---|---|", *rows])
    own = str(facts.metadata.get("licence", "the file names none"))
    parts = [f"The weights: {own}.", f"Commercial use: {commercial_use(facts.sources)}."]
    people = (facts.metadata.get("data") or {}).get("people")
    if people:
        parts.append(f"People trained on, in the run's own words: {people}.")
    return "\n\n".join([*parts, table])


def training(facts: Facts, pictures: set[str]) -> str:
    """Samples, time, settings, curves."""
    metadata, data = facts.metadata, facts.metadata.get("data") or {}
    weights = metadata.get("loss_weights") or {}
    lines = {
        "first weights": first_weights(metadata),
        "different pictures": _count(data.get("pictures")),
        "samples seen": _count(metadata.get("samples_seen")),
        "hours of training": metadata.get("training_hours"),
        "pose families": ", ".join(data.get("pose_families", [])) or None,
        "optimiser": settings_line(metadata.get("training") or {}),
        "weights of the loss": ", ".join(f"{name} {_plain(value)}" for name, value in weights.items() if value) or None,
        "PyTorch": metadata.get("torch"),
    }
    text = "\n".join(f"- {name}: {value}" for name, value in lines.items() if value is not None)
    return f"{text}\n\n![Learning curves]({CURVES})" if CURVES in pictures else text


def first_weights(metadata: Mapping[str, Any]) -> str | None:
    """Where they come from; of a checkpoint also what it said of its own."""
    origin, start = metadata.get("origin"), metadata.get("start")
    return f"{origin} ({start['origin']})" if start and start["origin"] else origin


def settings_line(training_config: Mapping[str, Any]) -> str | None:
    """The settings that a reader looks for, where the run had them."""
    wanted = ("batch", "lr", "weight_decay", "clip_norm", "tail_lr_scale", "average_decay", "precision", "seed")
    return ", ".join(f"{name} {training_config[name]}" for name in wanted if name in training_config) or None


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _count(number: object) -> str | None:
    return f"{number:,}" if isinstance(number, int) else None


def figures(facts: Facts) -> str:
    """Tables of the evaluations; of the training's own scores where there is none."""
    report, parts = facts.own_report, []
    if not report:
        return "Not measured yet."
    if not facts.reports:
        parts.append("Measured by the training itself on its validation people, on the intermediate mesh:")
    elif len(facts.reports) > 1:
        labels = unique_labels([str(one["checkpoint"]) for one in facts.reports])
        parts.append(f"Side by side on the same sets: {', '.join(labels)}; the last is this model.")
        parts += [f"### {table.title}\n\n{table.markdown()}" for table in comparison_tables(labels, facts.reports)]
    own = report_tables(report)
    parts += [f"### {table.title}{', this model' * (len(facts.reports) > 1)}\n\n{table.markdown()}" for table in own]
    parts += [f"{name}: {note}." for name, scores in sets_of(report).items() for note in scores.get("notes", [])]
    if "estimator" in report:
        parts.append(f"Measured with `python -m core.training.evaluate`: {report['estimator']}.")
    return "\n\n".join(parts)


def failures(facts: Facts, pictures: set[str]) -> str:
    """What the figures show to be worst, and pictures of it."""
    found = known_failures(facts.own_report)
    parts = ["\n".join(f"- {line}" for line in found) if found else "No evaluation says more yet."]
    if WORST in pictures:
        legend = "True joints are green, estimated ones red; then the mesh over the picture, and from the side."
        parts.append(f"The worst cases. {legend}\n\n![Worst cases]({WORST})")
    if PEOPLE in pictures:
        parts.append(f"Ordinary cases, for comparison:\n\n![People of the validation]({PEOPLE})")
    return "\n\n".join(parts)


def score_for_card(run_dir: Path, shards: Path) -> None:
    """Score RUN's best checkpoint on synthetic people, into RUN/evaluation.json and RUN/worst.png. Raises InputError."""
    from core.training.evaluate import build_parser as evaluation_parser
    from core.training.evaluate import evaluate

    flags = ["--checkpoint", checkpoint_of(run_dir), "--shards", shards, "--limit", CARD_PEOPLE, "--sheet", run_dir / WORST_SHEET]
    reports = evaluate(evaluation_parser().parse_args(list(map(str, flags))))
    (run_dir / EVALUATION).write_text(json.dumps(reports[0], indent=1), encoding="utf-8")


def build_parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    parser = argparse.ArgumentParser(prog="python -m core.training.card", description="Write the model card of a training run.")
    parser.add_argument("run", help="folder of the run, or a checkpoint: a file or a name in checkpoints/")
    parser.add_argument("--out", type=Path, required=True, help="folder for the card and its pictures")
    parser.add_argument("--evaluation", type=Path, nargs="+", help="reports of core.training.evaluate; of several the last is this model's")
    parser.add_argument("--worst", type=Path, help="a sheet of worst cases; without photographs of people, as cards are published")
    parser.add_argument("--sources", nargs="+", default=[], help=f"what it was trained with, where it does not say: {', '.join(SOURCES)}")
    parser.add_argument("--shards", type=Path, help=f"score a run on {CARD_PEOPLE} of these synthetic people first")
    return parser


def from_options(options: argparse.Namespace) -> Path:
    """The card that the flags ask for; its file. Raises InputError and OSError."""
    run = Path(options.run)
    if run.is_dir():
        if options.shards:
            score_for_card(run, options.shards)
        return write_card(run, options.out, options.evaluation, options.worst, options.sources)
    if options.shards:
        raise InputError("card: --shards is for the folder of a run; score a checkpoint with core.training.evaluate, give --evaluation")
    facts = read_facts(find_checkpoint(options.run), options.evaluation or [], sources=options.sources)
    return write_facts(facts, options.out, options.worst)


def main(arguments: list[str] | None = None) -> int:
    """Command line entry point; the exit code."""
    options = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    return exit_code(lambda: print(from_options(options)))


if __name__ == "__main__":
    sys.exit(main())
