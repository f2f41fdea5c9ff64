"""Data sets of METRO and FastMETRO as they are downloaded: a yaml that names TSV files of pictures and labels.

python -m core.training.tsv_sets train.yaml [--pictures]     counts rows, flags and broken rows

A yaml names `img`, `label`, perhaps `hw` and `linelist`; with `composite: true` img and label are lists of files, and the linelist
says for each sample which file and which row. Labels are in the order and units of the release: 24 joints, pixels of the
picture as stored, metres in camera axes, SMPL's pose as rotation vectors.
Source of the format: microsoft/MeshTransformer and postech-ami/FastMETRO
"""

import argparse
import logging
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from core.bodies import Body
from core.config import PAPER_CROP_SCALE
from core.errors import InputError, exit_code
from core.training.samples import DATASETS, BrokenSample, Sample
from core.training.sequences import frame_name
from core.training.tsv import TsvFile, where_to_get
from core.training.tsv_labels import FLAGS, Label, decode_picture, parse_label

log = logging.getLogger(__name__)

SMPL = "smpl"
WARNED_ROWS = 5
"""So many broken rows are told one by one; the rest is counted."""


@DATASETS.register("tsv")
class TsvSet:
    """The samples of one yaml, by number. May be forked, pickled and used by several threads.

    name: the yaml's folder and stem; source_names: one for each label file; rows: (N, 2) int64, source and row in it of each sample
    """

    def __init__(self, body: Body | None, path: str | Path, crop_scale: float = PAPER_CROP_SCALE) -> None:
        """Open everything that the yaml `path` names. Raises InputError when something is missing or does not belong together.

        body: of the network; pose and betas are SMPL's, so another body learns from joints alone. None: as SMPL
        crop_scale: of the network; METRO cut its squares at 1.2 times the person's box, and they become as wide as this asks
        """
        self.widening = crop_scale / PAPER_CROP_SCALE
        path = Path(path)
        content = read_yaml(path)
        composite = bool(content.get("composite", False))
        self.path, self.name = path, f"{path.absolute().parent.name}/{path.stem}"
        self.is_smpl = body is None or body.name == SMPL
        self.pictures, self.labels = open_files(path, content, composite)
        self.source_names = tuple(file.path.parent.name if composite else self.name for file in self.pictures)
        linelist, sizes = content.get("linelist"), [len(file) for file in self.labels]
        self.rows = all_rows(sizes) if linelist is None else read_linelist(_placed(path, str(linelist)), sizes, composite)
        if not self.is_smpl:
            log.warning("%s: its meshes are SMPL's, the network has the body %r; only its joints are used", self.name, body.name)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """A person in the whole picture. Raises BrokenSample that names file and row."""
        try:
            label, key = self.label(index), self.key(index)
            return Sample(
                image=self.picture(index),
                centre_px=label.centre_px,
                scale=label.scale * self.widening,
                joints_2d_px=label.joints_2d,
                joints_3d_m=label.joints_3d,
                pose=label.pose if label.has_smpl and self.is_smpl else None,
                betas=label.betas if label.has_smpl and self.is_smpl else None,
                has_2d=label.has_2d_joints,
                has_3d=label.has_3d_joints,
                has_smpl=label.has_smpl and self.is_smpl,
                gender=label.gender,
                img_key=key,
                family=frame_name(key).family,
            )
        except BrokenSample as error:
            raise BrokenSample(f"{self.where(index)}: {error}") from error

    def label(self, index: int) -> Label:
        """The label of a sample. Raises BrokenSample."""
        source, row = self.rows[index]
        columns = self.labels[source].row(row)
        if len(columns) < 2:
            raise BrokenSample(f"its label has {len(columns)} column, expected a key and JSON")
        return parse_label(columns[1])

    def picture(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB, the whole picture. Raises BrokenSample."""
        source, row = self.rows[index]
        columns = self.pictures[source].row(row)
        if len(columns) < 2:
            raise BrokenSample(f"its picture has {len(columns)} column, expected a key and base64")
        return decode_picture(columns[-1])  # the last column: old files have more

    def key(self, index: int) -> str:
        """What the data set calls the picture; for 3DPW and Human3.6M the sequence and the frame are in it."""
        source, row = self.rows[index]
        return self.labels[source].row(row)[0].decode("utf-8", "replace")

    def where(self, index: int) -> str:
        """File and row of a sample, for messages."""
        source, row = self.rows[index]
        return f"{self.labels[source].path}, row {row}"


class BrokenRows:
    """Broken samples that were met: the first few are told one by one, all are counted."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, error: BrokenSample) -> None:
        """Note one that is skipped."""
        self.count += 1
        if self.count <= WARNED_ROWS:
            log.warning("skipped: %s", error)
        if self.count == WARNED_ROWS:
            log.warning("further broken samples are only counted")


def read_yaml(path: Path) -> dict[str, Any]:
    """A set's yaml. Raises InputError when it is missing or names no pictures and labels."""
    import yaml

    if not path.is_file():
        raise InputError(f"data set {path}: not there; {where_to_get(path)}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"data set {path}: no yaml ({' '.join(str(error).split())})") from error
    missing = [name for name in ("img", "label") if not isinstance(content, dict) or not content.get(name)]
    if missing:
        names = " and no ".join(missing)
        raise InputError(f"data set {path}: names no {names}, expected the keys img, label and perhaps hw, linelist, composite")
    return content


def named_files(path: Path, content: dict[str, Any], key: str, composite: bool) -> list[Path]:
    """The files under a key of a yaml: one; or for a composite several, in a list or in a text file of one a line."""
    value = content[key]
    if composite and isinstance(value, str):
        list_file = _placed(path, value)
        try:
            value = [line.strip() for line in list_file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"data set {path}: {key} names {list_file}, which is no readable list of files") from error
    names = value if isinstance(value, list) else [value]
    if not composite and len(names) != 1:
        raise InputError(f"data set {path}: {key} names {len(names)} files; several need `composite: true` and a linelist")
    return [_placed(path, str(name)) for name in names]


def _placed(yaml_path: Path, name: str) -> Path:
    """Names are relative to the yaml's folder."""
    return Path(name) if Path(name).is_absolute() else Path(yaml_path.parent, name)


def open_files(path: Path, content: dict[str, Any], composite: bool) -> tuple[list[TsvFile], list[TsvFile]]:
    """Picture and label files that belong together, row for row. Raises InputError."""
    pictures, labels = ([TsvFile(place) for place in named_files(path, content, key, composite)] for key in ("img", "label"))
    if len(pictures) != len(labels):
        raise InputError(f"data set {path}: {len(pictures)} img files, but {len(labels)} label files; expected a label file for each")
    for picture, label in zip(pictures, labels, strict=True):
        if len(picture) != len(label):
            raise InputError(
                f"data set {path}: {picture.path} has {len(picture)} rows, {label.path} {len(label)}; expected the same number, "
                "one may be cut short: get them again"
            )
    return pictures, labels


def all_rows(sizes: list[int]) -> np.ndarray:
    """(N, 2) int64: every row of every source."""
    return np.concatenate([np.stack([np.full(size, source), np.arange(size)], 1) for source, size in enumerate(sizes)]).astype(np.int64)


def read_linelist(path: Path, sizes: list[int], composite: bool) -> np.ndarray:
    """(N, 2) int64 source and row of each sample. A composite's lines hold both, other's the row.

    Raises InputError when the file is missing, empty, no numbers, or names rows that are not there.
    """
    if not path.is_file():
        raise InputError(f"{path}: not there; {where_to_get(path)}")
    num_columns = 2 if composite else 1
    try:
        numbers = np.array(path.read_bytes().split(), np.int64).reshape(-1, num_columns)
    except ValueError as error:
        kind = "a source and a row a line" if composite else "one row number a line"
        raise InputError(f"{path}: no linelist, expected {kind}") from error
    rows = numbers if composite else np.stack([np.zeros(len(numbers), np.int64), numbers[:, 0]], 1)
    if not len(rows):
        raise InputError(f"{path}: it is empty, so the data set has no samples")
    limits = np.array([*sizes, 0])[np.clip(rows[:, 0], 0, len(sizes))]
    wrong = np.flatnonzero((rows < 0).any(1) | (rows[:, 0] >= len(sizes)) | (rows[:, 1] >= limits))
    if len(wrong):
        source, row = rows[wrong[0]]
        raise InputError(
            f"{path}: line {wrong[0] + 1} names row {row} of source {source}, but the sources have {sizes} rows; another version?"
        )
    return rows


def count_set(data: TsvSet, with_pictures: bool) -> tuple[dict[str, Counter[str]], BrokenRows]:
    """For each source: samples, and how many have what; and the broken rows. Reads every label, and every picture when asked to."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in data.source_names}
    broken = BrokenRows()
    for index in range(len(data)):
        count = counts[data.source_names[data.rows[index, 0]]]
        count["samples"] += 1
        try:
            label = data.label(index)
            if with_pictures:
                data.picture(index)
        except BrokenSample as error:
            count["broken"] += 1
            broken.add(BrokenSample(f"{data.where(index)}: {error}"))
            continue
        count.update(flag for flag in FLAGS if getattr(label, flag))
    return counts, broken


def build_parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    parser = argparse.ArgumentParser(prog="python -m core.training.tsv_sets", description="Check a data set of METRO or FastMETRO.")
    parser.add_argument("yaml", type=Path, help="the data set, e.g. datasets/human3.6m/valid.protocol2.yaml")
    parser.add_argument("--pictures", action="store_true", help="decode every picture as well, which takes minutes to hours")
    return parser


def check_set(path: Path, with_pictures: bool) -> None:
    """The command: read a set and print what it holds. Raises InputError and OSError."""
    data = TsvSet(None, path)
    counts, broken = count_set(data, with_pictures)
    columns = ("samples", "broken", *FLAGS)
    print(f"{'source':24}" + "".join(f"{name:>15}" for name in columns))
    for name, count in counts.items():
        print(f"{name:24}" + "".join(f"{count[column]:15}" for column in columns))
    print(f"{len(data)} samples, {broken.count} broken")


def main(arguments: list[str] | None = None) -> int:
    """Command line entry point; the exit code."""
    options = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    return exit_code(lambda: check_set(options.yaml, options.pictures))


if __name__ == "__main__":
    sys.exit(main())
