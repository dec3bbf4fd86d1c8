"""Where in memory things begin: at a cache line, and large ones not all at the same place of a page."""

import itertools

import torch
from torch import Tensor

from treadle.engines.cpu.machine import cache_sizes
from treadle.errors import EngineError

LINE_BYTES = cache_sizes.line()
"""Bytes of a cache line, at least those of the widest vector: one that begins with a line is read in one go."""
PAGE_BYTES = 4096
"""Bytes of a page, over which `Stagger` spreads what is large."""


def whole_lines(size: int) -> int:
    """Bytes of as many cache lines as ``size`` bytes take, of one at least."""
    return -(-max(size, 1) // LINE_BYTES) * LINE_BYTES


def address(tensor: Tensor) -> int:
    """Where a tensor's numbers begin in the memory of the CPU, which machine code reads.

    Raises:
        EngineError: they are on another device.
    """
    if not tensor.is_cpu:
        raise EngineError(
            f"the CPU engine was given a tensor {list(tensor.shape)} on {tensor.device}: move the whole network, its"
            " inputs and its states to one device, with .to()"
        )
    return tensor.data_ptr()


def begin(block: Tensor) -> int:
    """The first address of a block at which a cache line begins."""
    start = address(block)
    return start + -start % LINE_BYTES


def unused(block: Tensor) -> int:
    """Bytes of a block before the first cache line."""
    return begin(block) - address(block)


def where_it_was(block: Tensor, unused_before: int) -> Tensor:
    """A block of bytes, or a copy of it: hooks on what autograd saves may give it back from within a cache line.

    Args:
        block: as it came back.
        unused_before: `unused` of the block as it was saved.
    """
    if unused(block) == unused_before:
        return block
    copy = torch.empty(block.numel() + LINE_BYTES, dtype=block.dtype, device="cpu")
    held = block[unused_before:]
    copy[unused(copy) : unused(copy) + held.numel()] = held
    return copy


class Stagger:
    """Places of a page, another one each time.

    A core compares the last twelve bits of addresses first. Where they agree, it takes a read for one of what was just
    written 4096 bytes away, and waits (*4K aliasing*).
    """

    def __init__(self) -> None:
        self._places = itertools.count(0, 5 * LINE_BYTES)

    def after(self, address: int) -> int:
        """The first address from there on at the place whose turn it is."""
        return address + (next(self._places) - address) % PAGE_BYTES
