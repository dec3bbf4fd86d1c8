"""Threads that wait for each other inside of machine code, in LLVM IR.

How many threads come is not sure: a team may be smaller than asked for, and the system may have other things for one of
them to do. So whoever is there begins: those who have *joined* by the time that is worth waiting are the team, and who
comes later finds the work taken. From then on they *meet*, as often as they like.
"""

from typing import Any

from llvmlite import ir

from treadle.engines.cpu.machine.alignment import LINE_BYTES
from treadle.engines.cpu.write.cursor import I32, I64, POINTER, VOID, Cursor, const

_JOINED, _MET = LINE_BYTES // 8, 2 * LINE_BYTES // 8  # each in a line of its own
WORDS = 3 * LINE_BYTES // 8
"""Words of 64 bits that a meeting takes, all zero at first."""
_PATIENCE = 2000
"""Pauses, about a tenth of a millisecond, after which those who are there begin."""
_LONG = 20_000
"""Pauses after which whoever waits lets others use the core."""


def join(cursor: Cursor, meeting: ir.Value, most: ir.Value) -> ir.Value:
    """A call that waits for a team of ``most`` at the most: its number of threads in the upper half, ours in the lower.

    It is zero for who comes too late. ``meeting`` is the address of `WORDS` words.
    """
    function = cursor.module.globals.get("join") or _join(cursor)
    return cursor.b.call(function, [meeting, most])


def meet(cursor: Cursor, meeting: ir.Value, arrivals: ir.Value, give_way: ir.Value) -> None:
    """A call that waits until so many have arrived in all, ourselves included, since the meeting began.

    Those are as many as the team has threads, times how often it has met, this time included. ``give_way`` is the
    address of the system's function that lets others use the core, or zero.
    """
    function = cursor.module.globals.get("meet") or _meet(cursor)
    cursor.b.call(function, [meeting, arrivals, give_way])


class _Waiting:
    """A function that counts up a word of a meeting, and then looks at it until it is as it should be."""

    def __init__(self, cursor: Cursor, name: str, result: ir.Type, arguments: int, word: int, blocks: str):
        self.cursor = cursor
        self.function = ir.Function(cursor.module, ir.FunctionType(result, [POINTER] + [I64] * arguments), name)
        self.function.linkage = "internal"
        self.function.attributes.add("noinline")
        self.blocks = [self.function.append_basic_block(block) for block in blocks.split()]
        self.b: Any = ir.IRBuilder(self.blocks[0])
        self.word = self.b.gep(self.function.args[0], [const(word)], source_etype=I64)
        self.before = self.b.atomic_rmw("add", self.word, const(1), "acq_rel")

    def look(self) -> tuple[Any, Any]:
        """How often it has been looked at, and the word."""
        self.b.position_at_end(self.blocks[1])
        return self.b.phi(I64), self.b.load_atomic(self.word, "acquire", 8, typ=I64)

    def wait(self, block: Any, spins: Any, most: int, then: Any) -> Any:
        """Pause and look again, but after so many times go on; gives how often it has been."""
        b, (name, numbers) = self.b, self.cursor.target.pause
        b.position_at_end(block)
        if name:
            b.call(self.cursor.declared(name, VOID, *[I32] * len(numbers)), [ir.Constant(I32, n) for n in numbers])
        following = b.add(spins, const(1))
        b.cbranch(b.icmp_unsigned("<", following, const(most)), self.blocks[1], then)
        return following


def _join(cursor: Cursor) -> ir.Function:
    # In the lower half of the word who came, in the upper one how many there were when the team was closed.
    waiting = _Waiting(cursor, "join", I64, 1, _JOINED, "come look count wait close done late")
    come, look, count, wait, close, done, late = waiting.blocks
    b, most, half, lower = waiting.b, waiting.function.args[1], const(32), const(0xFFFFFFFF)
    number = b.and_(waiting.before, lower)
    b.cbranch(b.icmp_unsigned("==", b.lshr(waiting.before, half), const(0)), look, late)

    spins, state = waiting.look()
    closed, there = b.lshr(state, half), b.and_(state, lower)
    b.cbranch(b.icmp_unsigned("==", closed, const(0)), count, done)

    b.position_at_end(count)
    b.cbranch(b.icmp_unsigned(">=", there, most), done, wait)

    following = waiting.wait(wait, spins, _PATIENCE, close)

    b.position_at_end(close)
    b.cmpxchg(waiting.word, state, b.or_(state, b.shl(there, half)), "acq_rel", "acquire")
    b.branch(look)
    for value, block in ((const(0), come), (following, wait), (following, close)):
        spins.add_incoming(value, block)

    b.position_at_end(done)
    team = b.phi(I64)
    team.add_incoming(closed, look)
    team.add_incoming(most, count)
    b.ret(b.or_(b.shl(team, half), number))

    b.position_at_end(late)
    b.ret(const(0))
    return waiting.function


def _meet(cursor: Cursor) -> ir.Function:
    waiting = _Waiting(cursor, "meet", VOID, 2, _MET, "come look wait long yield done")
    come, look, wait, long, yields, done = waiting.blocks
    b, (_, arrivals, give_way) = waiting.b, waiting.function.args
    b.branch(look)

    spins, there = waiting.look()
    b.cbranch(b.icmp_signed(">=", there, arrivals), done, wait)

    following = waiting.wait(wait, spins, _LONG, long)

    b.position_at_end(long)
    b.cbranch(b.icmp_unsigned("==", give_way, const(0)), look, yields)

    b.position_at_end(yields)
    b.call(b.inttoptr(give_way, ir.FunctionType(I32, []).as_pointer()), [])
    b.branch(look)
    for value, block in ((const(0), come), (following, wait), (const(0), long), (const(0), yields)):
        spins.add_incoming(value, block)

    b.position_at_end(done)
    b.ret_void()
    return waiting.function
