"""FastMETRO's transformer: pre-norm encoder and decoder, sine positions, a mask for the vertices.

Tensors are (B, L, D). Parameter names inside a layer are those of the official release.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its usual name

from core.registry import Registry

POSITIONS: Registry[type[nn.Module]] = Registry("kind of positions")
"""Name -> module(grid, channels) whose forward gives the positions (grid * grid, channels) of the image tokens, row by row."""


def sine_positions(height: int, width: int, channels: int) -> Tensor:
    """(height * width, channels) encodings of a grid, row by row: half the channels for y, half for x, sine and cosine in turn.

    Coordinates count from 1 and are scaled to 2 pi. Source: DETR, Carion et al. 2020, as FastMETRO uses it
    """
    y, x = torch.meshgrid(torch.arange(1.0, height + 1), torch.arange(1.0, width + 1), indexing="ij")
    half = channels // 2
    wavelengths = 10000 ** (2 * torch.div(torch.arange(half), 2, rounding_mode="floor") / half)

    def encode(coordinate: Tensor, size: int) -> Tensor:
        phase = (coordinate / (size + 1e-6) * 2 * math.pi).flatten()[:, None] / wavelengths
        return torch.stack([phase[:, 0::2].sin(), phase[:, 1::2].cos()], -1).flatten(1)

    return torch.cat([encode(y, height), encode(x, width)], 1)


@POSITIONS.register("sine")
class SinePositions(nn.Module):
    """Fixed, as in the paper."""

    def __init__(self, grid: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("encodings", sine_positions(grid, grid, channels), persistent=False)

    def forward(self) -> Tensor:
        """(grid * grid, channels)."""
        return self.encodings


@POSITIONS.register("learned")
class LearnedPositions(nn.Module):
    """One vector for each place, learned; uniform at first, as DETR's are."""

    def __init__(self, grid: int, channels: int) -> None:
        super().__init__()
        self.encodings = nn.Parameter(torch.rand(grid * grid, channels))

    def forward(self) -> Tensor:
        """(grid * grid, channels)."""
        return self.encodings


