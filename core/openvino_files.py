"""OpenVINO networks whatever they say: converted from PyTorch, compiled, and kept on disk.

A converted network is kept in the user's cache folder, named after its weights, our code and the versions it depends on, with a digest of
its files, what was compiled of it (core.openvino_compiled) and what the original says (core.answers) beside them. Those that were used
longest ago go when the folder grows.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from core import answers
from core.lean_imports import functions_later
from core.openvino_compiled import SUFFIX, Compilation, Compiled, OtherNetwork
from core.sealed import DRAFT

if TYPE_CHECKING:
    import openvino

log = logging.getLogger(__name__)

APP = "fastmetro-live"
MAX_KEPT_BYTES = 3 << 30
"""Of converted and compiled networks in the cache folder; S-R50 has 130 MB of the one and 260 MB of the other, L-H64 600 and 1,200 MB."""
COMPILED, CACHED, MADE = "compiled", "cached", "made"
"""Where a network may come from, the quickest first."""
DRAFT_LIFE_S = 86_400.0
"""A draft that is older was left by a process that was killed."""
LOCK_WAIT_S = 60.0
TELEMETRY = "openvino_telemetry"
INT8 = "int8-"


class OpenVinoError(Exception):
    """OpenVINO cannot run the network here; the text says why."""


def opened(openvino: Any, path: Path, make: "Callable[[], openvino.Model] | None", compilation: Compilation) -> list[Compiled]:
    """A network compiled: as it was kept, or from the converted network in the file, or from one that `make` makes. All is kept then.

    make: None where there is no other than the file's. Raises OpenVinoError when nothing is usable; the text is why.
    """
    sources: list[tuple[str, Callable[[], openvino.Model | None]]] = [(COMPILED, lambda: None)]
    if os.path.isfile(path):  # Path.is_file raises where no folder may be entered
        sources.append((CACHED, lambda: read(openvino, path)))
    if make is not None:
        sources.append((MADE, make))
    problem = ""
    for kind, source in sources:
        try:
            network = source()
            compiled = compilation.kept(openvino, path) if network is None else compilation.made(openvino, network)
        except OtherNetwork:
            problem = "it does not say what the network says"
        except Exception as error:  # noqa: BLE001 - OpenVINO raises RuntimeError and its own kinds for all that can be wrong
            if kind == COMPILED and isinstance(error, OSError):  # there is none
                continue
            problem = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        else:
            with contextlib.suppress(OSError):  # a cache that may only be read, or one without it yet
                os.utime(path)  # used now, see `tidy`
            if kind != COMPILED:
                keep(openvino, path, compiled, compilation, network if kind == MADE else None, replaces=bool(problem))
            return compiled
        if kind == COMPILED or (kind == CACHED and make is not None):
            log.warning("the %s network %s is not usable (%s); it is made again", kind, path, problem)
    raise OpenVinoError(problem)


def silent_openvino() -> Any:
    """The module openvino, without its conversion tools, which take most of its import, and the telemetry client, which looks up a host.

    Raises OpenVinoError when it is not installed, or cannot be loaded.
    """
    sys.modules.setdefault(TELEMETRY, None)  # Python's own way to say that there is no such module: OpenVINO then goes without
    try:
        with functions_later("openvino.tools.ovc", "convert_model"):
            import openvino
    except (ImportError, OSError) as error:
        missing = isinstance(error, ModuleNotFoundError)
        problem = "is not installed: pip install openvino" if missing else f"cannot be loaded: {error}"
        raise OpenVinoError(f"OpenVINO {problem}") from error
    return openvino


def traced(module: nn.Module, example: Tensor) -> "openvino.Model":
    """A network that does what `module` does."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch.jit.trace is on its way out, and says so
        # Tracing's own check would compile the network a second time, and takes 30 times as long as all the rest.
        decoder = TorchScriptPythonDecoder(module, example_input=example, trace_kwargs={"check_trace": False})
        frontend = FrontEndManager().load_by_framework("pytorch")
        return frontend.convert(frontend.load(decoder))


