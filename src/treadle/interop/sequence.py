"""What is exported of a network over whole sequences: stages, each one network or two that read in both directions."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from treadle import state as states
from treadle.interop.exported_step import prepared
from treadle.interop.sequential import as_one, as_recurrent, part_name
from treadle.protocol import State
from treadle.running.bidirectional import Bidirectional
from treadle.running.recurrent import Recurrent
from treadle.running.reversed import Reversed, run_reversed


@dataclasses.dataclass(frozen=True)
class Direction:
    """A network that reads a sequence, from the start or from the end of each row.

    Attributes:
        path: what the names of its states begin with; empty if they are the network's own.
        network: a copy in evaluation mode.
        x: [1, ...] zeros such as a step reads.
        reverse: whether it reads each row from its end.
    """

    path: str
    network: Recurrent
    x: Tensor
    reverse: bool

    def initial(self) -> dict[str, Tensor]:
        """The state before the first step, [1, ...] each, by the name that it has in files: ``"layer0.h"``."""
        return {self.name(path): one for path, one in states.named_tensors(states.initial_state(self.network, self.x))}

    def state_of(self, given: Mapping[str, Tensor]) -> State:
        """A state by name, as the network takes it."""
        initial = self.network.initial_state(1)
        return states.rebuild(initial, {path: given[self.name(path)] for path, _ in states.named_tensors(initial)})

    def name(self, component: str) -> str:
        """What a component of the state is called in files."""
        name = component.replace("/", ".")
        return f"{self.path}.{name}" if self.path else name


class SequenceNetwork(nn.Module):
    """Stages over whole sequences: what an export is compared with, and what is exported for PyTorch.

    Args:
        stages: one after another; of several directions, outputs are concatenated.
        batch_first: whether sequences are [B, T, ...].
        engine: what runs each network.

    Attributes:
        x: [1, ...] zeros such as the first stage reads at a step.
    """

    def __init__(self, stages: list[list[Direction]], batch_first: bool, engine: str = "reference"):
        super().__init__()
        self.stages, self.batch_first, self.x = stages, batch_first, stages[0][0].x
        networks = (Recurrent(one.network.cell, False, engine=engine) for stage in stages for one in stage)
        self.networks = nn.ModuleList(networks)
        self.eval()

    def initial(self, rows: int = 1) -> dict[str, Tensor]:
        """The state before the first step, by name."""
        found: dict[str, Tensor] = {}
        for stage in self.stages:
            for one in stage:
                found |= {name: tensor.repeat_interleave(rows, 0) for name, tensor in one.initial().items()}
        return found

    def forward(self, xs: Tensor, lengths: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The outputs, and the state after the last step of each row.

        Args:
            xs: [B, T, ...], or [T, B, ...].
            lengths: [B]: the steps of each row, T or more where it is whole.
            state: the state before the first step, by name.
        """
        ys = xs.transpose(0, 1) if self.batch_first else xs
        lengths = lengths.clamp(max=ys.shape[0])
        networks = iter(self.networks)
        after: dict[str, Tensor] = {}
        for stage in self.stages:
            outputs = []
            for one in stage:
                network, before = next(networks), one.state_of(state)
                found, end = run_reversed(network, ys, before, lengths) if one.reverse else network(ys, before, lengths)
                outputs.append(found)
                after |= {one.name(path): tensor for path, tensor in states.named_tensors(end)}
            ys = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
        return (ys.transpose(0, 1) if self.batch_first else ys), after


def as_sequence(
    network: Any, input_size: int | tuple[int, ...] | None = None, engine: str = "reference"
) -> SequenceNetwork:
    """A network as stages over whole sequences.

    Args:
        network: a `treadle.Recurrent`, a cell, a drop-in, a `treadle.Bidirectional` or a `treadle.Reversed`, or a
            `torch.nn.Sequential` of these between layers without memory.
        input_size: what a step reads; needed only where the network does not say it.
        engine: what runs each network.

    Raises:
        TypeError: it is none of these; the part that is not known is named.
        ShapeError: it does not say what it reads, and ``input_size`` was not given.
    """
    stages: list[list[Direction]] = []
    reads: Any = input_size
    for found in _stages(network):
        stages.append([Direction(path, *prepared(one, reads), reverse) for path, one, reverse in found])
        reads = _total(one.network.output_size for one in stages[-1])
    return SequenceNetwork(stages, _batch_first(network), engine)


_Stage = list[tuple[str, Any, bool]]


def _stages(network: Any) -> list[_Stage]:
    """The networks of each stage, with the path of its states and whether it reads from the end."""
    if isinstance(network, nn.Sequential):
        return _stages_of_parts(network)
    if isinstance(network, Reversed):
        return [[(path, one, not reverse) for path, one, reverse in stage] for stage in _stages(network.network)]
    if isinstance(network, Bidirectional):
        return [[("forward", network.ahead, False), ("backward", network.back, True)]]
    if is_bidirectional(network):
        both = network.directions()
        return [
            [(f"layer{n}.forward", both[2 * n], False), (f"layer{n}.backward", both[2 * n + 1], True)]
            for n in range(len(both) // 2)
        ]
    return [[("", as_recurrent(network), False)]]


def _stages_of_parts(network: nn.Sequential) -> list[_Stage]:
    """The networks of a Sequential, each a stage or several, and the layers between them, together."""
    stages: list[_Stage] = []
    for layers, group in itertools.groupby(network.named_children(), lambda named: not _runs_over_time(named[1])):
        parts = list(group)
        if layers:
            before = _total(one.output_size for _, one, _ in stages[-1]) if stages else None
            stages.append([("", as_one(parts, before), False)])
            continue
        for name, part in parts:
            own = part_name(name)
            stages += [
                [(f"{own}.{path}" if path else own, one, reverse) for path, one, reverse in stage]
                for stage in _stages(part)
            ]
    return stages


def _runs_over_time(part: nn.Module) -> bool:
    return not type(part).__module__.startswith("torch.")


def is_bidirectional(network: Any) -> bool:
    """Whether a network reads sequences from both ends, so that it has no steps."""
    return isinstance(network, Bidirectional) or bool(getattr(network, "bidirectional", False))


def _total(sizes: Iterable[Any]) -> int | None:
    found = list(sizes)
    return sum(found) if all(isinstance(size, int) for size in found) else None


def _batch_first(network: Any) -> bool:
    parts = list(filter(_runs_over_time, network)) if isinstance(network, nn.Sequential) else [network]
    found = {bool(getattr(one, "batch_first", True)) for one in parts}
    if len(found) > 1:
        raise TypeError("of the parts of the Sequential, some are batch_first and some are not: make them alike")
    return found.pop() if found else True
