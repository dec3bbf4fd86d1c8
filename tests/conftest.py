"""What all tests share: seeded generators, one thread (the sizes are tiny), examples that are the same every time."""

import gc
import os
import signal
import sys

import hypothesis
import pytest
import torch

from tests.covering import share

pytest.register_assert_rewrite("tests.tolerances", "tests.outcome")

torch.set_num_threads(1)
# Triton reads it when it is imported, by whatever test comes first: its interpreter runs the kernels of the GPU engine.
os.environ.setdefault("TRITON_INTERPRET", "1")
if "PYTHONPATH" in os.environ:  # tests start processes, some of them in other folders
    os.environ["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, os.environ["PYTHONPATH"].split(os.pathsep)))
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # Who starts tests in the background has them ignore Ctrl-C, and what they start would ignore it, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
hypothesis.settings.register_profile("treadle", deadline=None, derandomize=True, database=None, max_examples=25)
hypothesis.settings.load_profile("treadle")


FULL = 3
"""How many times as many combinations the full suite takes as the short one; so many, because CI has to end in time."""


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config, items):
    """Of a test marked ``share``, the combinations that the short suite leaves to the full one are marked ``slow``.

    The full suite takes `FULL` times as many as the short one, or all of them with TREADLE_LONG=1, which takes an hour;
    pytest counts the others as deselected.
    """
    tests, left_out = {}, []
    for item in items:
        if item.get_closest_marker("share"):
            tests.setdefault(item.nodeid.split("[")[0], []).append(item)
    for name, found in tests.items():
        cases = [{choice: id(value) for choice, value in item.callspec.params.items()} for item in found]
        most = found[0].get_closest_marker("share").args
        chosen = share(cases, name, *most)
        allowed = share(cases, name, FULL * most[0]) if most and "TREADLE_LONG" not in os.environ else range(len(cases))
        for k, item in enumerate(found):
            if k not in chosen:
                item.add_marker("slow")
            if k not in allowed:
                left_out.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]


@pytest.fixture(scope="module", autouse=True)
def kept_small():
    """After each module, memory that waits to be used again is given back, and what then lives is walked no more."""
    yield
    if pool := sys.modules.get("treadle.engines.cpu.machine.memory_pool"):
        pool.pool.release()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def poisoned_memory():
    """Memory that torch hands out uninitialised is filled with NaN, so that whoever reads before writing is caught."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # torch.utils.deterministic.fill_uninitialized_memory is on by default
    yield
    torch.use_deterministic_algorithms(before)
