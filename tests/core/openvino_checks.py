import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import core.openvino_compiled
import core.openvino_files
import core.openvino_network
import core.picture_network
from core import bench
from core.config import RELEASES, VARIANTS
from core.cpu import has_fast_bf16_cpu, has_int8_dot_products
from core.crop import CROP_SCALE
from core.errors import InputError
from core.estimator import MeshEstimator
from core.model import FastMETRO, assemble
from core.openvino_compiled import compile_network
from core.openvino_files import OpenVinoError, silent_openvino
from core.openvino_network import OpenVinoNetwork
from core.person_finder import BoxFinder, PersonFinder
from core.pixels import patchwork
from core.quantize import constants_apart, quantise, shard_crops
from core.runtimes import warn_once
from core.ways import WAYS
from tests.core.openvino_toys import CROPS, assert_near, original, toy, without_compiled
from tests.core.training.toy_people import write_toy_shards
from tests.toy import ToyBody

pytest.importorskip("openvino", reason="OpenVINO is optional: `pip install openvino`")

ARCHITECTURES = (
    RELEASES["released"] | {"parametric": True, "num_layers": 2},
    {"camera": "decoder"},
    {"feedback": 2},
    {"camera": "mesh", "masked": False, "tokens": "template", "upsampling": ("learned", "learned")},
)
SILENCE = """
import socket, sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        print("NETWORK", event, arguments)
sys.addaudithook(refuse)
import torch
from pathlib import Path
from core.config import ModelConfig
from core.model import FastMETRO
from core.openvino_network import OpenVinoNetwork
from core.pixels import patchwork
from tests.toy import ToyBackbone, ToyBody
model = FastMETRO(ModelConfig("small", "toy", "toy", widths=(32, 16), num_heads=4), ToyBackbone(), ToyBody()).eval()
for _ in range(2):  # made, then read
    OpenVinoNetwork(model, "fp32", Path(sys.argv[1]))(patchwork(2).numpy())
import time
time.sleep(1)  # a client would report from a thread of its own
print("done")
"""


@pytest.fixture
def model() -> FastMETRO:
    return toy()


def test_it_says_what_the_network_says_for_any_batch(model: FastMETRO, tmp_path: Path) -> None:
    exact, rough = (OpenVinoNetwork(model, precision, tmp_path) for precision in ("fp32", "bf16"))
    assert (exact.precision, rough.precision) == ("fp32", "bf16" if has_fast_bf16_cpu() else "fp32")
    for batch in (1, 2, 5):
        crops = np.concatenate([CROPS] * 3)[:batch]
        expected = original(model, crops)
        assert_near(exact(crops), expected, 1e-5)
        assert float((rough(crops).levels[2] - expected.levels[2]).abs().max()) < 0.05
    assert len(list(tmp_path.glob("*.xml"))) == 1


@pytest.mark.parametrize("changes", ARCHITECTURES)
def test_every_architecture(changes: dict[str, object], tmp_path: Path) -> None:
    model = toy(**changes)
    assert_near(OpenVinoNetwork(model, "fp32", tmp_path)(CROPS), original(model, CROPS), 1e-5)


def test_meshes_and_body_parameters_are_float32_in_every_precision(tmp_path: Path) -> None:
    model = toy(upsampling=("learned", "learned"), parametric=True)
    said = OpenVinoNetwork(model, "bf16", tmp_path)(CROPS)
    with torch.inference_mode():
        exact = (*model.upsample(said.levels[0])[1:], *model.body_regressor(said.levels[1]))
    torch.testing.assert_close((*said.levels[1:], said.rotmats, said.betas), exact, atol=0, rtol=0)


