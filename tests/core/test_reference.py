import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core import bench
from core.config import RELEASES, ModelConfig
from core.errors import InputError
from core.model import FastMETRO
from core.reference import OfficialLayout
from tests.toy import ToyBackbone, ToyBody

CONFIG = ModelConfig("small", "toy", "toy", num_layers=2, widths=(32, 16), num_heads=4, parametric=True)


def toy(**changes: object) -> FastMETRO:
    torch.manual_seed(0)
    return FastMETRO(replace(CONFIG, **changes), ToyBackbone(), ToyBody())


@pytest.mark.parametrize("release", list(RELEASES))
def test_both_layouts_compute_the_same(release: str) -> None:
    model = toy(**RELEASES[release]).eval()
    images = torch.rand(3, 3, 224, 224)
    with torch.no_grad():
        for ours, theirs in zip(bench.outputs(model(images)), bench.outputs(OfficialLayout(model).eval()(images)), strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


def test_an_ablation_has_no_official_layout() -> None:
    with pytest.raises(InputError, match="not an ablation"):
        OfficialLayout(toy(camera="mesh"))


def test_the_bench_compares_before_it_times() -> None:
    timings, difference = bench.bench(toy(), batch=2, repeats=2, device="cpu")
    assert difference <= bench.TOLERANCE
    assert [(timing.part, timing.way) for timing in timings] == [(part, way) for part in bench.PARTS for way in bench.WAYS]
    assert all(timing.ratio == 1 for timing in timings if timing.way == "official layout")
    ways = bench.three_ways(toy().eval())
    ways["exact path"].xyz_regressor.bias.data += 0.001
    with pytest.raises(RuntimeError, match="nothing was timed"), torch.inference_mode():
        bench.largest_difference(ways, torch.rand(1, 3, 224, 224))


def test_the_command_prints_ratios_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--variant", "fastmetro-xs-blazepose", "--repeats", "1", "--json", str(tmp_path / "bench.json")]) == 0
    assert "official / this" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "bench.json").read_text())) == len(bench.PARTS) * len(bench.WAYS)


@pytest.mark.parametrize("arguments", [["--batch", "0"], ["--threads", "0"], ["--checkpoint", "nothing.bin"]])
def test_mistakes_are_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(arguments) == 1
    assert capsys.readouterr().err.count("\n") == 1
