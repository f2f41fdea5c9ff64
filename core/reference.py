"""FastMETRO laid out as the official code runs it: what tests and benchmarks compare ours with. Slow on purpose, never used to estimate.

nn.MultiheadAttention on sequence-first tensors with its averaged weights computed and dropped, tokens repeated for every picture,
positions and the mask's device copy made anew in each forward, batch normalisation as layers of its own, one sparse product a person.
Written from the description of the release; its parameters are those of our network, so both compute the same.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its usual name

from core.config import GRID
from core.errors import InputError
from core.model import FastMETRO, Prediction
from core.transformer import Stack, Transformer, sine_positions
from core.upsampling import Upsample


class PlainEncoderLayer(nn.Module):
    """Pre-norm encoder layer around PyTorch's attention."""

    def __init__(self, width: int, num_heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, num_heads, dropout=dropout)
        self.linear1, self.linear2 = nn.Linear(width, feedforward), nn.Linear(feedforward, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, position: Tensor) -> Tensor:
        """tokens, position: (L, B, D)."""
        x = self.norm1(tokens)
        tokens = tokens + self.dropout(self.self_attn(x + position, x + position, value=x)[0])
        return tokens + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(self.norm2(tokens))))))


class PlainDecoderLayer(PlainEncoderLayer):
    """Pre-norm decoder layer around PyTorch's attention."""

    def __init__(self, width: int, num_heads: int, feedforward: int, dropout: float) -> None:
        super().__init__(width, num_heads, feedforward, dropout)
        self.multihead_attn = nn.MultiheadAttention(width, num_heads, dropout=dropout)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, image: Tensor, position: Tensor, mask: Tensor | None) -> Tensor:
        """tokens: (L, B, D); image, position: (L', B, D); mask: (L, L) bool, True = forbidden."""
        x = self.norm1(tokens)
        tokens = tokens + self.dropout(self.self_attn(x, x, value=x, attn_mask=mask)[0])
        seen = self.multihead_attn(self.norm2(tokens), image + position, value=image)[0]
        tokens = tokens + self.dropout(seen)
        return tokens + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(self.norm3(tokens))))))


class PlainTransformer(nn.Module):
    """A stage with the weights of one of ours."""

    def __init__(self, stage: Transformer, width: int, num_heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        layer = (width, num_heads, feedforward, dropout)
        self.encoder = Stack([PlainEncoderLayer(*layer) for _ in stage.encoder.layers], width)
        self.decoder = Stack([PlainDecoderLayer(*layer) for _ in stage.decoder.layers], width)
        self.load_state_dict(stage.state_dict())

    def forward(self, image: Tensor, camera: Tensor, tokens: Tensor, position: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        """All sequence-first (L, B, D). Returns camera, image and tokens."""
        sequence = torch.cat([camera, image], 0)
        sequence_position = torch.cat([torch.zeros_like(camera), position], 0)
        for layer in self.encoder.layers:
            sequence = layer(sequence, sequence_position)
        camera, image = self.encoder.norm(sequence).split([len(camera), len(image)], 0)
        for layer in self.decoder.layers:
            tokens = layer(tokens, image, position, mask)
        return camera, image, self.decoder.norm(tokens)


class OfficialLayout(nn.Module):
    """The same network as `model`, whose camera must be the encoder's. Shares `model`'s backbone, heads and tokens; copies its layers."""

    def __init__(self, model: FastMETRO) -> None:
        super().__init__()
        config = model.config
        if config.camera != "encoder" or config.positions != "sine":
            raise InputError(f"official layout: got {config.name!r}, expected an architecture of the release, not an ablation")
        self.model = model
        self.stages = nn.ModuleList(
            PlainTransformer(stage, width, config.num_heads, width * config.feedforward_ratio, config.dropout)
            for stage, width in zip(model.stages, config.widths, strict=True)
        )
        self.forbidden = None if model.mask is None else model.mask.cpu() < 0
        self.upsampling = [_sparse(layer) if isinstance(layer, Upsample) else None for layer in model.upsampling]

    def forward(self, images: Tensor) -> Prediction:
        """images: (B, 3, 224, 224), normalised as the backbone wants them."""
        return self.decode(self.model.backbone(images))

    def decode(self, features: Tensor) -> Prediction:
        """features: (B, C, 7, 7)."""
        model, device, batch = self.model, features.device, len(features)
        camera = model.camera.token[:, None].repeat(1, batch, 1)
        tokens = model.tokens()[:, None].repeat(1, batch, 1)
        mask = None if self.forbidden is None else self.forbidden.to(device)
        image = model.conv_1x1(features).flatten(2).permute(2, 0, 1)
        for number, stage in enumerate(self.stages):
            position = sine_positions(GRID, GRID, image.shape[-1]).to(device)[:, None].repeat(1, batch, 1)
            camera, image, tokens = stage(image, camera, tokens, position, mask)
            if number == 0:
                camera, image, tokens = model.reduction(camera, image, tokens)
        points = model.xyz_regressor(tokens.transpose(0, 1))
        joints, coarse = points[:, : model.num_free_tokens], points[:, model.num_free_tokens :]
        camera = model.camera(camera.transpose(0, 1), tokens[:0].transpose(0, 1), coarse)
        if model.feedback is not None:
            image, tokens = image.transpose(0, 1), tokens.transpose(0, 1)
            camera, joints, coarse = model.feedback(features, image, position[:, 0], tokens, model.mask, camera, joints, coarse)
        levels = [coarse]
        for layer, matrix in zip(model.upsampling, self.upsampling, strict=True):
            levels.append(layer(levels[-1]) if matrix is None else _one_by_one(matrix.to(device), levels[-1]))
        parameters = (None, None) if model.body_regressor is None else model.body_regressor(levels[1])
        return Prediction(camera, joints, tuple(levels), *parameters)


def _sparse(layer: Upsample) -> Tensor:
    """(V', V) sparse, as the release keeps it."""
    ids, weights = layer.ids.cpu(), layer.weights.cpu()
    rows = torch.arange(len(ids)).repeat_interleave(ids.shape[1])
    places, shape = torch.stack([rows, ids.flatten()]), (len(ids), int(ids.max()) + 1)
    return torch.sparse_coo_tensor(places, weights.flatten(), shape, check_invariants=True).coalesce()


def _one_by_one(matrix: Tensor, vertices: Tensor) -> Tensor:
    """(B, V, 3) -> (B, V', 3), one sparse product a person."""
    return torch.stack([torch.sparse.mm(matrix, person[: matrix.shape[1]]) for person in vertices])
