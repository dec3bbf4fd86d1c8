"""Kernels compiled for GPUs that are not here: no registers are spilled, everything fits, few barriers, quickly."""

import json
import os
import subprocess
import sys

import pytest

from tests.mutations import ROOT

SHARED_MEMORY = {80: 163 << 10, 90: 227 << 10}
SECONDS = 20
"""Of the CPU for a kernel; the slowest took 3 to 7, as much else ran beside it or not."""
CEILINGS = {
    ("lstm", "forward"): (0, 0),
    ("lstm", "backward"): (0, 2),
    ("gru", "forward"): (0, 0),
    ("gru", "backward"): (0, 2),
    ("layer-norm-lstm", "forward"): (0, 2),
    ("layer-norm-lstm", "backward"): (32, 4),
}
"""Bytes of stack, and barriers a step, of layers with 64 units."""


def reports(*arguments):
    """What `benchmarks.gpu_kernels` prints, in a process in which Triton compiles."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks.gpu_kernels", *arguments]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_kernels_of_one_tile():
    for one in reports("--cells", "lstm,gru,layer-norm-lstm", "--sizes", "64", "--archs", "90", "--modes", "rows"):
        stack, barriers = CEILINGS[one["cell"], one["direction"]]
        assert one["stack"] <= stack, one
        assert one["barriers"] <= barriers, one
        assert one["shared"] <= SHARED_MEMORY[one["arch"]], one
        assert one["seconds"] <= SECONDS, one


@pytest.mark.slow
def test_kernels_of_several_tiles_and_of_single_phases():
    for one in reports("--cells", "lstm", "--sizes", "256", "--archs", "80"):
        assert not one["stack"], one
        assert one["shared"] <= SHARED_MEMORY[one["arch"]], one
        assert one["barriers"] <= (0 if one["mode"] == "steps" else 4), one
