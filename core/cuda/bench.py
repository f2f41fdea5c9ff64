"""How fast the network is on a GPU, beside the release's layout in the same run: python -m core.bench --device cuda

Every way is compared with float32 before it is timed. Times are the device's own (events), medians over several sets of pictures, in
turn. One table with the targets beside the figures.
"""

import copy
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core.crop import crop_person, place_person
from core.cuda.buckets import BUCKETS
from core.cuda.device import Device
from core.cuda.network import BF16, FP16, FP32, NUM_CHECKED, TF32, TOLERANCE, Layout, Mode, PackedNetwork, deviation, exactness, prepared
from core.cuda.problems import out_of_memory
from core.cuda.runtime import WAYS, CudaRuntime, Engine, said_in_float32
from core.model import FastMETRO
from core.pixels import Normaliser, patchwork
from core.reference import OfficialLayout
from core.registry import Registry
from core.timing import Spread, take_turns
from core.timing import spreads as spreads_of

NUM_SETS = 5
"""Sets of pictures that take turns."""
FRAME_PX = (720, 1280)
NUM_PEOPLE = 8
BATCHES_IN_A_ROW = 8
BROKEN = 0.05
"""What is this far off, see `deviation`, is not timed. What the runtime would not take (TOLERANCE) is timed, but not judged."""
EXACT = 1e-3
"""What float32 may differ from float32: other kernels round in another order."""
COMPILED = "compiled"
MAX_COMPILED = 64
BASELINE = "official layout, eager"


@dataclass(frozen=True)
class Row:
    """A line of the table. value: in `unit`; p90: likewise; ratio: the official layout's median over this one's; off: see `deviation`

    target: in words; met: whether it is
    """

    section: str
    name: str
    value: float | None
    unit: str
    p90: float | None = None
    ratio: float | None = None
    off: float | None = None
    target: str = ""
    met: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class Bench:
    """What sections need. build: name of a variant -> network, in evaluation mode, on the host; compiles: whether torch.compile is tried"""

    device: Device
    build: Callable[[str], FastMETRO]
    repeats: int = 50
    compiles: bool = True
    variant: str = "fastmetro-s-r50"
    large: str = "fastmetro-l-h64"
    buckets: tuple[int, ...] = BUCKETS


SECTIONS: Registry[Callable[[Bench], Iterator[Row]]] = Registry("part of the GPU bench")
"""Name -> function that measures a part and yields its rows as they are known."""


@dataclass(frozen=True)
class Task:
    """Something to time. ready: brings in one of NUM_SETS sets of pictures, before the clock starts; run: on the stream `compute`"""

    ready: Callable[[int], object]
    run: Callable[[], object]
    off: float


def crops_of(count: int, number: int) -> Tensor:
    """(count, 224, 224, 3) uint8 of set `number`."""
    return torch.from_numpy(np.random.default_rng([count, number]).integers(0, 256, (count, 224, 224, 3), np.uint8))


def timed(device: Device, tasks: dict[str, Task], repeats: int) -> dict[str, Spread]:
    """All tasks in turn, by the device's clock; the first round of sets does not count."""
    times_ms: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(NUM_SETS + repeats):
        for name, task in tasks.items():
            task.ready(number % NUM_SETS)
            elapsed_ms = device.timed(task.run)()
            if number >= NUM_SETS:
                times_ms[name].append(elapsed_ms)
    return {name: Spread.of(values) for name, values in times_ms.items()}


class Subject:
    """A network on the device in the release's layout and folded for ours, and what it says in float32."""

    def __init__(self, bench: Bench, name: str) -> None:
        self.device = bench.device
        loaded = bench.build(name).eval()
        self.model = prepared(copy.deepcopy(loaded), self.device.device)
        self.official = OfficialLayout(loaded).eval().to(self.device.device)
        # The release keeps these on the GPU; copied in each forward they would make it slower than it is.
        self.official.upsampling = [None if matrix is None else matrix.to(self.device.device) for matrix in self.official.upsampling]
        self.crops = patchwork(NUM_CHECKED).to(self.device.device)
        self.expected = said_in_float32(self.model, self.crops)
        self.layout = Layout.of(self.model, self.expected)
        self._normalise = Normaliser(loaded.backbone).to(self.device.device)

    def normalised(self, crops: Tensor) -> Tensor:
        """(B, 3, 224, 224) float32 on the device."""
        return self._normalise(crops.to(self.device.device)).contiguous()

    def off(self, vertices: Tensor) -> float:
        """How far the mesh that was found for `crops` is from float32's."""
        return deviation(vertices.to(self.device.device), self.expected.levels[2])

    def official_task(self) -> Task:
        """The release's layout as PyTorch runs it by default, one crop."""
        sets = [self.normalised(crops_of(1, number)) for number in range(NUM_SETS)]
        place = sets[0].clone()
        off = self.off(self.official(self.normalised(self.crops)).levels[2])
        return Task(lambda number: place.copy_(sets[number]), lambda: self.official(place), off)

    def engine(self, mode: Mode, way: str, largest: int) -> tuple[Engine, float]:
        """Our network in a mode and a way, and how far it is off. Raises RuntimeError where the GPU cannot run it."""
        network: nn.Module = PackedNetwork(self.model, mode, WAYS[way] if way in WAYS else WAYS["plain"])
        if way == COMPILED:
            torch._dynamo.reset()  # each network would add its sizes to those of the one before
        run = torch.compile(network, mode="max-autotune-no-cudagraphs", dynamic=False) if way == COMPILED else network
        with exactness(mode.tf32):
            off = self.off(self.layout.unpacked(run(self.crops)).levels[2])
        return Engine(run, mode.tf32, self.device, largest), off


