"""Code for Arm, made on whatever this is: LLVM compiles it, it calls nothing foreign, and sums stay in registers."""

import dataclasses
import functools
import re
from collections.abc import Iterator

import pytest
import torch

import treadle as td
from benchmarks.inner_loops import inner_loops
from benchmarks.tile_throughput import X86, cpus
from tests.registry import build, sequence
from treadle.engines import network
from treadle.engines.cpu.lower.lowered import Lowered, lower
from treadle.engines.cpu.machine import follower
from treadle.engines.cpu.machine.compilation import RUNTIME, assembly
from treadle.engines.cpu.machine.target import AVX2, AVX512, Target, described
from treadle.engines.cpu.plan.section import CompiledSection
from treadle.engines.cpu.routines import copies, mersenne_twister
from treadle.engines.cpu.routines.row_panel_code import PanelCode, vectors_of_a_tile
from treadle.engines.cpu.routines.row_product_code import RowProductCode
from treadle.engines.cpu.routines.weight_panel_code import HalvingCode, PackingCode
from treadle.engines.cpu.write import by_columns, by_index, by_rows, int8_dots, int8_tile, side_by_side, tile
from treadle.engines.passes.loop_nests import Kernel
from treadle.engines.passes.precision import Operands, Precision
from treadle.engines.passes.support import why_not
from treadle.engines.whole_step import whole_step

CPUS = {target.cpu: target for target in cpus()}
ARM = [name for name, target in CPUS.items() if target.multiplies_by_lane]
SUBJECTS = ["lstm", "gru", "layer-norm-lstm", "slstm-two-heads", "min-gru", "graph-handed-over"]
PRECISIONS = {
    "float32": Precision(torch.float32),
    "float64": Precision(torch.float64),
    "bfloat16": Precision(torch.float32, Operands.PAIRS),
}
WIDTHS = range(1, 9)

on_every_arm = pytest.mark.parametrize("cpu", ARM)


def foreign(text: str, target: Target, known: set[str]) -> set[str]:
    """What code calls or reads that neither it nor those who load it define."""
    code = assembly(text, target)
    apple = "apple" in target.triple
    named = set(re.findall(r"^\s+(?:bl|b|callq?|jmp)\s+([A-Za-z_][\w.]*)$", code, re.MULTILINE))
    named |= {name for pair in re.findall(r":got:(\w+)|\b(\w+)@GOT", code) for name in pair if name}
    named = {name.removeprefix("_") if apple else name for name in named if not name.startswith((".L", "LBB"))}
    return named - set(re.findall(r"^_?(\w+):", code, re.MULTILINE)) - known - RUNTIME.keys()


def routines(target: Target) -> Iterator[tuple[str, str]]:
    """All modules that know no network, by what they are."""
    yield "copies", copies._text()
    yield "random numbers", mersenne_twister._text()
    yield "the follower", follower._text(target)
    for dtype in (torch.float32, torch.float64):
        yield f"products over rows of {dtype}", str(RowProductCode(dtype, target).module)
        for vectors in range(1, vectors_of_a_tile(target) + 1):
            yield f"{vectors} vectors of products over rows of {dtype}", str(PanelCode(dtype, target, vectors).module)
        yield f"packing {dtype}", PackingCode(dtype, target, False).text()
    yield "packing, rounded", PackingCode(torch.float32, target, True).text()
    yield "halving", HalvingCode(target).text()


@on_every_arm
def test_routines_call_nothing_foreign_and_branch_for_no_lane(cpu):
    for what, text in routines(CPUS[cpu]):
        assert foreign(text, CPUS[cpu], set()) == set(), what
        # LLVM makes a branch of every lane of these where the CPU has no instruction for them.
        assert "llvm.masked" not in text, what


@on_every_arm
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_products_over_rows_keep_sums_in_registers(cpu, dtype):
    target = CPUS[cpu]
    widths = range(1, vectors_of_a_tile(target) + 1)
    codes = [assembly(str(PanelCode(dtype, target, vectors).module), target) for vectors in widths]
    loops = [loop for code in codes for loop in inner_loops(code) if loop.multiply_adds]
    assert max(loop.multiply_adds for loop in loops) == 24
    assert [loop for loop in loops if loop.on_stack] == []


@pytest.mark.parametrize(
    ("cpu", "precision"),
    [(cpu, name) for cpu in CPUS for name in PRECISIONS if cpu in ARM or name != "bfloat16"],
)
def test_tiles_keep_sums_in_registers(cpu, precision):
    target = CPUS[cpu]
    for vectors in WIDTHS if target.multiplies_by_lane else (1, 2, 3, 4):
        names = tile.names(PRECISIONS[precision], vectors, target)
        code = assembly(tile.text(PRECISIONS[precision], vectors, target), target)
        loops = [loop for loop in inner_loops(code) if loop.multiply_adds]
        assert {loop.function for loop in loops} == set(names)
        assert [loop for loop in loops if loop.on_stack] == []


@on_every_arm
def test_tiles_of_int8_keep_sums_in_registers(cpu):
    target = CPUS[cpu]
    for vectors in WIDTHS:
        loops = [loop for loop in inner_loops(assembly(int8_tile.text(vectors, target), target)) if loop.multiply_adds]
        assert {loop.function for loop in loops} == set(int8_tile.names(vectors, target))
        assert [loop for loop in loops if loop.on_stack] == []


