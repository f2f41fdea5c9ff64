import pytest
import torch
from torch import nn

from core.backbones import BACKBONES
from core.config import ModelConfig
from core.exact import PackedLinear, can_pack, exact_path
from core.folding import fold_batch_norms
from core.model import FastMETRO
from tests.toy import ToyBackbone, ToyBody

OFFICIAL_PARAMETERS = {"resnet50": 23_508_032, "hrnet-w64": 128_059_944}
"""Source: counted on the official classes."""


@pytest.mark.parametrize("name", list(OFFICIAL_PARAMETERS))
def test_parameters_are_the_official_number(name: str) -> None:
    with torch.device("meta"):
        backbone = BACKBONES[name]()
    assert sum(parameter.numel() for parameter in backbone.parameters()) == OFFICIAL_PARAMETERS[name]


def shaken(network: nn.Module) -> nn.Module:
    """The network with normalisations that do something, in evaluation mode."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return network.eval()


@pytest.mark.parametrize("name", list(OFFICIAL_PARAMETERS))
def test_folding_changes_no_number(name: str) -> None:
    backbone, images = shaken(BACKBONES[name]()), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = backbone(images)
        folded = fold_batch_norms(backbone)(images)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(folded, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())


def test_dense_layers_are_folded_too() -> None:
    network = shaken(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU()))
    x = torch.randn(6, 4)
    expected = network(x)
    torch.testing.assert_close(fold_batch_norms(network)(x), expected)
    assert isinstance(network[1], nn.Identity)


def test_what_cannot_be_folded_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="training mode"):
        fold_batch_norms(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    with pytest.raises(RuntimeError, match="follow no layer"):
        fold_batch_norms(nn.Sequential(nn.ReLU(), nn.BatchNorm1d(2)).eval())


@pytest.mark.skipif(not can_pack(), reason="needs a PyTorch with oneDNN")
def test_packed_layers_compute_the_same_for_every_batch() -> None:
    torch.manual_seed(0)
    for layer in (nn.Linear(48, 96), nn.Linear(48, 7, bias=False)):
        packed = PackedLinear(layer)
        for shape in ((48,), (1, 48), (1, 445, 48), (8, 445, 48), (0, 445, 48), (3, 0, 48)):
            x = torch.randn(shape)
            torch.testing.assert_close(packed(x), layer(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("packs", [True, False])
def test_the_exact_path_is_exact_with_and_without_onednn(monkeypatch: pytest.MonkeyPatch, packs: bool) -> None:
    monkeypatch.setattr("core.exact.can_pack", lambda: packs and can_pack())
    torch.manual_seed(0)
    model = FastMETRO(ModelConfig("small", "toy", "toy", num_layers=2, widths=(32, 16), num_heads=4), ToyBackbone(), ToyBody()).eval()
    images = torch.rand(3, 3, 224, 224)
    with torch.no_grad():
        expected = model(images).levels[2]
        exact = exact_path(model, "cpu")
        torch.testing.assert_close(exact(images).levels[2], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(exact(images[:1]).levels[2], expected[:1], atol=1e-5, rtol=0)
    assert any(isinstance(module, PackedLinear) for module in exact.modules()) == (packs and can_pack())


def test_the_stride_is_32_for_other_sizes_too() -> None:
    with torch.no_grad():
        assert BACKBONES["resnet50"]().eval()(torch.zeros(1, 3, 128, 96)).shape == (1, 2048, 4, 3)
        assert BACKBONES["hrnet-w64"]().eval()(torch.zeros(1, 3, 64, 96)).shape == (1, 2048, 2, 3)
