"""Layers of one cell with something in front and a head behind: the networks that ``treadle fit`` trains.

Each is a `treadle.Graph`, so that it is kept by `treadle.save`, drawn, and stepped live like any other.
"""

import bisect
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from treadle import cells
from treadle.errors import ShapeError
from treadle.running.recurrent import Recurrent
from treadle.training.memory import BYTES_PER_PARAMETER, require_memory
from treadle.training.scores import least_squares
from treadle.wiring import WIRINGS, Graph, MeanCell, Stack, sum_of

CELLS: dict[str, type[cells.RecurrentCell]] = {
    "lstm": cells.LSTMCell,
    "gru": cells.GRUCell,
    "rnn": cells.RNNCell,
    "peephole": cells.PeepholeLSTMCell,
    "layernorm": cells.LayerNormLSTMCell,
    "zoneout": cells.ZoneoutLSTMCell,
    "coupled": cells.CoupledLSTMCell,
    "minimal": cells.MinimalGatedCell,
    "slstm": cells.SLSTMCell,
    "indrnn": cells.IndRNNCell,
    "highway": cells.RecurrentHighwayCell,
    "mingru": cells.MinGRUCell,
    "minlstm": cells.MinLSTMCell,
    "rglru": cells.RGLRUCell,
    "cfc": cells.CfCCell,
}
"""The cells that can be asked for by a short name: those that read rows of features, under any wiring."""

TOLERANCE = 0.02
"""How far a matched network may be from the number of parameters asked for, as a share of it."""


def layers_of(cell: str, wiring: str, layers: int, input_size: int, hidden_size: int, dropout: float = 0.0) -> Stack:
    """Layers of one cell under a named wiring. Forget gates start open (bias 1) in the cells that have this option."""
    if cell not in CELLS:
        raise ValueError(f"there is no cell {cell!r}: choose one of {', '.join(CELLS)}")
    if wiring not in WIRINGS:
        raise ValueError(f"there is no wiring {wiring!r}: choose one of {', '.join(WIRINGS)}")
    if layers < 1:
        raise ShapeError(f"a network needs at least one layer, but layers={layers} was passed")
    kind: Any = CELLS[cell]
    options = {"forget_bias": 1.0} if "forget_bias" in inspect.signature(kind).parameters else {}
    return Stack.of(kind, input_size, hidden_size, layers, wiring, dropout=dropout, **options)


def sequence_model(
    input_size: int,
    output_size: int,
    cell: str = "lstm",
    wiring: str = "stack",
    layers: int = 2,
    hidden_size: int = 64,
    dropout: float = 0.0,
    mean: bool = False,
) -> Recurrent:
    """Layers of one cell and a linear head, with an output at every step. For many-to-one, take the last output.

    Args:
        input_size: ``I``, features of a step.
        output_size: ``K``, the number of labels, or of numbers to predict.
        cell: a name in `CELLS`.
        wiring: a name in `treadle.WIRINGS`.
        layers: how many layers of the cell.
        hidden_size: ``H`` of every layer.
        dropout: between layers and before the head, in training.
        mean: whether the head reads, beside what the layers give now, the mean of all that they have given so far: what
            the beginning of a sequence says is then not to be kept in a state until its end.

    Returns:
        A `treadle.Recurrent`: [B, T, I] in, [B, T, K] out.

    Raises:
        ValueError: no such cell or wiring.
        ShapeError: a size is not a positive whole number.

    Example:
        >>> import torch
        >>> from treadle.training import sequence_model
        >>> rnn = sequence_model(12, 9, "gru", hidden_size=8)
        >>> scores, state = rnn(torch.randn(4, 29, 12), lengths=[29, 7, 20, 11])
        >>> scores.shape
        torch.Size([4, 29, 9])
    """
    graph = Graph(input_size)
    node = graph.add("layers", layers_of(cell, wiring, layers, input_size, hidden_size, dropout), reads=graph.x)
    if dropout:
        node = graph.add("dropout", nn.Dropout(dropout), reads=node)
    reads = [node]
    if mean:
        reads.append(graph.add("mean", MeanCell(hidden_size), reads=node))
    head = nn.Linear(hidden_size * len(reads), output_size)
    return Recurrent(graph.outputs(graph.add("head", head, reads=reads)))