@pytest.mark.parametrize("cpu", CPUS)
def test_loops_hide_their_index_from_llvm_on_x86_alone(cpu):
    """LLVM's search for other induction variables takes a third of its time, and finds faster loops on Arm alone."""
    text = tile.text(PRECISIONS["float32"], 1, CPUS[cpu])
    loops, hidden = text.count(" = phi "), text.count(" = call i64 asm ")
    assert loops > 0
    assert hidden == (0 if cpu in ARM else loops)


DOTS = re.compile(r"^\s+(?:sdot|(?:\{vex\}\s+)?vpdpbusd)\b")
"""Instructions that add products of whole numbers."""
WITH_DOTS = {
    **{name: dataclasses.replace(CPUS[name], features=CPUS[name].features + ",+dotprod") for name in ARM},
    "alderlake": described(X86, "alderlake", ",".join(f"+{name}" for name in sorted(AVX2 | {"avxvnni"}))),
    "icelake-server": described(
        X86, "icelake-server", ",".join(f"+{name}" for name in sorted(AVX512 | {"avx512vnni"}))
    ),
}


@pytest.mark.parametrize("cpu", WITH_DOTS)
def test_tiles_of_whole_numbers_keep_sums_in_registers(cpu):
    target = WITH_DOTS[cpu]
    for vectors in (1, 3, 6, 8, 12):
        text = int8_dots.text(vectors, target)
        assert foreign(text, target, set()) == set()
        loops = list(inner_loops(assembly(text, target)))
        multiplying = {loop.function for loop in loops if any(map(DOTS.match, loop.lines))}
        assert multiplying == set(int8_dots.names(vectors, target))
        assert [loop for loop in loops if loop.on_stack] == []


@functools.cache
def kernels(subject: str) -> dict[str, Kernel]:
    """The kernels of a network: forwards, with what a derivative keeps, backwards, and live."""
    rnn = build(subject).float()
    net = network.network_of(rnn.cell, sequence(rnn, dtype=torch.float32)[:, 0], rnn.initial_state(3))
    found = {}
    for i, section in enumerate(net.plan(False).sections):
        if section.kind in ("loop", "parallel") and not why_not(section):
            compiled = CompiledSection(section)
            derivative = compiled.derivative((True,) * len(section.inputs))
            found |= {
                f"{i} forwards": compiled.plain.kernel,
                f"{i} with what is kept": derivative.forward.kernel,
                f"{i} backwards": derivative.backward.kernel,
            }
    found["live"] = CompiledSection(whole_step(net)).plain.kernel
    return found


def texts(subject: str, target: Target) -> Iterator[tuple[str, Lowered, str]]:
    """The modules of a network's kernels, by what they are."""
    for name, kernel in kernels(subject).items():
        lowered = lower(kernel, target)
        yield name, lowered, by_rows.text(lowered)
        if name == "0 forwards" and kernel.carries:
            yield f"{name}, side by side", lowered, side_by_side.text(lowered)
        if name == "live":
            halved = lower(dataclasses.replace(kernel, precision=PRECISIONS["bfloat16"]), target)
            yield f"{name}, by columns", lowered, by_columns.text(lowered)
            yield f"{name}, of a pool", lowered, by_index.text(lowered)
            yield f"{name}, weights of bfloat16", halved, by_columns.text_by_index(halved)


@pytest.mark.parametrize("cpu", WITH_DOTS)
def test_kernels_that_make_digits_call_nothing_but_tiles(cpu):
    target = WITH_DOTS[cpu]
    rnn = td.Recurrent(td.LSTMCell(37, 41))
    net = network.network_of(rnn.cell, torch.zeros(2, 37), rnn.initial_state(2))
    matrices = CompiledSection(whole_step(net)).plain.matrices
    lowered = lower(CompiledSection(whole_step(net), int8=tuple(matrices)).plain.kernel, target)
    assert [packing.dots for packing in lowered.packings.values()] == [True, True]
    widths = {width for packing in lowered.packings.values() for width in packing.widths}
    tiles = {name for width in widths for name in int8_dots.names(width, target)}
    for written in (by_columns, by_index, by_rows):
        assert foreign(written.text(lowered), target, tiles) == set()


@pytest.mark.share(8)
@on_every_arm
@pytest.mark.parametrize("subject", SUBJECTS)
def test_kernels_call_nothing_but_tiles(cpu, subject):
    target = CPUS[cpu]
    for what, lowered, text in texts(subject, target):
        precision = lowered.kernel.precision
        widths = {width for packing in lowered.packings.values() for width in packing.widths}
        tiles = {name for width in widths for name in tile.names(precision, width, target)}
        assert foreign(text, target, tiles) == set(), what


def test_a_foreign_function_is_noticed():
    text = "declare float @sinf(float)\ndefine float @f(float %x) {\n%y = call float @sinf(float %x)\nret float %y\n}"
    for cpu in ARM:
        assert foreign(text, CPUS[cpu], set()) == {"sinf"}
        assert foreign(text, CPUS[cpu], {"sinf"}) == set()
