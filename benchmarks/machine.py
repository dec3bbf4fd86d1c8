"""The machine: which one it is, and how many of its cores everybody may use."""

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("treadle", "torch", "numpy", "numba", "llvmlite", "jax", "jaxlib", "onnx", "onnxruntime")


def confine(threads: int) -> None:
    """Give this process, its threads and its children so many cores, and PyTorch and JAX so many threads.

    JAX has no option for its threads: its pool has as many as the variable NPROC says when JAX is first used. Where the
    system can pin processes (Linux), no side can use more cores than the others anyway.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ["NPROC"] = os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)


class Neighbours:
    """How much of our cores others use from now on, the hypervisor included.

    Two threads that wait for each other on a core which somebody else uses take ten times as long, or a hundred; which
    side that hits is chance. Such a time says nothing.
    """

    def __init__(self):
        self.start, self.busy, self.own = time.perf_counter(), _busy_seconds(), _own_seconds()

    def share(self) -> float:
        """From 0 to 1; 0 where the system does not say."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        elapsed = time.perf_counter() - self.start
        return max(0.0, _busy_seconds() - self.busy - (_own_seconds() - self.own)) / (elapsed * cores)


def describe() -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        fields = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        fields = {name.strip(): value.strip() for name, value in fields.items()}
        if "model name" in fields:
            numbers = [f"{key} {fields[key]}" for key in ("cpu family", "model", "stepping") if key in fields]
            return f"{fields['model name']} ({', '.join(numbers)})"
    return platform.processor() or platform.machine()


def _busy_seconds() -> float:
    """What all processes have used of the cores that we may use."""
    statistics = Path("/proc/stat")
    if not statistics.exists():
        return 0.0
    ours = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    ticks = 0
    for line in statistics.read_text().splitlines():
        name, *columns = line.split()
        if name in ours:
            user, nice, system, _idle, _iowait, *interrupts_and_stolen = map(int, columns[:8])
            ticks += user + nice + system + sum(interrupts_and_stolen)
    return ticks / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """What this process and the children that it has waited for have used."""
    return sum(os.times()[:4])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
