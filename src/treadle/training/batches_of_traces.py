"""Batches of traces, from which a closed loop learns to act."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from treadle.control.loop import ClosedLoop
from treadle.control.traces import Trace
from treadle.errors import DataError
from treadle.training.batches import Epochs


def trace_batches(loop: ClosedLoop, traces: Sequence[Trace], rows: int, seed: int = 0) -> Epochs:
    """Batches of traces for `treadle.training.train`, whose model is then ``loop.follower()``.

    Args:
        loop: who learns.
        traces: what from.
        rows: traces in a batch; in each epoch they are shuffled.
        seed: of the order.

    Raises:
        DataError: no traces; a reading or an action that there is not, with the number of the trace.
    """
    examples: list[tuple[Tensor, Tensor]] = []
    for number, trace in enumerate(traces):
        if len(trace.readings):
            try:
                targets = loop.actions.targets(trace.targets, "target")
                examples.append((loop.pairs(trace.readings, trace.actions), targets))
            except DataError as error:
                raise DataError(f"trace {number}: {error}") from None
    if not examples:
        raise DataError("there are no traces with a step in them to train on")

    def plan(epoch: int) -> list[list[int]]:
        order = np.random.default_rng([seed, epoch]).permutation(len(examples)).tolist()
        return [order[first : first + rows] for first in range(0, len(order), rows)]

    return Epochs(plan, lambda number: examples[number])
