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

    A panel is [K, words, lanes] of 32 bits and, behind it, [slots, vectors * lanes] of float32: the factors, by which
    sums are multiplied. The numbers of four vectors that follow each other are the digits of one vector of words, first
    to last, in base 256: each has its sign, so that the words of a negative matrix are negative. Where there is no
    unit, digits and factors are zeros.
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
        panels += [
            _words(numbers.view(packing.depth, -1, packing.lanes)).flatten(),
            factors.flatten().view(torch.int32),
        ]
    packed = torch.cat(panels).view(torch.uint8)
    block = torch.empty(len(packed) + LINE_BYTES, dtype=torch.uint8, device="cpu")
    start = unused(block)
    block[start : start + len(packed)] = packed
    return block


def _words(vectors: Tensor) -> Tensor:
    """Of numbers [K, vectors, lanes] the words [K, words, lanes]."""
    K, count, lanes = vectors.shape
    digits = torch.zeros(K, -(-count // DIGITS) * DIGITS, lanes, dtype=torch.int32, device="cpu")
    digits[:, :count] = vectors
    digits = digits.view(K, -1, DIGITS, lanes)
    words = digits[:, :, 0]
    for digit in range(1, DIGITS):
        words = 256 * words + digits[:, :, digit]
    return words
