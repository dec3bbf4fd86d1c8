"""A program over time by the interpreter alone, with every value of every step kept."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from treadle.compiler import interpreter
from treadle.compiler.program import Program, Value
from treadle.engines import ENGINES, random_values, reference
from treadle.engines.call import Call
from treadle.engines.layout import Layout
from treadle.state import named_tensors


class Moment(NamedTuple):
    """A step.

    Args:
        values: what was computed, [B, ...]; zeros in rows that have ended.
        before: the state, by ``"state/NAME"``, that it began with, after a reset if there was one.
        after: the state that it ended with, which stands still in rows that have ended.
    """

    values: Mapping[Value, Tensor]
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]


class Replay:
    """A call, ready to be computed step by step.

    Args:
        call: the sequence, and what belongs to it.
        program: the step of its cell.
        constants: the tensors that the program reads besides ``"x"`` and ``"state/NAME"``, by name.
        made: what the step's Python makes: it draws random numbers that nothing depends on, too.
    """

    def __init__(self, call: Call, program: Program, constants: Mapping[str, Tensor], made: Iterable[Value]):
        self.call, self.program = call, program
        xs, self.resets, self.active = reference.without_padding(call)
        self.xs = list(xs.unbind(0))
        self.constants = {program.inputs[name]: tensor for name, tensor in constants.items()}
        self.states = {name: value for name, value in program.inputs.items() if name.startswith("state/")}
        self.initial = {f"state/{name}": tensor for name, tensor in named_tensors(call.initial)}
        self.start = {f"state/{name}": tensor for name, tensor in named_tensors(call.state)}
        drawn = sorted((v for v in made if v.draw is not None), key=lambda value: value.draw or 0)
        layout = Layout(call.xs.shape[0], call.xs.shape[1])
        self.drawn = random_values.draw(tuple(drawn), layout, dict(self.constants), ENGINES["interpreter"])

    def each(self, values: Iterable[Value]) -> Iterator[Moment]:
        """Step after step. What autograd has recorded of one leads on into the next."""
        wanted, rows = tuple(dict.fromkeys(values)), len(self.xs[0])
        given = {*self.constants, *self.states.values(), self.program.inputs["x"], *self.drawn}
        line = interpreter.Line([*wanted, *self.program.outputs.values()], given)
        after = self.start
        for t in range(len(self.xs)):
            before = self._reset(after, t)
            known = self._known(before, t)
            line.run(known, rows)
            after = {name: self._held(known[self.program.outputs[name]], before[name], t) for name in before}
            yield Moment({value: self._cleared(known[value], value, t) for value in wanted}, before, after)

    def copies(self, count: int) -> "Replay":
        """The same with every row ``count`` times, from the same random numbers; of one that has all its steps."""
        assert self.active is None
        other = copy.copy(self)
        other.xs = [x.repeat_interleave(count, 0) for x in self.xs]
        other.resets = None if self.resets is None else self.resets.repeat_interleave(count, 1)
        other.initial = {name: tensor.repeat_interleave(count, 0) for name, tensor in self.initial.items()}
        other.start = {name: tensor.repeat_interleave(count, 0) for name, tensor in self.start.items()}
        other.drawn = {v: tensor.repeat_interleave(count, v.batch_axis) for v, tensor in self.drawn.items()}
        return other

    def _known(self, state: Mapping[str, Tensor], t: int) -> dict[Value, Tensor]:
        rows = len(self.xs[0])
        drawn = {v: tensor.narrow(v.batch_axis, t * rows, rows) for v, tensor in self.drawn.items()}
        before = {value: state[name] for name, value in self.states.items()}
        return self.constants | before | drawn | {self.program.inputs["x"]: self.xs[t]}

    def _reset(self, state: Mapping[str, Tensor], t: int) -> Mapping[str, Tensor]:
        if self.resets is None:
            return state
        return {name: _where(self.resets[t], self.initial[name], tensor) for name, tensor in state.items()}

    def _held(self, new: Tensor, old: Tensor, t: int) -> Tensor:
        return new if self.active is None else _where(self.active[t], new, old)

    def _cleared(self, tensor: Tensor, value: Value, t: int) -> Tensor:
        tensor = tensor.movedim(value.batch_axis, 0)
        return tensor if self.active is None else _where(self.active[t], tensor, torch.zeros_like(tensor))


def _where(mask: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    return torch.where(mask.reshape(-1, *[1] * (other.ndim - 1)), chosen, other)
