"""The device that networks run on: how processes are set up for it, what rows call it, its clock and its memory."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.harness.table import gpu
from posterior._memory import keep_large_blocks

if TYPE_CHECKING:
    from posterior.priors.base import Prior

CPU = "cpu"
_sharing = 1  # processes that work on the device at the same time
_warm: set[tuple[object, ...]] = set()


def prepare(device: str = CPU, processes: int = 1) -> None:
    """Set this process up: one thread; on a GPU single precision as on the CPU, and kernels that repeat themselves.

    Args:
        device: Where its networks run.
        processes: How many work there at the same time.
    """
    global _sharing
    _sharing = processes
    torch.set_num_threads(1)
    keep_large_blocks()
    if is_gpu(device):
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.deterministic = True


def is_gpu(device: str) -> bool:
    """Whether it is one of CUDA's."""
    return torch.device(device).type == "cuda"


def named(device: str) -> str:
    """What rows call it: times of rows that agree in this may be compared."""
    if not is_gpu(device):
        return device
    return gpu(device) + (f", shared by {_sharing}" if _sharing > 1 else "")


def lacks(error: BaseException) -> bool:
    """Whether an error says that the machine lacks a package or memory, or has broken down, and nothing of the method."""
    broken = getattr(torch, "AcceleratorError", torch.OutOfMemoryError)
    named = isinstance(error, ImportError | MemoryError | torch.OutOfMemoryError | broken)
    return named or any(words in str(error) for words in ("ALLOC_FAILED", "DefaultCPUAllocator"))


def warm_up(prior: Prior, event_shape: tuple[int, ...], draws: int, device: str) -> None:
    """Load what a GPU runs of a network before the clock starts: once a process for each network and batch."""
    key = (prior.name, event_shape, draws, device)
    if not is_gpu(device) or key in _warm:
        return
    _warm.add(key)
    there = prior.to(device)
    x = torch.zeros(draws, *event_shape, device=device)
    with torch.no_grad():
        there.denoise(x, 1.0)
    with torch.enable_grad():
        one = x[:1].clone().requires_grad_()
        torch.autograd.grad(there.denoise(one, 1.0).sum(), one)


@dataclass
class Used:
    """What has been used since the meter began."""

    device: str
    began: float
    resident: float

    @property
    def seconds(self) -> float:
        """On a GPU of the clock; else of the processor: with one thread these are the same, but for whatever else runs."""
        return _clock(self.device) - self.began

    @property
    def memory(self) -> float:
        """Peak memory of the device in MB beyond what was in use at the start; NaN where the system does not tell."""
        if is_gpu(self.device):
            return torch.cuda.max_memory_allocated(self.device) / 2**20 - self.resident
        return _status("VmHWM") - self.resident


@contextmanager
def meter(device: str = CPU) -> Iterator[Used]:
    """Time and memory of what is done meanwhile; the memory of a GPU is handed back to the processes that share it."""
    if is_gpu(device):
        torch.cuda.reset_peak_memory_stats(device)
        try:
            yield Used(device, _clock(device), torch.cuda.memory_allocated(device) / 2**20)
        finally:
            torch.cuda.empty_cache()
        return
    clear = Path("/proc/self/clear_refs")
    try:
        clear.write_text("5")  # resets the peak of the resident size
        resident = _status("VmRSS")
    except OSError:
        resident = math.nan
    yield Used(device, _clock(device), resident)


def _clock(device: str) -> float:
    if not is_gpu(device):
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def _status(name: str) -> float:
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    found = [float(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")]
    return found[0] if found else math.nan
