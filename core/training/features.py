"""The frozen part of a backbone over all pictures, once: training then reads features instead of pictures.

python -m core.training.features --shards DIR --variant NAME --trunk FILE [--follow N]

Writes DIR/features-<backbone>/shard-00000.0.npy, .1.npy ...: one file for each tensor of `backbone.frozen`, float16,
channels last (n, h, w, C). What is there already is skipped, so the command may be stopped and started at any time.
"""

import argparse
import hashlib
import json
import logging
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.cpu import has_fast_bf16_cpu
from core.crop import CROP_SCALE, zoomed
from core.errors import InputError, exit_code
from core.pixels import Normaliser
from core.training.shards import SHARD_PATTERN, JpegPictures, list_shards, load_pictures, load_shard

log = logging.getLogger(__name__)

BATCH_SIZE = 32
POLL_S = 5.0
NOTE = "backbone.json"
"""In a cache's folder: which backbone it is of."""


@dataclass(frozen=True)
class FeatureCache:
    """Where the features of one backbone lie beside the shards.

    made_with: what the folder notes of the backbone; crop_scale: of the network; pictures cut wider are zoomed first
    """

    folder: Path
    num_tensors: int
    made_with: dict[str, Any]
    crop_scale: float = CROP_SCALE

    def begin(self) -> None:
        """Make the folder, with its note, where there is none."""
        note = self.folder / NOTE
        if not note.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            note.write_text(json.dumps(self.made_with, indent=1), encoding="utf-8")

    def paths(self, shard: Path) -> list[Path]:
        """The files of a shard's features, finished or not."""
        return [self.folder / f"{shard.stem}.{k}.npy" for k in range(self.num_tensors)]

    def finished(self, shards: list[Path]) -> list[Path]:
        """Those of `shards` whose features are complete."""
        return [shard for shard in shards if all(path.exists() for path in self.paths(shard))]

    def load(self, shard: Path) -> tuple[np.ndarray, ...]:
        """The features of a shard, mapped from the files; InputError when one is damaged."""
        loaded = []
        for path in self.paths(shard):
            try:
                loaded.append(np.load(path, mmap_mode="r"))
            except (OSError, ValueError) as error:
                raise InputError(f"features: {path} is not readable ({error}); delete it and run core.training.features again") from error
        return tuple(loaded)

    def save(self, shard: Path, tensors: list[np.ndarray]) -> None:
        """Write a shard's features beside their final names first, then move them there."""
        for path, tensor in zip(self.paths(shard), tensors, strict=True):
            unfinished = path.with_suffix(".tmp")
            with unfinished.open("wb") as file:
                np.save(file, tensor)
            os.replace(unfinished, path)