def cached_file(model: nn.Module, version: str, folder: Path | None = None) -> Path:
    """Where the converted network of these weights and this code lies, or would; version: of OpenVINO."""
    key = hashlib.sha256(f"{version} {torch.__version__} {answers.code_digest()} {digest_of_weights(model)}".encode()).hexdigest()
    return (folder or default_folder()) / f"{key[:24]}.xml"


def default_folder() -> Path:
    """In the user's cache folder."""
    import platformdirs

    return Path(platformdirs.user_cache_dir(APP, appauthor=False)) / "openvino"


def digest_of_weights(model: nn.Module) -> str:
    """sha256 of all numbers of a network, with its configuration, or its kind if it has none."""
    digest = hashlib.sha256(str(getattr(model, "config", type(model).__name__)).encode())
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        digest.update(name.encode())
        digest.update(value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def read(openvino: Any, path: Path) -> "openvino.Model":
    """The network that `write` wrote. Raises ValueError or OSError when its files are not what was written."""
    if digest_of(path) != json.loads(path.with_suffix(".json").read_bytes())["sha256"]:
        raise ValueError("its files are damaged")
    return openvino.Core().read_model(path)


def note_of(path: Path) -> str:
    """What was written beside a network."""
    return json.loads(path.with_suffix(".json").read_bytes())["note"]


def code_of(path: Path) -> str:
    """core.answers.code_digest of the code that wrote a network; nothing where that is not readable, and for networks of old."""
    try:
        return json.loads(path.with_suffix(".json").read_bytes()).get("code", "")
    except (OSError, ValueError):
        return ""


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
        about = {"sha256": digest_of(draft), "note": note, "code": answers.code_digest()}
        draft.with_suffix(".json").write_text(json.dumps(about), encoding="utf-8")
        for stale in path.parent.glob(f"{path.stem}.*{SUFFIX}"):
            stale.unlink(missing_ok=True)
        for suffix in (".json", ".bin", ".xml"):
            os.replace(draft.with_suffix(suffix), path.with_suffix(suffix))


def keep(
    openvino: Any,
    path: Path,
    compiled: Sequence[Compiled],
    compilation: Compilation,
    network: "openvino.Model | None" = None,
    replaces: bool = False,
) -> None:
    """Write it for the next start; one process at a time. Without a cache all works as well.

    network: of which `compiled` was made, None where it is kept already
    replaces: whether what is there is not usable; else that of a process that was quicker stays
    """
    from filelock import FileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.parent / ".lock", timeout=LOCK_WAIT_S):
            try:
                if network is not None and (replaces or not path.is_file()):
                    write(openvino, network, path)
                compilation.keep(openvino, compiled, path, replaces)
            finally:
                tidy(path.parent, MAX_KEPT_BYTES)
    except (OSError, NotImplementedError, RuntimeError, MemoryError) as error:  # the second: a disk without locks; then: OpenVINO's
        problem = " ".join(str(error).split())[:200] or type(error).__name__
        log.info("the converted network cannot be kept in %s (%s); each start makes it again, 5 seconds", path.parent, problem)


def tidy(folder: Path, max_bytes: int) -> None:
    """Remove what was used longest ago until the rest fits, and drafts of killed processes.

    The newest network stays in any case, and so does what core.quantize made, but not what was compiled of it.
    """
    for draft in folder.glob(f"{DRAFT}*"):
        if time.time() - draft.stat().st_mtime > DRAFT_LIFE_S:
            shutil.rmtree(draft, ignore_errors=True)
    groups: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.*"), reverse=True):  # the .xml, which is looked for, goes first
        stem = path.name.split(".")[0]
        if stem and (path.suffix == SUFFIX or not stem.startswith(INT8)):
            groups.setdefault(stem, []).append(path)
    used = sorted(groups, key=lambda stem: _last_used(folder / f"{stem}.xml", groups[stem]), reverse=True)
    num_bytes = 0
    for stem in used:
        num_bytes += sum(part.stat().st_size for part in groups[stem])
        if num_bytes > max_bytes and stem != used[0]:
            for part in groups[stem]:
                part.unlink(missing_ok=True)


def _last_used(path: Path, parts: list[Path]) -> float:
    """Of a network: its .xml is touched with each use; what is left of one without, when it was written."""
    return (path if path.exists() else parts[0]).stat().st_mtime
