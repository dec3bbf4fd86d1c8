"""One step a call where a part of it has no machine code: kernels and PyTorch's operations in turn."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from treadle.compiler import interpreter
from treadle.compiler import program as p
from treadle.compiler.fission import Kind, Section
from treadle.compiler.interpreter import Line
from treadle.compiler.pieces import Pieces
from treadle.compiler.program import Value
from treadle.engines.cpu.machine import threads
from treadle.engines.cpu.machine.alignment import address
from treadle.engines.cpu.plan.kernel_call import KernelCall
from treadle.engines.cpu.plan.live_operands import KernelWeights
from treadle.engines.cpu.plan.live_section import LiveSection
from treadle.engines.cpu.plan.live_step import WORTH_A_THREAD
from treadle.engines.cpu.plan.step_pieces import why_in_pieces
from treadle.engines.engine import KeptMatrix
from treadle.engines.live_input import LiveInput
from treadle.engines.network import Network
from treadle.engines.passes.rows import with_rows_in_place
from treadle.torch_internals import is_noted_down


class PiecewiseProgram:
    """A network's step in pieces, with the weights that it has when this is made.

    Right operands of products in kernels are kept as ``products`` says, see `LiveProgram`.

    Attributes:
        left_out: why PyTorch computes a part of it.
        kernels: of each section that is one, what it is compiled to, and its weights.
        constants: the values without rows that PyTorch's operations read.
        matrices: how right operands of products in kernels are kept.
    """

    def __init__(self, network: Network, pieces: Pieces, products: torch.dtype | None = None):
        self.network, self.pieces, self.left_out = network, pieces, why_in_pieces(network)
        self.constants = {value: tensor.detach() for value, tensor in network.constants().items()}
        sections = [section for section in pieces.sections if section.kind is not Kind.OPAQUE]
        kept: list[KeptMatrix] = []
        self.kernels = {section: self._kernel(section, products, kept) for section in sections}
        self.matrices: Sequence[KeptMatrix] = tuple(kept)
        self.input = LiveInput(pieces.program.inputs["x"], (v for section in sections for v in section.values()))
        opaque = [section for section in pieces.sections if section.kind is Kind.OPAQUE]
        fixed = [v for s in opaque for v in p.between(s.inputs, s.outputs) if not v.has_rows]
        interpreter.evaluate(fixed, self.constants, 0)

    def _kernel(self, section: Section, products: torch.dtype | None, kept: list[KeptMatrix]) -> KernelWeights:
        # What follows from the program alone is made once for all networks that have it.
        live = LiveSection(self.network, section, lambda: section, products)
        weights = live.own(self.constants)
        one, int8 = live.with_weights(weights)
        kept += live.kept(int8)
        return KernelWeights(one, weights, int8)

    def step(self, batch_size: int) -> "PiecewiseStep":
        """The step of so many rows, with states of its own."""
        return PiecewiseStep(self, batch_size)

    def pool(self, capacity: int) -> None:
        """Rows are stepped one by one: PyTorch's operations may round a row by how many there are."""


