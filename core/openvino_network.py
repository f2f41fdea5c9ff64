"""The network run by OpenVINO: the quickest way on a CPU, in one call a batch that leaves Python's lock to other threads.

The converted network is kept in the user's cache folder, named after its weights and the versions it depends on, with a digest of
its files beside them. It is compared with the original before it is used; one that is damaged or of another network is made again.
Those that were used longest ago go when the folder grows.
"""

import contextlib
import copy
import hashlib
import json
import logging
import os
import queue
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from core.cpu import has_fast_bf16_cpu
from core.errors import InputError
from core.folding import fold_batch_norms
from core.model import FastMETRO, Prediction
from core.pixels import Normaliser, patchwork
from core.types import CROP_SIZE_PX

if TYPE_CHECKING:
    import openvino

log = logging.getLogger(__name__)

APP = "fastmetro-live"
MAX_BATCH = 16
MAX_KEPT_BYTES = 2 << 30
"""Of converted networks in the cache folder; S-R50 has 130 MB, L-H64 600 MB."""
INT8 = "int8-"
DRAFT = "draft-"
DRAFT_LIFE_S = 86_400.0
"""An unfinished network that is older was left by a process that was killed."""
LOCK_WAIT_S = 60.0
MAKE_INT8 = "make it with `python -m core.quantize CHECKPOINT` (a minute; pip install -r requirements-quantize.txt)"
TELEMETRY = "openvino_telemetry"
NUM_CHECKED = 2
"""Crops of core.pixels.patchwork that a network is compared with the original on."""
TOLERANCE = {"fp32": 1e-3, "bf16": 0.35, "int8": 0.8}
"""Largest mean difference from the original in float32, relative to the mean size of an output, on a picture of nothing in particular.

Wide for numbers of 8 bits in trunks of 150 layers: this finds a wrong network, it does not measure a right one."""


class OpenVinoError(Exception):
    """OpenVINO cannot run the network here; the text says why."""


class Exported(nn.Module):
    """What is converted: crops (B, 224, 224, 3) uint8 -> camera, joints, coarse mesh, and the body regressor's numbers where it has one.

    What follows, up-sampling and rotations, stays outside: coordinates in bfloat16 would be millimetres off, and it takes no time.
    """

    def __init__(self, model: FastMETRO) -> None:
        super().__init__()
        self.model, self.normalise = model, Normaliser(model.backbone)

    def forward(self, crops: Tensor) -> tuple[Tensor, ...]:
        """(B, 3), (B, 14, 3), (B, 431, 3), and (B, 9 J + S) or nothing."""
        camera, joints, coarse = self.model.points(self.model.backbone(self.normalise(crops)))
        if self.model.body_regressor is None:
            return camera, joints, coarse
        return camera, joints, coarse, self.model.body_regressor.numbers(self.model.upsampling[0](coarse))


class OpenVinoNetwork:
    """A core.runtimes.Runtime. Threads may share it."""

    max_batch = MAX_BATCH

    def __init__(self, model: FastMETRO, precision: str, cache: Path | None = None) -> None:
        """model: on the CPU; it is left as it is, and only its up-sampling is held on to

        precision: one of TOLERANCE; cache: folder for the converted network, by default one in the user's cache folder.
        Raises OpenVinoError, and InputError for int8 where core.quantize has not made that network yet.
        """
        openvino = silent_openvino()
        made_once = quantised_file(model, cache) if precision == "int8" else None
        if made_once is not None and not os.path.isfile(made_once):
            raise InputError(f"precision int8: this network has no 8-bit version here yet; {MAKE_INT8}")
        exported = Exported(fold_batch_norms(copy.deepcopy(model).eval())).eval()
        path = made_once or cached_file(model, openvino.__version__, cache)
        self._requests: tuple[queue.SimpleQueue[Any], ...] = (queue.SimpleQueue(), queue.SimpleQueue())
        self._compiled = checked(openvino, exported, precision, path)
        self._upsampling = model.upsampling.eval()
        self._reading = None if model.body_regressor is None else model.body_regressor.reading
        self.precision = "int8" if precision == "int8" else runs_in(precision)
        self.words = f"OpenVINO {openvino.__version__.split('-')[0]}"
        if made_once is not None:
            self.words += f", {note_of(path)}"

    @torch.inference_mode()
    def __call__(self, crops: np.ndarray) -> Prediction:
        """As Runtime's."""
        alone = len(crops) == 1
        try:
            request = self._requests[alone].get_nowait()
        except queue.Empty:
            request = self._compiled[alone].create_infer_request()
        said = answers(request, crops)
        self._requests[alone].put(request)
        camera, joints, coarse, *numbers = said
        levels = [coarse]
        for layer in self._upsampling:
            levels.append(layer(levels[-1]))
        parameters = (None, None) if self._reading is None else self._reading(numbers[0])
        return Prediction(camera, joints, tuple(levels), *parameters)


