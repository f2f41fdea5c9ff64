"""The estimator's way to run a network: exactly the same function, with all that does not depend on the picture done once.

Batch norms are folded, convolutions run channels last, and on a CPU the dense layers hold their weights in the order in which
oneDNN multiplies (on an AMD EPYC, 2 threads, 445 x 512 by 512 x 2048: 1.8 ms instead of 4.2 ms). The network itself keeps the
first half of the first decoder layer, see core.model.
"""

import torch
from torch import Tensor, nn

from core.folding import fold_batch_norms
from core.model import FastMETRO


class PackedLinear(nn.Module):
    """A dense layer in evaluation mode on a CPU, float32."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())
        self._bias = None if layer.bias is None else layer.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")


def can_pack() -> bool:
    """Whether this PyTorch has oneDNN and the operators that PackedLinear calls."""
    return torch.backends.mkldnn.is_available() and all(
        hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise")
    )


def pack_linears(network: nn.Module) -> nn.Module:
    """Replace the dense layers (plain nn.Linear only) of a float32 network on the CPU, in place; returns it."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, PackedLinear(child))
    return network


def exact_path(model: FastMETRO, device: str) -> FastMETRO:
    """`model`, changed in place for inference on `device`: the same outputs within rounding."""
    model = fold_batch_norms(model.eval()).to(device=device, memory_format=torch.channels_last)
    if device == "cpu" and can_pack():
        # Not all of it: the backbone may run in bfloat16, and the heads are tiny.
        layer = None if model.feedback is None else model.feedback.layer
        for part in (model.stages, model.reduction, layer, model.body_regressor):
            if part is not None:
                pack_linears(part)
    return model
