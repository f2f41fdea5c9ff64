"""Batch normalisation folded into the layer before it: the same function in evaluation mode, with fewer passes over memory."""

from collections.abc import Iterator
from itertools import pairwise

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Fold every batch normalisation of `network`, in place; returns it. For evaluation only.

    A normalisation belongs to the layer before it in a Sequential, or to the `convN` beside a `bnN`, as ResNet and HRNet name them.
    Raises RuntimeError when one is left over, or when the network is in training mode.
    """
    for parent in list(network.modules()):
        for layer_name, norm_name in _pairs(parent):
            layer, norm = getattr(parent, layer_name), getattr(parent, norm_name)
            if norm.training:
                raise RuntimeError("fold_batch_norms: got a network in training mode, expected evaluation mode; call eval() first")
            fuse = fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval
            setattr(parent, layer_name, fuse(layer, norm))
            setattr(parent, norm_name, nn.Identity())
    left = [name for name, module in network.named_modules() if isinstance(module, _BatchNorm)]
    if left:
        raise RuntimeError(f"fold_batch_norms: {len(left)} normalisations follow no layer that they could be folded into ({left[0]} ...)")
    return network


def _pairs(parent: nn.Module) -> Iterator[tuple[str, str]]:
    """(layer, normalisation) names among a module's children."""
    children = dict(parent.named_children())
    if isinstance(parent, nn.Sequential):
        candidates = list(pairwise(children))
    else:
        candidates = [(f"conv{name[2:]}", name) for name in children if name.startswith("bn")]
    for layer_name, norm_name in candidates:
        if isinstance(children[norm_name], _BatchNorm) and isinstance(children.get(layer_name), nn.Conv2d | nn.Linear):
            yield layer_name, norm_name