def forecaster(
    input_size: int,
    output_size: int,
    delays: Sequence[int] = (0,),
    differences: Sequence[int] = (),
    cell: str = "lstm",
    wiring: str = "stack",
    layers: int = 2,
    hidden_size: int = 64,
    dropout: float = 0.0,
) -> Recurrent:
    """A forecasting network: a linear forecast from the recent past plus the output of layers of one cell.

    The head of the layers starts at zero, so training starts from the linear forecast; see `fit_linear`. The other
    arguments are those of `sequence_model`.

    Args:
        input_size: ``I``, features of a step.
        output_size: numbers that are forecast at each step.
        delays: delays of the inputs that the linear part reads, in steps; 0 is now.
        differences: differencing: if there are any, the layers read the change of the input over so many steps, for
            series that drift away from their training range.

    Returns:
        A `treadle.Recurrent`: [B, T, I] in, [B, T, ``output_size``] out.

    Source: Lai, Chang, Yang and Liu, *Modeling Long- and Short-Term Temporal Patterns with Deep Neural Networks*, 2018,
    section 3.6, for the linear part.

    Raises:
        ValueError: no such cell or wiring.
        ShapeError: a size is not a positive whole number.

    Example:
        >>> import torch
        >>> from treadle.training import forecaster
        >>> rnn = forecaster(1, 3, delays=[0, 1, 11], hidden_size=8)
        >>> forecasts, state = rnn(torch.randn(1, 30, 1))
        >>> forecasts.shape
        torch.Size([1, 30, 3])
    """
    graph = Graph(input_size)
    reads: list[Any] = [graph.x]
    if differences:
        reads = []
        for steps in differences:
            change = nn.Linear(2 * input_size, input_size, bias=False).requires_grad_(False)
            one = torch.eye(input_size, device=change.weight.device)
            change.weight.copy_(torch.cat([one, -one], 1))
            reads.append(graph.add(f"change{steps}", change, reads=[graph.x, graph.x.delayed(steps)]))
    stack = layers_of(cell, wiring, layers, input_size * len(reads), hidden_size, dropout)
    node = graph.add("layers", stack, reads=reads)
    if dropout:
        node = graph.add("dropout", nn.Dropout(dropout), reads=node)
    head = nn.Linear(hidden_size, output_size)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    past = [graph.x.delayed(delay) if delay else graph.x for delay in delays]
    linear = graph.add("linear", nn.Linear(input_size * len(delays), output_size), reads=past)
    return Recurrent(graph.outputs(sum_of(graph.add("head", head, reads=node), linear)))


@torch.no_grad()
def fit_linear(model: Recurrent, examples: Sequence[tuple[Tensor, Tensor]], delays: Sequence[int]) -> None:
    """Let the linear part of a `forecaster` with these ``delays`` start as the best linear forecast: by least squares.

    Examples are pairs of ``x`` [T, I] and ``y`` [T, K], NaN where there is nothing to forecast.
    """
    solution, linear = least_squares(examples, delays), model.cell.linear
    if solution is None:
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        return
    linear.weight.copy_(solution[:-1].T)
    linear.bias.copy_(solution[-1])


def parameter_count(model: nn.Module) -> int:
    """How many numbers a network learns."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def nearest_hidden_size(
    build: Callable[[int], nn.Module], parameters: int, cell: str, wiring: str, layers: int
) -> tuple[int, int]:
    """The hidden size with which ``build`` comes nearest to a number of parameters, and how many it then has.

    Raises:
        ShapeError: no hidden size comes within 2 %; the message names what can be reached. Or so many parameters could
            not be trained in the memory that there is.
    """
    require_memory(BYTES_PER_PARAMETER * parameters, f"training {parameters:,} parameters", "pass fewer `parameters`")

    def count(hidden_size: int) -> int:
        with torch.device("meta"):  # shapes without memory
            return parameter_count(build(hidden_size))

    most = 1
    while count(most) < parameters:
        most *= 2
    sizes = range(1, most + 1)
    enough = sizes[bisect.bisect_left(sizes, parameters, key=count)]
    reachable = {size: count(size) for size in (max(enough - 1, 1), enough)}
    best = min(reachable, key=lambda size: abs(reachable[size] - parameters))
    if abs(reachable[best] - parameters) > TOLERANCE * parameters:
        what = f"{layers} {'layers' if layers > 1 else 'layer'} of {cell} wired as {wiring}"
        near = " or ".join(f"{total:,} (hidden size {size})" for size, total in reachable.items())
        raise ShapeError(
            f"{what} cannot have {parameters:,} parameters to within {TOLERANCE:.0%}: the nearest it can have is {near}"
        )
    return best, reachable[best]
