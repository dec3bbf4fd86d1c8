"""Checkpointed backpropagation through time: the exact gradient in bounded memory."""

import dataclasses
import itertools
from typing import NamedTuple

import torch

from treadle.byte_sizes import as_bytes, show_bytes
from treadle.engines import Call, Result, run, say_once
from treadle.gradients.memory import FEWEST_STEPS, kept_by_a_step
from treadle.gradients.method import GradientMethod
from treadle.gradients.schedule import least_kept
from treadle.gradients.segments import Trial, run_in_segments
from treadle.state import named_tensors
from treadle.torch_internals import is_followed

_WHILE_GOING_BACK = 2
"""Bytes that a segment takes while its gradient is computed, over those that it keeps for that."""
_LARGEST_SEGMENT = 16_000_000
"""Bytes of a segment beyond which larger ones save no time, and no longer fit into the caches."""
_MOST_RUNS = 64
_GENERATOR = 5056


class Schedule(NamedTuple):
    """How a sequence is run: steps of a segment, states kept at a time, and the bytes that this takes."""

    length: int
    most: int
    size: int


@dataclasses.dataclass(frozen=True)
class CheckpointedBPTT(GradientMethod):
    """Checkpointed BPTT: the exact gradient in as much memory as you allow, by running parts of the sequence again.

    If everything that `FullBPTT` keeps fits into ``memory``, it is kept, and nothing is run again. If not, the forward
    pass keeps nothing but states at the borders of segments; the backward pass goes over the segments from the last to
    the first and runs each again, through the same engine. Segments are short enough for the caches, so this takes far
    less than is allowed wherever possible: about the square root of T times what a step saves is needed. Where even the
    states at the borders do not fit, fewer are kept, and what lies between is run several times, in the order that
    takes the fewest steps.

    Memory: ``memory`` beyond inputs, outputs and their gradients. It is kept to by an estimate: what a step saves is
    measured on the first three steps of each call. Where not even the smallest schedule fits, that one is taken, and
    the log says how much it needs. Time: one forward and one backward pass if all fits; else one forward pass more,
    about a third of the time; r more where there are up to C(n + r, r) segments and n states are kept, which only
    happens where memory is very small or states are very large.

    Random masks are the same in each run, if they are drawn from PyTorch's generators. Second derivatives
    are correct, but keep everything in memory.

    Source: Chen and others, *Training Deep Nets with Sublinear Memory Cost*, 2016; Griewank and Walther, *Algorithm
    799: Revolve*, 2000, for the order.

    Args:
        memory: bytes, or a text such as ``"500MB"`` or ``"1.5GiB"``.

    Raises:
        ValueError: ``memory`` is no amount of memory.

    Example:
        >>> import torch, treadle as td
        >>> cell, xs = td.GRUCell(2, 3), torch.randn(1, 1000, 2)
        >>> exact = torch.autograd.grad(td.Recurrent(cell)(xs)[0].sum(), cell.weight_hh)[0]
        >>> rnn = td.Recurrent(cell, gradient=td.CheckpointedBPTT(memory="20kB"))
        >>> again = torch.autograd.grad(rnn(xs)[0].sum(), cell.weight_hh)[0]
        >>> torch.allclose(again, exact, rtol=1e-4)
        True
    """

    memory: int | str = "1GB"

    def __post_init__(self) -> None:
        as_bytes(self.memory)

    def run(self, call: Call) -> Result:
        """Run a cell over a sequence."""
        if not torch.is_grad_enabled() or is_followed() or call.steps < FEWEST_STEPS:
            return run(call)
        trial = Trial(call)
        if not trial.is_differentiated:
            return run(call)
        allowed = as_bytes(self.memory)
        rows, lengths = call.xs.shape[1], call.counts
        running = rows if lengths is None else int((lengths >= FEWEST_STEPS).sum())
        step = -(-kept_by_a_step(trial.run) // running) * rows
        rows_and_steps = rows * call.steps if lengths is None else int(lengths.sum())
        if step * rows_and_steps // rows <= allowed:
            return run(call)
        state = sum(tensor.nbytes for _, tensor in named_tensors(call.state))
        found = schedule(call.steps, step * _WHILE_GOING_BACK, state + (_GENERATOR if trial.is_random else 0), allowed)
        if found.size > allowed:
            say_once(
                f"CheckpointedBPTT(memory={self.memory!r}) is too little for {call.steps} steps of"
                f" {type(call.cell).__name__}: the smallest schedule, about {show_bytes(found.size)}, is taken"
            )
        borders = [*range(0, call.steps, found.length), call.steps]
        segments = list(itertools.pairwise(borders))
        return run_in_segments(call, trial, segments, [0] * len(segments), found.most, run)


def schedule(steps: int, step: int, state: int, allowed: int) -> Schedule:
    """The schedule that runs the fewest steps again within some memory; the smallest one if none is small enough.

    Bytes are those of a step whose gradient is computed, of a state that is kept, and those that are allowed.
    """
    smallest = None
    for runs in range(1, _MOST_RUNS):
        for length in _lengths(min(steps, max(1, min(allowed, _LARGEST_SEGMENT) // step))):
            count = -(-steps // length)
            length = -(-steps // count)  # all but the last are alike
            most = min(count, least_kept(count, runs) + 1)
            found = Schedule(length, most, length * step + most * state)
            if found.size <= allowed:
                return found
            # Beyond a few runs, time grows much faster than memory shrinks.
            if runs <= 4 and (smallest is None or found.size < smallest.size):
                smallest = found
    assert smallest is not None
    return smallest


def _lengths(longest: int) -> list[int]:
    """Lengths of a segment that are worth looking at, the longest first."""
    lengths = [longest]
    while lengths[-1] > 1:
        lengths.append(min(lengths[-1] - 1, lengths[-1] * 4 // 5))
    return lengths
