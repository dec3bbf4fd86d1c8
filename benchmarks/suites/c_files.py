"""A live step as a C file, batch 1, on one core: against the compiled session, and RTNeural's C++.

All sides take steps in a loop of their own, so that no call from Python counts.
"""

import copy
import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

import treadle as td
from benchmarks import peers
from benchmarks.bars import at_most, figures
from benchmarks.gates import Check, compare
from benchmarks.race import OURS, Race
from benchmarks.registry import Bar, Case, Measurement, Options, Result, Suite
from benchmarks.sizes import LAYERS
from benchmarks.timing import Block

C, INT8, RTNEURAL = "C file", "C file, int8", "RTNeural"
HIDDEN_SIZES, TINY_SIZES = (32, 64, 128), (4, 7)
STEPS, GATE_STEPS = 500, 50
FLAGS = ("-std=c99", "-O3", "-march=native", "-shared", "-fPIC")
LOOP = """
#include "net.c"
static net_state state;
void reset(void) { state = net_rest; }
void loop(int steps, const float *xs, float *ys)
{
    for (int t = 0; t < steps; t++)
        net_step(xs + t * NET_INPUTS, ys + t * NET_OUTPUTS, &state);
}
"""

Loop = Callable[[np.ndarray], np.ndarray]
"""Steps over xs [T, H], from where the last call has ended: ys [T, H]."""


def open_race(H: int) -> Race:
    """Ours against the C files and RTNeural."""
    torch.manual_seed(0)
    lstm = nn.LSTM(H, H, LAYERS)
    rnn = td.interop.from_torch(lstm)
    torch.set_num_threads(1)  # a C file has one core, so a session gets one as well
    sides: dict[str, tuple[Callable[[], object], Loop]] = {}
    session = rnn.session()
    sides[OURS] = session.reset, session.steps
    notes = {}
    for name, weights in ((C, "float32"), (INT8, "int8")):
        try:
            sides[name] = as_side(c_library(rnn, weights))
        except peers.Unavailable as why:
            notes[name] = str(why)
    try:
        sides[RTNEURAL] = as_side(peers.load("rtneural").library(lstm))
    except peers.Unavailable as why:
        notes[RTNEURAL] = str(why)
    xs = np.random.default_rng(0).standard_normal((STEPS, H)).astype(np.float32)
    return Race({name: block(loop, xs) for name, (_, loop) in sides.items()}, partial(check, lstm, sides, xs), notes)


def c_library(rnn: td.Recurrent, weights: str) -> ctypes.CDLL:
    """The C file of a network, compiled: ``reset()``, ``loop(steps, xs, ys)``.

    Raises:
        Unavailable: there is no C compiler.
    """
    if shutil.which("gcc") is None:
        raise peers.Unavailable("there is no gcc")
    with tempfile.TemporaryDirectory() as folder:
        td.interop.to_c(rnn, Path(folder, "net.c"), weights=weights, compiler="gcc")
        Path(folder, "loop.c").write_text(LOOP)
        subprocess.run(["gcc", *FLAGS, f"{folder}/loop.c", "-o", f"{folder}/net.so", "-lm"], check=True)
        return ctypes.CDLL(f"{folder}/net.so")


def as_side(library: ctypes.CDLL) -> tuple[Callable[[], object], Loop]:
    """What sets a library back, and its steps."""

    def loop(xs: np.ndarray) -> np.ndarray:
        ys = np.empty_like(xs)
        library.loop(len(xs), xs.ctypes.data_as(ctypes.c_void_p), ys.ctypes.data_as(ctypes.c_void_p))
        return ys

    return library.reset, loop


def block(loop: Loop, xs: np.ndarray) -> Block:
    """So many steps, as many at a time as there are."""

    def steps(times: int) -> None:
        for begin in range(0, times, len(xs)):
            loop(xs[: times - begin])

    return steps


def check(lstm: nn.LSTM, sides: dict[str, tuple[Callable[[], object], Loop]], xs: np.ndarray) -> list[Check]:
    """Every side from its initial state, against PyTorch in doubles."""
    xs = xs[:GATE_STEPS]
    with torch.no_grad():
        ys, _ = copy.deepcopy(lstm).double()(torch.from_numpy(xs).double())
    checks = []
    for name, (reset, loop) in sides.items():
        reset()
        precision = torch.bfloat16 if name == INT8 else torch.float32  # 255 levels are about as coarse
        checks.append(compare(name, {"ys": torch.from_numpy(loop(xs).copy())}, {"ys": ys}, precision))
    return checks


def cases(options: Options) -> list[Case]:
    """Every size."""
    sizes = TINY_SIZES if options.tiny else HIDDEN_SIZES
    return [Case(f"H={H}", f"H={H}", partial(open_race, H)) for H in sizes]


def over_session(measurement: Measurement) -> float | None:
    """How many times as long as a compiled session the C file takes."""
    return measurement.ratios[C].median if C in measurement.ratios else None


def bars(results: list[Result]) -> list[Bar]:
    """As the issue states them."""
    return [at_most("the C file, times a compiled session, worst size", 1.5, figures(results, over_session))]


SUITE = Suite("c_files", "a live step as a C file, two LSTM layers, against sessions and RTNeural", cases, bars)
