"""Loops in LLVM IR, for the generators that write them with a builder."""

import contextlib
from collections.abc import Iterator
from typing import Any

from llvmlite import ir

__all__ = ["counted"]


@contextlib.contextmanager
def counted(b: Any, start: Any, stop: Any, step: Any) -> Iterator[Any]:
    """``for i in range(start, stop, step)``, on 64-bit numbers: what is built inside is the body."""
    before = b.block
    head, body, end = (b.append_basic_block(name) for name in ("loop", "body", "end"))
    b.branch(head)
    b.position_at_end(head)
    i = b.phi(ir.IntType(64))
    i.add_incoming(start, before)
    b.cbranch(b.icmp_signed("<", i, stop), body, end)
    b.position_at_end(body)
    yield i
    i.add_incoming(b.add(i, step), b.block)
    b.branch(head)
    b.position_at_end(end)
