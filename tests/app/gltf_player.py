"""Plays a .glb as a viewer would, written from the glTF 2.0 specification alone."""

import json
import struct
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

COMPONENTS = {5121: np.uint8, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}


class Played:
    """channels: (node, path) -> times, values, interpolation of the one animation."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        magic, version, length = struct.unpack_from("<4sII", data)
        assert (magic, version, length) == (b"glTF", 2, len(data))
        json_length, json_kind = struct.unpack_from("<I4s", data, 12)
        assert json_kind == b"JSON"
        self.tree = json.loads(data[20 : 20 + json_length])
        bin_length, bin_kind = struct.unpack_from("<I4s", data, 20 + json_length)
        assert bin_kind == b"BIN\0"
        self.blob = data[28 + json_length : 28 + json_length + bin_length]
        assert self.tree["buffers"][0]["byteLength"] <= bin_length
        self.channels = {}
        for animation in self.tree.get("animations") or []:
            for channel in animation["channels"]:
                sampler = animation["samplers"][channel["sampler"]]
                key = channel["target"]["node"], channel["target"]["path"]
                assert key not in self.channels
                self.channels[key] = self.array(sampler["input"]), self.array(sampler["output"]), sampler["interpolation"]

    def array(self, index: int) -> np.ndarray:
        accessor = self.tree["accessors"][index]
        view = self.tree["bufferViews"][accessor["bufferView"]]
        dtype, width = np.dtype(COMPONENTS[accessor["componentType"]]), WIDTHS[accessor["type"]]
        start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
        num_bytes = accessor["count"] * width * dtype.itemsize
        assert accessor.get("byteOffset", 0) + num_bytes <= view["byteLength"]
        assert start % dtype.itemsize == 0
        values = np.frombuffer(self.blob[start : start + num_bytes], dtype).reshape(-1, width)
        if accessor.get("min") is not None:
            np.testing.assert_allclose(values.min(axis=0), accessor["min"], atol=1e-6)
            np.testing.assert_allclose(values.max(axis=0), accessor["max"], atol=1e-6)
        return values

    def value(self, node: int, path: str, time_s: float, rest: np.ndarray) -> np.ndarray:
        if (node, path) not in self.channels:
            return np.asarray(rest, float)
        times_s, values, interpolation = self.channels[node, path]
        times_s = times_s[:, 0]
        values = values.reshape(len(times_s), -1)
        after = int(np.searchsorted(times_s, time_s, side="right"))
        if after == 0 or after == len(times_s) or interpolation == "STEP":
            return values[max(after - 1, 0)]
        weight = (time_s - times_s[after - 1]) / (times_s[after] - times_s[after - 1])
        return (1 - weight) * values[after - 1] + weight * values[after]

    def people(self, time_s: float) -> dict[str, np.ndarray]:
        """Person's name -> (V, 3) in the space of the camera node; those hidden are left out."""
        found = {}
        for parent in self.tree["nodes"]:
            for index in parent.get("children", []):
                node = self.tree["nodes"][index]
                if "mesh" not in node:
                    continue
                scale = self.value(index, "scale", time_s, node.get("scale") or (1, 1, 1))
                if not scale.any():
                    continue
                assert parent["name"] not in found, "two stretches of one person at once"
                shape = self.tree["meshes"][node["mesh"]]
                primitive = shape["primitives"][0]
                points = self.array(primitive["attributes"]["POSITION"]).astype(float)
                normals = self.array(primitive["attributes"]["NORMAL"])
                np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
                weights = self.value(index, "weights", time_s, shape.get("weights") or [])
                for target, weight in zip(primitive.get("targets") or [], weights, strict=True):
                    if weight:
                        points = points + weight * self.array(target["POSITION"])
                found[parent["name"]] = points * scale + self.value(index, "translation", time_s, node["translation"])
        return found

    def skinned(self, time_s: float) -> dict[str, np.ndarray]:
        """Name of a node with a skin -> (V, 3) in the world."""
        found = {}
        for node in self.tree["nodes"]:
            if node.get("skin") is None:
                continue
            skin, primitive = self.tree["skins"][node["skin"]], self.tree["meshes"][node["mesh"]]["primitives"][0]
            inverse = self.array(skin["inverseBindMatrices"]).reshape(-1, 4, 4).transpose(0, 2, 1)
            matrices = np.stack([self.world(joint, time_s) for joint in skin["joints"]]) @ inverse
            points, joints, weights = (self.array(primitive["attributes"][name]) for name in ("POSITION", "JOINTS_0", "WEIGHTS_0"))
            np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
            blended = (matrices[joints] * weights[..., None, None]).sum(axis=1)
            found[node["name"]] = (blended[:, :3, :3] @ points[..., None].astype(float))[..., 0] + blended[:, :3, 3]
        return found

    def world(self, node: int, time_s: float) -> np.ndarray:
        """(4, 4) from the node's space to the world."""
        fields = self.tree["nodes"][node]
        matrix = np.eye(4)
        turn = self.rotation(node, time_s, fields.get("rotation") or (0, 0, 0, 1))
        matrix[:3, :3] = turn.as_matrix() * self.value(node, "scale", time_s, fields.get("scale") or (1, 1, 1))
        matrix[:3, 3] = self.value(node, "translation", time_s, fields.get("translation") or (0, 0, 0))
        return matrix if node not in self.parents else self.world(self.parents[node], time_s) @ matrix

    def rotation(self, node: int, time_s: float, rest: np.ndarray) -> Rotation:
        """Of a node, between its keys on the shortest way."""
        if (node, "rotation") not in self.channels:
            return Rotation.from_quat(rest)
        times_s, values, interpolation = self.channels[node, "rotation"]
        assert interpolation == "LINEAR"
        np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, atol=1e-5)
        return Slerp(times_s[:, 0], Rotation.from_quat(values))(np.clip(time_s, times_s[0, 0], times_s[-1, 0]))

    @cached_property
    def parents(self) -> dict[int, int]:
        """Node -> the one above."""
        return {child: index for index, node in enumerate(self.tree["nodes"]) for child in node.get("children") or []}
