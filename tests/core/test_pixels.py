import hashlib

import numpy as np
import pytest
import torch

from core.pixels import Normaliser, patchwork
from tests.toy import ToyBackbone


class Shifted(ToyBackbone):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_every_byte_becomes_the_number_that_the_formula_gives_to_the_bit() -> None:
    crops = np.arange(256, dtype=np.uint8).repeat(3).reshape(2, 8, 16, 3)
    mean, std = np.float32(Shifted.mean), np.float32(Shifted.std)
    expected = (crops.astype(np.float32) / np.float32(255) - mean) / std
    images = Normaliser(Shifted())(torch.from_numpy(crops))
    assert images.dtype == torch.float32
    np.testing.assert_array_equal(images.permute(0, 2, 3, 1).numpy(), expected)
    assert images.is_contiguous(memory_format=torch.channels_last)
    first = torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert torch.equal(Normaliser(Shifted())(first), images)


def test_a_normaliser_has_no_weights_and_keeps_nothing_of_the_backbone() -> None:
    normaliser = Normaliser(Shifted())
    assert normaliser.state_dict() == {}
    assert list(normaliser.parameters()) == []
    assert normaliser.to("meta")(torch.zeros(1, 8, 8, 3, dtype=torch.uint8, device="meta")).shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("count", "seed", "digest"), [
        (2, 0, "67707fe7fe0e5c49b1db8e196cb2f54c64454732ce02a82295967ca2409426a5"),
        (3, 1, "33b55dc0d1c6efd54b02300b2b2ef772529a3ac799a6f1cac170b626e52c453d"),
    ],
)  # fmt: skip
def test_patchwork_is_always_the_same(count: int, seed: int, digest: str) -> None:
    crops = patchwork(count, seed)
    assert crops.shape == (count, 224, 224, 3)
    assert crops.dtype == torch.uint8
    assert hashlib.sha256(crops.numpy().tobytes()).hexdigest() == digest


def test_patchwork_is_patches_under_noise() -> None:
    patches = patchwork(1)[0].float().unfold(0, 16, 16).unfold(1, 16, 16).flatten(3)  # (14, 14, 3, 256)
    assert patches.mean(-1).std() > 40
    assert patches.std(-1).max() < 30
