"""A network's step with its weights packed once, of which live steps for any number of rows are made."""

import torch
from torch import Tensor

from treadle.compiler.fission import Section
from treadle.compiler.program import Value
from treadle.engines.cpu.plan.live_operands import LiveWeights
from treadle.engines.cpu.plan.live_pool import LivePool
from treadle.engines.cpu.plan.live_step import LiveStep
from treadle.engines.cpu.plan.section import CompiledSection
from treadle.engines.cpu.plan.whole_step import whole_step
from treadle.engines.network import Network


class LiveProgram:
    """A network's whole step, with the weights that it has when this is made.

    With ``bfloat16``, right operands of products are kept in that.
    """

    left_out = ""

    def __init__(self, network: Network, bfloat16: bool = False):
        self.network = network
        # What follows from the program alone is made once for all networks that have it.
        section, compiled = network.kept(("live", bfloat16), lambda: _compiled(network, bfloat16))
        inputs = dict(zip(section.inputs, compiled.section.inputs, strict=True))
        constants = network.constants()
        weights: dict[Value, Tensor] = {
            own: constants[value].detach() for value, own in inputs.items() if value in constants
        }
        self.names = [name.removeprefix("state/") for name in section.states]
        self.weights = LiveWeights(compiled.plain, inputs[network.program.inputs["x"]], weights)

    def step(self, batch_size: int) -> LiveStep:
        """The step of so many rows, with states of its own."""
        return LiveStep(self.network, self.weights, self.names, batch_size)

    def pool(self, capacity: int) -> LivePool:
        """The step of any of so many rows."""
        return LivePool(self.network, self.weights, self.names, capacity)


@torch.no_grad()
def _compiled(network: Network, bfloat16: bool) -> tuple[Section, CompiledSection]:
    section = whole_step(network)
    return section, CompiledSection(section, bfloat16, memory_bound=True)
