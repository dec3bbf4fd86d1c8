"""One step a call: a whole network's step as one kernel, with weights packed once and the state in place."""

import torch
from torch import Tensor

from treadle.compiler.program import Value
from treadle.engines.cpu.machine import threads
from treadle.engines.cpu.machine.alignment import address
from treadle.engines.cpu.plan.array_entry import Entry, array_entry
from treadle.engines.cpu.plan.live_operands import LiveOperands, StepBlocks
from treadle.engines.cpu.plan.rows import contiguous
from treadle.engines.cpu.plan.section import CompiledSection
from treadle.engines.cpu.plan.step_call import StepCall
from treadle.engines.cpu.plan.whole_step import whole_step
from treadle.engines.layout import Layout
from treadle.engines.network import Network
from treadle.errors import ShapeError

_WORTH_A_THREAD = 12_000
"""Vector operations of a step, of all rows, for each thread that it is worth calling: about seven microseconds."""
_FEW_ROWS = 4
"""Up to so many rows for each thread, a step is rather shared out by columns."""


class LiveStep:
    """A network's step for a number of rows, and its state: [B, ...] of each, changed in place.

    With ``bfloat16``, right operands of products are kept in that.
    """

    def __init__(self, network: Network, batch_size: int, bfloat16: bool = False):
        self.network, self.batch = network, batch_size
        section = whole_step(network)
        self.compiled = CompiledSection(section, bfloat16, memory_bound=True)
        own = self.compiled.section
        self.inputs = dict(zip(section.inputs, own.inputs, strict=True))
        self.x = self.inputs[network.program.inputs["x"]]
        self.names = [name.removeprefix("state/") for name in section.states]
        self.tokens = min((v.inputs[0].shape[0] for v in own.values() if v.op == "embedding"), default=None)
        dtype = self.compiled.dtype
        self.state = [torch.zeros(batch_size, *v.row_shape, dtype=dtype, device="cpu") for v in section.old]
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the weights that the network has now."""
        constants = self.network.constants()
        self.weights: dict[Value, Tensor] = {
            own: constants[value].detach() for value, own in self.inputs.items() if value in constants
        }
        operands = LiveOperands(self.compiled.plain, self.x, self.weights, self.state)
        cost = self.compiled.plain.compiled.row_cost * self.batch
        self.call = StepCall(operands, self.batch, threads.count(int(cost // _WORTH_A_THREAD)))
        self.blocks = StepBlocks(operands)

    def step(self, x: Tensor) -> Tensor:
        """One step on [B, ...]; the answer is the same memory every time."""
        self._check(x)
        self.call.x.copy_(x)
        self.call(address(self.call.x))
        return self.call.y

    def steps(self, xs: Tensor) -> Tensor:
        """A block of steps on [T, B, ...]."""
        y = self.call.y
        if not xs.shape[0]:
            return y.new_empty(0, *y.shape)
        self._check(xs)
        layout = Layout(xs.shape[0], self.batch)
        rows = contiguous(layout.packed(xs), self.call.x.dtype)
        ys = y.new_empty(layout.rows, *y.shape[1:])
        if self.call.columns is not None and self.batch < _FEW_ROWS * threads.count(self.batch * _FEW_ROWS):
            self.call.repeat(rows, ys, layout.steps)
        else:
            self.blocks.run(layout, rows, ys)
        return layout.padded(ys)

    def _check(self, x: Tensor) -> None:
        """Refuse what the kernel would misread."""
        if x.is_floating_point() != self.x.dtype.is_floating_point:
            if x.is_floating_point():
                raise ShapeError(
                    f"this network reads tokens, which are whole numbers, but x is {x.dtype}: pass x.long()"
                )
            raise ShapeError(
                f"this network reads features, which are floats, but x is {x.dtype}: pass x.float(), or embed tokens"
            )
        if self.tokens is not None and x.numel():
            low, high = (int(n) for n in x.aminmax())
            if low < 0 or high >= self.tokens:
                token = low if low < 0 else high
                raise IndexError(f"token {token} is not one of the {self.tokens} that are embedded")

    def entry(self) -> Entry | None:
        """The step as a built-in function on NumPy arrays, see `array_entry`."""
        return array_entry(self.call)

    def named(self) -> dict[str, Tensor]:
        """The state by name: the memory itself."""
        return dict(zip(self.names, self.state, strict=True))
