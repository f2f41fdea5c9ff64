"""Attention written out for training on a CPU: the same numbers as PyTorch's own, several times quicker backward.

PyTorch's fused attention on the CPU has a slow backward pass and works through the forbidden pairs of a mask as well. A
vertex attends to the joints and to its few neighbours only, so the masked kind here takes the vertices in compact blocks,
each with the keys that any of its vertices may see.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from core.bodies import Body
from core.model import FastMETRO
from core.transformer import Attention

NUM_BLOCKS = 16
FORBIDDEN = -1e4
"""Added to the score of a forbidden pair: its weight is 0 in bfloat16 as well, and no row can become NaN."""


def halved(points: np.ndarray, part: np.ndarray) -> list[np.ndarray]:
    """Split the rows `part` of points (N, 3) in two equal halves across their longest extent."""
    centred = points[part] - points[part].mean(axis=0)
    along = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
    order = part[np.argsort(along, kind="stable")]
    return [order[: len(order) // 2], order[len(order) // 2 :]]


def compact_blocks(points: np.ndarray, num_blocks: int) -> list[np.ndarray]:
    """Divide points (N, 3) into at least `num_blocks` (a power of two) neighbourhoods of nearly equal size: lists of rows."""
    parts = [np.arange(len(points))]
    while len(parts) < num_blocks and min(map(len, parts)) > 1:
        parts = [half for part in parts for half in halved(points, part)]
    return parts


@dataclass(frozen=True)
class BlockPlan:
    """Which tokens meet in which block. Tokens: J joints, then C vertices; N blocks of Q queries and K keys, padded.

    queries (N * Q,), keys (N * K,): token numbers        bias (N, 1, Q, K): 0 or FORBIDDEN
    places: (C,) where each vertex stands among the N * Q queries
    """

    num_joints: int
    shape: tuple[int, int, int]
    queries: Tensor
    keys: Tensor
    bias: Tensor
    places: Tensor


def plan_blocks(adjacency: np.ndarray, points: np.ndarray, num_joints: int, num_blocks: int = NUM_BLOCKS) -> BlockPlan:
    """adjacency: (C, C) bool including the diagonal; points: (C, 3) where the vertices rest."""
    parts = compact_blocks(points, num_blocks)
    seen = [np.flatnonzero(adjacency[part].any(axis=0)) for part in parts]
    num_queries, num_keys = max(map(len, parts)), max(map(len, seen)) + num_joints
    queries = np.zeros((len(parts), num_queries), np.int64)
    keys = np.zeros((len(parts), num_keys), np.int64)
    bias = np.full((len(parts), 1, num_queries, num_keys), FORBIDDEN, np.float32)
    places = np.zeros(len(points), np.int64)
    for block, (part, near) in enumerate(zip(parts, seen, strict=True)):
        queries[block] = part[0] + num_joints
        queries[block, : len(part)] = part + num_joints
        keys[block, :num_joints] = np.arange(num_joints)
        keys[block, num_joints : num_joints + len(near)] = near + num_joints
        bias[block, ..., :num_joints] = 0
        bias[block, 0, : len(part), num_joints : num_joints + len(near)][adjacency[np.ix_(part, near)]] = 0
        places[part] = block * num_queries + np.arange(len(part))
    tensors = (torch.from_numpy(array) for array in (queries.ravel(), keys.ravel(), bias, places))
    return BlockPlan(num_joints, (len(parts), num_queries, num_keys), *tensors)


def dense_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """(..., L, E), (..., L', E) twice -> (..., L, E)."""
    scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
    return scores.softmax(-1).to(values.dtype) @ values


def block_attention(queries: Tensor, keys: Tensor, values: Tensor, plan: BlockPlan) -> Tensor:
    """Masked attention among all tokens: three tensors (B, H, J + C, E) -> (B, H, J + C, E)."""
    batch, heads, _, channels = queries.shape
    num_blocks, num_queries, num_keys = plan.shape
    joints = dense_attention(queries[:, :, : plan.num_joints], keys, values)

    def taken(tokens: Tensor, rows: Tensor, length: int) -> Tensor:
        blocks = tokens.transpose(1, 2).index_select(1, rows)  # whole rows of memory: (B, N * length, H, E)
        return blocks.view(batch, num_blocks, length, heads, channels).transpose(2, 3)

    q = taken(queries, plan.queries, num_queries) * channels**-0.5
    k, v = (taken(tokens, plan.keys, num_keys) for tokens in (keys, values))
    scores = q @ k.transpose(-1, -2)
    weights = (scores + plan.bias.to(scores.dtype)).softmax(-1).to(v.dtype)
    vertices = (weights @ v).transpose(2, 3).reshape(batch, num_blocks * num_queries, heads, channels)
    return torch.cat([joints, vertices.index_select(1, plan.places).transpose(1, 2)], 2)


def attend(module: Attention, plan: BlockPlan, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """What Attention.attend gives, without dropout of attention weights."""
    if mask is None:
        mixed = dense_attention(queries.expand(len(keys), -1, -1, -1), keys, values)
    else:
        mixed = block_attention(queries, keys, values, plan)
    return module.out_proj(mixed.transpose(1, 2).flatten(2))


def quick_attention(model: FastMETRO, body: Body) -> bool:
    """Let the model's attention run as above; False where it may not: without a mask, or when attention weights are dropped."""
    modules: list[nn.Module] = [module for module in model.modules() if isinstance(module, Attention)]
    if model.mask is None or any(module.dropout for module in modules):
        return False
    levels = body.levels
    plan = plan_blocks(levels.coarse_adjacency, levels.template_m[levels.coarse_ids], model.num_free_tokens)
    for module in modules:
        module.attend = partial(attend, module, plan)
    return True
