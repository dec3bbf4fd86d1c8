"""A network's step with its weights packed once, of which live steps for any number of rows are made."""

from collections.abc import Sequence

import torch

from treadle.engines.cpu.plan.live_operands import LiveWeights
from treadle.engines.cpu.plan.live_pool import LivePool
from treadle.engines.cpu.plan.live_section import LiveSection
from treadle.engines.cpu.plan.live_step import LiveStep
from treadle.engines.engine import KeptMatrix
from treadle.engines.network import Network
from treadle.engines.whole_step import whole_step


class LiveProgram:
    """A network's whole step, with the weights that it has when this is made.

    Right operands of products are kept as ``products`` says: `torch.bfloat16`, `torch.int8` where their numbers allow
    it, or None for float32.

    Attributes:
        matrices: how each of them is kept.
    """

    left_out = ""

    @torch.no_grad()
    def __init__(self, network: Network, products: torch.dtype | None = None):
        self.network = network
        # What follows from the program alone is made once for all networks that have it.
        live = LiveSection(network, "whole", lambda: whole_step(network), products)
        weights = live.own(network.constants())
        one, int8 = live.with_weights(weights)
        self.matrices: Sequence[KeptMatrix] = tuple(live.kept(int8))
        self.names = [name.removeprefix("state/") for name in live.section.states]
        inputs = dict(zip(live.section.inputs, live.compiled.section.inputs, strict=True))
        self.weights = LiveWeights(one, inputs[network.program.inputs["x"]], weights, int8)

    def step(self, batch_size: int) -> LiveStep:
        """The step of so many rows, with states of its own."""
        return LiveStep(self.network, self.weights, self.names, batch_size)

    def pool(self, capacity: int) -> LivePool:
        """The step of any of so many rows."""
        return LivePool(self.network, self.weights, self.names, capacity)