class PiecewiseStep:
    """A network's step for a number of rows, and its state: [B, ...] of each, changed in place."""

    def __init__(self, program: PiecewiseProgram, batch_size: int):
        self.network, self._program, self._rows = program.network, program, batch_size
        pieces = program.pieces
        inputs, results = pieces.program.inputs, pieces.program.outputs
        crossing = [v for section in program.kernels for v in (*section.inputs, *section.outputs)]
        dtype = next(iter(program.kernels.values())).dtype
        self._memory = {v: self._room(v, dtype) for v in crossing if v.has_rows}
        self._memory |= {v: self._room(v, v.dtype) for v in inputs.values() if v.has_rows}
        self._x, self._y = self._memory[inputs["x"]], self._room(results["y"], results["y"].dtype)
        places = {name: self._y if name == "y" else self._memory[inputs[name]] for name in pieces.by_torch}
        self._last = [(results[name], place) for name, place in places.items()]
        self._states = {name.removeprefix("state/"): v for name, v in inputs.items() if name.startswith("state/")}
        self._known = program.constants | {v: with_rows_in_place(tensor, v) for v, tensor in self._memory.items()}
        self._given: dict[Value, Tensor] = {}
        kernels = program.kernels
        self._runs = [self._kernel(s) if s in kernels else self._operations(s) for s in pieces.sections]

    def _room(self, value: Value, dtype: torch.dtype) -> Tensor:
        """Memory for the rows of a value, which come first."""
        return torch.zeros(self._rows, *value.row_shape, dtype=dtype, device="cpu")

    def _kernel(self, section: Section) -> Callable[[], None]:
        """A section as a kernel on what is in memory."""
        weights = self._program.kernels[section]
        one = weights.one
        own = one.owner.section
        read = {
            mine: address(self._memory[v]) for mine, v in zip(own.inputs, section.inputs, strict=True) if v.has_rows
        }
        read |= {mine: address(self._memory[v]) for mine, v in zip(own.old, section.old, strict=True)}
        written = {mine: address(self._memory[v]) for mine, v in zip(own.outputs, section.outputs, strict=True)}
        if section.kind is Kind.LOOP:  # what it gives may be what it reads
            written = dict.fromkeys(own.outputs, address(self._y))
        streams, outputs = [read[v] for v in one.streams], [written[v] for v in one.outputs]
        arguments = weights.on(streams, outputs, [read[v] for v in own.old])
        most = threads.count(int(one.compiled.row_cost * self._rows // WORTH_A_THREAD))
        return KernelCall(one.compiled, self._rows, arguments, most, weights).run

    def _operations(self, section: Section) -> Callable[[], None]:
        """A section by PyTorch's operations, one after another."""
        known, given = self._known, self._given
        line = Line(section.outputs, [*section.inputs, *self._program.constants])
        truths = [(v, self._memory[v]) for v in section.inputs if v.dtype == torch.bool and v in self._memory]
        crossing = [(v, with_rows_in_place(self._memory[v], v)) for v in section.outputs if v in self._memory]
        last = [v for v, _ in self._last if v in section.outputs]

        def run() -> None:
            known.update((v, with_rows_in_place(memory.bool(), v)) for v, memory in truths)
            line.run(known, self._rows)
            for value, memory in crossing:
                memory.copy_(known[value])
            given.update((v, known[v].clone()) for v in last)  # it may be a view of a state that moves on

        return run

    @torch.no_grad()
    def step(self, x: Tensor) -> Tensor:
        """One step on [B, ...]; the answer is the same memory every time."""
        self._program.input.check(x)
        self._x.copy_(x)
        self._step()
        return self._y

    def _step(self) -> None:
        """A step on the input that is in memory."""
        if torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return self._step()
        for run in self._runs:
            run()
        for value, memory in self._last:
            memory.copy_(self._given[value])
        return None

    def steps(self, xs: Tensor) -> None:
        """A block of steps is a sequence, in which PyTorch's operations take all steps at once."""

    def entry(self) -> tuple[Callable[[Any], Any], object]:
        """The step as a function of an array or tensor of its very type and size; its answer to any other is None."""
        rows = [(self._x, self._y), *([(self._x[0], self._y[0])] if self._rows == 1 else [])]
        tensors = {tuple(x.shape): (x, y) for x, y in rows}
        arrays = {shape: (x.numpy(), y.numpy()) for shape, (x, y) in tensors.items()}
        array_type = arrays[tuple(self._x.shape)][0].dtype

        def place(x: Any) -> tuple[Any, Any] | None:
            if type(x) is np.ndarray:
                return arrays.get(x.shape) if x.dtype == array_type else None
            if type(x) is Tensor and x.dtype == self._x.dtype and x.is_cpu and not is_noted_down(x):
                return tensors.get(tuple(x.shape))
            return None

        def step(x: Any) -> Any:
            found = place(x)
            if found is None:
                return None
            with torch.no_grad():
                found[0][...] = x
                self._program.input.check(self._x)
                self._step()
            return found[1]

        return step, None

    def named(self) -> dict[str, Tensor]:
        """The state by name: the memory itself."""
        return {name: self._memory[value] for name, value in self._states.items()}