def answers(request: Any, crops: np.ndarray) -> list[Tensor]:
    """Run a request on crops; its outputs, copied."""
    results = request.infer({0: np.ascontiguousarray(crops)}, share_inputs=True)
    return [torch.from_numpy(np.array(results[number])) for number in range(len(results))]


def checked(openvino: Any, exported: Exported, precision: str, path: Path) -> "tuple[openvino.CompiledModel, ...]":
    """The network compiled for any number of crops, and for one alone, which is up to a fifth quicker; from the file or anew.

    Raises OpenVinoError when it does not do what the original does.
    """
    pictures = patchwork(NUM_CHECKED)
    crops = pictures.numpy()
    with torch.inference_mode():
        expected = exported(pictures)
    problem = ""
    for fresh in (False, True):
        if not fresh and not os.path.isfile(path):  # Path.is_file raises where a folder may not be entered
            continue
        try:
            network = convert(exported) if fresh else read(openvino, path)
            compiled = compile_network(openvino, network, precision)
            got = answers(compiled.create_infer_request(), crops)
            single = network.clone()
            single.reshape([1, CROP_SIZE_PX, CROP_SIZE_PX, 3])
            alone = compile_network(openvino, single, precision)
            got_alone = answers(alone.create_infer_request(), crops[:1])
        except Exception as error:  # noqa: BLE001 - OpenVINO raises RuntimeError and its own kinds for all that can be wrong
            problem = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        else:
            one = tuple(values[:1] for values in expected)
            if fits(got, expected, TOLERANCE[precision]) and fits(got_alone, one, TOLERANCE[precision]):
                if fresh:
                    keep(openvino, network, path, replaces=bool(problem))
                return compiled, alone
            problem = "it does not say what the network says"
        if precision == "int8":
            raise InputError(f"precision int8: {path} is not usable ({problem}); {MAKE_INT8}")
        if not fresh:
            log.warning("the cached network %s is not usable (%s); it is made again", path, problem)
    raise OpenVinoError(f"OpenVINO does not run it: {problem}")


def compile_network(openvino: Any, network: "openvino.Model", precision: str) -> "openvino.CompiledModel":
    """For this CPU, on as many threads as PyTorch has."""
    options = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[runs_in(precision)],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    return openvino.Core().compile_model(network, "CPU", options)


def runs_in(precision: str) -> str:
    """fp32 or bf16: what is not int8 runs in bfloat16 where that is allowed and the CPU has it."""
    return "fp32" if precision == "fp32" or not has_fast_bf16_cpu() else "bf16"


def silent_openvino() -> Any:
    """The module openvino, without the telemetry client that its tools would load and that looks up an analytics host.

    Raises OpenVinoError when it is not installed, or cannot be loaded.
    """
    sys.modules.setdefault(TELEMETRY, None)  # Python's own way to say that there is no such module: OpenVINO then goes without
    try:
        import openvino
    except (ImportError, OSError) as error:
        missing = isinstance(error, ModuleNotFoundError)
        problem = "is not installed: pip install openvino" if missing else f"cannot be loaded: {error}"
        raise OpenVinoError(f"OpenVINO {problem}") from error
    return openvino


def fits(got: list[Tensor], expected: tuple[Tensor, ...], tolerance: float) -> bool:
    """Whether outputs of the same shapes differ by no more than `tolerance` of their mean size in the mean."""
    return len(got) == len(expected) and all(
        ours.shape == theirs.shape and float((ours - theirs).abs().mean()) <= tolerance * float(theirs.abs().mean())
        for ours, theirs in zip(got, expected, strict=True)
    )


