"""`torch.compile` of the cell, in PyTorch's own loop over time."""

import copy
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from benchmarks.peers import Unavailable
from benchmarks.training import Training

SECONDS = 120
"""How long it may take to compile a cell, forward and backward."""


def compiled(training: Training) -> Training:
    """The same work, with each cell of the module compiled.

    Raises:
        Unavailable: there is no C++ compiler, or it fails or does not end in time.
    """
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise Unavailable("torch.compile needs a C++ compiler, and there is none")
    torch._dynamo.reset()  # else what earlier cases compiled counts towards its limit of recompilations
    module: Any = copy.deepcopy(training.module)
    for cell in module.cell.cells:
        nn.Module.compile(cell)
    same = Training(module, training.forward, training.x, training.cotangents)
    try:
        with _time_limit(SECONDS):
            same()
    except Exception as error:  # whatever it raises, it is a peer that does not work here
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise Unavailable(f"torch.compile does not work here: {reason[0]}") from error
    return same


@contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"not ready after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
