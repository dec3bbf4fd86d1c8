"""Where arguments and scratch are: every word and every number has one place."""

import pytest
import torch

import treadle as td
from tests.registry import build, sequence
from treadle.compiler.fission import Kind
from treadle.engines.cpu.lower.lowered import lower
from treadle.engines.cpu.lower.memory_layout import Places
from treadle.engines.cpu.machine import target
from treadle.engines.cpu.plan.section import CompiledSection
from treadle.engines.network import network_of
from treadle.engines.passes.support import why_not
from treadle.engines.whole_step import whole_step


def test_every_argument_has_a_place_of_its_own():
    table = Places.of(2, 3, 4, 5, 6)
    places = [table.steps, table.capacity, table.counts, table.offsets, table.resets]
    for rows in (table.streams, table.outputs):
        places += [word for place in rows for word in (place, place + 1)]
    places += [*table.invariants, *table.matrices]
    places += [place + word for place in table.carries for word in (table.start, table.finish, table.fresh)]
    groups = table.streams, table.outputs, table.invariants, table.matrices, table.carries
    assert [len(group) for group in groups] == [2, 3, 4, 5, 6]
    assert places == list(range(len(table)))


def kernels(subject, bfloat16):
    rnn = build(subject, torch.float32)
    network = network_of(rnn.cell, sequence(rnn, 2, 3, torch.float32)[:, 0], rnn.initial_state(2))
    for section in network.plan(False).sections:
        if section.kind in (Kind.LOOP, Kind.PARALLEL) and why_not(section) is None:
            one = CompiledSection(section, bfloat16, memory_bound=True)
            derivative = one.derivative(tuple(v.dtype.is_floating_point for v in one.section.inputs))
            yield from (part.kernel for part in (one.plain, derivative.forward, derivative.backward))


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("subject", ["layer-norm-lstm", "stack-feedback"])
def test_nothing_in_the_scratch_lies_on_something_else(subject, bfloat16):
    found = [lower(kernel, target.host()) for kernel in kernels(subject, bfloat16)]
    assert any(one.scratch.tiles for one in found)
    assert any(one.scratch.recent for one in found)
    for one in found:
        kernel, scratch, lanes = one.kernel, one.scratch, one.target.lanes(4)
        rows = [
            *scratch.buffers.values(),
            *scratch.pairs.values(),
            *(block for pair in scratch.carries for block in pair),
        ]
        end = 0
        for block in rows:  # one after the other
            assert block.start == end
            end += block.size
        assert end == scratch.per_row
        assert scratch.own(3) == scratch.fixed  # no digits, as no matrix is int8
        # A vector that begins with the last feature is still inside of the row.
        for value, block in scratch.buffers.items():
            assert block.size >= value.row_numel + lanes
        for (old, _), pair in zip(kernel.carries, scratch.carries, strict=True):
            assert all(block.size >= old.row_numel + lanes for block in pair)
        for value, begin, end in zip(
            kernel.sums, scratch.recent, [*scratch.recent, scratch.sums_size][1:], strict=True
        ):
            assert end - begin >= value.row_numel
        assert scratch.sums == tuple(begin + scratch.sums_size for begin in scratch.recent)
        tiles = sorted(scratch.tiles.values())
        assert all(tile >= 2 * scratch.sums_size for tile in tiles)
        assert len(set(tiles)) == len(tiles)
        assert scratch.fixed >= max(tiles, default=2 * scratch.sums_size)


def test_digits_of_left_operands_are_each_thread_s_own():
    target_with_dots = target.described("aarch64-unknown-linux-gnu", "neoverse-n1", "+neon,+dotprod")
    rnn = td.Recurrent(td.Stack([td.GRUCell(31, 40), td.GRUCell(40, 50)]))
    net = network_of(rnn.cell, torch.zeros(2, 31), rnn.initial_state(2))
    whole = CompiledSection(whole_step(net))
    one = lower(CompiledSection(whole_step(net), int8=tuple(whole.plain.matrices)).plain.kernel, target_with_dots)
    scratch, end = one.scratch, 0
    # The product of 31 numbers is one of floats.
    assert sorted(operand.row_numel for operand in scratch.digits) == [40, 40, 50]
    for operand, rows in scratch.digits.items():
        assert rows.start == end
        assert rows.size >= 4 + operand.row_numel
        end += rows.size
    assert scratch.digits_per_row == end
    assert scratch.own(3) == scratch.fixed + 3 * end


def test_pairs_of_left_operands_have_rows_of_their_own():
    pairs = target.host().bf16_dot
    for kernel in kernels("layer-norm-lstm", True):
        one = lower(kernel, target.host())
        assert set(one.scratch.pairs) == ({product.inputs[0] for product in one.packings} if pairs else set())
