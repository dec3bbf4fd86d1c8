"""A case in a process of its own: what was measured before has no part in what is measured now.

C's memory allocator learns from what is freed. After a large case it keeps what it gave back to the operating system
before, and PyTorch's own layers take two thirds of the time at a small size then. Whoever trains one network has not
trained a larger one before.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from benchmarks import machine
from benchmarks.registry import Options, Result, load, run


def run_apart(suite: str, number: int, options: Options) -> Result:
    """Run the case of that number of a suite in a process of its own. If it dies, that is part of the result."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        try:
            return process.submit(run_here, suite, number, options).result()
        except BrokenProcessPool as error:
            case = load(suite).cases(options)[number]
            return Result(case.name, case.group, error=f"its process has died: {error}")


def run_here(suite: str, number: int, options: Options) -> Result:
    """Run it in this process."""
    machine.confine(options.threads)
    return run(load(suite).cases(options)[number], options)
