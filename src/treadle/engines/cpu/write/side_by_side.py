"""All steps of a few rows by several threads side by side: each computes some of the columns of every product.

What rows that are few wait for in every step are the weights: see ``panels.py``. Threads are called once for a
sequence and wait for each other between the phases of each step, a few tenths of a microsecond.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llvmlite import ir

from treadle.engines.cpu.lower.schedule import Nest
from treadle.engines.cpu.write.emit import I64, POINTER, Code, phases_of
from treadle.engines.cpu.write.panels import PanelEmitter
from treadle.engines.cpu.write.rendezvous import join, meet

__all__ = ["AbreastEmitter", "side_by_side"]

# In cycles of a core, as measured on servers of 2023 and 2024.
_MULTIPLY = 0.5
"""To multiply a vector of a matrix with a number of a row."""
_NEAR, _FAR, _FAR_BYTES = 2.0, 5.0, 3 << 19
"""To read a vector of a matrix, from the second cache or, if it is larger than that, from the third."""
_MEETING = 800.0
"""For threads to wait for each other."""
_LINE = 150.0
"""To read a vector that another thread has just written."""
_WORTH = 1.25
"""How many times as fast it has to be, by this reckoning."""


def side_by_side(code: Code, rows: int, count: int) -> int:
    """How many of so many threads are to do a kernel's steps side by side; 1 if they are to share out its rows.

    Args:
        code: the kernel.
        rows: of the batch.
        count: how many threads there are.
    """
    count = min(count, max((packing.panels for packing in code.packings), default=1))
    if count < 2:
        return 1
    itemsize, lanes = code.kernel.precision.dtype.itemsize, code.packings[0].lanes
    vectors = sum(packing.size for packing in code.packings) / lanes

    def products(share: float, of_rows: int) -> float:
        read = _NEAR if share * lanes * itemsize <= _FAR_BYTES else _FAR
        return share * max(of_rows * _MULTIPLY, read)

    written = sum(packing.product.inputs[0].row_numel for packing in code.packings) * rows / lanes
    apart = products(vectors, -(-rows // count))
    abreast = products(vectors / count, rows) + len(phases_of(code.schedule)) * _MEETING
    abreast += written * (count - 1) / count * _LINE
    return count if apart > _WORTH * abreast else 1


class AbreastEmitter(PanelEmitter):
    """Writes ``run(arguments, most, scratch, own, own size, meeting, give way)``: all steps of all rows.

    It is called by up to ``most`` threads at once, all with the same arguments. ``scratch`` is memory for all of them;
    from ``own`` on each has so many bytes, where its sums are. ``meeting`` are words that are zero, ``give way`` is the
    system's function that lets others use the core.
    """

    def text(self) -> str:
        kind = ir.FunctionType(ir.VoidType(), [POINTER, I64, POINTER, POINTER, I64, POINTER, I64])
        function = ir.Function(self.module, kind, "run")
        self.arguments, most, self.scratch, own, own_size, self.meeting, self.give_way = function.args
        start = self._begin(function)
        begin, end = function.append_basic_block("begin"), function.append_basic_block("late")
        b = self.b
        joined = join(b, self.target, self.meeting, most)
        self.team, self.number = b.lshr(joined, self.const(32)), b.and_(joined, self.const(0xFFFFFFFF))
        b.cbranch(b.icmp_unsigned("==", self.team, self.const(0)), end, begin)
        b.position_at_end(end)
        b.ret_void()
        b.position_at_end(begin)
        self.is_first = b.icmp_unsigned("==", self.number, self.const(0))
        self.met = self._slot(I64)
        b.store(self.const(0), self.met)
        self.first, self.last = self.const(0), self.table["capacity"]
        nothing = ir.Constant(self.vector, [0.0] * self.lanes)
        # The sums of who did not come are zero.
        with b.if_then(self.is_first), self.loop(self.team, most, self.const(1)) as absent:
            self.own = self._bytes_on(own, b.mul(absent, own_size))
            self._over(2 * self.sums_size, lambda j, valid: self._store(nothing, self._at(self.own, j), valid))
        self.own = self._bytes_on(own, b.mul(self.number, own_size))
        self._over(2 * self.sums_size, lambda j, valid: self._store(nothing, self._at(self.own, j), valid))
        self._all_steps()
        self._flush()
        b.ret_void()
        self.entry.branch(start)
        return str(self.module)

    def _bytes_on(self, address: Any, count: Any) -> Any:
        return self.b.gep(address, [count], source_etype=ir.IntType(8))

    def _phase(self, phase: Any) -> None:
        if not isinstance(phase, list):
            self.first_panel, self.last_panel = self._share(self.const(self.panels_of(phase)))
        super()._phase(phase)

    def _share(self, count: Any) -> list[Any]:
        """From where to where our part of so many goes."""
        b = self.b
        numbers = self.number, b.add(self.number, self.const(1))
        return [b.sdiv(b.mul(count, number), self.team) for number in numbers]

    def _plain(self, nests: Sequence[Nest]) -> None:
        # Where features do not wait for each other, each thread has those that it also has of the products.
        for nest, following in itertools.zip_longest(nests, nests[1:]):
            self.by_features = self._has_features(nest)
            super()._plain([nest])
            if following is not None and (self.by_features or self._has_features(following)):
                self._meet()

    def _has_features(self, nest: Nest) -> bool:
        return not nest.reduced and bool(nest.domain) and nest.domain[-1] > self.lanes

    def _own_rows(self) -> tuple[Any, Any]:
        if self.by_features:
            return super()._own_rows()
        begin, stop = self._share(self.rows)
        return begin, stop

    def _over_features(self, count: int, body: Callable[[Any, int], Any]) -> None:
        if not self.by_features:
            self._over(count, body)
            return
        whole, rest = divmod(count, self.lanes)
        first, last = self._share(self.const(whole + bool(rest)))
        with self.loop(first, self._minimum(last, self.const(whole)), self.const(1)) as vector:
            body(self.b.mul(vector, self.const(self.lanes)), self.lanes)
        if rest:
            with self.b.if_then(self.b.icmp_signed(">", last, self.const(whole))):
                body(self.const(whole * self.lanes), rest)

    @contextlib.contextmanager
    def _by_one(self, changes: Any = None) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            if changes is not None:
                stack.enter_context(self.b.if_then(changes, likely=False))
            with self.b.if_then(self.is_first):
                yield
            if changes is not None:
                self._meet()

    def _meet(self) -> None:
        b = self.b
        arrivals = b.add(b.load(self.met, typ=I64), self.team)
        b.store(arrivals, self.met)
        meet(b, self.target, self.meeting, arrivals, self.give_way)
