"""The arguments of a kernel, and the table in memory from which it can read them."""

import dataclasses
from collections.abc import Sequence

import torch

from treadle.engines.gpu.lower.tiling import Products
from treadle.engines.passes.loop_nests import Kernel


@dataclasses.dataclass(frozen=True)
class Argument:
    """One argument.

    Args:
        name: in the source.
        dtype: of a number; or of the numbers that are at an address.
        is_address: whether it is one.
    """

    name: str
    dtype: torch.dtype
    is_address: bool = True

    @property
    def type(self) -> str:
        """The dtype in Triton's language."""
        return f"tl.{str(self.dtype).removeprefix('torch.')}"


NUMBERS = ("B", "steps", "block", "begin", "end")
"""The arguments that are no addresses: rows, steps, the first block of rows, the first step, the one after the last."""
ALIGNED = 16
"""Bytes of which addresses in tables are multiples."""


def arguments_of(kernel: Kernel, products: int, how: Products) -> tuple[Argument, ...]:
    """The arguments of a kernel with so many products, in order."""
    dtype = kernel.precision.dtype
    matrix = torch.bfloat16 if how is Products.BFLOAT16 else dtype
    groups = ("o", len(kernel.outputs), dtype), ("v", len(kernel.invariants), dtype), ("m", products, matrix)
    found = [Argument(f"s{i}", _as_read(value.dtype, dtype)) for i, value in enumerate(kernel.streams)]
    found += [Argument(f"{kind}{i}", of) for kind, count, of in groups for i in range(count)]
    found += [Argument(f"{kind}{i}", dtype) for i in range(len(kernel.carries)) for kind in "azf"]
    found += [Argument("lengths", torch.int32), Argument("offsets", torch.int64), Argument("resets", torch.uint8)]
    found += [Argument("scratch", dtype), Argument("meetings", torch.int64)]
    return (*found, *(Argument(name, torch.int32, False) for name in NUMBERS))


def _as_read(own: torch.dtype, dtype: torch.dtype) -> torch.dtype:
    """Truth values are numbers; whole numbers are looked up in an embedding."""
    return dtype if own.is_floating_point or own == torch.bool else own


def in_table(arguments: Sequence[Argument]) -> Sequence[Argument]:
    """The arguments that a table has; the last one is the first step."""
    return arguments[:-1]


def from_table(arguments: Sequence[Argument]) -> list[str]:
    """Lines that read a kernel's arguments from ``table``, for one step, ``ahead`` of the one that is there."""
    lines = []
    for i, one in enumerate(in_table(arguments)):
        number = f"tl.load(table + {i})"
        address = f"tl.multiple_of({number}.to(tl.pointer_type({one.type})), {ALIGNED})"
        lines.append(f"{one.name} = {address if one.is_address else f'{number}.to({one.type})'}")
    return [*lines, "begin += ahead", "end = begin + 1"]


def table_writer(arguments: Sequence[Argument]) -> str:
    """The source of a kernel that writes the arguments that it gets into a table."""
    names = [one.name for one in in_table(arguments)]
    numbers = [one.name for one in in_table(arguments) if not one.is_address]
    lines = [f"    tl.store(table + {i}, {name}.to(tl.int64))" for i, name in enumerate(names)]
    head = f"@triton.jit(do_not_specialize={numbers})\ndef write_table({', '.join(names)}, table):"
    return "\n".join(["", "", head, *lines, ""])
