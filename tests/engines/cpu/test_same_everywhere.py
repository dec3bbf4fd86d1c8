"""Every process asks for the same kernels, or those on disk would be of no use to the next one."""

import json
import os
import subprocess
import sys

from tests.registry import CELLS

SCRIPT = """
import hashlib, json, sys, torch
from tests.registry import CELLS, build, sequence, random_state
from treadle.engines import network
from treadle.engines.cpu.lower.lowered import lower
from treadle.engines.whole_step import whole_step
from treadle.engines.cpu.plan.section import CompiledSection
from treadle.engines.passes.support import why_not
from treadle.engines.cpu.machine.target import host

garbage = [object() for _ in range(int(sys.argv[1]))]  # so that nothing lies where it lay
found = {}
for name in CELLS:
    rnn = build(name)
    net = network.network_of(rnn.cell, sequence(rnn)[:, 0], rnn.initial_state(3))
    kernels = []
    for section in [*net.plan(False).sections, whole_step(net)]:
        if section.kind in ("loop", "parallel") and not why_not(section):
            compiled = CompiledSection(section)
            derivative = compiled.derivative((True,) * len(section.inputs))
            kernels += [compiled.plain.kernel, derivative.forward.kernel, derivative.backward.kernel]
    words = "".join(lower(kernel, host()).description for kernel in kernels)
    found[name] = hashlib.sha256(words.encode()).hexdigest()
print(json.dumps(found))
"""


def kernels(seed: int) -> dict[str, str]:
    environment = os.environ | {"PYTHONHASHSEED": str(seed), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", SCRIPT, str(1000 * seed)]
    return json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def test_two_processes_ask_for_the_same_kernels():
    first, second = kernels(1), kernels(2)
    assert first.keys() == set(CELLS)
    assert len(set(first.values())) > len(first) // 2
    assert {name for name in first if first[name] != second[name]} == set()
