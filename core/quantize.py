"""An 8-bit network for `--precision int8`: post-training quantisation by NNCF, calibrated on synthetic people.

python -m core.quantize CHECKPOINT [--crops 150] [--shards DIR] [--mesh-dir DIR] [--out DIR]

Needs `pip install -r requirements-quantize.txt`, only here: running the result needs OpenVINO alone. It goes to the user's cache
folder, where --precision int8 finds it by the weights. How far its meshes are from float32 is measured on crops that were not used
for calibration, printed, and said again by whatever runs it: quantisation pays for ResNet-50 and HRNet; BlazePose's trunks lose too much.
"""

import argparse
import copy
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from core.checkpoint import load_checkpoint
from core.cpu import has_int8_dot_products
from core.crop import zoomed
from core.errors import InputError, exit_code
from core.folding import fold_batch_norms
from core.model import FastMETRO
from core.openvino_files import OpenVinoError, silent_openvino, write
from core.openvino_network import Exported, OpenVinoNetwork, convert, quantised_file

if TYPE_CHECKING:
    import openvino

log = logging.getLogger(__name__)

HELD_OUT = 5
"""Every fifth crop measures the result instead of calibrating it."""


def synthetic_crops(count: int, crop_scale: float) -> np.ndarray:
    """(count, 224, 224, 3) uint8: the first people of seed 0, before plain backgrounds. crop_scale: of the network."""
    from core.bodies import load_body
    from core.training.people import People
    from core.training.people_config import PeopleConfig

    people = People(load_body("anny"), PeopleConfig(crop_scale=crop_scale))
    return np.stack([people.make(index).image for index in range(count)])


def shard_crops(folder: Path, count: int, crop_scale: float) -> np.ndarray:
    """(count or fewer, 224, 224, 3) uint8, from the first shards. crop_scale: of the network. InputError when there are too few."""
    from core.training.shards import list_shards, load_pictures, load_shard

    crops: list[np.ndarray] = []
    for path in list_shards(folder):
        try:
            pictures, zoom = load_pictures(path), load_shard(path).zoom(crop_scale)
            crops += [zoomed(pictures.decoded(index), zoom) for index in range(min(len(pictures), count - len(crops)))]
        except (ValueError, OSError) as error:
            raise InputError(f"--shards: {error}") from error
        if len(crops) == count:
            break
    if len(crops) < HELD_OUT:
        raise InputError(f"--shards: got {len(crops)} people in {folder}, expected {HELD_OUT} or more")
    return np.stack(crops)


def quantise(model: FastMETRO, crops: np.ndarray, folder: Path | None = None) -> tuple[Path, float]:
    """Write the 8-bit network of `model`; where it lies, and the mean distance of its vertices from float32's, millimetres.

    crops: (N, 224, 224, 3) uint8, N at least 5; folder: by default the cache. Raises InputError without NNCF or OpenVINO, and when
    the result is no good, OSError.
    """
    try:
        openvino = silent_openvino()
        import nncf
    except (ImportError, OpenVinoError) as error:
        raise InputError(f"quantisation: {error}; pip install -r requirements-quantize.txt") from error
    nncf.set_log_level(logging.ERROR)
    exported = Exported(fold_batch_norms(copy.deepcopy(model).eval())).eval()
    measured = np.arange(len(crops)) % HELD_OUT == HELD_OUT - 1
    network = nncf.quantize(
        constants_apart(convert(exported)),
        nncf.Dataset([crop[None] for crop in crops[~measured]]),
        subset_size=int((~measured).sum()),
        model_type=nncf.ModelType.TRANSFORMER,  # keeps what attention is sensitive to in float, and smooths activations
        preset=nncf.QuantizationPreset.MIXED,
        # with 7 bits for weights no sum overflows where the CPU adds up in 16
        advanced_parameters=None if has_int8_dot_products() else nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
    )
    path = quantised_file(model, folder)
    write(openvino, network, path, "not compared with fp32 yet")
    try:
        network_of_8_bits = OpenVinoNetwork(model, "int8", folder)
    except InputError as error:
        for suffix in (".xml", ".bin", ".json"):
            path.with_suffix(suffix).unlink(missing_ok=True)
        problem = "with 8 bits this network says something else on this processor, so none is kept"
        raise InputError(f"quantisation: {problem}; use --precision bf16 or fp32, or try more --crops") from error
    distances_m = (vertices(network_of_8_bits, crops[measured]) - reference(model, crops[measured])).norm(dim=-1)
    error_mm = 1e3 * float(distances_m.mean())
    write(openvino, network, path, f"vertices {error_mm:.1f} mm from fp32 on {int(measured.sum())} crops")
    return path, error_mm


def constants_apart(network: "openvino.Model") -> "openvino.Model":
    """The same network, every constant a copy of its own for each node that takes it: NNCF makes such copies too, but of one name."""
    from openvino import opset13

    for node in network.get_ordered_ops():
        if node.get_type_name() != "Constant":
            continue
        _, *others = sorted(node.output(0).get_target_inputs(), key=lambda taker: taker.get_node().get_name())
        for number, taker in enumerate(others, start=2):
            copied = opset13.constant(node.get_data(), dtype=node.get_element_type())
            copied.set_friendly_name(f"{node.get_friendly_name()}/{number}")
            taker.replace_source_output(copied.output(0))
    return network


def vertices(network: OpenVinoNetwork, crops: np.ndarray) -> Tensor:
    """(N, V, 3) full meshes, metres."""
    return torch.cat([network(crop[None]).levels[2] for crop in crops])


@torch.inference_mode()
def reference(model: FastMETRO, crops: np.ndarray) -> Tensor:
    """The same from the network itself."""
    exported = Exported(model).eval()
    return torch.cat([model.upsample(exported(torch.from_numpy(crop[None]))[2])[2] for crop in crops])


def build_parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    parser = argparse.ArgumentParser(prog="python -m core.quantize", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("checkpoint", nargs="?", default="default", help="a name in checkpoints/ or a file (default: default)")
    parser.add_argument("--crops", type=int, default=150, help="pictures to calibrate with, 5 or more (default 150)")
    parser.add_argument("--shards", type=Path, help="take them from these synthetic people instead of making some (on Anny)")
    parser.add_argument("--mesh-dir", type=Path, help="folder of the SMPL body's files, for networks on SMPL")
    parser.add_argument("--out", type=Path, help="folder for the result (default: the cache folder, where --precision int8 looks)")
    return parser


def quantise_checkpoint(options: argparse.Namespace) -> None:
    """The command: load, quantise, say how far off it is. Raises InputError and OSError."""
    if options.crops < HELD_OUT:
        raise InputError(f"--crops: got {options.crops}, expected {HELD_OUT} or more")
    model = load_checkpoint(options.checkpoint, options.mesh_dir).model
    scale = model.config.crop_scale
    crops = shard_crops(options.shards, options.crops, scale) if options.shards else synthetic_crops(options.crops, scale)
    path, error_mm = quantise(model, crops, options.out)
    print(f"{path}: vertices {error_mm:.1f} mm from fp32 in the mean; score it with core.training.evaluate --precision int8")


def main(arguments: list[str] | None = None) -> int:
    """Command line entry point; the exit code."""
    options = build_parser().parse_args(arguments)
    return exit_code(lambda: quantise_checkpoint(options))


if __name__ == "__main__":
    sys.exit(main())
