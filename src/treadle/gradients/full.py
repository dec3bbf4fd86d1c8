"""Full backpropagation through time."""

import dataclasses

from treadle.engines import Call, Result, run
from treadle.gradients.method import GradientMethod


@dataclasses.dataclass(frozen=True)
class FullBPTT(GradientMethod):
    """Full BPTT: backpropagation through all steps of the sequence, the exact gradient.

    Memory: what one step saves for its derivative, times T. Time: one forward and one backward pass.

    The gradient also flows into the state that was passed, so a state that is carried from call to call keeps the
    earlier calls alive unless it goes through `treadle.detach`.

    Source: Werbos, *Backpropagation Through Time: What It Does and How to Do It*, 1990.

    Example:
        >>> import treadle as td
        >>> td.Recurrent(td.GRUCell(2, 3), gradient=td.FullBPTT()).gradient
        FullBPTT()
    """

    def run(self, call: Call) -> Result:
        """Run a cell over a sequence, and leave the derivative to the engine."""
        return run(call)
