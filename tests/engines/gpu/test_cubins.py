"""Kernels compiled for GPUs that are not here: no registers are spilled, everything fits, few barriers, quickly."""

import json
import os
import re
import subprocess
import sys

import pytest

from benchmarks.gpu_kernels import GPUS
from tests.mutations import ROOT

SECONDS = 4
"""Of the CPU for a kernel, where little else runs; a machine that is busy takes twice as long."""
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
        assert one["shared"] <= GPUS[one["arch"]].shared_memory, one
        assert one["seconds"] <= 2 * SECONDS, one


@pytest.mark.slow
def test_kernels_of_several_tiles_of_single_phases_and_of_programs_that_meet():
    for one in reports("--cells", "lstm", "--sizes", "256", "--archs", "80"):
        assert not one["stack"], one
        assert one["shared"] <= GPUS[one["arch"]].shared_memory, one
        assert one["barriers"] <= (0 if one["mode"] == "steps" else 4), one


def test_the_page_has_every_kernel_and_each_is_within_its_limits():
    page = (ROOT / "docs/research/gpu-kernels.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if re.match(r"\| [a-z-]+, \d+ \|", line)]
    assert len(rows) == 6 * 3 * len(GPUS) * 3  # cells, sizes, GPUs, modes
    for kernel, mode, capability, _, stack, shared, seconds in rows:
        forward, _ = stack.split(" / ")
        assert forward == "0", (kernel, mode)
        most = GPUS[round(float(capability) * 10)].shared_memory >> 10
        assert max(map(int, shared.split(" / "))) <= most, (kernel, mode)
        assert max(map(float, seconds.split(" / "))) <= SECONDS, (kernel, mode)
