import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core import bench
from core.config import RELEASES, ModelConfig
from core.errors import InputError
from core.exact import exact_path
from core.model import FastMETRO
from core.reference import OfficialLayout
from core.ways import EXACT, WAYS, Runner, as_loaded
from tests.toy import ToyBody, toy_backbone

CONFIG = ModelConfig("small", "toy", "toy", num_layers=2, widths=(32, 16), num_heads=4, parametric=True)


def toy(**changes: object) -> FastMETRO:
    torch.manual_seed(0)
    config = replace(CONFIG, **changes)
    return FastMETRO(config, toy_backbone(config), ToyBody())


@pytest.mark.parametrize("changes", [*RELEASES.values(), {"feedback": 2}], ids=[*RELEASES, "feedback"])
def test_both_layouts_compute_the_same(changes: dict[str, object]) -> None:
    model = toy(**changes).eval()
    if model.feedback is not None:
        torch.nn.init.normal_(model.feedback.move.weight, std=0.1)
    images = torch.rand(3, 3, 224, 224)
    with torch.no_grad():
        for ours, theirs in zip(bench.outputs(model(images)), bench.outputs(OfficialLayout(model).eval()(images)), strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


def test_the_exact_path_of_feedback_computes_the_same() -> None:
    model = toy(feedback=2).eval()
    torch.nn.init.normal_(model.feedback.move.weight, std=0.1)
    images = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        expected = bench.outputs(model(images))
        for exact, wanted in zip(bench.outputs(exact_path(copy.deepcopy(model), "cpu")(images)), expected, strict=True):
            torch.testing.assert_close(exact, wanted, atol=2e-5, rtol=0)


def test_an_ablation_has_no_official_layout() -> None:
    with pytest.raises(InputError, match="not an ablation"):
        OfficialLayout(toy(camera="mesh"))


def test_the_bench_compares_before_it_times() -> None:
    report = bench.bench(toy(), batch=2, repeats=2, device="cpu", ways=WAYS[:3])
    assert [(timing.part, timing.way) for timing in report.timings] == [(part, way.name) for part in bench.PARTS for way in WAYS[:3]]
    assert all(timing.ratio == 1 for timing in report.timings if timing.way == "official layout")
    assert all(timing.difference <= EXACT for timing in report.timings)

    def slightly_wrong(model: FastMETRO, device: str) -> Runner:
        network = copy.deepcopy(model)
        network.xyz_regressor.bias.data += 0.001
        return as_loaded(network, device)

    wrong = replace(WAYS[1], name="wrong", build=slightly_wrong)
    with pytest.raises(RuntimeError, match=r"wrong: differs by 1.0e-03, .* nothing was timed"):
        bench.bench(toy(), batch=1, repeats=1, device="cpu", ways=(WAYS[0], wrong))


def test_ways_that_cannot_run_here_are_named() -> None:
    absent = replace(WAYS[1], name="absent", missing=lambda device: f"no {device} today")
    elsewhere = replace(WAYS[1], name="elsewhere", devices=("cuda",))
    report = bench.bench(toy(), batch=1, repeats=1, device="cpu", ways=(WAYS[0], absent, elsewhere))
    assert report.skipped == {"absent": "no cpu today", "elsewhere": "not for cpu"}
    assert {timing.way for timing in report.timings} == {"official layout"}


def test_the_command_prints_ratios_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--variant", "fastmetro-xs-blazepose", "--repeats", "1", "--json", str(tmp_path / "bench.json")]) == 0
    assert "official / this" in capsys.readouterr().out
    rows = json.loads((tmp_path / "bench.json").read_text())
    assert {"part", "way", "median_ms", "p90_ms", "ratio", "precision", "difference"} == set(rows[0])
    assert {("whole", way.name) for way in WAYS[:3]} <= {(row["part"], row["way"]) for row in rows}


@pytest.mark.parametrize("arguments", [["--batch", "0"], ["--threads", "0"], ["--checkpoint", "nothing.bin"]])
def test_mistakes_are_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(arguments) == 1
    assert capsys.readouterr().err.count("\n") == 1
