"""A graph of ONNX that goes forwards step by step, as a cell: for sessions, and to be exported as something else."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from treadle.errors import InteropError
from treadle.files.description import kept_in_files
from treadle.interop.graph import Node
from treadle.interop.report import relative_difference
from treadle.running.recurrent import Recurrent

_STEPS, _ROWS, _TOLERANCE = 5, 2, 1e-5


@kept_in_files("treadle.OnnxStep")
class OnnxStep(nn.Module):
    """One step of a graph: its nodes over a sequence of one step, each recurrent node from its state.

    Args:
        network: the `treadle.interop.onnx_in.network.OnnxNetwork`, of which the first output counts.
        given: the name of the input that is the sequence.
        time_axis: where time is in it.
        output_axis: where time is in the output; None where that is of the last step alone.
    """

    def __init__(self, network: Any, given: str, time_axis: int, output_axis: int | None):
        super().__init__()
        self.network, self.given, self.time_axis, self.output_axis = network, given, time_axis, output_axis
        self._needed = needed_nodes(network)
        self.input_size = _row(network, given)

    def initial_state(self, batch_size: int) -> dict[str, Any]:
        """Zeros, by the name of each recurrent node."""
        return {name: self._cell(n).initial_state(batch_size) for n, name in self._recurrent().items()}

    def forward(self, x: Tensor, state: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """One step."""
        known: dict[str, Any] = {"": None} | self.network.constants() | {self.given: x.unsqueeze(self.time_axis)}
        names, after = self._recurrent(), {}
        for number in self._needed:
            node = self.network.nodes[number]
            if number in names:
                found, after[names[number]] = self._one_step(number, known[node.inputs[0]], state[names[number]])
            else:
                found = self.network.run(number, node, known)
            known |= dict(zip(node.outputs, found if isinstance(found, tuple) else (found,), strict=False))
            known[""] = None
        y = known[self.network.outputs[0]]
        return y if self.output_axis is None else y.squeeze(self.output_axis), after

    def _one_step(self, number: int, xs: Tensor, state: Any) -> tuple[tuple[Tensor, ...], Any]:
        """What a recurrent node gives: Y, Y_h, and of an LSTM Y_c; and its state after the step."""
        first = self.network.over_time[str(number)].batch_first
        y, after = self._cell(number)(xs.squeeze(1 if first else 0), state)
        if first:
            return (y[:, None, None], *(part[:, None] for part in after)), after
        return (y[None, None], *(part[None] for part in after)), after

    def _cell(self, number: int) -> Any:
        node: Any = self.network.over_time[str(number)]
        return node.networks[0].cell

    def _recurrent(self) -> dict[int, str]:
        """The name of the state of each recurrent node, by its number."""
        numbers = [number for number in self._needed if str(number) in self.network.over_time]
        return {number: _word(self.network.nodes[number], number) for number in numbers}


def as_steps(network: Any) -> Recurrent:
    """A graph as a network over time that gives an output at every step.

    Raises:
        InteropError: it does not go forwards step by step.
    """
    given = _sequence(network)
    form = next(one for one in network.graph.inputs if one.name == given)
    reasons = []
    for time_axis in (0, 1) if len(form.shape) > 1 else ():
        try:
            step = _checked(network, form, time_axis)
        except (InteropError, RuntimeError, IndexError, TypeError, ValueError) as error:
            reasons.append((str(error).splitlines() or [""])[0])
            continue
        if step is not None:
            return Recurrent(step, batch_first=time_axis == 1, engine=network.engine).eval()
    why = f": {reasons[0]}" if reasons else ""
    raise InteropError(f"the graph does not give step by step what it gives for a whole sequence{why}")


@torch.no_grad()
def _checked(network: Any, form: Any, time_axis: int) -> OnnxStep | None:
    """The graph as a step, if it gives what the graph gives; None if it does not."""
    sizes = _sizes(network, form, time_axis)
    random = torch.Generator().manual_seed(0)
    inputs = [one.tensor(sizes, random) for one in network.graph.inputs]
    number = [one.name for one in network.graph.inputs].index(form.name)
    xs, rows = inputs[number], inputs[number].shape[1 - time_axis]
    for n in range(len(inputs)):
        if n != number:  # states start at zero, and rows are whole
            inputs[n] = torch.full_like(inputs[n], 0 if inputs[n].is_floating_point() else xs.shape[time_axis])
    found = network(*inputs)
    wanted = found[0] if isinstance(found, tuple) else found
    for output_axis in (0, 1, None):
        if output_axis is not None and wanted.shape[output_axis : output_axis + 1] != (xs.shape[time_axis],):
            continue
        step = OnnxStep(network, form.name, time_axis, output_axis)
        state, ys = step.initial_state(rows), []
        for x in xs.unbind(time_axis):
            y, state = step(x, state)
            ys.append(y)
        made = ys[-1] if output_axis is None else torch.stack(ys, output_axis)
        if made.shape == wanted.shape and relative_difference([made], [wanted]) <= _TOLERANCE:
            return step
    return None


def _sizes(network: Any, form: Any, time_axis: int) -> dict[str, int]:
    """Numbers for the sizes that the graph leaves open; any other than time is that of the rows."""
    names = {size for one in network.graph.inputs for size in one.shape if isinstance(size, str)}
    sizes = dict.fromkeys(names, _ROWS)
    rows, steps = form.shape[1 - time_axis], form.shape[time_axis]
    if isinstance(rows, int):
        sizes = dict.fromkeys(names, rows)
    return sizes | ({steps: _STEPS} if isinstance(steps, str) else {})


def needed_nodes(network: Any) -> list[int]:
    """The nodes that the first output is made of, where recurrent nodes have their states.

    Raises:
        InteropError: a recurrent node reads from the end, or is given its weights.
    """
    maker = {name: number for number, node in enumerate(network.nodes) for name in node.outputs if name}
    found, waiting = set(), [network.outputs[0]]
    while waiting:
        number = maker.get(waiting.pop())
        if number is None or number in found:
            continue
        found.add(number)
        node = network.nodes[number]
        waiting += _reads(network, number, node)
    return sorted(found)


def _reads(network: Any, number: int, node: Node) -> tuple[str, ...]:
    if str(number) not in network.over_time:
        return node.inputs
    over_time: Any = network.over_time[str(number)]
    if over_time.directions != (False,):
        raise InteropError(f"node {node.name} reads sequences from their end: it has no steps")
    if not over_time.networks:
        raise InteropError(f"node {node.name} is given its weights by other nodes: it cannot go step by step")
    return node.inputs[:1]


def _sequence(network: Any) -> str:
    """The name of the input that the steps read.

    Raises:
        InteropError: there are several, or none.
    """
    reads = {name for number in needed_nodes(network) for name in _reads(network, number, network.nodes[number])}
    found = [name for name in network.inputs if name in reads]
    if len(found) != 1:
        raise InteropError(f"a step reads one input, but the graph's output is made of {', '.join(found) or 'none'}")
    return found[0]


def _row(network: Any, given: str) -> Any:
    """What a step reads: features, or a shape; None where the graph does not say it."""
    form = next(one for one in network.graph.inputs if one.name == given)
    row = form.shape[2:]
    if any(isinstance(size, str) for size in row):
        return None
    return row[0] if len(row) == 1 else row


def _word(node: Node, number: int) -> str:
    name = re.sub(r"\W+", "_", node.name.strip("'\"")).strip("_")
    return name if name and not name[0].isdigit() else f"{node.kind.lower()}{number}"
