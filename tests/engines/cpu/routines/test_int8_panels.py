"""Panels of int8, and the products that read them, against plain PyTorch."""

import dataclasses

import pytest
import torch

from tests.engines.cpu.routines.test_weight_panels import SHAPES, packing_of, panels
from treadle.engines.cpu.machine.alignment import unused
from treadle.engines.cpu.routines.int8_panels import int8_panels
from treadle.engines.passes.int8 import Int8Matrix


def packed(shape, lanes, packing):
    """A random matrix in panels; and of each panel its numbers and its factors, as plain PyTorch has them."""
    _, units, slots, vectors = shape
    columns = max(slots) + units
    matrix = Int8Matrix(torch.randint(-127, 128, (packing.depth, columns), dtype=torch.int8), torch.rand(columns))
    block = int8_panels(matrix, packing)
    factors = panels(matrix.factors[None], packing_of(1, units, slots, vectors, lanes))
    return block[unused(block) :], list(zip(panels(matrix.numbers, packing), factors, strict=True))


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_packs_every_number_as_a_digit_and_the_factors_behind_each_panel(shape, lanes):
    depth, units, slots, vectors = shape
    packing = dataclasses.replace(packing_of(depth, units, slots, vectors, lanes), int8=True)
    held, expected_of_panels = packed(shape, lanes, packing)
    end = 0
    for number, (panel, own) in enumerate(expected_of_panels):
        assert end == number * packing.int8_panel_bytes
        rows = panel.reshape(depth, -1, lanes)
        words = -(-rows.shape[1] // 4)
        begin, end = end, end + 4 * depth * words * lanes
        left = held[begin:end].view(torch.int32).reshape(depth, words, lanes).long()
        for digit in (3, 2, 1, 0):  # last to first, each with its sign
            last = (left + 128) % 256 - 128
            left = (left - last) // 256
            expected = rows[:, digit::4]
            assert torch.equal(last[:, : expected.shape[1]], expected.long())
            assert not last[:, expected.shape[1] :].any()
        assert not left.any()
        begin, end = end, end + 4 * own.numel()
        assert torch.equal(held[begin:end].view(torch.float32), own.flatten())


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_of_whole_products_a_word_has_four_rows_and_sums_lie_behind_the_factors(shape, lanes):
    depth, units, slots, vectors = shape
    packing = dataclasses.replace(packing_of(depth, units, slots, vectors, lanes), int8=True, dots=True)
    held, expected_of_panels = packed(shape, lanes, packing)
    end = 0
    for number, (panel, own) in enumerate(expected_of_panels):
        assert end == number * packing.int8_panel_bytes
        rows = panel.reshape(depth, -1)
        groups = -(-depth // 4)
        parts = [4 * groups * rows.shape[1], 4 * rows.shape[1], 4 * rows.shape[1]]
        words, its_factors, begin = held[end : end + sum(parts)].split(parts)
        found = words.view(torch.int8).view(groups, rows.shape[1], 4).transpose(1, 2).reshape(4 * groups, -1)
        assert torch.equal(found[:depth], rows)
        assert not found[depth:].any()
        assert torch.equal(its_factors.view(torch.float32), own.flatten())
        assert torch.equal(begin.view(torch.int32), -128 * rows.int().sum(0, dtype=torch.int32))
        end += sum(parts)