class Attention(nn.Module):
    """Multi-head attention with nn.MultiheadAttention's parameters. Queries of batch 1 serve every item of the keys' batch."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.zeros_(self.out_proj.bias)

    def queries(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, heads, L, D / heads)."""
        return self._project(x, 0, 1)[0]

    def keys_values(self, x: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Keys of x + position and values of x, both (B, heads, L, D / heads)."""
        return *self._project(x + position, 1, 2), *self._project(x, 2, 3)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L, D). mask: (L, L') added to the scores, -inf where attention is forbidden."""
        queries = queries.expand(keys.shape[0], -1, -1, -1)
        dropout = self.dropout if self.training else 0.0
        mask = None if mask is None else mask.to(queries.dtype)
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def self_attend(self, x: Tensor, position: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Attention among the tokens of x; `position` is added for queries and keys, not for values."""
        if position is None:
            return self.attend(*self._project(x, 0, 3), mask)
        return self.attend(*self._project(x + position, 0, 2), *self._project(x, 2, 3), mask)

    def _project(self, x: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
        """The parts first..last of (queries, keys, values), split into heads: each (B, heads, L, D / heads)."""
        width = x.shape[-1]
        rows = slice(first * width, last * width)
        parts = F.linear(x, self.in_proj_weight[rows], self.in_proj_bias[rows]).chunk(last - first, -1)
        return tuple(part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)


class Layer(nn.Module):
    """What encoder and decoder layers share: the feed-forward net and dropout."""

    def __init__(self, width: int, feedforward_ratio: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, width * feedforward_ratio)
        self.linear2 = nn.Linear(width * feedforward_ratio, width)
        self.dropout = nn.Dropout(dropout)

    def feed_forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        return self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x)))))


class EncoderLayer(Layer):
    """Self-attention and feed-forward, each after a norm and added to its input."""

    def __init__(self, width: int, num_heads: int, feedforward_ratio: int, dropout: float, attention_dropout: float) -> None:
        super().__init__(width, feedforward_ratio, dropout)
        self.self_attn = Attention(width, num_heads, attention_dropout)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, tokens: Tensor, position: Tensor) -> Tensor:
        """tokens: (B, L, D); position: (L, D), added for queries and keys."""
        tokens = tokens + self.dropout(self.self_attn.self_attend(self.norm1(tokens), position))
        return tokens + self.feed_forward(self.norm2(tokens))


class DecoderLayer(Layer):
    """Masked self-attention, attention to the encoded image, feed-forward; each after a norm and added to its input.

    It runs in two halves, `before_image` and `with_image`, because nothing in the first half of the first layer depends on the image.
    """

    def __init__(self, width: int, num_heads: int, feedforward_ratio: int, dropout: float, attention_dropout: float) -> None:
        super().__init__(width, feedforward_ratio, dropout)
        self.self_attn = Attention(width, num_heads, attention_dropout)
        self.multihead_attn = Attention(width, num_heads, attention_dropout)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)

    def before_image(self, tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The tokens after self-attention, and their queries to the image."""
        tokens = tokens + self.dropout(self.self_attn.self_attend(self.norm1(tokens), mask=mask))
        return tokens, self.multihead_attn.queries(self.norm2(tokens))

    def with_image(self, tokens: Tensor, queries: Tensor, image: Tensor, position: Tensor) -> Tensor:
        """The rest of the layer. image: (B, L', D); tokens and queries of batch 1 serve every image."""
        seen = self.multihead_attn.attend(queries, *self.multihead_attn.keys_values(image, position))
        tokens = tokens + self.dropout(seen)
        return tokens + self.feed_forward(self.norm3(tokens))

    def forward(self, tokens: Tensor, image: Tensor, position: Tensor, mask: Tensor | None) -> Tensor:
        """tokens: (B, L, D); image: (B, L', D) with its position (L', D); mask: (L, L)."""
        return self.with_image(*self.before_image(tokens, mask), image, position)


class Stack(nn.Module):
    """Layers and the norm behind them."""

    def __init__(self, layers: Sequence[nn.Module], width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(width)


class Transformer(nn.Module):
    """Encoder over camera and image tokens, decoder over joint and vertex tokens."""

    def __init__(
        self,
        positions: nn.Module,
        width: int,
        num_layers: int,
        num_heads: int,
        feedforward_ratio: int,
        dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        layer = (width, num_heads, feedforward_ratio, dropout, attention_dropout)
        self.positions = positions
        self.encoder = Stack([EncoderLayer(*layer) for _ in range(num_layers)], width)
        self.decoder = Stack([DecoderLayer(*layer) for _ in range(num_layers)], width)
        for parameter in (*self.encoder.parameters(), *self.decoder.parameters()):
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def begin(self, tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The first half of the first decoder layer, which sees no image."""
        return self.decoder.layers[0].before_image(tokens, mask)

    def forward(self, camera: Tensor, image: Tensor, tokens: Tensor, queries: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Returns camera, image and tokens after the stage.

        camera: (B, 0 or 1, D); image: (B, H * W, D); tokens, queries: from `begin`; mask: see Attention.attend, None lets all see all
        """
        num_camera = camera.shape[1]
        position = self.positions()
        sequence = torch.cat([camera, image], 1)
        sequence_position = F.pad(position, (0, 0, num_camera, 0))  # the camera token has none
        for layer in self.encoder.layers:
            sequence = layer(sequence, sequence_position)
        sequence = self.encoder.norm(sequence)
        camera, image = sequence[:, :num_camera], sequence[:, num_camera:]
        tokens = self.decoder.layers[0].with_image(tokens, queries, image, position)
        for layer in self.decoder.layers[1:]:
            tokens = layer(tokens, image, position, mask)
        return camera, image, self.decoder.norm(tokens)
