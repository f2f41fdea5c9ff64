"""One file of two backbones' weights.

python -m core.backbones.make_pair blazepose-heavy.safetensors movenet-thunder.safetensors pair.safetensors
"""

import argparse
import sys
from pathlib import Path

from core.backbones import BACKBONES
from core.backbones.pair import NAME
from core.checkpoint import load_backbone, save_backbone
from core.errors import exit_code


def main() -> None:
    """Command line entry point: one file of two backbones' weights."""
    parser = argparse.ArgumentParser(description="Put the weights of two trunks into one file.")
    parser.add_argument("first", type=Path, help="blazepose-heavy's weights (.safetensors)")
    parser.add_argument("second", type=Path, help="movenet-thunder's weights (.safetensors)")
    parser.add_argument("out", type=Path, help="safetensors file to write")
    options = parser.parse_args()
    pair = BACKBONES[NAME]()
    parts = zip(NAME.split("+"), (options.first, options.second), (pair.first, pair.second), strict=True)
    origins = {name: load_backbone(path, trunk, name) for name, path, trunk in parts}
    licence = "; ".join(str(origin.get("licence", "not known")) for origin in origins.values())
    save_backbone(options.out, pair, NAME, {"licence": licence, "origins": origins})
    print(f"{options.out}: {NAME}, {sum(p.numel() for p in pair.parameters()):,} parameters")


if __name__ == "__main__":
    sys.exit(exit_code(main))
