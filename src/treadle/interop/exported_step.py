"""What leaves treadle: the program of one step, the numbers that it reads, and its initial state."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from treadle import state as states
from treadle.compiler.interpreter import evaluate
from treadle.compiler.program import Program, Value, ordered
from treadle.engines.network import network_of
from treadle.errors import ShapeError, TraceError
from treadle.interop.sequential import as_recurrent
from treadle.protocol import example_input
from treadle.running.copies import detached_copy
from treadle.running.recurrent import Recurrent


@dataclasses.dataclass(frozen=True)
class ExportedStep:
    """The step of a network in evaluation mode, with its numbers.

    Attributes:
        network: a copy of the `treadle.Recurrent` that is exported.
        program: what the step computes, for one row or many.
        constants: of the program's inputs, those that are no part of x or the state: parameters and buffers.
        x: [1, ...] zeros such as a step reads.
        initial: the state before the first step, [1, ...] each, by the name of the program's input.
    """

    network: Any
    program: Program
    constants: Mapping[Value, Tensor]
    x: Tensor
    initial: Mapping[str, Tensor]

    @property
    def dtype(self) -> torch.dtype:
        """The precision of its floats."""
        numbers = (*self.constants.values(), self.x)
        return next((one.dtype for one in numbers if one.is_floating_point()), torch.float32)

    @torch.no_grad()
    def recorded(self, steps: int, seed: int = 0) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """What the cell's own Python makes of random inputs: xs [T, ...], ys [T, ...], and the state after them."""
        xs = self.random_inputs(steps, 1, seed)
        state = self.network.initial_state(1)
        ys = []
        for x in xs:
            y, state = self.network.cell(x, state)
            ys.append(y[0])
        after = {f"state/{name}": tensor[0] for name, tensor in states.named_tensors(state)}
        return xs[:, 0], torch.stack(ys), after

    def random_inputs(self, steps: int, rows: int, seed: int = 0) -> Tensor:
        """[T, B, ...]; of whole numbers those that every embedding which reads them has a row for."""
        random = torch.Generator().manual_seed(seed)
        shape = (steps, rows, *self.x.shape[1:])
        if self.x.is_floating_point():
            return torch.randn(shape, generator=random, dtype=torch.float64).to(self.x.dtype)
        return torch.randint(self.symbols, shape, generator=random).to(self.x.dtype)

    @property
    def symbols(self) -> int:
        """How many symbols an input of whole numbers may be."""
        tables = [value.inputs[0].shape[0] for value in self.program.values() if value.op == "embedding"]
        return min([*tables, *self._one_hot_sizes()], default=2)

    def _one_hot_sizes(self) -> list[int]:
        """Of symbols that are compared with 0, 1, 2, … in place of an embedding, how many there are."""
        return [value.shape[-1] for value in self.program.values() if value.op == "eq" and len(value.shape) > 1]


def exported_step(network: Any, input_size: int | tuple[int, ...] | None = None) -> ExportedStep:
    """The step of a network, ready to be written in another language.

    Args:
        network: a `treadle.Recurrent`, a drop-in that is not bidirectional, a cell, or a `torch.nn.Sequential` of
            these between layers without memory (`treadle.interop.sequential.LAYERS`).
        input_size: what a step reads, I or a tuple; needed only where the cell does not say it.

    Raises:
        TypeError: ``network`` is nothing that steps.
        ShapeError: the cell does not say what it reads, and ``input_size`` was not given.
        TraceError: the step cannot be turned into a program.
    """
    network, x = prepared(network, input_size)
    initial = states.initial_state(network, x)
    traced = network_of(network.cell, x, initial)
    _refuse_what_is_random(traced.program)
    named = {f"state/{name}": tensor for name, tensor in states.named_tensors(initial)}
    return ExportedStep(network, traced.program, traced.constants(), x, named)


def prepared(network: Any, input_size: int | tuple[int, ...] | None = None) -> tuple[Recurrent, Tensor]:
    """A copy of a network over time in evaluation mode, on the CPU, and zeros [1, ...] such as a step of it reads.

    Raises:
        TypeError: ``network`` is nothing that steps.
        ShapeError: the cell does not say what it reads, and ``input_size`` was not given.
    """
    network = as_recurrent(network)
    network = detached_copy(network).cpu().eval().requires_grad_(False)
    x = example_input(network.cell, 1)
    if x is None:
        if input_size is None:
            raise ShapeError(
                f"{type(network.cell).__name__} does not say what it reads (it has no input_size): pass input_size="
            )
        weight = next((p for p in network.parameters() if p.is_floating_point()), torch.zeros(0))
        row = (input_size,) if isinstance(input_size, int) else tuple(input_size)
        x = weight.new_zeros(1, *row)
    network.materialise(x)
    return network, x


def _refuse_what_is_random(program: Program) -> None:
    for value in ordered(program.outputs.values()):
        if value.draw is not None:
            line = program.lines.get(value) or "a step"
            raise TraceError(f"{line}: the step draws random numbers in evaluation mode, which cannot be exported")


class Numbers:
    """The numbers of values that neither x nor the state has a part in; computed when they are first asked for.

    Args:
        constants: those of the program's inputs.
    """

    def __init__(self, constants: Mapping[Value, Tensor]):
        self._known = dict(constants)

    def __call__(self, value: Value) -> np.ndarray:
        if value not in self._known:
            evaluate([value], self._known, 1)
        return as_array(self._known[value])


def as_array(tensor: Tensor) -> np.ndarray:
    """The numbers of a tensor, dense."""
    return np.ascontiguousarray(tensor.detach().cpu().resolve_conj().resolve_neg().numpy())
