"""How many multiply-adds a cycle the loops of products make on CPUs that need not be here, as LLVM reckons.

``python -m benchmarks.tile_throughput`` writes the table of ``docs/research/tile-throughput.md``. LLVM's ``llvm-mca``
knows of many CPUs how long each instruction takes and which parts of a core it needs. It takes all data to be in the
nearest cache.
"""

import dataclasses
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import llvmlite.binding as llvm
import torch

from benchmarks.inner_loops import Loop, inner_loops
from treadle.engines.cpu.lower.packing import rows_of_tile, vectors_at_once, vectors_of_panel
from treadle.engines.cpu.machine import compilation
from treadle.engines.cpu.machine.target import AVX2, Target, described
from treadle.engines.cpu.routines.row_panel_code import PanelCode, rows_of_a_tile, vectors_of_a_tile
from treadle.engines.cpu.write import tile
from treadle.engines.passes.precision import Precision

PAGE = Path(__file__).parents[1] / "docs" / "research" / "tile-throughput.md"
BEGIN, END = "<!-- begin of the table -->", "<!-- end of the table -->"

LEAST = 17
"""LLVM's release that first describes Neoverse cores; earlier ones take them for others."""
TURNS = 1000

X86, ARM, APPLE = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "arm64-apple-darwin23.0.0"


def cpus() -> list[Target]:
    """Those of the table, among them Arm with and without SVE."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    avx2 = ",".join(f"+{name}" for name in sorted(AVX2))
    return [
        described(X86, "haswell", avx2),
        described(X86, "znver3", avx2),
        described(ARM, "neoverse-n1", "+neon"),
        described(ARM, "neoverse-v1", "+neon,+sve"),
        described(APPLE, "apple-m1", "+neon"),
    ]


@dataclass(frozen=True)
class Row:
    """A loop and what it does.

    Attributes:
        cpu: LLVM's name of it.
        dtype: of the numbers.
        product: of panels, as in a loop over time, of one row with these, as in a live step, or over rows.
        rows, vectors: the sums of the tile.
        reads: how many vectors and numbers are read for each multiply-add.
        speed: multiply-adds of vectors in a cycle.
        peak: the same of multiply-adds that wait for nothing.
    """

    cpu: str
    dtype: str
    product: str
    rows: int
    vectors: int
    reads: float
    speed: float
    peak: float


def analyser() -> str | None:
    """The command ``llvm-mca`` of a release that knows all these CPUs; None if there is none."""
    for name in [f"llvm-mca-{release}" for release in range(30, LEAST - 1, -1)] + ["llvm-mca"]:
        if (path := shutil.which(name)) and release(path) >= LEAST:
            return path
    return None


def release(command: str) -> int:
    """Which release of LLVM it is of."""
    said = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"LLVM version (\d+)", said)
    return int(found[1]) if found else 0


def rows(command: str) -> Iterator[Row]:
    """All rows of the table."""
    for target in cpus():
        for dtype in (torch.float32, torch.float64):
            name, peak = str(dtype).removeprefix("torch."), _peak(command, target, dtype.itemsize)
            for product, count, vectors, loop in _loops(target, dtype):
                reads, speed = _reads(loop) / loop.multiply_adds, _speed(command, target, loop)
                yield Row(target.cpu, name, product, count, vectors, reads, speed, peak)


def _loops(target: Target, dtype: torch.dtype) -> Iterator[tuple[str, int, int, Loop]]:
    """The loops of the largest tiles, for panels as they are for one, three and four gates."""
    precision = Precision(dtype)
    for vectors in sorted({max(1, vectors_of_panel(target) // gates) * gates for gates in (1, 3, 4)}):
        text = compilation.assembly(tile.text(precision, vectors, target), target)
        at_once = {
            count: vectors_at_once(count, vectors, precision, target)
            for count in range(1, rows_of_tile(vectors, precision, target) + 1)
        }
        largest = {some: max(count for count in at_once if at_once[count] == some) for some in at_once.values()}
        for product, count in [*(("sequences", count) for count in largest.values()), ("one row", 1)]:
            name = tile.name(precision, count, vectors)
            loop = _hottest(loop for loop in inner_loops(text) if loop.function == name)
            yield product, count, at_once[count], loop
    text = compilation.assembly(str(PanelCode(dtype, target, vectors_of_a_tile(target)).module), target)
    yield "over rows", rows_of_a_tile(target), vectors_of_a_tile(target), _hottest(inner_loops(text))


def _hottest(loops: Iterator[Loop]) -> Loop:
    return max(loops, key=lambda loop: loop.multiply_adds)


def _reads(loop: Loop) -> int:
    """How many reads of memory there are; a pair counts twice."""
    pairs = sum(bool(re.match(r"\s+ldp\b", line)) for line in loop.lines)
    return pairs + sum(bool(re.match(r"\s+(ld\w*\s|v\w+\s.*\()", line)) for line in loop.lines)


def _speed(command: str, target: Target, loop: Loop) -> float:
    """Multiply-adds in a cycle."""
    return loop.multiply_adds * TURNS / _cycles(command, target, [f"{loop.label}:", *loop.lines])


def _peak(command: str, target: Target, itemsize: int) -> float:
    """Multiply-adds in a cycle of as many sums as there are registers for, with nothing to read."""
    if target.multiplies_by_lane:
        kind = {4: ("4s", "s"), 8: ("2d", "d")}[itemsize]
        lines = [f"fmla v{i}.{kind[0]}, v30.{kind[0]}, v31.{kind[1]}[0]" for i in range(24)]
    else:
        lines = [f"vfmadd231p{'sd'[itemsize // 8]} %ymm14, %ymm15, %ymm{i}" for i in range(14)]
    return len(lines) * TURNS / _cycles(command, dataclasses.replace(target, triple=_plain(target)), lines)


def _plain(target: Target) -> str:
    """A system whose assembly says the kinds of vectors behind registers."""
    return ARM if target.multiplies_by_lane else target.triple


def _cycles(command: str, target: Target, lines: Sequence[str]) -> int:
    """What so many turns of a loop take."""
    options = [f"-mtriple={target.triple}", f"-mcpu={target.cpu}", f"-iterations={TURNS}"]
    text = "\n".join([*lines, ""])
    done = subprocess.run([command, *options], input=text, capture_output=True, text=True, check=True)
    found = re.search(r"^Total Cycles:\s+(\d+)", done.stdout, re.MULTILINE)
    assert found is not None
    return int(found[1])


def table(command: str) -> str:
    """The table, in Markdown, and which LLVM it is of."""
    lines = [
        "| CPU | numbers | product | sums: rows × vectors | reads a multiply-add | multiply-adds a cycle | peak |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows(command):
        sums = f"{row.rows} × {row.vectors}"
        numbers = f"{row.reads:.2f} | {row.speed:.2f} | {row.peak:.2f}"
        lines.append(f"| {row.cpu} | {row.dtype} | {row.product} | {sums} | {numbers} |")
    made, reckoned = ".".join(map(str, llvm.llvm_version_info)), release(command)
    return "\n".join([*lines, "", f"Machine code of LLVM {made}, cycles of `llvm-mca` {reckoned}."])


def page_with(text: str) -> str:
    """The page with a table in place of the one that it has."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    found = analyser()
    if found is None:
        raise SystemExit(f"there is no llvm-mca of LLVM {LEAST} or later: apt-get install llvm-19")
    PAGE.write_text(page_with(table(found)))
