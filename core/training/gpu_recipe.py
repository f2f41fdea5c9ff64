"""Train the default model on one large GPU, in calls of a few minutes, on a machine that comes bare.

python -m core.training.gpu_recipe pack --backgrounds DIR... --out recipe.tar.xz
    # elsewhere, with PyTorch, NumPy and OpenCV (headless) and nothing else:
tar xf recipe.tar.xz && python -m core.training.gpu_recipe run --minutes 9 --out OUT
    # and again, as often as it takes; here again:
python -m core.training.gpu_recipe join OUT --out default.safetensors

docs/training.md, "On one large GPU", says the rest.
"""

import argparse
import logging
import sys
from pathlib import Path

from core.errors import InputError, exit_code

MIB = 2**20


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(prog="python -m core.training.gpu_recipe", description="Train the default model on one large GPU.")
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="put code, body, poses, weights and backgrounds into one archive of at most 64 MiB")
    packing.add_argument("--out", type=Path, required=True, help="archive to write, e.g. recipe.tar, or smaller: recipe.tar.xz")
    packing.add_argument("--trunk", help="the backbone's first weights: a .safetensors file or a network that has it (default: default)")
    packing.add_argument("--init", type=Path, help="a checkpoint to go on from, instead of --trunk")
    packing.add_argument("--backgrounds", type=Path, nargs="+", default=[], help="folders of pictures and .hdr probes without people")
    packing.add_argument("--coco", type=Path, help="folder in COCO's layout to measure PCK on (never trained on)")
    running = commands.add_parser("run", help="train for some minutes; started again it goes on")
    running.add_argument("--minutes", type=float, default=9.0, help="minutes until it saves and ends (default 9)")
    running.add_argument("--out", type=Path, required=True, help="folder for the checkpoint in pieces and the log")
    running.add_argument("--state", type=Path, help="folder for the exact state (default: OUT/../state)")
    running.add_argument("--from", dest="start", type=Path, help="a joined checkpoint to go on from, where no state is left")
    for command in (packing, running):
        command.add_argument("--config", type=Path, help="a recipe.json; run takes the one in the working directory by itself")
        command.add_argument("--set", nargs="+", default=[], metavar="KEY=JSON", help="change settings, e.g. training.batch=128")
    joining = commands.add_parser("join", help="pieces -> checkpoint, verified")
    joining.add_argument("folder", type=Path, help="what `run` wrote into --out")
    joining.add_argument("--out", type=Path, help="file to write (default: in the folder)")
    return parser


def do_pack(options: argparse.Namespace) -> None:
    """`pack`."""
    from core.training.gpu.bundle import Wanted, pack
    from core.training.gpu.runner import read_settings

    settings = read_settings(options.config, options.set)
    trunk = options.trunk or (None if options.init else "default")
    sizes = pack(Wanted(settings, trunk, options.init, tuple(options.backgrounds), options.coco), options.out)
    for kind, size in sizes.items():
        print(f"{size / MIB:8.2f} MiB  {kind}")
    print(f"{options.out.stat().st_size / MIB:8.2f} MiB  {options.out}")


def do_run(options: argparse.Namespace) -> None:
    """`run`."""
    import torch

    from core.training.gpu.bundle import RECIPE
    from core.training.gpu.runner import Call, read_settings, train_for

    if not options.minutes > 0:
        raise InputError(f"--minutes: got {options.minutes}, expected more than 0")
    beside = Path(RECIPE)
    settings = read_settings(options.config or (beside if beside.is_file() else None), options.set)
    torch.set_num_threads(int(settings["training"].get("threads", 2)))
    torch.backends.cudnn.benchmark = True
    state = options.state or options.out.parent / "state"
    trainer = train_for(settings, Call(options.minutes, options.out, state, options.start))
    share = trainer.num_samples / trainer.config.samples
    print(f"{trainer.num_samples} of {trainer.config.samples} samples ({share:.1%}); pieces in {options.out}, state in {state}")


def do_join(options: argparse.Namespace) -> None:
    """`join`."""
    from core.checkpoint import load_checkpoint
    from core.training.gpu.pieces import join

    path = join(options.folder, options.out)
    found = load_checkpoint(path)
    print(f"{path}: {found.model.config.name}, {found.metadata.get('samples_seen')} samples, scores {found.metadata.get('scores')}")


COMMANDS = {"pack": do_pack, "run": do_run, "join": do_join}


def main(arguments: list[str] | None = None) -> int:
    """Command line entry point; the exit code."""
    options = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    return exit_code(lambda: COMMANDS[options.command](options))


if __name__ == "__main__":
    sys.exit(main())
