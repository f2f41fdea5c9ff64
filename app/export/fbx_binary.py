"""Binary FBX 7.4: a tree of nodes with values, as bytes.

No package on PyPI writes FBX without Autodesk's own SDK or a whole Blender. The format has no official specification.
Source: https://code.blender.org/2013/08/fbx-binary-file-format-specification and https://lo48576.github.io/fbx-book
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

VERSION = 7400
MAGIC = b"Kaydara FBX Binary  \x00\x1a\x00"
ROOT_END = bytes(13)
"""Ends a list of nodes; those without values have one always."""
ALWAYS_ENDED = ("AnimationStack", "AnimationLayer")
"""Nodes whose list is ended by this though nothing is in it; Autodesk's SDK ignores animations without."""
CREATED = datetime(1970, 1, 1, 10)
"""What FILE_ID and FOOTER_ID belong to: readers check them against each other, so all files have the same."""
FILE_ID = bytes.fromhex("28b32aebb624ccc2bfc8b02aa92bfcf1")
FOOTER_ID = bytes.fromhex("fabcab09d0c8d466b176fb831cf7267e")
FOOTER_END = bytes.fromhex("f85a8c6adef5d97eece90ce3758f290b")
ARRAYS = {"float64": b"d", "float32": b"f", "int64": b"l", "int32": b"i"}
SCALARS = {"float64": (b"D", "<d"), "int64": (b"L", "<q"), "int32": (b"I", "<i"), "bool": (b"C", "<?")}
LEAST_PACKED = 128
"""Bytes of an array from which on it is compressed."""

Value = str | bytes | float | bool | np.ndarray | np.generic


@dataclass
class Node:
    """name: of its kind; values: in its own line, Python's int as 32 bits, arrays flat; nodes: below it."""

    name: str
    values: Sequence[Value] = ()
    nodes: list["Node"] = field(default_factory=list)

    def add(self, name: str, *values: Value) -> "Node":
        """A node below this one; that node."""
        self.nodes.append(Node(name, values))
        return self.nodes[-1]


def to_bytes(nodes: Sequence[Node]) -> bytes:
    """The whole file. Raises TypeError for a value of which FBX knows nothing."""
    parts = [MAGIC, struct.pack("<I", VERSION)]
    at = sum(map(len, parts))
    for node in nodes:
        parts.append(_packed(node, at))
        at += len(parts[-1])
    head = ROOT_END + FOOTER_ID
    padding = bytes(-(at + len(head)) % 16)  # the file's size is a multiple of 16
    return b"".join([*parts, head, padding, bytes(4), struct.pack("<I", VERSION), bytes(120), FOOTER_END])


def _packed(node: Node, start: int) -> bytes:
    """start: of the node in the file, for nodes say where they end."""
    name, values = node.name.encode(), b"".join(map(_value, node.values))
    parts = [values]
    at = start + 13 + len(name) + len(values)
    for below in node.nodes:
        parts.append(_packed(below, at))
        at += len(parts[-1])
    if node.nodes or not node.values or node.name in ALWAYS_ENDED:
        parts.append(ROOT_END)
        at += len(ROOT_END)
    return b"".join([struct.pack("<IIIB", at, len(node.values), len(values), len(name)), name, *parts])


def _value(value: Value) -> bytes:
    if isinstance(value, str):
        value = value.encode()
        return b"S" + struct.pack("<I", len(value)) + value
    if isinstance(value, bytes):
        return b"R" + struct.pack("<I", len(value)) + value
    if isinstance(value, np.ndarray):
        return _array(value)
    kind = "int32" if type(value) is int else np.asarray(value).dtype.name
    if kind not in SCALARS:
        raise TypeError(f"FBX value: got {kind}, expected one of {', '.join(SCALARS)}")
    code, layout = SCALARS[kind]
    return code + struct.pack(layout, value)


def _array(values: np.ndarray) -> bytes:
    if values.dtype.name not in ARRAYS:
        raise TypeError(f"FBX array: got {values.dtype.name}, expected one of {', '.join(ARRAYS)}")
    data = np.ascontiguousarray(values).tobytes()
    packed = zlib.compress(data) if len(data) >= LEAST_PACKED else data
    return ARRAYS[values.dtype.name] + struct.pack("<III", values.size, len(data) >= LEAST_PACKED, len(packed)) + packed
