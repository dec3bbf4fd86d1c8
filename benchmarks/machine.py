"""The machine: which one it is, and how many of its cores everybody may use."""

import os
import platform
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


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
