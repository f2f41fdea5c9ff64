"""Official weights -> one file of ours: python -m core.convert state_dict.bin out.safetensors [--mesh-dir DIR]

The file holds the mesh levels as well, so that it runs without mesh files: python launch.py --video in.mp4 --checkpoint out.safetensors
"""

import argparse
import sys
from pathlib import Path

from core.errors import InputError, exit_code


def convert(source: Path, target: Path, mesh_dir: Path | None = None, half: bool = False) -> str:
    """Convert one file; returns a line about it. Raises InputError."""
    from core.checkpoint import SUFFIX, load_checkpoint, save_checkpoint
    from core.variants import count

    if target.suffix != SUFFIX:
        raise InputError(f"{target}: got {target.suffix or 'no suffix'}, expected {SUFFIX}")
    model, body, metadata = load_checkpoint(source, mesh_dir)
    save_checkpoint(target, model, model.config, metadata, half, body)
    regressor = ", with parameter regressor" if model.config.parametric else ""
    return (
        f"{target}: {model.config.name}, {model.config.release}, {count(model):,} parameters{regressor}; licence: {metadata.get('licence')}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Command line entry point; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m core.convert", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("source", type=Path, help="FastMETRO-*_state_dict.bin of the release")
    parser.add_argument("target", type=Path, help="the .safetensors file to write")
    parser.add_argument("--mesh-dir", type=Path, help="folder of mesh_downsampling.npz (default: the source's, or checkpoints/smpl)")
    parser.add_argument("--half", action="store_true", help="store float16")
    options = parser.parse_args(arguments)
    return exit_code(lambda: print(convert(options.source, options.target, options.mesh_dir, options.half)))


if __name__ == "__main__":
    sys.exit(main())
