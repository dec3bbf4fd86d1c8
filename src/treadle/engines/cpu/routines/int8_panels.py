"""Matrices of int8 laid out for products: panels as in ``weight_panels.py``, four numbers a word, and factors behind.

A session's weights are packed once, so this is plain PyTorch.
"""

import torch
from torch import Tensor

from treadle.engines.cpu.lower.packing import DIGITS, Packing
from treadle.engines.cpu.machine.alignment import LINE_BYTES, unused
from treadle.engines.passes.int8 import Int8Matrix


def int8_panels(matrix: Int8Matrix, packing: Packing) -> Tensor:
    """A block of bytes in which the panels lie one after another, from its first cache line on.

    A panel is [rows, words, lanes] of 32 bits and, behind it, [slots, vectors * lanes] of float32: the factors, by
    which sums are multiplied. Where there is no unit, numbers and factors are zeros.

    Words are the digits of vectors, K rows of them, or for whole products groups of four rows, K / 4. There, behind the
    factors, are as many numbers of 32 bits: -128 times the sum of each column, see ``write/int8_dots.py``.
    """
    whole, panels = packing.vectors * packing.lanes, []
    for first in range(0, packing.units, whole):
        count = min(whole, packing.units - first)
        room = -(-count // packing.lanes) * packing.lanes
        numbers = torch.zeros(packing.depth, len(packing.slots), room, dtype=torch.int8, device="cpu")
        factors = torch.zeros(len(packing.slots), room, device="cpu")
        for g, slot in enumerate(packing.slots):
            columns = slice(slot + first, slot + first + count)
            numbers[:, g, :count], factors[g, :count] = matrix.numbers[:, columns], matrix.factors[columns]
        in_words = _groups_of_rows if packing.dots else _digits_of_vectors
        panels.append(in_words(numbers.view(packing.depth, -1, packing.lanes)).flatten())
        panels.append(factors.flatten().view(torch.int32))
        if packing.dots:
            panels.append(numbers.sum(0, dtype=torch.int32).mul(-128).flatten())
    packed = torch.cat(panels).view(torch.uint8)
    block = torch.empty(len(packed) + LINE_BYTES, dtype=torch.uint8, device="cpu")
    start = unused(block)
    block[start : start + len(packed)] = packed
    return block


def _groups_of_rows(vectors: Tensor) -> Tensor:
    """Of numbers [K, vectors, lanes] the words [K / 4, vectors, lanes]: a word has four rows, one number a byte."""
    K, count, lanes = vectors.shape
    rows = torch.zeros(-(-K // DIGITS) * DIGITS, count, lanes, dtype=torch.int8, device="cpu")
    rows[:K] = vectors
    return rows.view(-1, DIGITS, count, lanes).permute(0, 2, 3, 1).contiguous().view(torch.int32)


def _digits_of_vectors(vectors: Tensor) -> Tensor:
    """Of numbers [K, vectors, lanes] the words [K, words, lanes].

    The numbers of four vectors that follow each other are the digits of one vector of words, first to last, in base
    256: each has its sign, so that the words of a negative matrix are negative.
    """
    K, count, lanes = vectors.shape
    digits = torch.zeros(K, -(-count // DIGITS) * DIGITS, lanes, dtype=torch.int32, device="cpu")
    digits[:, :count] = vectors
    digits = digits.view(K, -1, DIGITS, lanes)
    words = digits[:, :, 0]
    for digit in range(1, DIGITS):
        words = 256 * words + digits[:, :, digit]
    return words
