"""What a benchmark ran on: processor, cores, threads, instruction sets, GPU, versions, and whether something else kept it busy."""

import logging
import platform
import subprocess
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from app.threads import usable_cores

log = logging.getLogger(__name__)

PACKAGES = ("torch", "openvino", "numpy", "opencv-contrib-python", "mediapipe", "av", "numba")
CPU_FLAGS = {
    "avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "AVX512-VNNI", "avx_vnni": "AVX-VNNI", "avx512_bf16": "AVX512-BF16",
    "amx_bf16": "AMX-BF16", "amx_int8": "AMX-INT8", "asimd": "NEON", "i8mm": "I8MM", "bf16": "BF16", "sve": "SVE",
}  # fmt: skip
"""What /proc/cpuinfo calls the instructions that decide about speed, and people."""
WATCH_S = 0.5
BUSY_SHARE = 0.15
"""Share of all cores that others may use before a benchmark begins; more is said."""
GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """cores: physical ones; usable: logical ones that this process may use; threads: of PyTorch; gpu: None where there is none.

    busy_share: of all cores, used by others before the benchmark began, 0..1
    """

    cpu: str
    cores: int
    usable: int
    threads: int
    instructions: tuple[str, ...]
    memory_gib: float
    gpu: str | None
    system: str
    versions: dict[str, str]
    busy_share: float

    @property
    def warning(self) -> str | None:
        """What to say when the figures are not this machine's best."""
        if self.busy_share <= BUSY_SHARE:
            return None
        return f"the machine is busy: others use {self.busy_share:.0%} of its processors; times are longer and vary more, trust the ratios"

    def lines(self) -> list[str]:
        """The header of a table."""
        sets = f", {' '.join(self.instructions)}" if self.instructions else ""
        cores = f"{self.cores} core{'s' * (self.cores != 1)} ({self.usable} usable), {self.threads} PyTorch threads"
        lines = [
            f"{self.cpu}, {cores}, {self.memory_gib:.0f} GiB{sets}",
            f"GPU: {self.gpu or 'none'}",
            f"{self.system}, Python {platform.python_version()}, {', '.join(f'{name} {value}' for name, value in self.versions.items())}",
        ]
        return [*lines, f"! {self.warning}"] if self.warning else lines

    def as_json(self) -> dict[str, Any]:
        """For the file."""
        return asdict(self) | {"python": platform.python_version(), "warning": self.warning}


def this_machine() -> Machine:
    """Takes half a second: it watches what others do."""
    import torch

    busy = psutil.cpu_percent(WATCH_S) / 100
    usable = usable_cores()
    gpu = None
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        gpu = f"{properties.name}, {properties.total_memory / GIB:.0f} GiB, CUDA {torch.version.cuda}"
    elif torch.backends.mps.is_available():
        gpu = "Apple (mps)"
    return Machine(
        cpu_name(), psutil.cpu_count(logical=False) or usable, usable, torch.get_num_threads(), instruction_sets(),
        psutil.virtual_memory().total / GIB, gpu, f"{platform.system()} {platform.release().split('-')[0]}", versions(), busy,
    )  # fmt: skip


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """As the maker calls it."""
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    if platform.system() == "Darwin":
        asked = subprocess.run(["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False)
        if asked.stdout.strip():
            return asked.stdout.strip()
    return platform.processor() or platform.machine()


def instruction_sets(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """Those of CPU_FLAGS that this processor has; elsewhere than on Linux what PyTorch was able to find."""
    if not cpuinfo.is_file():
        import torch

        return (torch.backends.cpu.get_cpu_capability(),)
    flags: set[str] = set()
    for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith(("flags", "Features")):
            flags = set(line.partition(":")[2].split())
            break
    return tuple(name for flag, name in CPU_FLAGS.items() if flag in flags)


def versions() -> dict[str, str]:
    """Package -> version, of those that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def peak_memory_mb() -> float:
    """The most memory that this process ever held, megabytes."""
    try:
        import resource
    except ImportError:  # Windows
        return psutil.Process().memory_info().peak_wset / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if platform.system() == "Darwin" else peak * 1024 / 1e6


def peak_gpu_memory_mb() -> float | None:
    """The same of the GPU, by PyTorch; None without one."""
    import torch

    return torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else None
