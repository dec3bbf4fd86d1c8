"""A server over the network: a step beside an echo and beside MLServer, and many who come and go."""

import contextlib
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.bars import at_most, bar, figures, ratios
from benchmarks.registry import Bar, Case, Options, Result, Suite
from benchmarks.serving import coming, overload
from benchmarks.serving.beside import Beside, H
from benchmarks.serving.clients import KINDS
from benchmarks.serving.coming import Coming
from benchmarks.serving.host import network
from benchmarks.serving.overload import Overload
from benchmarks.serving.processes import Started, host
from benchmarks.sizes import LAYERS

ECHO, MLSERVER = "the same handlers, which echo x", "MLServer"
PEERS_PYTHON = "MLSERVER_PYTHON"
PEER = Path(__file__).parents[1] / "peers" / "mlserver_host.py"
BESIDE_PEER = ("REST, JSON", "gRPC")


def echo(x: np.ndarray, count: int) -> Tensor:
    """What a twin answers."""
    return torch.from_numpy(x).repeat(count, 1)


def python_of_mlserver() -> str | None:
    """A Python that has MLServer: the one that is named, or this."""
    named = os.environ.get(PEERS_PYTHON)
    return named or (sys.executable if importlib.util.find_spec("mlserver") else None)


@contextlib.contextmanager
def mlserver() -> Iterator[Started]:
    """MLServer, with the network."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "lstm.pt")
        torch.save(network(H).state_dict(), weights)
        given = {"weights": str(weights), "H": H, "layers": LAYERS}
        with Started(str(PEER), json.dumps(given), python=python_of_mlserver()) as server:
            yield server


def beside_mlserver(kind: str, options: Options) -> Beside:
    """The case, where there is such a server.

    Raises:
        RuntimeError: there is none.
    """
    if python_of_mlserver() is None:
        raise RuntimeError(
            f"MLServer is not installed: `pip install mlserver torch` in an environment of its own, and"
            f" {PEERS_PYTHON}=its python"
        )
    return Beside(kind, MLSERVER, mlserver, None, options)


def cases(options: Options) -> list[Case]:
    """Every protocol beside its echo, two beside MLServer, a million sequences, and too much to do."""
    kinds = [kind for kind in KINDS if kind != overload.KIND]
    kinds = kinds[:1] if options.tiny else kinds
    found = [
        Case(f"{kind}, beside an echo", "echo", partial(Beside, kind, ECHO, partial(host, "echo", H), echo, options))
        for kind in kinds
    ]
    if options.tiny:
        return found
    return [
        *found,
        *(Case(f"{kind}, beside {MLSERVER}", "peer", partial(beside_mlserver, kind, options)) for kind in BESIDE_PEER),
        Case("sequences that come and go", "coming", partial(Coming, options)),
        Case("four times what it can do", "overload", partial(Overload, options)),
    ]


def bars(results: list[Result]) -> list[Bar]:
    """As the issue states them."""
    costs = [1 / ratio for ratio in ratios(results, ECHO)]

    def worst(group: str, name: str) -> list[float]:
        return figures([one for one in results if one.group == group], lambda m: m.figures.get(name))

    return [
        at_most("CPU of a step, times the echo, worst protocol", 1.25, costs),
        bar("CPU of a step at MLServer, times ours, worst protocol", 3.0, ratios(results, MLSERVER), min),
        at_most("microseconds to open and close", 100.0, worst("coming", coming.OPENING)),
        at_most("a million sequences: growth of memory in MB", 10.0, worst("coming", coming.GROWTH)),
        at_most("bytes of a living sequence beside its state", 3000.0, worst("coming", coming.HELD)),
        at_most("overload: p99 of the accepted, times the unloaded one", 5.0, worst("overload", overload.LATER)),
        at_most("overload: milliseconds until the rest is refused, p99", 10.0, worst("overload", overload.REFUSED)),
        at_most("overload: Gini of served steps over clients", 0.1, worst("overload", overload.UNFAIR)),
        at_most("overload: growth of memory in MB", 10.0, worst("overload", overload.GROWTH)),
    ]


SUITE = Suite("serving", "a server over the network, two LSTM layers of 64", cases, bars)
