"""What a run says while it goes: RUN/log.jsonl, TensorBoard where it is installed, pictures, a bar on a terminal."""

import json
import logging
import math
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from core.training.config import RunFolder
from core.training.sheet import Panel, sheet_of

log = logging.getLogger(__name__)


class Journal:
    """RUN/log.jsonl, one JSON object a line, and means of what was measured since the last line. A context manager."""

    def __init__(self, folder: RunFolder, total: int = 0, done: int = 0, tensorboard: bool = False) -> None:
        """total, done: samples of the run, for the bar; tensorboard: write RUN/tensorboard as well, if that can be."""
        self.folder = folder
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.board = _board(folder) if tensorboard else None
        self.bar = _bar(total, done) if total and sys.stderr.isatty() else None

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        for part in (self.board, self.bar):
            if part is not None:
                part.close()

    def add(self, measured: dict[str, Tensor], num_samples: int = 0) -> None:
        """Take the terms of one step into the means, and move the bar to `num_samples`."""
        for name, value in measured.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1
        if self.bar is not None:
            self.bar.update(num_samples - self.bar.n)

    def means(self) -> dict[str, float]:
        """Means since the last call, each over the steps that had such a term."""
        means = {name: round(float(value) / self.counts[name], 5) for name, value in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means

    def write(self, record: dict[str, Any]) -> None:
        """Append a line, and tell the log and TensorBoard. What is no number there (nobody to measure it on) becomes null."""
        record = without_nan(record)
        line = json.dumps(record)
        with self.folder.journal.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        if self.bar is None:
            log.info("%s", line)
        else:
            self.bar.write(line, file=sys.stderr)
        if self.board is not None:
            for name, value in flat(record).items():
                self.board.add_scalar(name, value, record.get("samples", 0))

    def draw(self, panels: list[Panel], faces: np.ndarray, num_samples: int) -> Path | None:
        """Write people with their estimates as RUN/pictures/<samples>.png, and to TensorBoard."""
        if not panels:
            return None
        picture = sheet_of(panels, faces)
        path = self.folder.run / "pictures" / f"{num_samples:09d}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), picture[..., ::-1])
        if self.board is not None:
            self.board.add_image("people", picture, num_samples, dataformats="HWC")
        return path


def _board(folder: RunFolder) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        log.warning("TensorBoard is not installed, so the run is logged in %s only; pip install tensorboard", folder.journal)
        return None
    return SummaryWriter(str(folder.run / "tensorboard"))


def _bar(total: int, done: int) -> Any:
    try:
        from tqdm import tqdm
    except ImportError:
        return None  # lines of the log say the same

    return tqdm(total=total, initial=done, unit="samples", unit_scale=True, file=sys.stderr, mininterval=1.0)


def without_nan(value: Any) -> Any:
    """The same with None for what is not finite: JSON has no NaN."""
    if isinstance(value, dict):
        return {name: without_nan(part) for name, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def flat(record: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Every number of a nested record under a name like synthetic/mpjpe_mm."""
    numbers: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            numbers |= flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers[f"{prefix}{name}"] = value
    return numbers
