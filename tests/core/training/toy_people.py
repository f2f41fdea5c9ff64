"""Shards of toy people: a tube that is stretched and turned; its picture is a plain colour that tells by how much."""

from pathlib import Path

import cv2
import numpy as np
import torch

from core.config import ModelConfig
from core.geometry import rotmats_from_rotvecs
from core.model import FastMETRO
from core.training.parts import Parts
from core.training.shards import Truth
from tests.toy import ToyBackbone, ToyBody

FAMILIES = ("upright", "tilted")
TINY = ModelConfig("tiny", "toy", "toy", num_layers=1, widths=(16, 8), num_heads=2)


def toy_truth(count: int, seed: int = 0) -> tuple[Truth, np.ndarray]:
    """Truth of `count` people, and (count, 2) stretch and turn, each 0..1."""
    body, random = ToyBody(), np.random.default_rng(seed)
    amount = random.random((count, 2)).astype(np.float32)
    rotvecs = torch.from_numpy(np.stack([np.zeros(count), np.zeros(count), amount[:, 1]], 1).astype(np.float32))
    vertices = body.vertices(rotmats_from_rotvecs(rotvecs)[:, None], torch.from_numpy(amount[:, :1] * 0.4))
    pelvis = body.pelvis(vertices)[:, None]
    joints = (body.joints(vertices) - pelvis).numpy().astype(np.float32)
    camera = np.tile(np.array([0.8, 0.05, -0.02], np.float32), (count, 1))
    truth = Truth(
        intermediate_m=(vertices - pelvis).numpy()[:, body.levels.intermediate_ids].astype(np.float16),
        joints_m=joints,
        joints_crop=(camera[:, None, :1] * (joints[..., :2] + camera[:, None, 1:])).astype(np.float32),
        joint_visibility=(random.random((count, 14)) > 0.2).astype(np.float32),
        camera=camera,
        family=(amount[:, 1] > 0.5).astype(np.uint8),
    )
    return truth, amount


def toy_jpegs(amount: np.ndarray) -> list[bytes]:
    """A 224x224 JPEG of one colour for each person."""
    colors = np.concatenate([amount, 1 - amount[:, :1]], 1) * 255
    return [cv2.imencode(".jpg", np.full((224, 224, 3), color, np.uint8))[1].tobytes() for color in colors]


def write_shard(path: Path, truth: Truth, jpegs: list[bytes], body: str, seed: int) -> None:
    """A shard as core.training.synthesize leaves it, less what it knows beside the truth."""
    offsets = np.concatenate([[0], np.cumsum([len(jpeg) for jpeg in jpegs])]).astype(np.int64)
    about = {"family_names": np.array(FAMILIES), "body": np.array(body), "seed": np.array(seed)}
    np.savez(path, jpeg=np.frombuffer(b"".join(jpegs), np.uint8), jpeg_offsets=offsets, **about, **vars(truth))


def write_toy_shards(folder: Path, num_shards: int = 2, count: int = 24, seed: int = 0, body: str = "toy") -> Path:
    """A folder of toy shards."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(num_shards):
        truth, amount = toy_truth(count, seed + number)
        write_shard(folder / f"shard-{number:05d}.npz", truth, toy_jpegs(amount), body, seed + number)
    return folder


def tiny_model(config: ModelConfig = TINY) -> FastMETRO:
    """An untrained network of a few thousand weights."""
    torch.manual_seed(0)
    return FastMETRO(config, ToyBackbone(), ToyBody())


def toy_parts(*_: object, **__: object) -> Parts:
    """What build_for_training gives, with a toy network that always starts from the same weights."""
    return Parts(tiny_model(), TINY, ToyBody(), "random weights")
