"""The kernels of the GPU engine, compiled for GPUs that need not be here: registers, stack, shared memory, barriers.

``python -m benchmarks.gpu_kernels [--cells lstm,gru] [--sizes 64,128] [--archs 80,90]`` prints a line of JSON for each.
"""

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import treadle as td
from treadle.compiler.fission import Kind
from treadle.engines.gpu.lower.tiling import Mode, Products, Tiling, tiling_of
from treadle.engines.gpu.plan.launches import function_of
from treadle.engines.gpu.plan.section import GpuSection, KernelOfPass
from treadle.engines.gpu.write.steps import Source, arguments_of, write
from treadle.engines.network import network_of
from treadle.engines.passes.schedule import schedule
from treadle.engines.passes.section_passes import Pass

CELLS: dict[str, Callable[[int], Any]] = {
    "lstm": lambda H: td.LSTMCell(H, H),
    "gru": lambda H: td.GRUCell(H, H),
    "layer-norm-lstm": lambda H: td.LayerNormLSTMCell(H, H),
    "slstm": lambda H: td.SLSTMCell(H, H),
    "peephole-lstm": lambda H: td.PeepholeLSTMCell(H, H),
    "recurrent-highway": lambda H: td.RecurrentHighwayCell(H, H),
}
SHARED_MEMORY = {80: 163 << 10, 90: 227 << 10}
"""Bytes that a program may have, by compute capability."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of a kernel.

    Args:
        seconds: of the CPU, to write and compile it; of `Mode.STEPS` for its slowest phase.
        barriers: how often the threads of a program wait for each other at a step.
    """

    cell: str
    size: int
    direction: str
    mode: str
    products: str
    arch: int
    registers: int
    stack: int
    shared: int
    barriers: int
    launches: int
    seconds: float


def passes(cell: Any) -> Iterator[tuple[str, Pass[KernelOfPass]]]:
    """The passes of a cell's loops: forwards as training does, and backwards."""
    network = network_of(cell, torch.zeros(2, cell.input_size), cell.initial_state(2))
    for section in network.plan(False, False).sections:
        if section.kind is Kind.LOOP:
            derived = GpuSection(section).derivative(tuple(v.dtype.is_floating_point for v in section.inputs))
            yield "forward", derived.forward
            yield "backward", derived.backward


def report(name: str, size: int, direction: str, one: Pass[KernelOfPass], arch: int, tiling: Tiling) -> Report:
    """Compile a pass; of `Mode.STEPS` every phase by itself, of which the largest figures count."""
    began = time.process_time()
    source = write(schedule(one.kernel), tiling)
    wrote = time.process_time() - began
    steps = tiling.mode is Mode.STEPS
    found = [_compiled(source, one, arch, tiling, phase) for phase in range(source.phases)] if steps else []
    found = found or [_compiled(source, one, arch, tiling, None)]
    registers, stack, shared, seconds = (max(numbers) for numbers in zip(*found, strict=True))
    return Report(
        name, size, direction, tiling.mode, tiling.products, arch, registers, stack, shared,
        source.barriers, source.phases - 2 if steps else 1, round(wrote + seconds, 2),
    )  # fmt: skip


def _compiled(source: Source, one: Pass[KernelOfPass], arch: int, tiling: Tiling, phase: int | None) -> Any:
    """Registers, bytes of stack and of shared memory, and seconds of the CPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = function_of(source.text)
    constants = {"WHOLE": True, "RESETS": False, "WIDE": False} | ({} if phase is None else {"PHASE": phase})
    types = _types(one, tiling, len(source.products))
    signature = {name: "constexpr" if name in constants else types[name] for name in function.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(function.arg_names) if signature[n][0] == "*"}
    named = {(function.arg_names.index(name),): value for name, value in constants.items()}
    text = ASTSource(fn=function, signature=signature, constexprs=named, attrs=aligned)
    began = _cpu_seconds()
    made: Any = triton.compile(text, target=GPUTarget("cuda", arch, 32), options=tiling.options)
    seconds = _cpu_seconds() - began
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    found = {key: int(number) for key, number in re.findall(r"(REG|STACK):(\d+)", usage.stdout)}
    return found["REG"], found["STACK"], made.metadata.shared, seconds


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _types(one: Pass[KernelOfPass], tiling: Tiling, products: int) -> dict[str, str]:
    kernel = one.kernel
    types = dict.fromkeys(arguments_of(kernel, products), "*fp32")
    types |= {f"s{i}": "*i64" for i, value in enumerate(kernel.streams) if value in one.indices}
    if tiling.products is Products.BFLOAT16:
        types |= {f"m{i}": "*bf16" for i in range(products)}
    types |= dict.fromkeys(("B", "steps", "begin", "end"), "i32")
    return types | {"lengths": "*i32", "offsets": "*i64", "resets": "*u8"}


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    made = argparse.ArgumentParser("python -m benchmarks.gpu_kernels", description="Compile the GPU engine's kernels.")
    made.add_argument("--cells", default=",".join(CELLS), help="names (%(default)s)")
    made.add_argument("--sizes", default="64,128,256", help="hidden sizes (%(default)s)")
    made.add_argument("--archs", default="80,90", help="compute capabilities (%(default)s)")
    made.add_argument("--modes", default="rows,steps", help="(%(default)s)")
    made.add_argument("--products", default="tf32", help="ieee, tf32 or bfloat16 (%(default)s)")
    given = made.parse_args(arguments)
    os.environ["TRITON_ALWAYS_COMPILE"] = "1"  # how long it takes is a figure, too
    for name in given.cells.split(","):
        for size in map(int, given.sizes.split(",")):
            for direction, one in passes(CELLS[name](size)):
                for arch in map(int, given.archs.split(",")):
                    for mode in map(Mode, given.modes.split(",")):
                        plan, products = schedule(one.kernel), Products(given.products)
                        tiling = tiling_of(plan, products, SHARED_MEMORY[arch], mode)
                        found = report(name, size, direction, one, arch, tiling)
                        print(json.dumps(dataclasses.asdict(found)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
