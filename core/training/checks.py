"""`--dry-run`: everything that can go wrong is tried before a run, and each problem is told in one line."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from core.errors import InputError
from core.training.config import RunFolder
from core.training.crew import Crew
from core.training.parts import Parts
from core.training.picture_run import RANDOM, first_parts, open_people, open_validation
from core.training.pictures import PictureSource, Seen, Views
from core.training.run_config import RunConfig
from core.training.samples import SampleDataset
from core.training.trainer import Origin, Trainer, read_state
from core.training.truth import BodySizes, TargetMaker
from core.training.validation import spread
from core.training.watch import NotFiniteError

log = logging.getLogger(__name__)

NUM_LOOKED_AT = 200
NUM_VALIDATED = 32
NUM_STEPS = 3
LARGEST_BODY_M = 10.0
LARGEST_ANGLE = 2 * np.pi + 0.1
"""Of a rotation vector, in radians."""
LARGEST_BETA = 10.0
T = TypeVar("T")


@dataclass
class Findings:
    """What was found: problems that would spoil the run, and facts to print."""

    problems: list[str]
    facts: list[str]

    def tried(self, work: Callable[[], T]) -> T | None:
        """The result of `work`; None when it raised what a user can mend, which then is a problem."""
        try:
            return work()
        except (InputError, NotFiniteError, OSError) as error:
            self.problems.append(str(error))
        except torch.OutOfMemoryError:
            self.problems.append("memory: a step does not fit the GPU; lower training.batch_per_process, or raise training.accumulate")
        return None


def check_everything(config: RunConfig) -> None:
    """Try it all and print what was found; nothing is written. Raises InputError with one line for each problem."""
    found = Findings([], [])
    found.tried(lambda: check_folder(RunFolder(Path(config.out))))
    parts = found.tried(lambda: first_parts(config))
    if parts is None:
        found.problems += missing_files(config, found.problems)
    else:
        described(parts, found)
        people = found.tried(lambda: open_people(config.train, parts))
        others = found.tried(lambda: open_people(config.validation, parts)) if config.validation else None
        for name, data in (("train", people), ("validation", others)):
            if data is not None:
                found.tried(lambda name=name, data=data: look_at(name, data, config, parts, found))
        if people is not None and not found.problems:
            found.tried(lambda: try_steps(config, parts, people, found))
    for fact in found.facts:
        print(fact)
    if found.problems:
        raise InputError("\n".join(f"problem: {problem}" for problem in found.problems))
    print("no problem found; start it without --dry-run")


def missing_files(config: RunConfig, told: list[str]) -> list[str]:
    """What else is not there, where there is no network to open the data with; `told` names some of it already."""
    backbone = "" if config.model.backbone == RANDOM else config.model.backbone
    files = {"model.backbone": backbone, "data.train": config.train.get("path"), "data.validation": (config.validation or {}).get("path")}
    absent = {what: path for what, path in files.items() if isinstance(path, str) and path and not Path(path).exists()}
    return [
        f"{what}: {path} is not there; docs/training.md says where such files come from"
        for what, path in absent.items()
        if not any(path in problem for problem in told)
    ]


def check_folder(folder: RunFolder) -> None:
    """Raise InputError when the run could not be written, or holds a state that is not readable."""
    place = next(path for path in (folder.run.absolute(), *folder.run.absolute().parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise InputError(f"out: {folder.run} cannot be written, {place} is no folder that you may write to; give another --out")
    if folder.state.exists():
        read_state(folder.state)


def described(parts: Parts, found: Findings) -> None:
    """The network as a fact."""
    total = sum(parameter.numel() for parameter in parts.model.parameters())
    found.facts.append(f"network: {parts.config.name} on {parts.body.name}, {total / 1e6:.1f}M parameters, {parts.origin}")


def look_at(name: str, data: SampleDataset, config: RunConfig, parts: Parts, found: Findings) -> None:
    """Look at some people, spread over a set: broken, of another body, without the truth that is asked for, in wrong units."""
    views = Views(data, None, BodySizes.of(parts.body), 0)
    rows = spread(len(data), NUM_LOOKED_AT)
    seen = [views.seen(0, int(row)) for row in rows]
    broken = [text for one in seen for text in one.broken]
    share = truth_shares(seen)
    counts = ", ".join(f"{what} {part:.0%}" for what, part in share.items())
    found.facts.append(f"data.{name}: {len(data)} people; of {len(seen)} looked at: {counts}; {len(broken)} broken ones met")
    if len(broken) > len(seen) / 2:
        found.problems.append(f"data.{name}: {len(broken)} broken samples met while looking at {len(seen)}; the first: {broken[0]}")
    elif broken:
        found.facts.append(f"data.{name}: the first broken one: {broken[0]}")
    found.problems += [f"data.{name}: {problem}" for problem in unit_problems(seen)]
    if name == "train":
        found.problems += [f"data.train: {problem}" for problem in missing_truth(config, share)]
    elif not share["3D joints"]:
        found.problems.append("data.validation: nobody looked at has all 14 joints in 3D, so there is nothing to score; use another set")


def truth_shares(seen: list[Seen]) -> dict[str, float]:
    """Which share of people has what."""
    views = [one.view for one in seen]
    known = {
        "2D joints": [(view.joints_crop[:, 2] > 0).any() for view in views],
        "3D joints": [(view.joints_m[:, 3] > 0).all() for view in views],
        "some 3D joints": [(view.joints_m[:, 3] > 0).any() for view in views],
        "body parameters": [view.pose is not None and view.betas is not None for view in views],
        "mesh": [view.vertices_m is not None or view.pose is not None for view in views],
        "camera": [view.camera is not None for view in views],
    }
    return {name: float(np.mean(values)) for name, values in known.items()}


def unit_problems(seen: list[Seen]) -> list[str]:
    """Numbers that cannot be metres in 3D, or pixels of the picture in 2D."""
    problems = []
    for one in seen:
        size_m = np.abs(one.view.joints_m[:, :3][one.view.joints_m[:, 3] > 0]).max(initial=0.0)
        if size_m > LARGEST_BODY_M:
            problems.append(f"sample {one.key}: its 3D joints reach {size_m:.0f}, expected metres around the body; are they millimetres?")
            break
    problems += parameter_problems(seen)
    known = [one.view.joints_crop[one.view.joints_crop[:, 2] > 0, :2] for one in seen]
    inside = np.concatenate([np.abs(places).max(1, initial=0.0) < 1 for places in known])
    if len(inside) and inside.mean() < 0.3:
        problems.append("fewer than 30 % of the 2D joints lie in their crops; expected pixels of the picture, and its centre and scale")
    return problems


def parameter_problems(seen: list[Seen]) -> list[str]:
    """Body parameters that cannot be rotation vectors in radians, or a shape."""
    problems = {}
    for one in seen:
        pose, shape = one.view.pose, one.view.betas
        angle = 0.0 if pose is None else np.linalg.norm(np.reshape(pose, (-1, 3)), axis=1).max(initial=0.0)
        largest = 0.0 if shape is None else np.abs(shape).max(initial=0.0)
        if angle > LARGEST_ANGLE:
            problems.setdefault("pose", f"sample {one.key}: its pose turns a bone by {angle:.0f}, expected radians; is it in degrees?")
        if largest > LARGEST_BETA:
            problems.setdefault("betas", f"sample {one.key}: its betas reach {largest:.0f}, expected at most {LARGEST_BETA:.0f}; scaled?")
    return list(problems.values())


def missing_truth(config: RunConfig, share: dict[str, float]) -> list[str]:
    """Losses that nobody looked at has a truth for."""
    loss, regressor = config.loss, config.regressor
    wanted = {
        "mesh": ("loss.vertices_*, edges, normals", loss.vertices_coarse + loss.vertices_intermediate + loss.vertices_full + loss.edges),
        "some 3D joints": ("loss.joints_*", loss.joints_token + loss.joints_mesh),
        "2D joints": ("loss.projection_*", loss.projection_token + loss.projection_mesh),
        "camera": ("loss.camera", loss.camera),
        "body parameters": ("regressor", regressor.rotations + regressor.shape),
    }
    return [
        f"nobody looked at has a truth for {name}, though it has weight; set it to 0, or use other data"
        for what, (name, weight) in wanted.items()
        if weight and not share[what]
    ]


def try_steps(config: RunConfig, parts: Parts, people: SampleDataset, found: Findings) -> None:
    """Some steps on the real data, and a validation of few people."""
    crew = Crew()
    training = config.training.resolved(crew.size, len(people))
    trainer = Trainer(parts, training, config.loss, RunFolder(Path(config.out)), Origin({}, ""), crew, config.regressor)
    learned = sum(parameter.numel() for parameter in trainer.trainable)
    maker = TargetMaker(parts.body, parts.model.backbone, trainer.device)
    source = PictureSource(people, config.augmentation, maker, training.seed, config.num_workers)
    took_s, measured = [], {}
    with source.stream(training.batch, trainer.cursor, crew) as stream:
        for _, batch in stream:
            started_s = time.monotonic()
            measured = trainer.step(batch)
            float(measured["loss"])  # waits for a GPU
            trainer.settle()
            took_s.append(time.monotonic() - started_s)
            if len(took_s) == NUM_STEPS:
                break
    steps, step_s = training.samples / training.batch, min(took_s)
    found.facts += [
        f"training: {learned / 1e6:.1f}M parameters learn, on {trainer.device} in {str(trainer.dtype).removeprefix('torch.')}; "
        f"{training.batch} samples a step, {steps:.0f} steps",
        f"a step took {step_s:.2f} s, so that the run would take {steps * step_s / 3600:.1f} h if pictures come fast enough",
        "first loss: " + "  ".join(f"{name} {float(value):.4g}" for name, value in measured.items()),
    ]
    if trainer.device.type == "cuda":
        found.facts.append(f"memory: {torch.cuda.max_memory_allocated(trainer.device) / 2**30:.1f} GiB of the GPU")
    small = replace(config, training=replace(config.training, validate_limit=NUM_VALIDATED))
    validation = open_validation(small, parts, maker, NUM_VALIDATED)
    if validation is not None:
        found.facts.append(f"validation before training: {validation.scores(trainer.objective, crew)[0]}")
    if RunFolder(Path(config.out)).state.exists():
        trainer.load_state()
        found.facts.append(f"out: holds a state of {trainer.num_samples} samples, from which the run would go on")
