"""Rows in digits, and the tiles that multiply them, of every kind of instruction: against NumPy in float64.

An instruction that this machine lacks is replaced by plain LLVM IR of what its manual says that it does.
"""

import ctypes
import re

import numpy as np
import pytest
import torch

from tests.engines.cpu.routines.test_weight_panels import packing_of
from tests.engines.cpu.test_cross_emission import WITH_DOTS
from treadle.engines.cpu.lower.packing import Packing, numbers_of_digits
from treadle.engines.cpu.machine import compilation
from treadle.engines.cpu.machine.alignment import begin
from treadle.engines.cpu.machine.target import Dots, Target, host, restrict, runnable
from treadle.engines.cpu.routines.int8_panels import int8_panels
from treadle.engines.cpu.write import int8_dots
from treadle.engines.cpu.write.cursor import POINTER, Cursor
from treadle.engines.cpu.write.row_digits import write_digits
from treadle.engines.passes.int8 import Int8Matrix

OWN = {f"own {one.dots.name}": one for one in [*(restrict(host(), n) for n in runnable(host())), host()] if one.dots}
TARGETS = {name: one for name, one in WITH_DOTS.items() if name not in ("neoverse-v1", "apple-m1")} | OWN
every_kind = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)

_INSTRUCTION = re.compile(r'^declare (.*) @"(llvm\.(?:x86\.avx512\.vpdp|aarch64)[^"]*)"\((.*)\)$', re.MULTILINE)


def compiled(text: str, target: Target) -> compilation.Library:
    """The code for this machine: with the target's instructions if it has these, in plain IR otherwise."""
    if target in OWN.values():
        return compilation.compile(text, target)
    for found in _INSTRUCTION.finditer(text):
        declaration, name, lanes = found[0], found[2], int(re.findall(r"<(\d+) x", found[1])[0])
        text = text.replace(declaration, in_plain_ir(target.dots, lanes)).replace(f'@"{name}"', "@dot")
    return compilation.compile(text.replace(target.triple, host().triple), host())


def in_plain_ir(dots: Dots | None, lanes: int) -> str:
    """The function ``dot``: products of signed bytes, or of unsigned ones with signed ones, four in a lane."""
    words, many, narrow = f"<{lanes} x i32>", f"<{4 * lanes} x i32>", f"<{4 * lanes} x i8>"
    given, extended = (words, "zext") if dots is Dots.UNSIGNED else (narrow, "sext")
    lines = [
        f"define internal {words} @dot({words} %s0, {given} %a, {given} %b) {{",
        f"%an = bitcast {given} %a to {narrow}\n%bn = bitcast {given} %b to {narrow}",
        f"%aw = {extended} {narrow} %an to {many}\n%bw = sext {narrow} %bn to {many}",
        f"%p = mul {many} %aw, %bw",
    ]
    for n in range(4):
        places = ", ".join(f"i32 {4 * lane + n}" for lane in range(lanes))
        lines += [f"%t{n} = shufflevector {many} %p, {many} poison, <{lanes} x i32> <{places}>"]
        lines += [f"%s{n + 1} = add {words} %s{n}, %t{n}"]
    return "\n".join([*lines, f"ret {words} %s4", "}"])


def in_digits(x: np.ndarray, target: Target) -> np.ndarray:
    """Rows [B, K] as rows of digits, in memory that was full of NaN."""
    count = x.shape[1]
    c = Cursor(target, 4)
    function = c.function("digits", POINTER, POINTER)
    with c.inside(function):
        write_digits(c, *function.args, count)
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(compiled(str(c.module), target).address("digits"))
    found = np.full((len(x), numbers_of_digits(count, c.lanes)), np.nan, np.float32)
    for row, to in zip(x, found, strict=True):
        run(np.ascontiguousarray(row).ctypes.data, to.ctypes.data)
    return found


def products(digits: np.ndarray, matrix: Int8Matrix, packing: Packing, target: Target) -> np.ndarray:
    """The rows times the only panel of a matrix, by the tile of so many rows."""
    name = int8_dots.names(packing.vectors, target)[len(digits) - 1]
    library = compiled(int8_dots.text(packing.vectors, target), target)
    kinds = [ctypes.c_void_p, ctypes.c_int64] * 3
    tile = ctypes.CFUNCTYPE(None, *kinds)(library.address(name))
    block, out = int8_panels(matrix, packing), np.full((len(digits), packing.width + 3), np.nan, np.float32)
    tile(digits.ctypes.data, digits.shape[1], begin(block), packing.depth, out.ctypes.data, out.shape[1])
    assert np.isnan(out[:, packing.width :]).all()
    return out[:, : packing.units]


def random_matrix(depth: int, columns: int) -> Int8Matrix:
    return Int8Matrix(torch.randint(-127, 128, (depth, columns), dtype=torch.int8), torch.rand(columns) + 0.1)


