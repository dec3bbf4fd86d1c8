"""One step a call on a GPU: a whole network's step as one kernel, its state in place, launched by a CUDA graph."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from treadle.compiler import interpreter
from treadle.compiler import program as p
from treadle.compiler.program import Value
from treadle.engines.engine import KeptMatrix, Refusal
from treadle.engines.gpu.device import gpu_of
from treadle.engines.gpu.plan.capture import captured
from treadle.engines.gpu.plan.launches import Arguments, Launches
from treadle.engines.gpu.plan.section import GpuSection, matrix_for
from treadle.engines.layout import Layout
from treadle.engines.live_input import LiveInput
from treadle.engines.network import Network
from treadle.engines.passes.rows import contiguous
from treadle.engines.whole_step import whole_step


class LiveProgram:
    """A network's whole step, with the weights that it has when this is made.

    Right operands of products are in bfloat16 if ``products`` says so. Those that were rounded to int8 are float32.

    Attributes:
        own: the step's kernel.
        launches: it on the GPU.
        invariants, matrices: the weights as it reads them.
        names: of the states.
        input: what it can read.
    """

    left_out = ""

    @torch.no_grad()
    def __init__(self, network: Network, products: torch.dtype | None):
        self.network, bfloat16 = network, products == torch.bfloat16
        section = network.kept(("live section", "whole"), lambda: whole_step(network))
        own = self.own = network.kept(("live on a GPU", bfloat16), lambda: GpuSection(section, bfloat16))
        self.names = [name.removeprefix("state/") for name in section.states]
        gpu, one = gpu_of(network.device), own.plain
        assert not isinstance(gpu, Refusal), gpu
        self.launches: Launches = one.compiled.on(gpu)
        constants = network.constants()
        pairs = list(zip(section.inputs, own.section.inputs, strict=True))
        known = {mine: constants[value].detach() for value, mine in pairs if value in constants}
        (self.x,) = [mine for value, mine in pairs if value not in constants]
        interpreter.evaluate([*one.shared, *one.matrices], known, 0, network.device)
        self.invariants = [contiguous(known[v], own.dtype) for v in one.kernel.invariants]
        rights = [product.inputs[1] for product in self.launches.products]
        self.matrix_tensors = [matrix_for(known[right], own.dtype, self.launches) for right in rights]
        self.matrices: Sequence[KeptMatrix] = tuple(self._kept({mine: value for value, mine in pairs}, products))
        self.input = LiveInput(self.x, own.section.values())

    def _kept(self, in_program: Mapping[Value, Value], products: torch.dtype | None) -> Iterator[KeptMatrix]:
        """How each matrix is kept, by what it is in the program."""
        for matrix in self.own.plain.matrices:
            value = p.rebuild([matrix], dict(in_program))[matrix]
            if self.own.bfloat16:
                yield KeptMatrix(value, "bfloat16", _BFLOAT16)
            else:
                numbers = str(self.own.dtype).removeprefix("torch.")
                yield KeptMatrix(value, numbers, 0.0, _NO_INT8 if products == torch.int8 else "")

    def step(self, batch_size: int) -> "LiveStep":
        """The step of so many rows, with states of its own."""
        return LiveStep(self, batch_size)

    def pool(self, capacity: int) -> None:
        """Rows are stepped one by one."""


_BFLOAT16 = 2.0**-8 / 2
"""How far a number may be from the one that was rounded to bfloat16, relative to it."""
_NO_INT8 = "the GPU engine multiplies no int8"


class LiveStep:
    """A network's step for a number of rows, and its state: [B, ...] of each, changed in place."""

    def __init__(self, program: LiveProgram, batch_size: int):
        self.network, self.program, self.batch = program.network, program, batch_size
        own, device = program.own, program.network.device

        def room(value: Value) -> Tensor:
            of = own.dtype if value.dtype.is_floating_point else value.dtype
            return torch.zeros(batch_size, *value.row_shape, dtype=of, device=device)

        (y,) = own.section.outputs
        self.state = [room(old) for old in own.section.old]
        self._x, self._y = room(program.x), torch.zeros(batch_size, *y.row_shape, dtype=own.dtype, device=device)
        self._layout, self._given = Layout(1, batch_size, device=device), self._arguments(self._x, self._y)
        self._replay: Callable[[], Any] | None = None
        self._count = 0

    def _arguments(self, x: Tensor, y: Tensor) -> Arguments:
        """The arguments of the kernel. A row's state is read before its first step and written after its last one."""
        program = self.program
        streams = [x for _ in program.own.plain.kernel.streams]
        outputs = [y for _ in program.own.plain.kernel.outputs]
        return Arguments(
            streams, outputs, program.invariants, program.matrix_tensors, self.state, self.state, self.state
        )

    def _launch(self) -> None:
        self.program.launches.run(self._layout, self._given)

    @torch.no_grad()
    def step(self, x: Tensor) -> Tensor:
        """One step on [B, ...]; the answer is the same memory every time."""
        self.program.input.check(x)
        self._x.copy_(x)
        if self._count == 1:  # the first step has compiled the kernel
            self._replay = captured(self._launch, self._x.device)
        self._count += 1
        (self._replay or self._launch)()
        return self._y

    @torch.no_grad()
    def steps(self, xs: Tensor) -> Tensor:
        """A block of steps on [T, B, ...], as a sequence."""
        if not xs.shape[0]:
            return self._y.new_empty(0, *self._y.shape)
        self.program.input.check(xs)
        layout = Layout(xs.shape[0], self.batch, device=xs.device)
        rows, ys = contiguous(layout.packed(xs), self._x.dtype), self._y.new_empty(layout.rows, *self._y.shape[1:])
        self.program.launches.run(layout, self._arguments(rows, ys))
        return layout.padded(ys)

    def entry(self) -> None:
        """There is no faster way in than `step`."""

    def named(self) -> dict[str, Tensor]:
        """The state by name: the memory itself."""
        return dict(zip(self.program.names, self.state, strict=True))
