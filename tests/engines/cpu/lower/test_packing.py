"""How matrices are packed: panels that fill the registers, of equally many vectors where products share a nest."""

import dataclasses

import pytest
import torch

from treadle.compiler import program as p
from treadle.engines.cpu.lower.lowered import lower
from treadle.engines.cpu.lower.packing import Packing, by_columns, rows_of_tile, vectors_at_once
from treadle.engines.cpu.machine import target
from treadle.engines.passes.loop_nests import Kernel
from treadle.engines.passes.precision import Operands, Precision

NARROW = dataclasses.replace(target.host(), vector_bytes=32, registers=16)
ARM = target.described("aarch64-unknown-linux-gnu", "neoverse-n1", "+neon")
WIDE = dataclasses.replace(target.host(), vector_bytes=64, registers=32)


def placeholder(name, *shape):
    return p.placeholder(name, shape, torch.float32)


def packings(outputs, streams, cpu, in_steps=False):
    """Of all steps at once, or of a step with a state [B, 1] that stays as it is."""
    state = placeholder("state", p.BATCH, 1)
    carries = ((state, state),) if in_steps else ()
    kernel = Kernel(tuple(streams), (), carries, tuple(outputs), (), Precision(torch.float32))
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


@pytest.mark.parametrize("in_steps", [False, True])
def test_where_registers_are_few_all_steps_at_once_have_narrow_panels(in_steps):
    y, x = gates(1, 100)
    assert [packing.vectors for packing in packings([y], [x], NARROW, in_steps)] == [4 if in_steps else 2]
    assert [packing.vectors for packing in packings([y], [x], WIDE, in_steps)] == [4]


@pytest.mark.parametrize("cpu", [NARROW, WIDE])
def test_a_tile_leaves_registers_for_what_is_multiplied(cpu):
    """For a row of weights and a number that is spread, or for a vector of weights and a number of each row."""
    precision = Precision(torch.float32)
    for vectors in range(1, 9):
        most = rows_of_tile(vectors, precision, cpu)

        def needed(rows: int, vectors: int) -> int:
            return rows * vectors + (rows + 1 if by_columns(vectors, cpu) else vectors + 1)

        for rows in range(1, most + 1):
            at_once = vectors_at_once(rows, vectors, precision, cpu)
            assert vectors % at_once == 0
            assert rows == 1 or needed(rows, at_once) <= cpu.registers
        assert most == 8 or needed(most + 1, vectors_at_once(most + 1, vectors, precision, cpu)) > cpu.registers


def test_the_order_that_leaves_room_for_more_rows_is_taken():
    assert by_columns(4, NARROW)
    assert not by_columns(2, NARROW)


def test_where_registers_are_few_many_rows_take_two_vectors_at_a_time():
    precision = Precision(torch.float32)
    assert rows_of_tile(4, precision, NARROW) == 6
    assert [vectors_at_once(rows, 4, precision, NARROW) for rows in range(1, 7)] == [4, 4, 4, 2, 2, 2]
    assert rows_of_tile(3, precision, NARROW) == 4
    assert [vectors_at_once(rows, 3, precision, NARROW) for rows in range(1, 5)] == [3, 3, 3, 3]
    assert [vectors_at_once(rows, 4, precision, WIDE) for rows in range(1, 7)] == [4] * 6


@pytest.mark.parametrize(("vectors", "rows", "widened"), [(8, 3, 2), (6, 4, 3), (4, 5, 5), (2, 8, 8)])
def test_a_tile_on_arm_has_a_vector_of_factors_for_each_row(vectors, rows, widened):
    plain = Precision(torch.float32)
    assert rows_of_tile(vectors, plain, ARM) == rows
    assert rows_of_tile(vectors, dataclasses.replace(plain, right=Operands.PAIRS), ARM) == widened


@pytest.mark.parametrize(("count", "vectors"), [(1, 8), (2, 4), (3, 2), (4, 2)])
def test_a_row_of_a_panel_is_eight_vectors_on_arm(count, vectors):
    y, x = gates(count, 100)
    assert [packing.vectors for packing in packings([y], [x], ARM)] == [vectors]
