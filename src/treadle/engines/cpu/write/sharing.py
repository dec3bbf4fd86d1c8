"""How threads share out a kernel: the questions that the writers ask."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from llvmlite import ir

from treadle.engines.cpu.lower.lowered import Lowered
from treadle.engines.cpu.write.cursor import Cursor
from treadle.engines.passes.loop_nests import Nest

Over = Callable[[int, Callable[[ir.Value, int], Any]], None]
"""``over(count, body)`` writes ``body(j, valid lanes)`` for those vectors of ``count`` features that are ours."""

Panels = Callable[[int, bool, Callable[[ir.Value, bool], None]], None]
"""``panels(whole ones, whether another has fewer vectors, body)`` writes ``body(panel, whether whole)`` for ours."""


@dataclasses.dataclass(frozen=True)
class Work:
    """Nests without products, and which rows and features of them are ours."""

    nests: Sequence[Nest]
    first: ir.Value
    last: ir.Value
    over: Over


def all_panels(c: Cursor, whole: int, rest: bool, panel_of: Callable[[ir.Value, bool], None]) -> None:
    """All panels of a phase's products."""
    if whole:
        with c.loop(0, whole) as panel:
            panel_of(panel, True)
    if rest:
        panel_of(c.const(whole), False)


def some_panels(
    c: Cursor, first: ir.Value, last: ir.Value, whole: int, rest: bool, panel_of: Callable[[ir.Value, bool], None]
) -> None:
    """The panels from one to before another."""
    with c.loop(first, c.minimum(last, c.const(whole))) as panel:
        panel_of(panel, True)
    if rest:
        with c.b.if_then(c.b.icmp_signed(">", last, c.const(whole))):
            panel_of(c.const(whole), False)


@dataclasses.dataclass(eq=False)
class Sharing:
    """What is a thread's own, and what it waits for: here, everything is, and it waits for nobody.

    Args:
        cursor: at the beginning of the function.
        lowered: the kernel.
        first, last: which rows of the batch the function takes.
        scratch: the address of the blocks of rows.
        own: the address of sums and tiles, which are each thread's own.
    """

    cursor: Cursor
    lowered: Lowered
    first: ir.Value
    last: ir.Value
    scratch: ir.Value
    own: ir.Value

    states_outside: ClassVar = False
    """Whether a step reads states where they start, not from the scratch."""

    def behind_own(self, offset: ir.Value, capacity: ir.Value) -> ir.Value:
        """Where a number of the blocks of rows is in the scratch, which has room for so many rows."""
        return offset

    def state_size(self, i: int) -> int:
        """How many numbers the rows of a state are apart before a step."""
        return self.lowered.scratch.carries[i][0].size

    def state_row(self, r: ir.Value) -> ir.Value:
        """Which row of a state's tensor row ``r`` of ours has."""
        return self.cursor.b.add(self.first, r)

    def panels(self, count: int) -> Panels:
        """Which of so many panels of a phase are ours."""
        return functools.partial(all_panels, self.cursor)

    def plain(self, nests: Sequence[Nest], rows: ir.Value) -> Iterator[Work]:
        """Which parts of nests without products are ours, of so many rows; writes where to wait between them."""
        yield Work(nests, self.cursor.const(0), rows, self.cursor.over)

    @contextlib.contextmanager
    def once(self, changes: ir.Value | None = None) -> Iterator[None]:
        """What is done once for all rows of the kernel; the others wait where it ``changes`` what they read."""
        yield

    def wait(self) -> None:
        """Wait until all rows have come so far."""
