"""A program over time by the interpreter alone, with every value of every step kept."""

import copy
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from treadle.compiler import interpreter
from treadle.compiler.program import Program, Value
from treadle.engines import ENGINES, random_values, reference
from treadle.engines.call import Call
from treadle.engines.layout import Layout
from treadle.state import named_tensors


class Replay:
    """A call, ready to be computed step by step.

    Args:
        call: the sequence, and what belongs to it.
        program: the step of its cell.
        constants: the tensors that the program reads besides ``"x"`` and ``"state/NAME"``, by name.
    """

    def __init__(self, call: Call, program: Program, constants: Mapping[str, Tensor]):
        self.call, self.program = call, program
        self.xs, self.resets, self.active = reference.without_padding(call)
        self.constants = {program.inputs[name]: tensor for name, tensor in constants.items()}
        self.states = {name: value for name, value in program.inputs.items() if name.startswith("state/")}
        self.initial = {f"state/{name}": tensor for name, tensor in named_tensors(call.initial)}
        self.start = {f"state/{name}": tensor for name, tensor in named_tensors(call.state)}
        drawn = sorted((v for v in program.values() if v.draw is not None), key=lambda value: value.draw or 0)
        layout = Layout(call.xs.shape[0], call.xs.shape[1])
        self.drawn = random_values.draw(tuple(drawn), layout, dict(self.constants), ENGINES["interpreter"])

    def run(self, values: Iterable[Value]) -> dict[Value, Tensor]:
        """Values at every step, [T, B, ...]; zeros past a row's end, where the state stands still."""
        wanted = tuple(dict.fromkeys(values))
        moments: dict[Value, list[Tensor]] = {value: [] for value in wanted}
        for now in self.each(wanted):
            for value, moment in moments.items():
                moment.append(now[value])
        return {value: torch.stack(moment) for value, moment in moments.items()}

    def each(self, values: Iterable[Value]) -> Iterator[dict[Value, Tensor]]:
        """Step after step, the values [B, ...]. What autograd has recorded of one step leads on into the next."""
        wanted, rows = tuple(values), len(self.xs[0])
        after = {name: self.program.outputs[name] for name in self.states}
        given = {*self.constants, *self.states.values(), self.program.inputs["x"], *self.drawn}
        line = interpreter.Line([*wanted, *self.program.outputs.values()], given)
        state = self.start
        for t in range(len(self.xs)):
            state = self._reset(state, t)
            known = self._known(state, t)
            line.run(known, rows)
            new = {name: self._held(known[value], state[name], t) for name, value in after.items()}
            kept = {value: new[name] for name, value in after.items()}
            kept |= {value: state[name] for name, value in self.states.items()}
            yield {value: kept[value] if value in kept else self._cleared(known[value], value, t) for value in wanted}
            state = new

    def copies(self, count: int) -> "Replay":
        """The same with every row ``count`` times, from the same random numbers; of one that has all its steps."""
        assert self.active is None
        other = copy.copy(self)
        other.xs = self.xs.repeat_interleave(count, 1)
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

    def _reset(self, state: dict[str, Tensor], t: int) -> dict[str, Tensor]:
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
