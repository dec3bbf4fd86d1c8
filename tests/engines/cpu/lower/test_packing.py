"""How matrices are packed: panels that fill the registers, of equally many vectors where products share a nest."""

import dataclasses

import pytest
import torch

from treadle.compiler import program as p
from treadle.engines.cpu.lower.lowered import lower
from treadle.engines.cpu.lower.packing import Packing, rows_of_tile
from treadle.engines.cpu.machine import target
from treadle.engines.passes.loop_nests import Kernel
from treadle.engines.passes.precision import Precision

NARROW = dataclasses.replace(target.host(), vector_bytes=32, registers=16)
WIDE = dataclasses.replace(target.host(), vector_bytes=64, registers=32)


def placeholder(name, *shape):
    return p.placeholder(name, shape, torch.float32)


def packings(outputs, streams, cpu):
    kernel = Kernel(tuple(streams), (), (), tuple(outputs), (), Precision(torch.float32))
    return list(lower(kernel, cpu).packings.values())


def gates(count, units):
    """The sum of so many runs of columns of one product, which is fused into their nest."""
    x, w = placeholder("x", p.BATCH, 7), placeholder("w", 7, count * units)
    product = p.dot(x, w)
    total = None
    for i in range(count):
        gate = p.elementwise("tanh", p.slice_(product, 1, i * units, (i + 1) * units))
        total = gate if total is None else p.elementwise("add", total, gate)
    return total, x


@pytest.mark.parametrize(
    ("cpu", "count", "vectors"),
    [(WIDE, 1, 4), (WIDE, 2, 2), (WIDE, 3, 1), (WIDE, 4, 1), (NARROW, 1, 2), (NARROW, 2, 1), (NARROW, 4, 1)],
)
def test_the_more_gates_a_unit_has_the_fewer_units_are_in_a_panel(cpu, count, vectors):
    y, x = gates(count, 100)
    (packing,) = packings([y], [x], cpu)
    assert packing.slots == tuple(range(0, count * 100, 100))
    assert (packing.units, packing.vectors, packing.lanes) == (100, vectors, cpu.lanes(4))


def test_panels_are_no_wider_than_the_matrix():
    y, x = gates(1, 17)
    assert [packing.vectors for packing in packings([y], [x], WIDE)] == [2]


def test_products_of_one_nest_have_panels_alike():
    two, x = gates(2, 64)
    h, w = placeholder("h", p.BATCH, 5), placeholder("v", 5, 64)
    y = p.elementwise("mul", two, p.dot(h, w))
    assert [(len(packing.slots), packing.vectors) for packing in packings([y], [x, h], WIDE)] in (
        [(2, 2), (1, 2)],
        [(1, 2), (2, 2)],
    )


def test_every_column_has_a_place():
    for units, slots, vectors in [(1, 1, 1), (16, 2, 1), (33, 4, 1), (70, 1, 4), (64, 1, 4)]:
        product = p.dot(placeholder("x", p.BATCH, 3), placeholder("w", 3, units * slots))
        packing = Packing(product, tuple(range(0, units * slots, units)), units, vectors, 16)
        rest = packing.panels - 1
        columns = rest * packing.width + slots * packing.last_vectors * 16
        assert columns * packing.depth == packing.size
        assert 0 < packing.last_vectors <= vectors
        assert units <= rest * vectors * 16 + packing.last_vectors * 16 < units + 16


def test_a_tile_leaves_registers_for_a_row_of_weights_and_a_spread_number():
    for cpu in (NARROW, WIDE):
        for vectors in range(1, 9):
            rows = rows_of_tile(vectors, cpu)
            assert rows == 1 or rows * vectors + vectors + 1 <= cpu.registers
            assert rows == 8 or (rows + 1) * vectors + vectors + 1 > cpu.registers
