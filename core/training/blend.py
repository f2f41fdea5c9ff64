"""A checkpoint between two of one architecture: python -m core.training.blend BEFORE AFTER OUT --weight 0.4

What a network learns from renders it pays for on photographs, in part. On the straight line between its weights before and after such a
training lie networks that are better at both than either end, when the second training began where the first one had ended.
Source: Wortsman et al. 2022, Robust fine-tuning of zero-shot models (WiSE-FT)
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.checkpoint import SUFFIX, Checkpoint, find_checkpoint, load_checkpoint, save_checkpoint
from core.errors import InputError, exit_code
from core.training.sources import said_by


def blend(before: Path, after: Path, out: Path, weight: float, half: bool = True, keep: Sequence[str] = ()) -> str:
    """Write the checkpoint whose weights are (1 - weight) * before + weight * after; returns a line about it.

    Everything else is that of `after`: its config (which may differ in how crops are made) and what it says of its training, less its
    scores, which are not the new one's. half: store float16. keep: modules that are all of `after`, such as new ones, whose first weights
    mean nothing. Raises InputError for two architectures, a weight beyond 0..1, and modules that are not there.
    """
    if not 0 <= weight <= 1:
        raise InputError(f"blend: got a weight of {weight}, expected 0 (all of {before}) to 1 (all of {after})")
    if out.suffix != SUFFIX:
        raise InputError(f"{out}: got {out.suffix or 'no suffix'}, expected {SUFFIX}")
    first, second = load_checkpoint(before), load_checkpoint(after)
    config = second.model.config
    if replace(first.model.config, levelled=config.levelled, crop_scale=config.crop_scale) != config:
        raise InputError(f"blend: {before} holds {first.model.config.name!r} and {after} {config.name!r}, expected one architecture")
    known = {name for name, _ in second.model.named_modules() if name}
    if unknown := [name for name in keep if name not in known]:
        top = ", ".join(name for name, _ in second.model.named_children())
        raise InputError(f"blend: got {unknown[0]!r} to keep, expected a module of the network: {top}, or a part of these")
    kept = tuple(f"{name}." for name in keep)
    start = first.model.state_dict()
    mixed = {
        name: start[name].lerp(value, weight) if value.is_floating_point() and not name.startswith(kept) else value
        for name, value in second.model.state_dict().items()
    }
    second.model.load_state_dict(mixed)
    about = {key: value for key, value in second.metadata.items() if key != "scores"}
    about["origin"] = f"{1 - weight:g} of {before.name} and {weight:g} of {after.name}, which was trained from it"
    about["origin"] += f"; all of the latter in {', '.join(keep)}" if keep else ""
    about["blend"] = {"weight": weight, "kept": list(keep), "before": _said(before, first), "after": _said(after, second)}
    save_checkpoint(out, second.model, config, about, half, second.body)
    return f"{out}: {config.name}, {about['origin']}; score it with core.training.evaluate"


def _said(name: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    """What a file says of itself, for the file made from it."""
    digest = hashlib.sha256(find_checkpoint(name).read_bytes()).hexdigest()
    return {"sha256": digest, **said_by(checkpoint.model.config.to_dict(), checkpoint.metadata)}


def main(arguments: list[str] | None = None) -> int:
    """Command line entry point; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m core.training.blend", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("before", type=Path, help="the checkpoint that the training began with: a name in checkpoints/ or a file")
    parser.add_argument("after", type=Path, help="what the training made of it")
    parser.add_argument("out", type=Path, help=f"the {SUFFIX} file to write")
    parser.add_argument("--weight", type=float, default=0.5, help="of `after`, 0..1 (default 0.5)")
    parser.add_argument("--keep", nargs="+", default=[], metavar="MODULE", help="take these from `after` as they are, e.g. feedback")
    parser.add_argument("--full", action="store_true", help="store float32, not float16")
    options = parser.parse_args(arguments)
    return exit_code(lambda: print(blend(options.before, options.after, options.out, options.weight, not options.full, options.keep)))


if __name__ == "__main__":
    sys.exit(main())
