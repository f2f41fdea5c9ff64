"""TSV data sets as METRO writes them, with invented people."""

import base64
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

HEIGHT, WIDTH = 120, 160


def jpeg(color: tuple[int, int, int]) -> bytes:
    """A picture of one colour, RGB."""
    return cv2.imencode(".jpg", np.full((HEIGHT, WIDTH, 3), color[::-1], np.uint8))[1].tobytes()


def label(number: int, **changes: Any) -> dict[str, Any]:
    """Joint k of person n lies at (10 n + k, k) px and (n, k, -k) / 100 m."""
    k = np.arange(24)
    ones = np.ones(24)
    content = {
        "center": [80.0 + number, 60.0], "scale": 0.5,
        "2d_joints": np.stack([10 * number + k, k, ones], 1).tolist(), "has_2d_joints": 1,
        "3d_joints": [np.stack([0.01 * number * ones, k / 100, -k / 100, ones], 1).tolist()], "has_3d_joints": 1,
        "pose": [0.01 * number] * 72, "betas": [0.1 * number] * 10, "has_smpl": 1, "gender": "m",
    }  # fmt: skip
    return {**content, **changes}


def picture_color(number: int) -> tuple[int, int, int]:
    """Tells people apart."""
    return 200, 20 * number, 30


def write_rows(path: Path, rows: list[list[str]], with_index: bool = True) -> None:
    """A TSV and its .lineidx, byte for byte as METRO's tsv_writer leaves them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(row) + "\n" for row in rows]
    path.write_bytes("".join(lines).encode())
    if with_index:
        offsets = np.concatenate([[0], np.cumsum([len(line.encode()) for line in lines])[:-1]])
        path.with_suffix(".lineidx").write_text("".join(f"{offset}\n" for offset in offsets))


def write_set(
    folder: Path, count: int, split: str = "train", first: int = 0, keys: list[str] | None = None, labels: list[str] | None = None
) -> None:
    """NAME.img.tsv, .hw.tsv, .label.tsv and .linelist.tsv of people first, first + 1, ..."""
    numbers = range(first, first + count)
    keys = keys or [f"person_{number}.jpg" for number in numbers]
    texts = labels or [json.dumps([label(number)]) for number in numbers]
    images = [base64.b64encode(jpeg(picture_color(number))).decode() for number in numbers]
    write_rows(folder / f"{split}.img.tsv", [list(row) for row in zip(keys, images, strict=True)])
    write_rows(folder / f"{split}.hw.tsv", [[key, json.dumps([{"height": HEIGHT, "width": WIDTH}])] for key in keys])
    write_rows(folder / f"{split}.label.tsv", [list(row) for row in zip(keys, texts, strict=True)])
    write_rows(folder / f"{split}.linelist.tsv", [[str(row)] for row in range(count)])


def write_yaml(path: Path, split: str = "train", folder: str = "") -> Path:
    """The yaml of a single set."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{key}: {folder}{split}.{key}.tsv" for key in ("img", "label", "hw", "linelist")]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_composite(root: Path, sources: list[tuple[str, int]], order: list[tuple[int, int]]) -> Path:
    """Sets ROOT/name of so many people each, numbered on; and ROOT/mix/train.yaml over them."""
    first = 0
    for name, count in sources:
        write_set(root / name, count, first=first)
        first += count
    lines = ["composite: true", "linelist: train.linelist.tsv"]
    for key in ("img", "label", "hw"):
        lines += [f"{key}:", *(f"- ../{name}/train.{key}.tsv" for name, _ in sources)]
    path = root / "mix" / "train.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(lines) + "\n")
    write_rows(root / "mix" / "train.linelist.tsv", [[str(source), str(row)] for source, row in order])
    return path
