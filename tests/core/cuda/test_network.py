from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from core.backbones import BACKBONES
from core.config import RELEASES, ModelConfig
from core.cuda.fused import conv_add_relu, conv_relu, fuse_activations
from core.cuda.network import (
    ALIGNED,
    BF16,
    FP16,
    FP32,
    MODES,
    TF32,
    Layout,
    Mode,
    PackedNetwork,
    aligned,
    deviation,
    exactness,
    prepared,
)  # fmt: skip
from core.folding import fold_batch_norms
from core.model import FastMETRO
from core.pixels import patchwork
from tests.core.cuda.pretend import built_with_cuda
from tests.toy import ToyBody, toy_backbone

CONFIG = ModelConfig("small", "toy", "toy", num_layers=2, widths=(32, 16), num_heads=4)
KINDS = {
    "plain": {}, "parametric": {"parametric": True}, "released": {**RELEASES["released"], "parametric": True},
    "camera-in-decoder": {"camera": "decoder"}, "camera-from-mesh": {"camera": "mesh"}, "template": {"tokens": "template"},
    "feedback": {"feedback": 2},
}  # fmt: skip


def toy(**changes: object) -> FastMETRO:
    torch.manual_seed(0)
    config = replace(CONFIG, **changes)
    return prepared(FastMETRO(config, toy_backbone(config), ToyBody()), torch.device("cpu"))


def images_of(crops: torch.Tensor) -> torch.Tensor:
    return crops.permute(0, 3, 1, 2).float() / 255  # as the toy wants them


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_the_packed_rows_are_what_the_network_says(changes: dict) -> None:
    model, crops = toy(**changes), patchwork(3)
    with torch.inference_mode():
        said = model(images_of(crops))
        rows = PackedNetwork(model, FP32)(crops)
    layout = Layout.of(model, said)
    assert rows.shape == (3, layout.width)
    got = layout.unpacked(rows)
    for name in ("camera", "joints", "rotmats", "betas"):
        want = getattr(said, name)
        assert (getattr(got, name) is None) == (want is None)
        if want is not None:
            torch.testing.assert_close(getattr(got, name), want, atol=1e-5, rtol=0)
            assert name == "joints" or getattr(got, name).untyped_storage().nbytes() < rows.nbytes
    torch.testing.assert_close(got.levels[2], said.levels[2], atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", [BF16, FP16, TF32], ids=lambda mode: mode.name)
@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_ends_stay_in_float32_and_the_mesh_near_it(changes: dict, mode: Mode) -> None:
    model, crops = toy(**changes), patchwork(2)
    network = PackedNetwork(model, mode)
    for name, parameter in network.named_parameters():
        ends = ("xyz_regressor", "predictor", "camera.mix", "camera.hidden", "body_regressor", "upsampling")
        ends += ("feedback.move", "feedback.follow", "feedback.camera")
        wanted = torch.float32 if any(end in name for end in ends) else mode.dtype
        assert parameter.dtype == wanted, name
    with torch.inference_mode():
        said = model(images_of(crops))
        rows = network(crops)
    assert rows.dtype == torch.float32
    off = deviation(Layout.of(model, said).unpacked(rows).levels[2], said.levels[2])
    assert off < 0.03
    assert mode.dtype == torch.float32 or off > 0
    assert next(model.parameters()).dtype == torch.float32  # the original is left as it was


def test_what_does_not_depend_on_the_picture_is_computed_once() -> None:
    network, crops, calls = PackedNetwork(toy(), FP32), patchwork(1), []
    network.model.stages[0].decoder.layers[0].self_attn.out_proj.register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        for _ in range(3):
            network(crops)
    assert calls == []


@pytest.mark.parametrize("size", [13, 16, 445])
def test_mask_rows_begin_where_kernels_want_them(size: int) -> None:
    mask = torch.zeros(size, size).masked_fill(torch.rand(size, size) < 0.5, -torch.inf)
    ours = aligned(mask)
    assert torch.equal(ours, mask)
    assert ours.stride(0) % ALIGNED == 0
    assert ours.stride(1) == 1
    assert PackedNetwork(toy(), BF16).model.mask.stride(0) % ALIGNED == 0


def test_deviation_is_relative_and_infinite_for_no_numbers() -> None:
    points = torch.randn(2, 30, 3)
    assert deviation(points + 5, points) < 1e-5  # as a whole it may move
    assert deviation(points * 1.1, points) == pytest.approx(deviation(points * 110, points * 100), rel=1e-3)
    points_with_nan = points.clone()
    points_with_nan[0, 0, 0] = torch.nan
    assert deviation(points_with_nan, points) == float("inf")


@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "toy"])
def test_fused_backbones_compute_the_same(name: str) -> None:
    torch.manual_seed(0)
    backbone = BACKBONES[name]().eval()
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.8, 1.2)
    backbone = fold_batch_norms(backbone)
    fused, count = fuse_activations(backbone)
    counts = {"resnet50": 49, "blazepose": 0, "blazepose-heavy": 0, "movenet-thunder": 4, "blazepose-heavy+movenet-thunder": 4}
    assert count == counts[name] if name in counts else count > 200
    if count:
        images = torch.rand(1, 3, 64, 64)
        with torch.inference_mode():
            expected = backbone(images)
            torch.testing.assert_close(fused(images), expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-4)
        functions = {node.target for node in fused.graph.nodes if node.op == "call_function"}
        assert functions >= ({conv_relu} if "movenet" in name else {conv_relu, conv_add_relu})
        modules = {node.target for node in fused.graph.nodes if node.op == "call_module"}
        assert not any(type(fused.get_submodule(name)) is nn.Identity for name in modules)


def test_a_convolution_that_others_look_at_too_is_left_alone() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return torch.relu(y) + y

    network = Shared().eval()
    fused, count = fuse_activations(network)
    assert count == 0
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(fused(x), network(x))


@built_with_cuda
@pytest.mark.parametrize("mode", [*MODES["bf16"]], ids=lambda mode: mode.name)
def test_nothing_stays_on_the_host(mode: Mode) -> None:
    """On tensors that pretend to be on a GPU: whatever is still on the host would meet them and raise."""
    network = PackedNetwork(toy(parametric=True), mode)
    with FakeTensorMode() as fake, torch.inference_mode():
        network = _moved(network, fake)
        rows = network(torch.empty(2, 224, 224, 3, dtype=torch.uint8, device="cuda"))
    assert rows.device.type == "cuda"
    assert rows.dtype == torch.float32


def _moved(network: nn.Module, fake: FakeTensorMode) -> nn.Module:
    """The same with pretended weights on a pretended GPU."""
    for module in network.modules():
        for table in (module._parameters, module._buffers):
            for name, value in table.items():
                if value is not None:
                    with fake:
                        made = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda")
                        table[name] = nn.Parameter(made, requires_grad=False) if table is module._parameters else made
    return network


def test_exactness_is_given_back() -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    with exactness(tf32=True):
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32
        with exactness(tf32=False):
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark) == before