def graph_task(engine: Engine, bucket: int, off: float) -> Task:
    """A replay of one bucket."""
    graph, place = engine.prepare(bucket), engine.place(bucket)
    sets = [crops_of(bucket, number).to(place.device) for number in range(NUM_SETS)]
    return Task(lambda number: place.copy_(sets[number]), graph.replay, off)


def candidates(bench: Bench, subject: Subject, modes: Sequence[Mode], section: str) -> Iterator[tuple[str, Engine, float] | Row]:
    """(name, engine, how far off) of every mode and way that can be timed; a row without figures for each that cannot."""
    for mode in modes:
        ways = [*WAYS, *([COMPILED] if bench.compiles and mode is BF16 else [])]
        for way in ways:
            name = f"{mode.name}, graph" if way == "plain" else f"{mode.name}, graph, {way}"
            try:
                engine, off = subject.engine(mode, way, bench.buckets[-1])
            except Exception as error:  # what Inductor and cuDNN raise is of many kinds; the others shall still be measured
                if out_of_memory(error):
                    raise
                yield Row(section, name, None, "ms", note=" ".join(str(error).split())[:80])
                continue
            limit = EXACT if mode is FP32 else BROKEN
            if off <= limit:
                yield name, engine, off
            else:
                yield Row(section, name, None, "ms", off=off, note=f"not timed: further off than {limit:.1%}")


def latency(bench: Bench, variant: str, modes: Sequence[Mode], section: str, most_ms: float, least_ratio: float | None) -> Iterator[Row]:
    """One crop: the official layout and every way of ours."""
    subject = Subject(bench, variant)
    tasks = {BASELINE: subject.official_task()}
    for found in candidates(bench, subject, modes, section):
        if isinstance(found, Row):
            yield found
        else:
            name, engine, off = found
            tasks[name] = graph_task(engine, 1, off)
    spreads = timed(bench.device, tasks, bench.repeats)
    base_ms = spreads[BASELINE].median_ms
    judged = [name for name in spreads if name != BASELINE and tasks[name].off <= TOLERANCE]
    best = min(judged, key=lambda name: spreads[name].median_ms, default=None)
    for name, spread in spreads.items():
        ratio, target, met = base_ms / spread.median_ms, "", None
        note = "" if tasks[name].off <= TOLERANCE else f"the runtime takes {TOLERANCE:.0%} at most"
        if name == best:
            target = f"<= {most_ms:g} ms" + (f", >= {least_ratio:g}x" if least_ratio else "")
            met = spread.median_ms <= most_ms and (least_ratio is None or ratio >= least_ratio)
        yield Row(section, name, spread.median_ms, "ms", spread.p90_ms, ratio, tasks[name].off, target, met, note)


@SECTIONS.register("latency")
def _latency(bench: Bench) -> Iterator[Row]:
    yield from latency(bench, bench.variant, (FP32, TF32, FP16, BF16), f"{bench.variant}, 1 crop", 0.5, 15.0)


@SECTIONS.register("large")
def _large(bench: Bench) -> Iterator[Row]:
    yield from latency(bench, bench.large, (FP16, BF16), f"{bench.large}, 1 crop", 3.0, None)