def whole_numbers(row: np.ndarray, count: int, target: Target) -> np.ndarray:
    """What the digits of a row come to."""
    lanes, groups = target.lanes(4), -(-count // 4)
    digits = row[lanes:].view(np.uint8)[: 12 * groups].reshape(groups, 3, 4)
    signed = digits.astype(np.int64) - 128 if target.dots is Dots.UNSIGNED else digits.view(np.int8).astype(np.int64)
    return (signed * np.array([[1], [256], [65536]])).sum(1).flatten()[:count]


LARGEST = [1.0, 1.98, 1.992157, np.nextafter(np.float32(2), np.float32(0)), 3e-9, 7e17]


@every_kind
@pytest.mark.parametrize("largest", LARGEST)
def test_digits_are_the_numbers_in_units_of_one_power_of_two(target, largest):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (2, 37)).astype(np.float32)
    x[0, 5], x[1, 36] = 1, -1
    x = (x * np.float32(largest)).astype(np.float32)
    for row, digits in zip(x, in_digits(x, target), strict=True):
        fraction, _ = np.frexp(digits[0])
        assert fraction == 0.5
        whole = whole_numbers(digits, 37, target)
        assert np.array_equal(whole, np.rint(row.astype(np.float64) / digits[0]))
        assert abs(whole).max() >= 2**21.9


@every_kind
@pytest.mark.parametrize(("vectors", "depth"), [(1, 8191), (1, 1), (3, 32), (8, 37)])
def test_products_are_those_of_float64(target, vectors, depth):
    torch.manual_seed(depth)
    lanes = target.lanes(4)
    packing = packing_of(depth, vectors * lanes - 1, (0,), vectors, lanes)
    packing = Packing(packing.product, (0,), packing.units, vectors, lanes, True, True)
    matrix = random_matrix(depth, packing.units)
    right = matrix.numbers.double().numpy() * matrix.factors.double().numpy()
    most = len(int8_dots.names(vectors, target))
    x = torch.randn(most, depth).numpy() * np.float32(10.0) ** np.arange(-2, most - 2, dtype=np.float32)[:, None]
    digits = in_digits(x, target)
    alone = [products(digits[i : i + 1], matrix, packing, target)[0] for i in range(most)]
    for rows in range(1, most + 1):
        found = products(digits[:rows], matrix, packing, target)
        expected = x[:rows].astype(np.float64) @ right
        # Of each number, relative to what it is a sum of: a few units in the last place of float32.
        sizes = np.linalg.norm(x[:rows], axis=1)[:, None] * np.linalg.norm(right, axis=0)
        assert (abs(found - expected) <= 3e-7 * sizes).all()
        assert np.array_equal(found, alone[:rows])  # bit for bit, whatever rows are beside


@every_kind
def test_the_largest_sums_there_are(target):
    """All numbers and weights at their limits: sums of 32 bits hold them."""
    lanes = target.lanes(4)
    packing = packing_of(8192, lanes, (0,), 1, lanes)
    packing = Packing(packing.product, (0,), lanes, 1, lanes, True, True)
    signs = torch.tensor([1, -1]).repeat(lanes // 2)
    matrix = Int8Matrix((127 * signs).expand(8192, -1).to(torch.int8).contiguous(), torch.ones(lanes))
    for largest in LARGEST:
        x = np.full((1, 8192), largest, np.float32)
        found = products(in_digits(x, target), matrix, packing, target)[0]
        assert np.allclose(found, 127 * 8192 * np.float64(np.float32(largest)) * signs.numpy(), rtol=2e-7)


@every_kind
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 3e38, 1e25, 1e-25, 1e-42, 0.0])
def test_rows_that_have_no_digits_are_products_of_floats(target, odd):
    torch.manual_seed(0)
    lanes = target.lanes(4)
    packing = packing_of(37, lanes, (0,), 1, lanes)
    packing = Packing(packing.product, (0,), lanes, 1, lanes, True, True)
    matrix = random_matrix(37, lanes)
    matrix.numbers[3, 1::2] = 0
    x = np.random.default_rng(0).uniform(-1, 1, (2, 37)).astype(np.float32)
    x[0] *= 0.0 if not np.isfinite(odd) else min(abs(odd), 1)
    x[0, 3] = odd
    digits = in_digits(x, target)
    found = products(digits, matrix, packing, target)
    with np.errstate(invalid="ignore", over="ignore"):
        whole = x[0] @ (matrix.numbers.numpy().astype(np.float32) * matrix.factors.numpy())
    assert np.allclose(found[0], whole, rtol=1e-5, atol=1e-6 * abs(odd) if np.isfinite(odd) else 0, equal_nan=True)
    assert np.array_equal(found[1], products(digits[1:], matrix, packing, target)[0])
