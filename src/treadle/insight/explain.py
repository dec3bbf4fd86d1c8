"""Finding out what the compiler did to a network: its loops and the rest, what is kept, who runs it, and why."""

import dataclasses
from typing import Any

from torch import Tensor

from treadle import state as states
from treadle.compiler import program as p
from treadle.engines import Call, Decision, Engine, Refusal, autocast_dtype, decide, program_of
from treadle.engines.network import Network
from treadle.errors import ShapeError
from treadle.insight.explanation import ExplainedMatrix, Explanation
from treadle.insight.plan_reader import PlanReader
from treadle.insight.value_names import ValueNames, called
from treadle.protocol import example_input
from treadle.running.session import Session
from treadle.running.sessions import Sessions
from treadle.running.snapshot import Snapshot


def explain(rnn: Any, x: Tensor | None = None) -> Explanation:
    """Explain what the compiler does with a network: loops, what is hoisted out of them, who runs it, and why.

    Nothing is computed or compiled. The network is taken as it is: its mode (training or evaluation), the device of its
    parameters, its hooks.

    Args:
        rnn: a `treadle.Recurrent`, a drop-in such as `treadle.LSTM`, or a session of one, `treadle.Session` or
            `treadle.Sessions`: then also in which numbers it keeps its weights, and how far rounding may have moved
            each matrix.
        x: a sequence such as the network will get, [B, T, ...] or [T, B, ...] as it takes them; needed only where the
            cell does not say what it reads (``input_size``), or where gradients with respect to the input count.

    Returns:
        An `Explanation`; ``print`` it.

    Raises:
        TypeError: ``rnn`` is none of these.
        ShapeError: the cell does not say what it reads, and no ``x`` was passed.

    Example:
        >>> import treadle as td
        >>> rnn = td.Recurrent(td.Stack([td.LSTMCell(3, 5), td.LSTMCell(5, 5)]))
        >>> for section in td.explain(rnn).sections:
        ...     print(f"{section.kind:<10} {section.place:<14} {', '.join(section.products)}".rstrip())
        once
        all steps  before layer0  x @ layer0.weight_ih.T
        loop       layer0 h c     layer0.h(t-1) @ layer0.weight_hh.T
        all steps  before layer1  layer0.h(t) @ layer1.weight_ih.T
        loop       layer1 h c     layer1.h(t-1) @ layer1.weight_hh.T
    """
    if isinstance(rnn, (Session, Sessions)):
        return _of_live(rnn.snapshot, x)
    name = type(rnn).__name__
    if states.takes_hx(rnn):
        fused = rnn.why_not_fused(_long(rnn) if x is None else x) is None
        if fused or rnn.bidirectional:
            text = "" if fused else "each layer and direction by itself; explain td.Recurrent(cell) for one of them"
            return Explanation(name, "torch.nn" if fused else "reference", text)
        rnn = rnn.recurrent()
    elif not hasattr(rnn, "cell") or not hasattr(rnn, "check_input"):
        raise TypeError(
            f"explain takes a Recurrent, a drop-in or a session, but was given a {name}: pass td.Recurrent(cell)"
        )
    cell, asked = rnn.cell, rnn.engine
    name = f"{name}({type(cell).__name__})" if name == "Recurrent" else name
    xs = _sequence(rnn, x)
    rnn.materialise(xs[0])
    state = states.initial_state(rnn, xs[0])
    call = Call(cell, state, xs, state, engine=asked, products=autocast_dtype(xs.device))
    decision = decide(call)
    engine = decision.engine
    network = program_of(call) if decision.network is None else decision.network
    said = (name, "" if engine is None else engine.name, _reason(decision))
    if isinstance(network, Refusal):
        return Explanation(*said)
    reader = PlanReader(network, engine, call.products, rnn.learn_initial_state, xs.requires_grad)
    random = tuple(f"{called(v)} {p.show_shape(v.shape)}" for v in reader.plan.random)
    session = "" if random and cell.training else _of_a_session(engine, network)
    return Explanation(*said, tuple(reader.sections()), random, session)


def _of_live(snapshot: Snapshot, x: Tensor | None) -> Explanation:
    """The network that a session runs, and how it keeps the weights of that."""
    matrices = {}
    for program in snapshot.programs():
        names = ValueNames(program.network.plan(False))
        for one in sorted(program.matrices, key=lambda one: names.first_input(one.value)):
            shape: Any = one.value.shape  # without rows
            matrices[one.value] = ExplainedMatrix(names.name(one.value), shape, one.numbers, one.bound, one.reason)
    found = explain(snapshot.recurrent, x)
    return dataclasses.replace(found, weights=snapshot.weights, matrices=tuple(matrices.values()))


def _of_a_session(engine: Engine | None, network: Network) -> str:
    """What a session does not run as machine code, and why."""
    if engine is None or not engine.steps_live:
        return ""
    left_out = engine.left_out_live(network)
    if isinstance(left_out, Refusal):
        return f"a session steps in Python: {left_out}"
    return f"a session leaves a part of each step to PyTorch: {left_out}" if left_out else ""


def _reason(decision: Decision) -> str:
    """Why another engine runs a network than the one that a user would expect."""
    asked, engine, refusal = decision.call.engine, decision.engine, decision.refusal
    if engine is None and refusal is not None:
        what = f" the loop over {refusal.loop}" if refusal.loop else ""
        return f"engine {asked!r} refuses{what}: {refusal}"
    if asked != "auto" and engine is not None and not engine.automatic:
        return f"engine={asked!r} was asked for"
    return "" if engine is None or engine.automatic or refusal is None else str(refusal)


def _sequence(rnn: Any, x: Tensor | None) -> Tensor:
    """What was passed, or else such as the network reads, [T, B, ...]."""
    if x is not None:
        rnn.check_input(x, 2, "sequence")
        return x.transpose(0, 1) if rnn.batch_first else x
    x = example_input(rnn.cell, 2)
    if x is None:
        raise ShapeError(
            f"{type(rnn.cell).__name__} does not say what it reads (it has no input_size): pass a sequence too,"
            " td.explain(rnn, x)"
        )
    return x[None]


def _long(rnn: Any) -> Tensor:
    """A sequence for a drop-in that is long and takes no memory: how a short one runs says little."""
    weight = next(iter(rnn.parameters()))
    return weight.new_zeros(1).expand(10_000, 10_000, rnn.input_size)