@SECTIONS.register("throughput")
def _throughput(bench: Bench) -> Iterator[Row]:
    """Crops a second in every bucket, on the device and from host to host."""
    section = f"{bench.variant}, throughput"
    subject = Subject(bench, bench.variant)
    engines = [found for found in candidates(bench, subject, (BF16, FP16), section) if not isinstance(found, Row) and found[2] <= TOLERANCE]
    best: tuple[float, Row, Engine, int] | None = None
    rows = []
    for bucket in bench.buckets:
        try:
            tasks = {name: graph_task(engine, bucket, off) for name, engine, off in engines}
        except Exception as error:
            if not out_of_memory(error):
                raise
            rows.append(Row(section, f"batch {bucket}", None, "crops/s", note="the GPU's memory does not do"))
            break
        spreads = timed(bench.device, tasks, max(bench.repeats // 3, 5))
        name = min(spreads, key=lambda key: spreads[key].median_ms)
        rate, slow = (bucket / ms * 1e3 for ms in (spreads[name].median_ms, spreads[name].p90_ms))
        row = Row(section, f"batch {bucket}: {name}", rate, "crops/s", slow, off=tasks[name].off)
        rows.append(row)
        if best is None or rate > best[0]:
            best = rate, row, next(engine for key, engine, _ in engines if key == name), bucket
    for row in rows:
        is_best = best is not None and row is best[1]
        yield replace(row, target=">= 25000 crops/s", met=row.value >= 25_000) if is_best else row
    if best is not None:
        yield from _host_to_host(bench, section, best[2], best[3])


def _host_to_host(bench: Bench, section: str, engine: Engine, bucket: int) -> Iterator[Row]:
    """Crops in the host's memory -> packed results in the host's memory, batches overlapping."""
    engine.max_batch = bucket
    crops = np.concatenate([crops_of(bucket, number).numpy() for number in range(BATCHES_IN_A_ROW)])
    spread = by_the_wall({"": lambda: engine.from_crops(crops)}, max(bench.repeats // 10, 3))[""]
    rates = [len(crops) / ms * 1e3 for ms in (spread.median_ms, spread.p90_ms)]
    yield Row(section, f"batch {bucket}, host to host", rates[0], "crops/s", rates[1])


@SECTIONS.register("frames")
def _frames(bench: Bench) -> Iterator[Row]:
    """People of one frame: cut on the host or on the device, until their results are on the host."""
    runtime = CudaRuntime(bench.build(bench.variant).eval(), "bf16", bench.device)
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (*FRAME_PX, 3), np.uint8)
    corners = rng.uniform((0, 0), (FRAME_PX[1] - 320, FRAME_PX[0] - 500), (NUM_PEOPLE, 2))
    boxes = np.concatenate([corners, corners + rng.uniform((80, 300), (320, 500), (NUM_PEOPLE, 2))], 1)
    tasks = {
        "cut on the host": lambda: runtime(np.stack([crop_person(frame, box).image for box in boxes])),
        "cut on the device": lambda: runtime.from_placed([place_person(frame, box) for box in boxes]),
    }
    spreads = by_the_wall(tasks, bench.repeats)
    base_ms = spreads["cut on the host"].median_ms
    for name, spread in spreads.items():
        section = f"{NUM_PEOPLE} people of a {FRAME_PX[1]}x{FRAME_PX[0]} frame"
        yield Row(section, name, spread.median_ms, "ms", spread.p90_ms, note=f"{base_ms / spread.median_ms:.2f}x of cutting on the host")


@SECTIONS.register("training")
def _training(bench: Bench) -> Iterator[Row]:
    from core.cuda.training_bench import training_rows

    yield from training_rows(bench)


def by_the_wall(tasks: dict[str, Callable[[], object]], repeats: int) -> dict[str, Spread]:
    """Things that end on the host, in turn."""
    return spreads_of(take_turns(tasks, repeats))


def machine(device: Device) -> dict[str, Any]:
    """What the figures are of."""
    facts: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, "device": device.name}
    if torch.backends.cudnn.is_available() and device.device.type == "cuda":
        facts["cudnn"] = torch.backends.cudnn.version()
    return facts


def table(rows: Sequence[Row]) -> str:
    """For people to read, one section under the other."""
    lines: list[str] = []
    section = ""
    for row in rows:
        if row.section != section:
            section = row.section
            lines += ["", f"{section:44}{'median':>14}{'90th':>10}{'official / this':>17}{'off':>8}   target"]
        value = "-" if row.value is None else f"{_number(row.value)} {row.unit}"
        p90 = "" if row.p90 is None else _number(row.p90)
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
        off = "" if row.off is None else f"{row.off:.2%}"
        verdict = "" if row.met is None else ("met" if row.met else "NOT MET")
        end = "  ".join(part for part in (row.target, verdict, row.note) if part)
        lines.append(f"  {row.name:42}{value:>14}{p90:>10}{ratio:>17}{off:>8}   {end}".rstrip())
    return "\n".join(lines).strip("\n")


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3f}"


@torch.inference_mode()
def _rows(bench: Bench, name: str) -> list[Row]:
    return list(SECTIONS[name](bench))


def compiling() -> AbstractContextManager[None]:
    """A context in which torch.compile may compile for every bucket; by default it runs eagerly after eight sizes, without a word."""
    return torch._dynamo.config.patch(recompile_limit=MAX_COMPILED, fail_on_recompile_limit_hit=True)


def run(bench: Bench, parts: Sequence[str], path: Path | None = None) -> list[Row]:
    """Measure the parts one after the other and print each as soon as it is known; all of them in `path` as JSON, if given.

    A part that fails becomes a row that says so: the others took minutes.
    """
    facts, rows = machine(bench.device), []
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    for part in parts:
        start_s = time.perf_counter()
        try:
            with compiling() if bench.compiles else nullcontext():
                found = _rows(bench, part) if part != "training" else list(SECTIONS[part](bench))
        except (RuntimeError, AssertionError) as error:
            found = [Row(part, "failed", None, "", note=" ".join(str(error).split())[:160])]
            bench.device.free()
        rows += found
        print(f"\n{table(found)}\n  ({time.perf_counter() - start_s:.0f} s)", flush=True)
        if path is not None:
            path.write_text(json.dumps({"machine": facts, "rows": [asdict(row) for row in rows]}, indent=1), encoding="utf-8")
    return rows
