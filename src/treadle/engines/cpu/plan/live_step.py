"""One step a call: a whole network's step as one kernel, with its state in place."""

from collections.abc import Sequence

from torch import Tensor

from treadle.engines.cpu.machine import threads
from treadle.engines.cpu.machine.alignment import address
from treadle.engines.cpu.plan.array_entry import Entry, array_entry
from treadle.engines.cpu.plan.live_operands import LiveOperands, LiveWeights, StepBlocks
from treadle.engines.cpu.plan.step_call import StepCall
from treadle.engines.layout import Layout
from treadle.engines.network import Network
from treadle.engines.passes.rows import contiguous

WORTH_A_THREAD = 12_000
"""Vector operations of a step, of all rows, for each thread that it is worth calling: about seven microseconds."""
FEW_ROWS = 4
"""Up to so many rows for each thread, a step is rather shared out by columns."""


class LiveStep:
    """A network's step for a number of rows, and its state: [B, ...] of each, changed in place.

    Args:
        network: whose step it is.
        weights: what it computes with; other steps read the same.
        names: of the states.
        batch_size: the rows.
    """

    def __init__(self, network: Network, weights: LiveWeights, names: Sequence[str], batch_size: int):
        self.network, self.weights, self.names, self.batch = network, weights, names, batch_size
        self.state = weights.states(batch_size)
        operands = LiveOperands(weights, self.state)
        cost = weights.one.compiled.row_cost * batch_size
        self.call = StepCall(operands, batch_size, threads.count(int(cost // WORTH_A_THREAD)))
        self.blocks = StepBlocks(operands)

    def step(self, x: Tensor) -> Tensor:
        """One step on [B, ...]; the answer is the same memory every time."""
        self.weights.input.check(x)
        self.call.x.copy_(x)
        self.call(address(self.call.x))
        return self.call.y

    def steps(self, xs: Tensor) -> Tensor:
        """A block of steps on [T, B, ...]."""
        y = self.call.y
        if not xs.shape[0]:
            return y.new_empty(0, *y.shape)
        self.weights.input.check(xs)
        layout = Layout(xs.shape[0], self.batch)
        rows = contiguous(layout.packed(xs), self.call.x.dtype)
        ys = y.new_empty(layout.rows, *y.shape[1:])
        if self.call.columns is not None and self.batch < FEW_ROWS * threads.count(self.batch * FEW_ROWS):
            self.call.repeat(rows, ys, layout.steps)
        else:
            self.blocks.run(layout, rows, ys)
        return layout.padded(ys)

    def entry(self) -> Entry | None:
        """The step as a built-in function on NumPy arrays, see `array_entry`."""
        return array_entry(self.call)

    def named(self) -> dict[str, Tensor]:
        """The state by name: the memory itself."""
        return dict(zip(self.names, self.state, strict=True))
