from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from core.transformer import Attention, SinePositions, Transformer, sine_positions


def test_attention_equals_torchs_own() -> None:
    ours, theirs = Attention(32, 4, 0.0), nn.MultiheadAttention(32, 4, batch_first=True)
    nn.init.xavier_uniform_(ours.in_proj_weight)
    nn.init.normal_(ours.in_proj_bias)
    theirs.load_state_dict(ours.state_dict())
    tokens, memory, position = torch.randn(3, 7, 32), torch.randn(3, 5, 32), torch.randn(5, 32)
    mask = torch.rand(7, 7) > 0.6
    mask.fill_diagonal_(False)
    expected = theirs(tokens, tokens, tokens, attn_mask=mask)[0]
    added = torch.zeros(7, 7).masked_fill(mask, -torch.inf)
    torch.testing.assert_close(ours.self_attend(tokens, mask=added), expected, atol=1e-5, rtol=0)
    expected = theirs(tokens, memory + position, memory)[0]
    seen = ours.attend(ours.queries(tokens), *ours.keys_values(memory, position))
    torch.testing.assert_close(seen, expected, atol=1e-5, rtol=0)


def test_one_set_of_queries_serves_a_batch() -> None:
    attention = Attention(16, 4, 0.0)
    nn.init.xavier_uniform_(attention.in_proj_weight)
    tokens, memory, position = torch.randn(1, 7, 16), torch.randn(3, 5, 16), torch.randn(5, 16)
    keys_values = attention.keys_values(memory, position)
    expanded = attention.attend(attention.queries(tokens.expand(3, -1, -1)), *keys_values)
    torch.testing.assert_close(attention.attend(attention.queries(tokens), *keys_values), expanded)


def test_positions_follow_the_formula() -> None:
    channels, height, width = 16, 7, 7
    slow = np.zeros((height * width, channels))
    for y in range(height):
        for x in range(width):
            for half, coordinate in enumerate((y, x)):
                for k in range(channels // 2):
                    phase = (coordinate + 1) / (7 + 1e-6) * 2 * np.pi / 10000 ** (2 * (k // 2) / (channels // 2))
                    slow[y * width + x, half * channels // 2 + k] = np.cos(phase) if k % 2 else np.sin(phase)
    np.testing.assert_allclose(sine_positions(height, width, channels).numpy(), slow, atol=1e-5)


def official(shared: Path) -> dict[str, torch.Tensor]:
    """The official network's outputs between its parts."""
    with np.load(shared / "official" / "golden_S-R50.npz") as golden:
        return {name: torch.from_numpy(golden[name]) for name in golden.files if name.startswith(("t1", "t2", "conv"))}


def official_mask(shared: Path) -> torch.Tensor:
    pairs = torch.load(shared / "official" / "smpl_431_adjmat_indices.pt", weights_only=True)
    mask = torch.zeros(445, 445)
    mask[14:, 14:] = -torch.inf
    mask[pairs[0] + 14, pairs[1] + 14] = 0
    return mask


@pytest.mark.parametrize("number", [1, 2])
def test_each_stage_equals_the_official_one(shared: Path, official_rule: ModuleType, number: int) -> None:
    golden = official(shared)
    width = {1: 512, 2: 128}[number]
    stage = Transformer(SinePositions(7, width), width, 1, 8, 4, 0.1, 0.1).eval()
    weights = {
        key: torch.from_numpy(official_rule.tensor(f"transformer_{number}.{key}", value.shape)) for key, value in stage.state_dict().items()
    }
    stage.load_state_dict(weights)

    def drawn(name: str, *shape: int) -> torch.Tensor:
        return torch.from_numpy(official_rule.tensor(name, shape))

    if number == 1:
        camera = drawn("cam_token_embed.weight", 1, 512).expand(2, 1, 512)
        image = golden["conv_1x1"].flatten(2).transpose(1, 2)
        tokens = torch.cat([drawn("joint_token_embed.weight", 14, 512), drawn("vertex_token_embed.weight", 431, 512)])[None]
    else:
        parts = (("enc_cam", "t1_cam"), ("enc_img", "t1_img"), ("dec", "t1_jv"))
        camera, image, tokens = (
            nn.functional.linear(
                golden[features].transpose(0, 1), drawn(f"dim_reduce_{name}.weight", 128, 512), drawn(f"dim_reduce_{name}.bias", 128)
            )
            for name, features in parts
        )
    mask = official_mask(shared)
    with torch.no_grad():
        outputs = stage(camera, image, *stage.begin(tokens, mask), mask)
    for name, output in zip(("cam", "img", "jv"), outputs, strict=True):
        torch.testing.assert_close(output.transpose(0, 1), golden[f"t{number}_{name}"], atol=2e-5, rtol=0)