def convert(exported: Exported) -> "openvino.Model":
    """The network for any number of crops."""
    import warnings

    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    crops = patchwork(NUM_CHECKED)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch.jit.trace is on its way out, and says so
        exported(crops)  # computes the decoder's constant beginning, so that the trace holds its values
        # Tracing's own check would compile the network a second time, and takes 30 times as long as all the rest.
        decoder = TorchScriptPythonDecoder(exported, example_input=crops, trace_kwargs={"check_trace": False})
        frontend = FrontEndManager().load_by_framework("pytorch")
        network = frontend.convert(frontend.load(decoder))
    network.reshape([-1, CROP_SIZE_PX, CROP_SIZE_PX, 3])
    return network


def cached_file(model: FastMETRO, version: str, folder: Path | None = None) -> Path:
    """Where the converted network of these weights lies, or would; version: of OpenVINO."""
    key = hashlib.sha256(f"{version} {torch.__version__} {digest_of_weights(model)}".encode()).hexdigest()
    return (folder or default_folder()) / f"{key[:24]}.xml"


def quantised_file(model: FastMETRO, folder: Path | None = None) -> Path:
    """Where core.quantize puts the 8-bit network of these weights."""
    return (folder or default_folder()) / f"{INT8}{digest_of_weights(model)[:24]}.xml"


def default_folder() -> Path:
    """In the user's cache folder."""
    import platformdirs

    return Path(platformdirs.user_cache_dir(APP, appauthor=False)) / "openvino"


def digest_of_weights(model: FastMETRO) -> str:
    """sha256 of all numbers of a network, with its configuration."""
    digest = hashlib.sha256(str(model.config).encode())
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        digest.update(name.encode())
        digest.update(value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def read(openvino: Any, path: Path) -> "openvino.Model":
    """The network that `write` wrote. Raises ValueError or OSError when its files are not what was written."""
    if digest_of(path) != json.loads(path.with_suffix(".json").read_bytes())["sha256"]:
        raise ValueError("its files are damaged")
    with contextlib.suppress(OSError):  # a cache that may only be read
        os.utime(path)  # used now, see `tidy`
    return openvino.Core().read_model(path)


def note_of(path: Path) -> str:
    """What was written beside a network."""
    return json.loads(path.with_suffix(".json").read_bytes())["note"]


def digest_of(path: Path) -> str:
    """sha256 of a network's two files."""
    digest = hashlib.sha256()
    for part in (path, path.with_suffix(".bin")):
        digest.update(part.read_bytes())
    return digest.hexdigest()


def write(openvino: Any, network: "openvino.Model", path: Path, note: str = "") -> None:
    """Write the files beside their places, then move them there, the one that is looked for last. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=DRAFT) as unfinished:
        draft = Path(unfinished) / path.name
        try:
            openvino.save_model(network, draft, compress_to_fp16=False)
        except RuntimeError as error:
            raise OSError(f"{path}: cannot be written ({' '.join(str(error).split())[:200]})") from error
        draft.with_suffix(".json").write_text(json.dumps({"sha256": digest_of(draft), "note": note}), encoding="utf-8")
        for suffix in (".json", ".bin", ".xml"):
            os.replace(draft.with_suffix(suffix), path.with_suffix(suffix))


def keep(openvino: Any, network: "openvino.Model", path: Path, replaces: bool) -> None:
    """Write it for the next start; one process at a time. Without a cache all works as well.

    replaces: whether the one that is there is not usable; else that of a process that was quicker stays
    """
    from filelock import FileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.parent / ".lock", timeout=LOCK_WAIT_S):
            if replaces or not path.is_file():
                write(openvino, network, path)
                tidy(path.parent, MAX_KEPT_BYTES)
    except (OSError, NotImplementedError) as error:  # the latter: a disk without locks
        log.info("the converted network cannot be kept in %s (%s); each start makes it again, 5 seconds", path.parent, error)


def tidy(folder: Path, max_bytes: int) -> None:
    """Remove the converted networks that were used longest ago until the others fit, and drafts of killed processes.

    The newest stays in any case, and so does what core.quantize made.
    """
    for draft in folder.glob(f"{DRAFT}*"):
        if time.time() - draft.stat().st_mtime > DRAFT_LIFE_S:
            shutil.rmtree(draft, ignore_errors=True)
    made = [path for path in folder.glob("*.xml") if not path.name.startswith(INT8)]
    made.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    num_bytes = 0
    for path in made:
        parts = sorted(folder.glob(f"{path.stem}.*"), reverse=True)  # the .xml, which is looked for, goes first
        num_bytes += sum(part.stat().st_size for part in parts)
        if num_bytes > max_bytes and path != made[0]:
            for part in parts:
                part.unlink(missing_ok=True)
