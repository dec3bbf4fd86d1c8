"""The kernels of the GPU engine, compiled for GPUs that need not be here: registers, stack, shared memory, barriers.

``python -m benchmarks.gpu_kernels [--cells lstm,gru] [--sizes 64,128] [--archs 80,90]`` prints a line of JSON for each.
With ``--json FILE`` they are also kept there, and those that are there are not compiled again; ``--page FILE`` writes
them into the table of a page, of which ``docs/research/gpu-kernels.md`` is the one that has them.
"""

import argparse
import dataclasses
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import treadle as td
from treadle.compiler.fission import Kind
from treadle.engines.gpu.device import Gpu
from treadle.engines.gpu.lower.tiling import Mode, Products, Tiling, tiling_of
from treadle.engines.gpu.plan.launches import function_of
from treadle.engines.gpu.plan.section import GpuSection, KernelOfPass
from treadle.engines.gpu.write.arguments import Argument
from treadle.engines.gpu.write.steps import Source, write
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
GPUS = {80: Gpu("A100", 163 << 10, 108), 90: Gpu("H100", 227 << 10, 132)}
"""By compute capability."""
SHORT = {"bfloat": "bf", "float": "fp", "uint": "u", "int": "i"}
"""What Triton calls numbers, but for how many bits they have."""


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
    found = [_compiled(source, arch, tiling, phase) for phase in (range(source.phases) if steps else [None])]
    registers, stack, shared, seconds = (max(numbers) for numbers in zip(*found, strict=True))
    return Report(
        name, size, direction, tiling.mode, tiling.products, arch, registers, stack, shared,
        source.barriers, source.phases - 2 if steps else 1, round(wrote + seconds, 2),
    )  # fmt: skip


def _compiled(source: Source, arch: int, tiling: Tiling, phase: int | None) -> Any:
    """Registers, bytes of stack and of shared memory, and seconds of the CPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = function_of(source.text)
    constants = {"WHOLE": True, "RESETS": False, "WIDE": False} | ({} if phase is None else {"PHASE": phase})
    types = {"table": "*i64", "ahead": "i32"} | {one.name: _type(one) for one in source.arguments}
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


def _type(one: Argument) -> str:
    """As signatures have it: fp32 for float32, i64 for int64, u8 for uint8, bf16 for bfloat16."""
    name = str(one.dtype).removeprefix("torch.")
    return "*" * one.is_address + re.sub("bfloat|float|uint|int", lambda found: SHORT[found[0]], name)


def main(arguments: list[str] | None = None) -> int:
    """Compile what is asked for, print it, keep it, and write the page."""
    made = argparse.ArgumentParser("python -m benchmarks.gpu_kernels", description="Compile the GPU engine's kernels.")
    made.add_argument("--cells", default=",".join(CELLS), help="names (%(default)s)")
    made.add_argument("--sizes", default="64,128,256", help="hidden sizes (%(default)s)")
    made.add_argument("--archs", default="80,90", help="compute capabilities (%(default)s)")
    made.add_argument("--modes", default=",".join(Mode), help="(%(default)s)")
    made.add_argument("--products", default="tf32", help="ieee, tf32 or bfloat16 (%(default)s)")
    made.add_argument("--json", type=Path, help="a file that keeps the lines")
    made.add_argument("--page", type=Path, help="a page whose table is written")
    given = made.parse_args(arguments)
    os.environ["TRITON_ALWAYS_COMPILE"] = "1"  # how long it takes is a figure, too
    kept = [Report(**json.loads(line)) for line in _lines(given.json)]
    for name, size, arch, mode in itertools.product(
        given.cells.split(","),
        map(int, given.sizes.split(",")),
        map(int, given.archs.split(",")),
        given.modes.split(","),
    ):
        if any((one.cell, one.size, one.arch, one.mode) == (name, size, arch, mode) for one in kept):
            continue
        found = []
        for direction, one in passes(CELLS[name](size)):
            tiling = tiling_of(schedule(one.kernel), Products(given.products), GPUS[arch], Mode(mode))
            found.append(report(name, size, direction, one, arch, tiling))
            print(json.dumps(dataclasses.asdict(found[-1])), flush=True)
        kept += found
        if given.json:
            given.json.write_text("".join(json.dumps(dataclasses.asdict(one)) + "\n" for one in kept))
    if given.page:
        head, _, tail = given.page.read_text().partition(_BEGIN)
        given.page.write_text(f"{head}{_BEGIN}\n\n{table(kept)}\n{_END}{tail.partition(_END)[2]}")
    return 0


_BEGIN, _END = "<!-- kernels -->", "<!-- end of kernels -->"


def _lines(path: Path | None) -> list[str]:
    return path.read_text().splitlines() if path and path.exists() else []


def table(found: Sequence[Report]) -> str:
    """Reports as a table in Markdown: forward / backward."""
    rows = [
        "| cell, units | mode | compute capability | registers | stack, bytes | shared memory, KB | compiled in, s |"
    ]
    rows.append("| --- | --- | --- | --- | --- | --- | --- |")
    pairs: dict[tuple[Any, ...], list[Report]] = {}
    for one in found:
        pairs.setdefault((f"{one.cell}, {one.size}", one.mode, f"{one.arch / 10:.1f}"), []).append(one)
    for key, both in pairs.items():
        figures = [
            (str(one.registers), str(one.stack), str(-(-one.shared // 1024)), f"{one.seconds:.1f}") for one in both
        ]
        rows.append(f"| {' | '.join([*key, *(' / '.join(two) for two in zip(*figures, strict=True))])} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.exit(main())
