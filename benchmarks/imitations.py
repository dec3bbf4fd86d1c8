"""Machines learned from short tapes, run free on long ones. ``python -m benchmarks.imitations``.

The bars: increment, palindrome and copy, learned from tapes of up to 16 cells, are right on 1,000 random tapes of up to
256 cells, all of them; the busy beaver of 4 states halts after 107 steps with 13 ones. With ``beaver5``, that of 5
states, learned from traces of at most 500 steps: 47,176,870 steps to the halt, 4,098 ones, in five minutes.
"""

import sys
import time

import torch

from treadle.recipes.imitate import (
    Learning,
    RandomTapes,
    Settings,
    Tape,
    demonstrations,
    find_machine,
    imitator,
    judge,
    same_run,
)

TAPES, CELLS = 1000, 256
BEAVERS = {"beaver4": (107, 13, 300.0), "beaver5": (47_176_870, 4_098, 300.0)}
"""Steps to the halt from an empty tape, the ones that are left, and the seconds that this may take at most."""


def main(names: list[str]) -> bool:
    """Learn each machine and judge it; whether all reached their bars."""
    torch.set_num_threads(1)
    good = True
    for name in names:
        machine, start = find_machine(name), time.perf_counter()
        settings = Settings(machine.letters)
        loop = imitator(machine, settings)
        for step in Learning(loop, demonstrations(machine, settings), settings).steps():
            loss = step.loss
        learned = time.perf_counter()
        print(f"{name}: loss {loss:.4f} after {settings.steps} steps, {learned - start:.0f} s", flush=True)
        if name in BEAVERS:
            steps, ones, seconds = BEAVERS[name]
            tape = Tape(machine)
            run = same_run(loop.session(), machine, tape)
            took = time.perf_counter() - learned
            reached = run == (steps, True, True) and tape.count("1") == ones and took <= seconds
            what = "all right" if run.right else "then a wrong action"
            print(f"  {run.steps:,} steps, {what}; {tape.count('1'):,} ones; {took:.1f} s")
        else:
            tapes = RandomTapes(machine, settings.letters, CELLS, 10**6, seed=settings.seed + 1).tapes(TAPES)
            verdict = judge(loop, machine, tapes)
            took = time.perf_counter() - learned
            reached = verdict[:3] == (TAPES, TAPES, TAPES)
            print(f"  correct on {verdict.right} of {verdict.tapes} tapes, {verdict.steps:,} steps; {took:.0f} s")
        print(f"  {'reached' if reached else 'NOT REACHED'}", flush=True)
        good &= reached
    return good


if __name__ == "__main__":
    sys.exit(not main(sys.argv[1:] or ["increment", "palindrome", "copy", "beaver4"]))
