"""What rounded weights do to a network: how far its outputs and states are from those of the weights themselves."""

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from treadle import state as states
from treadle.engines import decide
from treadle.protocol import State
from treadle.running.copies import detached_copy
from treadle.running.snapshot import WEIGHTS, snapshot_of


@dataclasses.dataclass(frozen=True)
class RoundedLayer:
    """What rounding the matrices of one layer does to them, and to the network.

    Args:
        name: the path of the module that holds the matrices; empty for a single cell.
        matrices: how many of its matrices are rounded.
        weights: how far these are from what they were.
        outputs: how far the network's outputs are off if this layer alone is rounded.
    """

    name: str
    matrices: int
    weights: float
    outputs: float


@dataclasses.dataclass(frozen=True)
class RoundingReport:
    """What `rounding_error` found; printed, a table.

    Every error is the norm of the difference, divided by the norm of what is right: 0.01 is 1 %.

    Args:
        network: what it is about.
        weights: to what matrices are rounded, ``"int8"`` or ``"bfloat16"``.
        outputs: the error of the outputs of all sequences and steps.
        states: the error of each component of the final state, by name: ``"layer0/h"``.
        layers: layer by layer.
    """

    network: str
    weights: str
    outputs: float
    states: Mapping[str, float]
    layers: tuple[RoundedLayer, ...]

    def __str__(self) -> str:
        rows = [("layer", "matrices", "weights off by", "outputs off by, if it alone is rounded")]
        rows += [
            (one.name or self.network, str(one.matrices), _percent(one.weights), _percent(one.outputs))
            for one in self.layers
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        after = ", ".join(f"{name} {_percent(error)}" for name, error in self.states.items())
        head = f"{self.network} with {self.weights} weights: outputs are off by {_percent(self.outputs)} of their norm"
        return "\n".join([head, *([f"final states: {after}"] if after else []), "", *table])

    __repr__ = __str__


@torch.no_grad()
def rounding_error(
    rnn: Any, xs: Tensor, weights: str = "int8", state: State = None, lengths: Any = None
) -> RoundingReport:
    """How far a session with rounded weights is from the network itself, on sequences of your own.

    The network and its rounded copy run over the same sequences, in evaluation mode. Rounded is what a session rounds,
    so these are the numbers of ``rnn.session(weights=...)``. Pass sequences that are as long as those that the session
    will see, or longer: errors of a state may grow or fade with time.

    Args:
        rnn: a `treadle.Recurrent`, or a drop-in such as `treadle.LSTM`.
        xs: [B, T, ...] or [T, B, ...], as the network takes them.
        weights: ``"int8"`` or ``"bfloat16"``, as for `treadle.Session`.
        state: before the first step; ``None`` for the initial one.
        lengths: [B], the steps of each sequence; ``None`` for all of T.

    Returns:
        A `RoundingReport`; ``print`` it.

    Raises:
        ValueError: other ``weights``; ``"int8"`` of a network that is not float32, or whose matrices are not finite.
        TypeError: ``rnn`` is neither.
        ShapeError: ``xs`` or ``lengths`` do not fit.

    Example:
        >>> import torch, treadle as td
        >>> _ = torch.manual_seed(0)
        >>> rnn = td.Recurrent(td.Stack([td.LSTMCell(3, 32), td.LSTMCell(32, 32)]))
        >>> report = td.rounding_error(rnn, torch.randn(4, 50, 3))
        >>> report.outputs < 0.02
        True
        >>> [layer.name for layer in report.layers]
        ['layer0', 'layer1']
    """
    name, rnn = _network(rnn)
    rounding = [one for one in WEIGHTS if one != "float32"]
    if weights not in rounding:
        raise ValueError(f"weights are rounded to {' or '.join(map(repr, rounding))}, but {weights!r} was passed")
    rnn.check_input(xs, 2, "sequence")
    rnn.materialise(xs.select(1 if rnn.batch_first else 0, 0))
    snapshot = snapshot_of(rnn)
    whole, rounded = snapshot.recurrent, snapshot.in_weights(weights).recurrent
    ys, after = whole(xs, state, lengths=lengths)
    with _as_sessions_multiply(rounded, xs, weights):
        found, found_after = rounded(xs, state, lengths=lengths)
    right = dict(states.named_tensors(after))
    errors = {name: _error(one, right[name]) for name, one in states.named_tensors(found_after)}
    layers = _by_layer(whole, rounded, lambda one: _error(one(xs, state, lengths=lengths)[0], ys))
    return RoundingReport(name, weights, _error(found, ys), errors, layers)


def _as_sessions_multiply(rounded: Any, xs: Tensor, weights: str) -> contextlib.AbstractContextManager[Any]:
    """On a CPU that multiplies bfloat16 by bfloat16 alone, a compiled step rounds what it reads as well."""
    if weights == "bfloat16" and xs.dtype == torch.float32 and xs.numel():
        decision = decide(rounded.call(xs))
        if decision.network is not None and not decision.left_out:
            return torch.autocast(xs.device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def _network(rnn: Any) -> tuple[str, Any]:
    """What it is called, and the network over time."""
    name = type(rnn).__name__
    if states.is_around_one(rnn):
        return name, rnn.recurrent()
    if not hasattr(rnn, "cell") or not hasattr(rnn, "check_input"):
        raise TypeError(
            f"rounding_error takes a Recurrent or a drop-in, but was given a {name}: pass td.Recurrent(cell)"
        )
    return (f"Recurrent({type(rnn.cell).__name__})" if name == "Recurrent" else name), rnn


def _by_layer(whole: Any, rounded: Any, error_of: Any) -> tuple[RoundedLayer, ...]:
    """Round one layer at a time."""
    right, others = dict(whole.cell.named_parameters()), dict(rounded.cell.named_parameters())
    groups: dict[str, list[str]] = {}
    for name, parameter in right.items():
        if not torch.equal(parameter, others[name]):
            groups.setdefault(name.rpartition(".")[0], []).append(name)
    mixed = detached_copy(whole)
    own = dict(mixed.cell.named_parameters())
    layers = []
    for group, names in groups.items():
        for name in names:
            own[name].copy_(others[name])
        flat = [torch.cat([one[name].flatten() for name in names]) for one in (others, right)]
        layers.append(RoundedLayer(group, len(names), _error(*flat), error_of(mixed)))
        for name in names:
            own[name].copy_(right[name])
    return tuple(layers)


def _error(found: Tensor, right: Tensor) -> float:
    """The norm of the difference, relative to the norm of what is right."""
    if not right.is_floating_point():
        return float(not torch.equal(found, right))
    found, right = found.double(), right.double()
    norm, difference = right.norm().item(), (found - right).norm().item()
    return difference / norm if norm else float(difference > 0)


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
