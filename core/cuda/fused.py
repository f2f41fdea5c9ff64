"""Convolution, bias, sum with a shortcut and ReLU as one cuDNN operation instead of up to three kernels.

The network's own code is traced, and the patterns are exchanged in the trace: relu(conv(x)) and relu(conv(x) + z). Whether that pays on
a GPU, and whether it gives the same there, is measured before it is used (core.cuda.runtime).
"""

from collections.abc import Callable
from operator import add

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  its usual name


def conv_relu(x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int], groups: int) -> Tensor:
    """ReLU(convolution)."""
    if x.is_cuda:
        return torch.ops.aten.cudnn_convolution_relu(x, weight, bias, stride, padding, [1, 1], groups)
    return F.relu(F.conv2d(x, weight, bias, stride, padding, 1, groups))


def conv_add_relu(x: Tensor, weight: Tensor, z: Tensor, bias: Tensor | None, stride: list[int], padding: list[int], groups: int) -> Tensor:
    """ReLU(convolution + z)."""
    if x.is_cuda:
        return torch.ops.aten.cudnn_convolution_add_relu(x, weight, z, 1.0, bias, stride, padding, [1, 1], groups)
    return F.relu(F.conv2d(x, weight, bias, stride, padding, 1, groups) + z)


def fuse_activations(network: nn.Module) -> tuple[nn.Module, int]:
    """A network in evaluation mode without batch normalisations -> the same function, sharing its weights, and how many are fused."""
    traced = fx.symbolic_trace(network)
    _drop_identities(traced)
    modules = dict(traced.named_modules())
    num_fused = 0
    for node in list(traced.graph.nodes):
        if not _is_relu(node, modules):
            continue
        source = node.args[0]
        replacement = _fused(traced.graph, node, source, modules)
        if replacement is not None:
            node.replace_all_uses_with(replacement)
            traced.graph.erase_node(node)
            num_fused += 1
    traced.graph.eliminate_dead_code()
    traced.recompile()
    return traced, num_fused


def _fused(graph: fx.Graph, node: fx.Node, source: fx.Node, modules: dict[str, nn.Module]) -> fx.Node | None:
    """What takes the place of the ReLU `node` of `source`, inserted before it; None where nothing can."""
    if _is_conv(source, modules):
        return _call(graph, node, conv_relu, source, (), modules)
    is_sum = source.op == "call_function" and source.target in (add, torch.add) and len(source.args) == 2 and len(source.users) == 1
    if is_sum:
        for conv, other in (source.args, source.args[::-1]):
            if isinstance(other, fx.Node) and _is_conv(conv, modules):
                return _call(graph, node, conv_add_relu, conv, (other,), modules)
    return None


def _call(
    graph: fx.Graph, node: fx.Node, function: Callable[..., Tensor], conv: fx.Node, more: tuple[fx.Node, ...], modules: dict[str, nn.Module]
) -> fx.Node:
    layer = modules[conv.target]
    with graph.inserting_before(node):
        weight = graph.get_attr(f"{conv.target}.weight")
        bias = None if layer.bias is None else graph.get_attr(f"{conv.target}.bias")
        return graph.call_function(function, (conv.args[0], weight, *more, bias, list(layer.stride), list(layer.padding), layer.groups))


def _is_conv(node: object, modules: dict[str, nn.Module]) -> bool:
    """A plain convolution that only one other operation looks at."""
    if not isinstance(node, fx.Node) or node.op != "call_module" or len(node.users) != 1:
        return False
    layer = modules[node.target]
    plain = type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and layer.dilation == (1, 1)
    return plain and not isinstance(layer.padding, str)


def _is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return type(modules[node.target]) is nn.ReLU
    return node.op == "call_function" and node.target in (F.relu, torch.relu)


def _drop_identities(traced: fx.GraphModule) -> None:
    """What stands where batch normalisations were."""
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        if node.op == "call_module" and type(modules[node.target]) is nn.Identity:
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)
