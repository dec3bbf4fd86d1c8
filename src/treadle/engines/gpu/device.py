"""The GPUs that kernels are made for: what is asked of one, and one that is only pretended, for tests without any.

What is decided for tensors on a GPU is decided for tensors on the CPU while one is pretended. Triton's interpreter runs
the same sources there.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import os
from collections.abc import Iterator

import torch

from treadle.engines.engine import Refusal
from treadle.errors import EngineError


@dataclasses.dataclass(frozen=True)
class Gpu:
    """What decides how kernels are cut for a GPU.

    Args:
        name: as PyTorch calls it.
        shared_memory: bytes that a program may have.
        multiprocessors: how many programs run at once at least.
        is_pretended: whether Triton's interpreter stands for it.
    """

    name: str
    shared_memory: int
    multiprocessors: int
    is_pretended: bool = False


_LEAST_CAPABILITY = (8, 0)
_pretended: list[Gpu] = []


@contextlib.contextmanager
def pretended(shared_memory: int = 227 << 10) -> Iterator[Gpu]:
    """A context in which tensors on the CPU count as being on a GPU, and Triton's interpreter runs its kernels.

    It has one multiprocessor: the interpreter runs one program after another, so none may wait for another.

    Raises:
        EngineError: ``TRITON_INTERPRET=1`` is not in the environment. It has to be before anything imports triton.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        raise EngineError("Triton interprets no kernels: set TRITON_INTERPRET=1 before the process starts")
    _pretended.append(Gpu("Triton's interpreter", shared_memory, 1, True))
    try:
        yield _pretended[-1]
    finally:
        _pretended.pop()


def gpu_of(device: torch.device) -> Gpu | Refusal:
    """The GPU that tensors are on; or why there is none for them."""
    if _pretended and device.type == "cpu":
        return _pretended[-1]
    if device.type != "cuda":
        return Refusal(f"the GPU engine runs on CUDA devices, but x is on {device}", elsewhere=True)
    if not _has_triton():
        return Refusal("triton is not installed: pip install 'treadle[gpu]'")
    return _cuda(device.index)


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _cuda(index: int | None) -> Gpu | Refusal:
    found = torch.cuda.get_device_properties(torch.cuda.current_device() if index is None else index)
    if torch.version.hip or (found.major, found.minor) < _LEAST_CAPABILITY:
        return Refusal(f"the GPU engine needs an NVIDIA GPU of compute capability 8.0 or more, but has {found.name}")
    return Gpu(found.name, found.shared_memory_per_block_optin, found.multi_processor_count)