def fingerprint(backbone: torch.nn.Module) -> str:
    """Tells frozen weights apart: sha256 over what `backbone.tail` does not train, 16 digits."""
    trained = {id(parameter) for parameter in backbone.tail_parameters()}
    digest = hashlib.sha256()
    for name, value in sorted(backbone.state_dict(keep_vars=True).items()):
        if id(value) not in trained:
            digest.update(name.encode())
            digest.update(value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def open_cache(shards: Path, backbone_name: str, backbone: torch.nn.Module, crop_scale: float = CROP_SCALE) -> FeatureCache:
    """The cache of a backbone; nothing is written. InputError for a folder of other frozen weights, or for another scale of crops."""
    folder = shards / f"features-{backbone_name}"
    with torch.inference_mode():
        kept = backbone.frozen(torch.zeros(1, 3, 224, 224))
    shapes = [list(tensor.shape[1:]) for tensor in kept]
    made_with = {"backbone": backbone_name, "weights": fingerprint(backbone), "shapes": shapes, "crop_scale": crop_scale}
    note = folder / NOTE
    if note.exists() and (found := {"crop_scale": CROP_SCALE, **json.loads(note.read_text(encoding="utf-8"))}) != made_with:
        raise InputError(f"features: {folder} was made with {found}, got {made_with}; use that --trunk or delete the folder")
    return FeatureCache(folder, len(kept), made_with, crop_scale)


def stored(tensor: Tensor) -> np.ndarray:
    """A tensor of `frozen` as it is kept: float16, a picture's grid (B, C, h, w) as (B, h, w, C)."""
    tensor = tensor.permute(0, 2, 3, 1) if tensor.dim() == 4 else tensor
    return tensor.half().contiguous().numpy()


def features_of(
    pictures: JpegPictures, backbone: torch.nn.Module, precision: str, batch_size: int = BATCH_SIZE, zoom: float = 1.0
) -> list[np.ndarray]:
    """The kept tensors of all pictures of a shard: one float16 array (n, ...) each. zoom: enlarge the pictures by that first."""
    parts: list[list[np.ndarray]] = []
    normalise = Normaliser(backbone)
    for start in range(0, len(pictures), batch_size):
        decoded = np.stack([zoomed(pictures.decoded(i), zoom) for i in range(start, min(start + batch_size, len(pictures)))])
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            kept = backbone.frozen(normalise(torch.from_numpy(decoded)))
        parts.append([stored(tensor) for tensor in kept])
    return [np.concatenate(tensors) for tensors in zip(*parts, strict=True)]


def cache_features(paths: list[Path], cache: FeatureCache, backbone: torch.nn.Module, precision: str) -> list[Path]:
    """Make what is missing, the cache's folder too. Returns the shards among `paths` that are broken; each was warned about."""
    cache.begin()
    finished, broken = set(cache.finished(paths)), []
    for path in paths:
        if path in finished:
            continue
        started_s = time.perf_counter()
        try:
            pictures = load_pictures(path)
            tensors = features_of(pictures, backbone, precision, zoom=load_shard(path).zoom(cache.crop_scale))
        except InputError:
            raise
        except (ValueError, OSError) as error:
            broken.append(path)
            log.warning("shard skipped: %s: %s", path.name, error)
            continue
        cache.save(path, tensors)
        took_ms = (time.perf_counter() - started_s) * 1e3
        log.info("%s: %d pictures, %.1f ms each", path.name, len(pictures), took_ms / len(pictures))
    return broken


def follow_shards(folder: Path, cache: FeatureCache, backbone: torch.nn.Module, precision: str, until: int) -> tuple[int, int]:
    """Make features of what is there, and of what comes until `until` shards are done; returns the counts done and broken."""
    broken: set[Path] = set()
    while True:
        paths = [path for path in sorted(folder.glob(SHARD_PATTERN)) if path not in broken]
        broken |= set(cache_features(paths, cache, backbone, precision))
        num_finished = len(cache.finished(paths))
        if num_finished + len(broken) >= until:
            return num_finished, len(broken)
        time.sleep(POLL_S)


def build_parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    parser = argparse.ArgumentParser(prog="python -m core.training.features", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shards", type=Path, required=True, help="folder of shard-*.npz")
    parser.add_argument("--variant", required=True, help="name of the architecture, as in core.variants")
    parser.add_argument("--trunk", type=Path, required=True, help="the backbone's original weights (.safetensors)")
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto", help="auto: bf16 where the CPU has it")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--follow", type=int, default=0, metavar="N", help="wait for new shards until N have features; 0 = do not wait")
    return parser


def make_features(options: argparse.Namespace) -> None:
    """The command. Raises InputError and OSError."""
    from core.training.parts import build_for_training

    if not options.follow:
        list_shards(options.shards)  # raises when there are none
    best = "bf16" if has_fast_bf16_cpu() else "fp32"
    precision = best if options.precision == "auto" else options.precision
    parts = build_for_training(options.variant, trunk=options.trunk)
    backbone = parts.model.backbone.eval().to(memory_format=torch.channels_last)
    cache = open_cache(options.shards, parts.backbone_name, backbone, parts.config.crop_scale)
    finished, broken = follow_shards(options.shards, cache, backbone, precision, options.follow)
    print(f"{cache.folder}: features of {finished} shards, {broken} broken shards skipped, {precision}")


def main(arguments: list[str] | None = None) -> int:
    """Command line entry point; the exit code."""
    options = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    try:
        return exit_code(lambda: make_features(options))
    except KeyboardInterrupt:  # how --follow is ended; what is there is kept
        return 0


if __name__ == "__main__":
    sys.exit(main())