@pytest.mark.parametrize("name", ["fastmetro-xs-blazepose-heavy", "fastmetro-xs-movenet-thunder", "fastmetro-s-r50"])
def test_real_networks(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = assemble(VARIANTS[name], ToyBody()).eval()
    assert_near(OpenVinoNetwork(model, "fp32", tmp_path)(CROPS), original(model, CROPS), 1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("changes", [{}, {"parametric": True}], ids=["plain", "parametric"])
def test_feedback_on_one_thread(precision: str, changes: dict[str, object], tmp_path: Path) -> None:
    """As a camera on two cores runs it: OpenVINO has died of the camera's dense layers there."""
    torch.manual_seed(0)
    model = assemble(replace(VARIANTS["fastmetro-xs-movenet-thunder"], **changes), ToyBody()).eval()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert OpenVinoNetwork(model, precision, tmp_path)(CROPS[:1]).joints.shape == (1, 14, 3)
    finally:
        torch.set_num_threads(threads)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_without_openvino_pytorch_does_it_and_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    warn_once.cache_clear()
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(OpenVinoError, match="not installed"):
        OpenVinoNetwork(toy(), "fp32")
    first, second = MeshEstimator(toy(), ToyBody()), MeshEstimator(toy(), ToyBody())
    assert first.description.endswith(", PyTorch (OpenVINO is not installed: pip install openvino)")
    assert first.warning == second.warning
    assert warnings_of(caplog) == [first.warning], "one line, however many networks are loaded"
    assert "in PyTorch, which is slower" in first.warning and "pip install openvino" in first.warning


def test_where_openvino_fails_pytorch_does_it_and_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such\n instruction")

    warn_once.cache_clear()
    monkeypatch.setattr(core.openvino_compiled, "compile_network", broken)
    estimator = MeshEstimator(toy(), ToyBody())
    assert estimator.description.endswith(", PyTorch (OpenVINO does not run it: RuntimeError: no such instruction)")
    assert warnings_of(caplog) == [estimator.warning]
    assert_near(estimator._runtime(CROPS), original(toy(), CROPS), 1e-5)


def test_a_compiler_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(openvino: object, network: object, precision: str, _: int) -> object:
        return compile_network(openvino, core.openvino_network.convert(core.openvino_network.Exported(toy(tokens="template"))), precision)

    monkeypatch.setattr(core.openvino_compiled, "compile_network", wrong)
    assert "it does not say what the network says" in MeshEstimator(toy(), ToyBody()).description


def test_one_crop_is_compared_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong_alone(openvino: object, network: object, precision: str, _: int) -> object:
        if network.inputs[0].partial_shape.is_static:
            network = core.openvino_network.convert(core.openvino_network.Exported(toy(tokens="template")))
        return compile_network(openvino, network, precision)

    monkeypatch.setattr(core.openvino_compiled, "compile_network", wrong_alone)
    assert "it does not say what the network says" in MeshEstimator(toy(), ToyBody()).description


def test_the_bench_goes_on_where_openvino_fails(model: FastMETRO, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(core.openvino_compiled, "compile_network", broken)
    report = bench.bench(model, batch=1, repeats=1, device="cpu", ways=(WAYS[0], *(way for way in WAYS if way.name == "OpenVINO fp32")))
    assert report.skipped == {"OpenVINO fp32": "OpenVINO does not run it: RuntimeError: no such instruction"}


def test_the_estimator_keeps_no_second_copy_of_the_weights(caplog: pytest.LogCaptureFixture) -> None:
    estimator = MeshEstimator(toy(), ToyBody())
    assert "OpenVINO" in estimator.description and not estimator.warning and not warnings_of(caplog)
    held = [value for value in vars(estimator._runtime).values() if isinstance(value, torch.nn.Module)]
    assert sum(weight.numel() for part in held for weight in part.parameters()) == 0


@pytest.mark.parametrize("changes", [{}, {"feedback": 2}], ids=["plain", "feedback"])
def test_int8_is_made_once_measured_and_found_again(changes: dict[str, object], tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="quantisation needs `pip install -r requirements-quantize.txt`")
    model = toy(**changes)
    with pytest.raises(InputError, match="no 8-bit version here yet; make it with `python -m core"):
        OpenVinoNetwork(model, "int8", tmp_path)
    crops = np.concatenate([CROPS] * 5)
    path, error_mm = quantise(model, crops, tmp_path)
    network = OpenVinoNetwork(model, "int8", tmp_path)
    assert network.words.endswith(f", vertices {error_mm:.1f} mm from fp32 on 2 crops")
    assert "<layer" in path.read_text()
    assert "FakeQuantize" in path.read_text()
    distance_m = (network(crops).levels[2] - original(model, crops).levels[2]).norm(dim=-1).mean()
    assert 0 < float(distance_m) < 0.1
    path.write_bytes(b"<net")
    without_compiled(tmp_path)
    with pytest.raises(InputError, match=r"is not usable .* make it with"):
        OpenVinoNetwork(model, "int8", tmp_path)


def test_an_8_bit_network_that_is_no_good_is_not_kept(model: FastMETRO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nncf", reason="quantisation needs `pip install -r requirements-quantize.txt`")
    monkeypatch.setitem(core.openvino_compiled.TOLERANCE, "int8", 0.0)
    with pytest.raises(InputError, match="says something else on this processor, so none is kept; use --precision bf16"):
        quantise(model, np.concatenate([CROPS] * 5), tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="no 8-bit version here yet"):
        OpenVinoNetwork(model, "int8", tmp_path)


def test_for_quantisation_no_two_nodes_share_a_constant() -> None:
    exported = core.openvino_network.Exported(toy(feedback=2)).eval()
    before, after = core.openvino_network.convert(exported), constants_apart(core.openvino_network.convert(exported))

    def most_takers(network: object) -> int:
        return max(len(node.output(0).get_target_inputs()) for node in network.get_ops() if node.get_type_name() == "Constant")

    assert most_takers(before) > 1 and most_takers(after) == 1
    names = [node.get_friendly_name() for node in after.get_ops()]
    assert len(names) == len(set(names))
    said = [compile_network(silent_openvino(), network, "fp32")(CROPS) for network in (before, after)]
    for ours, theirs in zip(said[0].values(), said[1].values(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("known", "has"), [({}, False), ({"avx_vnni": False}, False), ({"avx_vnni": True}, True)])
def test_dot_products_of_8_bits_are_known(known: dict[str, bool], has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_amx_tile_supported", "_is_vnni_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert has_int8_dot_products() == has
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    assert has_int8_dot_products()


def test_shards_with_too_few_people_to_quantise_with_are_refused(tmp_path: Path) -> None:
    write_toy_shards(tmp_path, num_shards=1, count=4)
    with pytest.raises(InputError, match=r"got 4 people in .*, expected 5 or more"):
        shard_crops(tmp_path, 150, CROP_SCALE)


def test_the_bench_measures_openvino(model: FastMETRO) -> None:
    report = bench.bench(model, batch=2, repeats=1, device="cpu", ways=(WAYS[0], *(way for way in WAYS if way.name == "OpenVINO fp32")))
    assert [(timing.way, timing.part) for timing in report.timings][-1] == ("OpenVINO fp32", "whole")
    assert 0 < report.timings[-1].difference < 2e-5


def test_nothing_is_sent_or_looked_up(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    root = Path(core.openvino_network.__file__).parents[1]
    environment = os.environ | {"HOME": str(home), "CI": "", "PYTHONPATH": str(root)}
    result = subprocess.run(
        [sys.executable, "-c", SILENCE, str(tmp_path / "cache")], capture_output=True, text=True, env=environment, timeout=120, check=True
    )
    assert result.stdout == "done\n"
    assert not list(home.iterdir())


PERSON_DETECTOR = Path(core.openvino_files.__file__).parents[1] / "checkpoints" / "person_detector.safetensors"


def test_people_are_found_as_pytorch_finds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(core.openvino_compiled, "has_fast_bf16_cpu", lambda: False)
    made, kept = (PersonFinder(PERSON_DETECTOR, tmp_path) for _ in range(2))
    assert made.words.startswith("OpenVINO")
    assert len(list(tmp_path.glob("*.xml"))) == 1
    with monkeypatch.context() as patch:
        patch.setattr(core.picture_network, "silent_openvino", lambda: broken("no OpenVINO today"))
        with caplog.at_level(logging.WARNING):
            plain = PersonFinder(PERSON_DETECTOR, tmp_path)
    assert plain.words == "PyTorch"
    assert "no OpenVINO today" in caplog.text
    for size in ((224, 224), (100, 333)):
        picture = np.resize(patchwork(1).numpy(), (*size, 3))
        expected = plain.people(picture, 256, 5)
        for finder in (made, kept):
            found = finder.people(picture, 256, 5)
            np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
            np.testing.assert_allclose(found.boxes_px, expected.boxes_px, atol=0.1)
            np.testing.assert_allclose(found.keypoints, expected.keypoints, atol=0.1)


def test_boxes_are_found_as_pytorch_finds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.openvino_compiled, "has_fast_bf16_cpu", lambda: False)
    path = PERSON_DETECTOR.with_name("person_boxes.safetensors")
    made = BoxFinder(path, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(core.picture_network, "silent_openvino", lambda: broken("no OpenVINO today"))
        plain = BoxFinder(path, tmp_path)
    assert (made.words.split()[0], plain.words) == ("OpenVINO", "PyTorch")
    picture = np.resize(patchwork(1).numpy(), (100, 333, 3))
    for found, expected in zip(made(picture, 416).maps, plain(picture, 416).maps, strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-3)


def broken(text: str) -> None:
    raise OpenVinoError(text)


def test_a_damaged_network_that_finds_people_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    PersonFinder(PERSON_DETECTOR, tmp_path)
    without_compiled(tmp_path)
    (path,) = tmp_path.glob("*.bin")
    path.write_bytes(path.read_bytes()[:1000])
    with caplog.at_level(logging.WARNING):
        assert PersonFinder(PERSON_DETECTOR, tmp_path).words.startswith("OpenVINO")
    assert "it is made again" in caplog.text
