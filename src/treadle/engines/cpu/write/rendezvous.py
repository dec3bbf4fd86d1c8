"""Threads that wait for each other inside of machine code, in LLVM IR.

How many threads come is not sure: a team may be smaller than asked for, and the system may have other things for one of
them to do. So whoever is there begins: those who have *joined* by the time that is worth waiting are the team, and who
comes later finds the work taken. From then on they *meet*, as often as they like.
"""

from typing import Any

from llvmlite import ir

from treadle.engines.cpu.machine.target import Target

WORDS = 24
"""Words of 64 bits that a meeting takes, all zero at first."""
_JOINED, _MET = 8, 16  # apart from each other and from what is beside them, as caches see it
_PATIENCE = 2000
"""Pauses, about a tenth of a millisecond, after which those who are there begin."""
_LONG = 20_000
"""Pauses after which whoever waits lets others use the core."""

_WORD, _POINTER = ir.IntType(64), ir.PointerType()


def join(b: Any, target: Target, meeting: Any, most: Any) -> Any:
    """A call that waits for a team: its number of threads in the upper half, our own number in the lower one.

    It is zero for who comes too late.

    Args:
        b: the builder.
        target: the CPU.
        meeting: the address of `WORDS` words.
        most: how many threads may come.
    """
    function = b.module.globals.get("join") or _join(b.module, target)
    return b.call(function, [meeting, most])


def meet(b: Any, target: Target, meeting: Any, arrivals: Any, give_way: Any) -> None:
    """A call that waits until so many have arrived in all, ourselves included, since the meeting began.

    Args:
        b: the builder.
        target: the CPU.
        meeting: the address of `WORDS` words.
        arrivals: as many as the team has threads, times how often it has met, this time included.
        give_way: the address of the system's function that lets others use the core, or zero.
    """
    function = b.module.globals.get("meet") or _meet(b.module, target)
    b.call(function, [meeting, arrivals, give_way])


def _function(module: ir.Module, name: str, result: ir.Type, kinds: list[ir.Type]) -> ir.Function:
    function = ir.Function(module, ir.FunctionType(result, kinds), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    return function


def _pause(b: Any, target: Target) -> None:
    """Tell the core that it waits."""
    name, numbers = target.pause
    if name:
        given = [ir.Constant(ir.IntType(32), number) for number in numbers]
        kind = ir.FunctionType(ir.VoidType(), [one.type for one in given])
        b.call(b.module.globals.get(name) or ir.Function(b.module, kind, name), given)


def _wait(b: Any, target: Target, spins: Any, most: int, look: Any, then: Any) -> Any:
    """Pause and look again, but after so many times go on; gives how often it has been."""
    _pause(b, target)
    following = b.add(spins, _WORD(1))
    b.cbranch(b.icmp_unsigned("<", following, _WORD(most)), look, then)
    return following


def _word(b: Any, meeting: Any, place: int) -> Any:
    return b.gep(meeting, [_WORD(place)], source_etype=_WORD)


def _join(module: ir.Module, target: Target) -> ir.Function:
    # In the lower half of the word who came, in the upper one how many there were when the team was closed.
    function = _function(module, "join", _WORD, [_POINTER, _WORD])
    meeting, most = function.args
    blocks = [function.append_basic_block(name) for name in ("come", "look", "count", "wait", "close", "done", "late")]
    come, look, count, wait, close, done, late = blocks
    half, lower = _WORD(32), _WORD(0xFFFFFFFF)

    b: Any = ir.IRBuilder(come)
    place = _word(b, meeting, _JOINED)
    before = b.atomic_rmw("add", place, _WORD(1), "acq_rel")
    number = b.and_(before, lower)
    b.cbranch(b.icmp_unsigned("==", b.lshr(before, half), _WORD(0)), look, late)

    b.position_at_end(look)
    spins = b.phi(_WORD)
    state = b.load_atomic(place, "acquire", 8, typ=_WORD)
    closed, there = b.lshr(state, half), b.and_(state, lower)
    b.cbranch(b.icmp_unsigned("==", closed, _WORD(0)), count, done)

    b.position_at_end(count)
    b.cbranch(b.icmp_unsigned(">=", there, most), done, wait)

    b.position_at_end(wait)
    following = _wait(b, target, spins, _PATIENCE, look, close)

    b.position_at_end(close)
    b.cmpxchg(place, state, b.or_(state, b.shl(there, half)), "acq_rel", "acquire")
    b.branch(look)
    for value, block in ((_WORD(0), come), (following, wait), (following, close)):
        spins.add_incoming(value, block)

    b.position_at_end(done)
    team = b.phi(_WORD)
    team.add_incoming(closed, look)
    team.add_incoming(most, count)
    b.ret(b.or_(b.shl(team, half), number))

    b.position_at_end(late)
    b.ret(_WORD(0))
    return function


def _meet(module: ir.Module, target: Target) -> ir.Function:
    function = _function(module, "meet", ir.VoidType(), [_POINTER, _WORD, _WORD])
    meeting, arrivals, give_way = function.args
    blocks = [function.append_basic_block(name) for name in ("come", "look", "wait", "long", "yield", "done")]
    come, look, wait, long, yields, done = blocks

    b: Any = ir.IRBuilder(come)
    place = _word(b, meeting, _MET)
    b.atomic_rmw("add", place, _WORD(1), "acq_rel")
    b.branch(look)

    b.position_at_end(look)
    spins = b.phi(_WORD)
    there = b.load_atomic(place, "acquire", 8, typ=_WORD)
    b.cbranch(b.icmp_signed(">=", there, arrivals), done, wait)

    b.position_at_end(wait)
    following = _wait(b, target, spins, _LONG, look, long)

    b.position_at_end(long)
    b.cbranch(b.icmp_unsigned("==", give_way, _WORD(0)), look, yields)

    b.position_at_end(yields)
    b.call(b.inttoptr(give_way, ir.FunctionType(ir.IntType(32), []).as_pointer()), [])
    b.branch(look)
    for value, block in ((_WORD(0), come), (following, wait), (_WORD(0), long), (_WORD(0), yields)):
        spins.add_incoming(value, block)

    b.position_at_end(done)
    b.ret_void()
    return function
