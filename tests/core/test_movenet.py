import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  its usual name

from core.backbones import BACKBONES, convert_tfjs
from core.backbones.convert_tfjs import convolutions_before, main, read_graph
from core.backbones.movenet import CELLS_PER_SIDE, NUM_KEYPOINTS, evidence
from core.errors import InputError
from core.mobilenet import Block


def test_number_of_parameters_and_channels() -> None:
    backbone = BACKBONES["movenet-thunder"]()
    assert sum(parameter.numel() for parameter in backbone.parameters()) / 1e6 == pytest.approx(6.21, abs=0.005)
    assert backbone.channels == 560 + 64 + 3 * NUM_KEYPOINTS
    assert [backbone.laterals[level].in_channels for level in range(3)] == [112, 56, 40]  # of the features at 1/16, 1/8, 1/4
    assert backbone.heat_maps(torch.rand(1, 3, 224, 224)).shape == (1, NUM_KEYPOINTS, 56, 56)


@pytest.mark.parametrize("size", [8, 14])
def test_stride_two_pads_as_tensorflow_does(size: int) -> None:
    """SAME: the output at i sees the input at 2i, 2i + 1, 2i + 2."""
    block = Block(1, 1, 1, 2)
    with torch.no_grad():
        for layer in (block.filter, block.project):
            layer.weight.fill_(1 / 9 if layer is block.filter else 1)
            layer.bias.zero_()
    x = torch.rand(1, 1, size, size)
    padded = F.pad(x, (0, 2, 0, 2))
    wanted = torch.stack([torch.stack([padded[0, 0, i : i + 3, j : j + 3].mean() for j in range(0, size, 2)]) for i in range(0, size, 2)])
    torch.testing.assert_close(block(x)[0, 0], wanted)


def test_evidence_says_in_which_cell_a_keypoint_is_and_where_in_it() -> None:
    heat = torch.zeros(1, 2, 2 * CELLS_PER_SIDE, 3 * CELLS_PER_SIDE)
    heat[0, 1, 8 + 6, 16 + 1] = 0.8  # row 6 and column 1 of the cell in the second row, third column
    peak, x, y = evidence(heat).reshape(3, 2, 2, 3)
    assert peak[1, 1, 2] == pytest.approx(0.8)
    assert x[1, 1, 2] / peak[1, 1, 2] == pytest.approx((1 + 0.5) / 4 - 1, abs=0.02)
    assert y[1, 1, 2] / peak[1, 1, 2] == pytest.approx((6 + 0.5) / 4 - 1, abs=0.02)
    assert evidence(heat).count_nonzero() == 3


def test_evidence_of_little_heat_is_little() -> None:
    found = evidence(torch.full((1, 1, 8, 8), 1e-3))
    assert found.isfinite().all()
    assert found.abs().max() < 2e-3


def graph(folder: Path, **wrong: Any) -> Path:
    """A TensorFlow.js graph of two convolutions: heat = 1x1(depthwise 3x3(picture)); an unrelated third lies between them."""
    weights = {
        "filter": np.arange(9).reshape(3, 3, 1, 1),
        "other": np.ones((1, 1, 1, 5)),
        "mix": np.full((1, 1, 1, 2), 0.5),
        "bias": [1, 2],
    }
    arrays = {name: np.asarray(value, np.float16) for name, value in weights.items()}
    (folder / "w.bin").write_bytes(b"".join(array.tobytes() for array in arrays.values()))
    fused = {"fused_ops": {"list": {"s": [base64.b64encode(b"BiasAdd").decode()]}}}
    nodes = [
        {"name": "picture", "op": "Placeholder"}, *({"name": name, "op": "Const"} for name in arrays),
        {"name": "filtered", "op": "DepthwiseConv2dNative", "input": ["picture", "filter"]},
        {"name": "elsewhere", "op": "Conv2D", "input": ["filtered", "other"]},
        {"name": "heat", "op": "_FusedConv2D", "input": ["filtered:0", "mix", "bias"], "attr": fused},
    ]  # fmt: skip
    entries = [
        {"name": name, "shape": list(array.shape), "dtype": "float32", "quantization": {"dtype": "float16"}}
        for name, array in arrays.items()
    ]
    model = {"modelTopology": {"node": nodes}, "weightsManifest": [{"paths": ["w.bin"], "weights": entries}], **wrong}
    path = folder / "model.json"
    path.write_text(json.dumps(model))
    return path


def test_a_graph_is_read_in_the_order_of_its_data(tmp_path: Path) -> None:
    nodes, constants = read_graph(graph(tmp_path))
    assert [node["name"] for node in convolutions_before(("heat", "elsewhere"), nodes)] == ["filtered", "heat", "elsewhere"]
    assert constants["filter"].dtype == np.float32
    assert constants["filter"].ravel().tolist() == list(range(9))
    assert constants["bias"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("wrong", "said"), [({}, "no network that is rebuilt here"), ({"modelTopology": {}}, "no TensorFlow.js graph model")]
)
def test_another_graph_is_refused_in_one_line(tmp_path: Path, wrong: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = graph(tmp_path, **wrong)
    monkeypatch.setattr("sys.argv", ["convert_tfjs", str(path), str(tmp_path / "out.safetensors")])
    with pytest.raises(InputError, match=said) as caught:
        main()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.safetensors").exists()


class Two(nn.Module):
    """A filter and a mix of which only the second output is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.filter, self.mix = nn.Conv2d(1, 1, 3, bias=False), nn.Conv2d(1, 1, 1)

    def convolutions(self) -> Iterator[nn.Conv2d]:
        yield from (self.filter, self.mix)


def test_a_bias_that_is_added_and_outputs_that_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ONNX's converters write it: a plain convolution, and its bias (1, 1, 1, C) added by another node."""
    path = graph(tmp_path)
    model = json.loads(path.read_text())
    nodes = model["modelTopology"]["node"]
    nodes[-1] = {"name": "mixed", "op": "Conv2D", "input": ["filtered", "mix"]}
    nodes.append({"name": "heat", "op": "Add", "input": ["mixed", "bias"]})
    path.write_text(json.dumps(model))
    source = convert_tfjs.Source("two", "Two", "nowhere", "nobody", Two, ("heat",), kept=(1,))
    monkeypatch.setattr(convert_tfjs, "SOURCES", (source,))
    network, found = convert_tfjs.converted(path)
    assert found is source
    assert network.mix.bias.tolist() == [2]
    assert network.filter.weight.ravel().tolist() == list(range(9))
