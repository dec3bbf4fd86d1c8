"""A linear recurrence over a long sequence: minGRU, forward and backward, against a loop and a scan in log space."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch

import treadle as td
from benchmarks import long_sequence
from benchmarks.bars import at_most, bar, figures, ratios
from benchmarks.gates import Check, compare
from benchmarks.peers.log_space_scan import LogSpaceScan
from benchmarks.race import OURS, Race
from benchmarks.registry import Bar, Case, Options, Result, Suite
from benchmarks.sizes import Size
from benchmarks.timing import block
from benchmarks.training import Training, draw, inputs, recurrent_outputs

EAGER, SCAN = "eager loop", "scan in log space"
LONG, TINY = Size(8192, 4, 256), Size(19, 2, 3)
MEMORY = "memory, share of the scan's"


FROM_THE_KINK = 4.0
"""Biases of the candidates, of both signs: near zero their g has a kink, and among millions of candidates there would
be some where rounding decides the gradient, so that float32 has no right answer."""


def networks(size: Size, engine: str) -> dict[str, Training]:
    """All sides, with the same parameters, inputs and gradients from above."""
    torch.manual_seed(0)
    cell = td.MinGRUCell(size.H, size.H)
    with torch.no_grad():
        cell.bias_ih[size.H :] = FROM_THE_KINK
        cell.bias_ih[size.H + 1 :: 2] = -FROM_THE_KINK
    ours = draw(td.Recurrent(cell, batch_first=False, engine=engine), recurrent_outputs, inputs(*size))
    others = {EAGER: td.Recurrent(cell, batch_first=False, engine="reference"), SCAN: LogSpaceScan(cell)}
    return {OURS: ours} | {
        side: Training(module, recurrent_outputs, ours.x, ours.cotangents) for side, module in others.items()
    }


def open_race(size: Size, options: Options) -> Race:
    """Ours against both."""
    sides = networks(size, options.engine)
    errors: dict[str, float] = {}

    def check() -> list[Check]:
        module = td.Recurrent(sides[OURS].module.cell, batch_first=False, engine="reference")
        reference = sides[OURS].double(module).values()
        checks = {side: compare(side, training.values(), reference) for side, training in sides.items()}
        errors["the scan's error in float32"] = checks[SCAN].error
        # Sums of thousands of logarithms cost it digits in float32: that it is the same function is seen in float64.
        checks[SCAN] = compare(SCAN, sides[SCAN].double().values(), reference)
        return list(checks.values())

    def figures() -> dict[str, float]:
        return {**errors, **memory(size, options)}

    return Race({name: block(side) for name, side in sides.items()}, check, {}, figures)


def memory(size: Size, options: Options) -> dict[str, float]:
    """What a pass takes, each in a process of its own: the most it ever had, less what it had before."""
    asked = {"size": list(size), "engine": options.engine, "threads": options.threads}
    taken = {}
    for side in (OURS, SCAN):
        command = [sys.executable, "-m", "benchmarks.suites.scan", json.dumps({**asked, "side": side})]
        done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
        taken[side] = float(done.stdout)
    return {
        "megabytes": taken[OURS] / 1e6,
        "the scan's megabytes": taken[SCAN] / 1e6,
        MEMORY: taken[OURS] / taken[SCAN],
    }


def bytes_of_a_pass(side: str, size: list[int], engine: str, threads: int) -> int:
    """In this process: a short pass first, so that what is made once is there."""
    torch.set_num_threads(threads)
    networks(Size(2, *size[1:]), engine)[side]()
    training = networks(Size(*size), engine)[side]
    before = long_sequence.most_memory()
    training()
    return long_sequence.most_memory() - before


def cases(options: Options) -> list[Case]:
    """One size."""
    size = TINY if options.tiny else LONG
    return [Case(f"minGRU {size}", "minGRU", partial(open_race, size, options))]


def bars(results: list[Result]) -> list[Bar]:
    """As the issue states them."""
    return [
        bar("minGRU, times the eager loop", 8.0, ratios(results, EAGER)),
        bar("minGRU, times a scan in log space", 1.0, ratios(results, SCAN)),
        at_most("memory, share of the scan's", 0.5, figures(results, lambda m: m.figures[MEMORY])),
    ]


SUITE = Suite("scan", "minGRU over a long sequence, against a loop and a scan in log space", cases, bars)

if __name__ == "__main__":
    print(bytes_of_a_pass(**json.loads(sys.argv[1])))
