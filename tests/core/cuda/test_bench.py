import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import core.cuda.bench as gpu_bench
from core import bench
from core.backbones import BACKBONES
from core.bodies import BODIES
from core.config import ModelConfig
from core.cuda.bench import BASELINE, SECTIONS, Bench, Row, compiling, run, table
from core.cuda.network import TOLERANCE, PackedNetwork
from core.cuda.training_bench import training_rows
from core.model import FastMETRO
from tests.core.cuda.pretend import Memory, PretendDevice
from tests.toy import ToyBackbone, ToyBody

CONFIG = ModelConfig("small", "toy", "toy", widths=(32, 16), num_heads=4)


def build(name: str) -> FastMETRO:
    torch.manual_seed(0)
    return FastMETRO(replace(CONFIG, name=name), ToyBackbone(), ToyBody())


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setitem(BODIES._entries, "toy", lambda mesh_dir: ToyBody())
    monkeypatch.setitem(BACKBONES._entries, "toy", ToyBackbone)
    monkeypatch.setattr(gpu_bench, "FRAME_PX", (520, 400))
    monkeypatch.setattr(gpu_bench, "NUM_PEOPLE", 2)
    return Bench(PretendDevice(), build, repeats=3, compiles=False, variant="toy-s", large="toy-l", buckets=(1, 2, 4))


def test_the_parts_are_those_that_the_command_knows() -> None:
    assert tuple(SECTIONS) == tuple(sorted(bench.GPU_PARTS, key=list(SECTIONS).index))
    assert set(SECTIONS) == set(bench.GPU_PARTS)


def test_one_crop_in_every_way_beside_the_official_layout(toys: Bench) -> None:
    rows = run(toys, ["latency"])
    names = {row.name: row for row in rows}
    assert {BASELINE, "fp32, graph", "tf32, graph", "fp16, graph", "bf16, graph"} <= set(names)
    assert names[BASELINE].ratio == 1
    assert names["fp32, graph"].off < 1e-5 < names["bf16, graph"].off
    judged = [row for row in rows if row.met is not None]
    assert len(judged) == 1
    assert judged[0].target == "<= 0.5 ms, >= 15x"
    timed = [row for row in rows if row.value is not None and row.name != BASELINE and row.off <= TOLERANCE]
    assert judged[0].value == min(row.value for row in timed)
    assert "nothing to fuse" in names["fp32, graph, fused"].note  # the toy has nothing to fuse, and that is said


def test_what_is_wrong_is_not_timed(toys: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    original = PackedNetwork.forward

    def wrong(network: PackedNetwork, crops: torch.Tensor) -> torch.Tensor:
        rows = original(network, crops)
        return rows + torch.randn(rows.shape) if network.mode.name == "bf16" else rows

    monkeypatch.setattr(PackedNetwork, "forward", wrong)
    row = next(row for row in run(toys, ["latency"]) if row.name == "bf16, graph")
    assert row.value is None
    assert row.off > 0.1
    assert row.note == "not timed: further off than 5.0%"


def test_throughput_ends_where_the_memory_does(toys: Bench) -> None:
    rows = run(replace(toys, device=PretendDevice(memory=Memory(limit=2))), ["throughput"])
    measured = [row for row in rows if row.name.startswith("batch")]
    assert [row.name.split(":")[0].split(",")[0] for row in measured][:3] == ["batch 1", "batch 2", "batch 4"]
    assert measured[2].note == "the GPU's memory does not do"
    assert sum(row.met is not None for row in rows) == 1
    assert any("host to host" in row.name and row.value > 0 for row in rows)


def test_all_parts_print_one_table_each_and_fill_one_file(toys: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = run(toys, ["large", "frames"], tmp_path / "gpu.json")
    said = json.loads((tmp_path / "gpu.json").read_text())
    assert len(said["rows"]) == len(rows)
    assert said["machine"]["device"] == "no GPU"
    printed = capsys.readouterr().out
    assert "toy-l, 1 crop" in printed
    assert "<= 3 ms" in printed
    assert "cut on the device" in printed


def test_a_part_that_fails_leaves_the_others(toys: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Bench) -> None:
        raise RuntimeError("CUDA error: misaligned address")

    monkeypatch.setitem(SECTIONS._entries, "latency", broken)
    rows = run(toys, ["latency", "frames"])
    assert rows[0].note == "CUDA error: misaligned address"
    assert rows[-1].name == "cut on the device"


def test_a_training_step_is_measured_with_the_real_trainer(toys: Bench) -> None:
    rows = list(training_rows(toys, batch=4, steps=2))
    assert [row.name for row in rows] == ["mixed precision, eager"]
    assert rows[0].value > 0
    assert rows[0].target == ">= 3000 pictures/s"
    assert rows[0].met is (rows[0].value >= 3000)


def test_the_table_says_what_was_not_met() -> None:
    text = table([
        Row("one", "a", 0.4, "ms", 0.5, 16.0, 0.001, "<= 0.5 ms", True), Row("one", "b", None, "ms", note="why"),
        Row("two", "c", 2500.0, "pictures/s", target=">= 3000", met=False),
    ])  # fmt: skip
    lines = text.splitlines()
    assert lines[1].endswith("<= 0.5 ms  met")
    assert "16.00x" in lines[1]
    assert "0.10%" in lines[1]
    assert lines[2].split() == ["b", "-", "why"]
    assert lines[-1].endswith(">= 3000  NOT MET")
    assert "2500 pictures/s" in lines[-1]


def test_without_a_gpu_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert bench.main(["--device", "cuda"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1
    assert captured.err.startswith("--device cuda: PyTorch ")
    assert "leave it out to measure the CPU" in captured.err


def test_sets_of_pictures_differ() -> None:
    first, second = gpu_bench.crops_of(2, 0), gpu_bench.crops_of(2, 1)
    assert first.dtype == torch.uint8
    assert not np.array_equal(first.numpy(), second.numpy())


def test_every_bucket_is_compiled() -> None:
    """More of them than PyTorch compiles by default before it runs eagerly."""
    calls = []

    def backend(graph: torch.fx.GraphModule, _: object) -> object:
        calls.append(1)
        return graph.forward

    network = torch.compile(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()), backend=backend, dynamic=False)
    with compiling(), torch.inference_mode():
        for count in range(2, 14):
            network(torch.rand(count, 4))
    assert len(calls) == 12
