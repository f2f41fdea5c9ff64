"""Why CUDA cannot be used here, in one line; and which errors mean that the GPU's memory ran out."""

import warnings
from collections.abc import Iterator

import torch

SHORT = 160
"""Characters of a library's own message that are shown."""
MEMORY_WORDS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "cudaErrorMemoryAllocation")


def cuda_problem() -> str:
    """Why PyTorch cannot compute on a GPU here: a build without CUDA, no driver, one too old, a GPU too old; "" where it can."""
    if torch.version.cuda is None and torch.version.hip is None:  # hip: AMD's GPUs, which PyTorch calls cuda too
        return f"PyTorch {torch.__version__} is built without CUDA"
    with warnings.catch_warnings(record=True) as told:  # torch says there what is wrong with a driver
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if not available:
        said = " ".join(str(warning.message) for warning in told)
        return _short(said) if said else _initialisation_problem()
    try:
        number = torch.ones(2, device="cuda").sum().item()
    except RuntimeError as error:  # e.g. no kernel image for an old GPU, or another process that owns it
        if out_of_memory(error):
            return "the GPU's memory is full"
        return f"{torch.cuda.get_device_name()} does not compute ({_short(str(error))})"
    return "" if number == 2 else f"{torch.cuda.get_device_name()} adds wrongly"


def has_no_gpu(problem: str) -> bool:
    """Whether a problem is none: a machine without an NVIDIA GPU, or a build of PyTorch for such machines."""
    return any(words in problem for words in ("without CUDA", "no NVIDIA driver", "no GPU is visible", "No CUDA GPUs", "No HIP GPUs"))


def _initialisation_problem() -> str:
    """What CUDA itself says when it is asked to start."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return _short(str(error))
    return "no GPU is visible"


def _short(text: str) -> str:
    """The first sentence of a message on one line."""
    line = " ".join(text.split())
    sentence = line.split(". ")[0].removesuffix(".")
    return sentence if len(sentence) <= SHORT else sentence[:SHORT] + " ..."


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: in this error, or in one that it followed from, as when a capture is ended after it."""
    return any(isinstance(cause, torch.OutOfMemoryError) or _speaks_of_memory(cause) for cause in _causes(error))


def _speaks_of_memory(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and any(words in str(error) for words in MEMORY_WORDS)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
