"""All steps of a few rows by threads side by side, which share out columns as in ``by_columns.py``.

Threads are called once for a sequence and wait for each other between the phases of each step, a few tenths of a
microsecond. ``run(arguments, most, scratch, own, own size, meeting, give way)`` is called by up to ``most`` threads at
once, all with the same arguments. ``scratch`` is memory for all of them; from ``own`` on each has so many bytes, where
its sums are. ``meeting`` are words that are zero, ``give way`` is the system's function that lets others use the core.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llvmlite import ir

from treadle.engines.cpu.lower.lowered import Lowered
from treadle.engines.cpu.write.addresses import Table
from treadle.engines.cpu.write.cursor import I8, I64, POINTER, Cursor
from treadle.engines.cpu.write.rendezvous import join, meet
from treadle.engines.cpu.write.sharing import Panels, Sharing, Work, some_panels
from treadle.engines.cpu.write.steps import Phases, Steps, Sums
from treadle.engines.passes.loop_nests import Nest


@dataclasses.dataclass(eq=False)
class _SideBySide(Sharing):
    """Threads that wait for each other: number ``number`` of a ``team`` of so many."""

    meeting: ir.Value
    give_way: ir.Value
    team: ir.Value
    number: ir.Value
    met: ir.Value
    """Where it is counted how many threads have arrived at all meetings so far."""

    def __post_init__(self) -> None:
        self.is_first = self.cursor.b.icmp_unsigned("==", self.number, self.cursor.const(0))

    def panels(self, count: int) -> Panels:
        return functools.partial(some_panels, self.cursor, *self._share(self.cursor.const(count)))

    def plain(self, nests: Sequence[Nest], rows: ir.Value) -> Iterator[Work]:
        # Where features do not wait for each other, each thread has those that it also has of the products.
        for nest, following in itertools.zip_longest(nests, nests[1:]):
            by_features = self._has_features(nest)
            if by_features:
                yield Work([nest], self.cursor.const(0), rows, self._over_own)
            else:
                yield Work([nest], *self._share(rows), self.cursor.over)
            if following is not None and (by_features or self._has_features(following)):
                self.wait()

    def _share(self, count: ir.Value) -> tuple[ir.Value, ir.Value]:
        """From where to where our part of so many goes."""
        b, following = self.cursor.b, self.cursor.b.add(self.number, self.cursor.const(1))
        first, last = (b.sdiv(b.mul(count, n), self.team) for n in (self.number, following))
        return first, last

    def _has_features(self, nest: Nest) -> bool:
        return not nest.reduced and bool(nest.domain) and nest.domain[-1] > self.cursor.lanes

    def _over_own(self, count: int, body: Callable[[ir.Value, int], Any]) -> None:
        """Our vectors of so many features."""
        c = self.cursor
        whole, rest = divmod(count, c.lanes)

        def vector_of(n: ir.Value, is_whole: bool) -> None:
            if is_whole:
                body(c.b.mul(n, c.const(c.lanes)), c.lanes)
            else:
                body(c.const(whole * c.lanes), rest)

        self.panels(whole + bool(rest))(whole, bool(rest), vector_of)

    @contextlib.contextmanager
    def once(self, changes: ir.Value | None = None) -> Iterator[None]:
        b = self.cursor.b
        with contextlib.ExitStack() as stack:
            if changes is not None:
                stack.enter_context(b.if_then(changes, likely=False))
            with b.if_then(self.is_first):
                yield
            if changes is not None:
                self.wait()

    def wait(self) -> None:
        b = self.cursor.b
        arrivals = b.add(b.load(self.met, typ=I64), self.team)
        b.store(arrivals, self.met)
        meet(self.cursor, self.meeting, arrivals, self.give_way)


def text(lowered: Lowered) -> str:
    """The module."""
    c = Cursor(lowered.target, lowered.kernel.precision.dtype.itemsize)
    function = c.function("run", POINTER, I64, POINTER, POINTER, I64, POINTER, I64)
    arguments, most, scratch, own, own_size, meeting, give_way = function.args
    with c.inside(function):
        table, b = Table(c, arguments), c.b
        begin, late = function.append_basic_block("begin"), function.append_basic_block("late")
        joined = join(c, meeting, most)
        team, number = b.lshr(joined, c.const(32)), b.and_(joined, c.const(0xFFFFFFFF))
        b.cbranch(b.icmp_unsigned("==", team, c.const(0)), late, begin)
        b.position_at_end(late)
        b.ret_void()
        b.position_at_end(begin)
        rows = table.word(lowered.places.capacity)
        met = c.slot(I64)
        b.store(c.const(0), met)
        sharing = _SideBySide(c, lowered, c.const(0), rows, scratch, own, meeting, give_way, team, number, met)
        sums = Sums(sharing)
        # The sums of who did not come are zero.
        with b.if_then(sharing.is_first), c.loop(team, most) as absent:
            sums.clear(b.gep(own, [b.mul(absent, own_size)], source_etype=I8))
        sharing.own = b.gep(own, [b.mul(number, own_size)], source_etype=I8)
        sums.clear(sharing.own)
        Steps(Phases(table, sharing), sums).write()
        sums.flush()
    return str(c.module)
