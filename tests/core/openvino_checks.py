import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import core.openvino_backbone
from core.backbones import BACKBONES
from core.config import VARIANTS
from core.estimator import MeshEstimator
from core.model import FastMETRO
from core.openvino_backbone import OpenVinoBackbone, OpenVinoError, cached_file
from tests.toy import ToyBackbone, ToyBody

pytest.importorskip("openvino", reason="OpenVINO is optional: `pip install openvino`")

SILENCE = """
import socket, sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        print("NETWORK", event, arguments)
sys.addaudithook(refuse)
import torch
from pathlib import Path
from core.openvino_backbone import OpenVinoBackbone
from tests.toy import ToyBackbone
torch.manual_seed(0)
for _ in range(2):  # made, then read
    OpenVinoBackbone(ToyBackbone().eval(), "fp32", Path(sys.argv[1]))(torch.rand(1, 3, 224, 224))
    torch.manual_seed(0)
import time
time.sleep(1)  # a client would report from a thread of its own
print("done")
"""


@pytest.fixture
def backbone() -> nn.Module:
    torch.manual_seed(0)
    return ToyBackbone().eval()


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_it_gives_the_networks_features_for_any_batch(batch: int, backbone: nn.Module, tmp_path: Path) -> None:
    images = torch.rand(batch, 3, 224, 224).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = backbone(images)
        torch.testing.assert_close(OpenVinoBackbone(backbone, "fp32", tmp_path)(images), expected, rtol=1e-4, atol=1e-5)
        rough = OpenVinoBackbone(backbone, "bf16", tmp_path)(images)
    torch.testing.assert_close(rough, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", ["blazepose", "blazepose-heavy", "resnet50"])
def test_real_backbones(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = BACKBONES[name]().eval()
    images = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        expected = backbone(images)
        got = OpenVinoBackbone(backbone, "fp32", tmp_path)(images)
    assert (got - expected).abs().max() < 1e-3 * expected.abs().max()


def test_the_cache_is_used_and_a_broken_one_made_again(backbone: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def made(*_: object) -> None:
        raise AssertionError("converted although it was cached")

    OpenVinoBackbone(backbone, "fp32", tmp_path)
    (path,) = tmp_path.glob("*.xml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core.openvino_backbone, "convert", made)
        OpenVinoBackbone(backbone, "fp32", tmp_path)
    weights = path.with_suffix(".bin")
    for broken, content in ((path, b"<net"), (weights, weights.read_bytes()[:100]), (weights, bytes(weights.stat().st_size))):
        broken.write_bytes(content)
        with caplog.at_level(logging.WARNING):
            network = OpenVinoBackbone(backbone, "fp32", tmp_path)
        assert "is made again" in caplog.text
        caplog.clear()
        assert network(torch.rand(1, 3, 224, 224)).shape == (1, 8, 7, 7)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(core.openvino_backbone, "convert", made)
            OpenVinoBackbone(backbone, "fp32", tmp_path)


def test_other_weights_have_another_file(backbone: nn.Module, tmp_path: Path) -> None:
    before = cached_file(backbone, "1", tmp_path)
    with torch.no_grad():
        backbone.mix.bias += 1e-3
    assert cached_file(backbone, "1", tmp_path) != before
    assert cached_file(backbone, "2", tmp_path) != cached_file(backbone, "1", tmp_path)


def test_no_cache_folder_is_no_obstacle(backbone: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert OpenVinoBackbone(backbone, "fp32", tmp_path / "file" / "folder")(torch.rand(1, 3, 224, 224)).shape == (1, 8, 7, 7)


def test_without_openvino_pytorch_does_it_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(OpenVinoError, match="not installed"):
        OpenVinoBackbone(ToyBackbone().eval(), "fp32")
    torch.manual_seed(0)
    body = ToyBody()
    estimator = MeshEstimator(FastMETRO(VARIANTS["fastmetro-s-r50"], ToyBackbone(), body), body)
    assert estimator.description.endswith(", PyTorch (openvino is not installed)")


def test_nothing_is_sent_or_looked_up(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    root = Path(core.openvino_backbone.__file__).parents[1]
    environment = os.environ | {"HOME": str(home), "CI": "", "PYTHONPATH": str(root)}
    result = subprocess.run(
        [sys.executable, "-c", SILENCE, str(tmp_path / "cache")], capture_output=True, text=True, env=environment, timeout=120, check=True
    )
    assert result.stdout == "done\n"
    assert not list(home.iterdir())
