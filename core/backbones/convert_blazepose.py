"""Rebuild a BlazePose backbone's weights from mediapipe's tflite file. Offline; needs `pip install tflite`.

python -m core.backbones.convert_blazepose pose_landmark_heavy.tflite blazepose-heavy.safetensors
"""

import argparse
import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from core.backbones import BACKBONES
from core.errors import InputError, exit_code

if TYPE_CHECKING:
    import tflite

NUMPY_TYPES = {0: np.float32, 1: np.float16, 2: np.int32}
FEATURE_OUTPUTS = {"blazepose": 300, "blazepose-heavy": 644}
"""The tensor of the graph that each backbone's features equal."""


def read_convolutions(path: Path, output: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(weight, bias) of the convolutions that tensor `output` depends on, in the file's order, laid out as torch wants them."""
    import tflite

    model = tflite.Model.GetRootAsModel(path.read_bytes(), 0)
    graph = model.Subgraphs(0)
    names = {value: name for name, value in vars(tflite.BuiltinOperator).items() if isinstance(value, int)}
    known = _constants(model, graph)
    operators: list[tuple[str, list[int], int]] = []
    for position in range(graph.OperatorsLength()):
        operator = graph.Operators(position)
        code = model.OperatorCodes(operator.OpcodeIndex())
        name = names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        inputs, target = [int(index) for index in operator.InputsAsNumpy()], int(operator.Outputs(0))
        if name in ("DEQUANTIZE", "DENSIFY") and inputs[0] in known:
            known[target] = known[inputs[0]].astype(np.float32)
        else:
            operators.append((name, inputs, target))
    needed, found = {output}, []
    for name, inputs, target in reversed(operators):
        if target not in needed:
            continue
        needed.update(inputs)
        if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            order = (3, 0, 1, 2) if name == "DEPTHWISE_CONV_2D" else (0, 3, 1, 2)
            found.append((known[inputs[1]].transpose(order), known[inputs[2]]))
    return found[::-1]


def _constants(model: "tflite.Model", graph: "tflite.SubGraph") -> dict[int, np.ndarray]:
    """Tensor index -> array, for the tensors that hold data."""
    found = {}
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        data = model.Buffers(tensor.Buffer())
        if data.DataLength() and tensor.Type() in NUMPY_TYPES:
            shape = tensor.ShapeAsNumpy() if tensor.ShapeLength() else ()
            found[index] = np.frombuffer(data.DataAsNumpy().tobytes(), NUMPY_TYPES[tensor.Type()]).reshape(shape)
    return found


def converted(path: Path, name: str) -> nn.Module:
    """The backbone called `name` with the weights of the tflite file at `path`. Raises InputError when they do not fit together."""
    backbone = BACKBONES[name]()
    layers, weights = list(backbone.convolutions()), read_convolutions(path, FEATURE_OUTPUTS[name])
    shapes = [tuple(layer.weight.shape) for layer in layers]
    if shapes != [weight.shape for weight, _ in weights]:
        raise InputError(f"{path} is not the network that {name!r} reproduces; take pose_landmark_full or _heavy of mediapipe 0.10.21")
    with torch.no_grad():
        for layer, (weight, bias) in zip(layers, weights, strict=True):
            layer.weight.copy_(torch.from_numpy(weight.astype(np.float32)))
            layer.bias.copy_(torch.from_numpy(bias.astype(np.float32)))
    return backbone


def main() -> None:
    """Command line entry point."""
    from core.checkpoint import save_backbone

    parser = argparse.ArgumentParser(description="Convert a BlazePose landmark network (tflite) into backbone weights (safetensors).")
    parser.add_argument("tflite", type=Path, help="pose_landmark_full.tflite or pose_landmark_heavy.tflite")
    parser.add_argument("out", type=Path, help="safetensors file to write")
    parser.add_argument("--backbone", choices=tuple(FEATURE_OUTPUTS), help="default: from the file's name")
    options = parser.parse_args()
    name = options.backbone or ("blazepose-heavy" if "heavy" in options.tflite.name else "blazepose")
    backbone = converted(options.tflite, name)
    metadata = {
        "origin": "the landmark network of mediapipe 0.10.21's pose solution",
        "source_file": options.tflite.name,
        "source_sha256": hashlib.sha256(options.tflite.read_bytes()).hexdigest(),
        "licence": "Apache-2.0 (the MediaPipe authors)",
    }
    save_backbone(options.out, backbone, name, metadata)
    print(f"{options.out}: {name}, {sum(p.numel() for p in backbone.parameters()):,} parameters")


if __name__ == "__main__":
    sys.exit(exit_code(main))
