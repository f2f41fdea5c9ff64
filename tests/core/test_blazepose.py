import importlib.util
from pathlib import Path

import pytest
import torch

from core.backbones import BACKBONES
from core.backbones.convert_blazepose import FEATURE_OUTPUTS, converted
from core.checkpoint import load_backbone, save_backbone
from core.errors import InputError

FILES = {"blazepose": "pose_landmark_full.tflite", "blazepose-heavy": "pose_landmark_heavy.tflite"}
KEPT_OUTPUTS = {"blazepose": (257,), "blazepose-heavy": (619, 643)}


@pytest.mark.parametrize("name", list(FILES))
@pytest.mark.parametrize("size_px", [224, 256])
def test_the_backbone_equals_the_tflite_graph(shared: Path, name: str, size_px: int) -> None:
    pytest.importorskip("tflite", reason="needs `pip install tflite`, which only the conversion uses")
    path = shared / "models" / FILES[name]
    spec = importlib.util.spec_from_file_location("tflite_to_torch", shared / "models" / "tflite_to_torch.py")
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    images = torch.rand(2, 3, size_px, size_px, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        backbone = converted(path, name)
        values = reference.Network(path)(images, last=FEATURE_OUTPUTS[name])
        kept = backbone.frozen(images)
        features = backbone.tail(*kept)
    expected = [values[index] for index in (*KEPT_OUTPUTS[name], FEATURE_OUTPUTS[name])]
    for got, wanted in zip((*kept, features), expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=2e-3, rtol=0)  # values reach 25
        assert (got - wanted).abs().mean() < 5e-5  # 1e-5 to 2.1e-5, by processor and number of threads


def test_another_network_is_refused(shared: Path) -> None:
    pytest.importorskip("tflite", reason="needs `pip install tflite`, which only the conversion uses")
    with pytest.raises(InputError, match="not the network"):
        converted(shared / "models" / FILES["blazepose"], "blazepose-heavy")


def test_backbone_weights_there_and_back(tmp_path: Path) -> None:
    first, second = BACKBONES["blazepose"](), BACKBONES["blazepose"]()
    save_backbone(tmp_path / "a.safetensors", first, "blazepose", {"licence": "Apache-2.0"}, half=False)
    assert load_backbone(tmp_path / "a.safetensors", second, "blazepose") == {"licence": "Apache-2.0"}
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(InputError, match="holds 'blazepose', expected 'blazepose-heavy'"):
        load_backbone(tmp_path / "a.safetensors", BACKBONES["blazepose-heavy"](), "blazepose-heavy")


@pytest.mark.parametrize(("name", "millions"), [("blazepose", 1.80), ("blazepose-heavy", 12.01)])
def test_number_of_parameters(name: str, millions: float) -> None:
    assert sum(parameter.numel() for parameter in BACKBONES[name]().parameters()) / 1e6 == pytest.approx(millions, abs=0.005)
