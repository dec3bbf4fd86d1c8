"""Cells of one's own, forward and backward: a `td.Stack` of two layers, as deep as the classic ones."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import treadle as td
from benchmarks import peers
from benchmarks.bars import at_most, bar, ratios
from benchmarks.cells import MultiplicativeCell, PReLUGRUCell, SievingCell
from benchmarks.following import follow
from benchmarks.gates import Check, compare
from benchmarks.race import OURS, Race
from benchmarks.registry import Bar, Case, Options, Result, Suite
from benchmarks.sizes import CUSTOM, LAYERS, TINY, Size
from benchmarks.timing import block
from benchmarks.training import Training, draw, inputs, recurrent_outputs

EAGER, COMPILED, JAX, OWN_LSTM = "eager loop", "torch.compile", "jax.lax.scan", "own LSTM"
RANDOM = "zoneout LSTM"

LAYER_NORM_GAIN = 0.1


def layer_norm_lstm(input_size: int, hidden_size: int) -> td.LayerNormLSTMCell:
    """With small gains, as Cooijmans et al. 2016 (arXiv:1603.09025) start them.

    With gains of 1 and random weights the network is chaotic: gradients explode, and float32 itself, in the eager loop
    as in JAX, is 1e-3 off float64, so that there is no right answer to compare with.
    """
    cell = td.LayerNormLSTMCell(input_size, hidden_size)
    for norm in (cell.norm_input, cell.norm_hidden):
        nn.init.constant_(norm.weight, LAYER_NORM_GAIN)
    return cell


CELLS: dict[str, Callable[[int, int], Any]] = {
    "layer-norm LSTM": layer_norm_lstm,
    "peephole LSTM": td.PeepholeLSTMCell,
    RANDOM: td.ZoneoutLSTMCell,
    "PReLU GRU": PReLUGRUCell,
    "multiplicative cell": MultiplicativeCell,
    "sieving cell": SievingCell,
}
FEEDBACK = "feedback, three LSTMs"


def over_time(stack: td.Stack, size: Size, engine: str) -> Training:
    """A stack on an engine; networks made of one stack share its parameters."""
    return draw(td.Recurrent(stack, batch_first=False, engine=engine), recurrent_outputs, inputs(*size))


def reference_values(training: Training) -> dict[str, Tensor]:
    """What a `td.Recurrent` must compute: the eager loop in float64."""
    module: Any = training.module
    return training.double(td.Recurrent(module.cell, batch_first=False, engine="reference")).values()


def stack_of(cell: Callable[[int, int], Any], size: Size) -> td.Stack:
    """Layers as wide as the input."""
    torch.manual_seed(0)
    return td.Stack([cell(size.H, size.H) for _ in range(LAYERS)])


def open_race(name: str, size: Size, options: Options) -> Race:
    """Ours against the eager loop, `torch.compile`, JAX, and our own LSTM."""
    stack = stack_of(CELLS[name], size)
    trainings = {OURS: over_time(stack, size, options.engine), EAGER: over_time(stack, size, "reference")}
    lstm = over_time(stack_of(td.LSTMCell, size), size, options.engine)
    notes, jax_training = {}, None
    try:
        jax_training = peers.load("jax_scan").JaxTraining(name, LAYERS, trainings[EAGER])
    except peers.Unavailable as why:
        notes[JAX] = str(why)
    if options.quick or options.tiny:
        notes[COMPILED] = "left out of quick runs: it compiles for a long time"
    else:
        try:
            trainings[COMPILED] = peers.load("torch_compile").compiled(trainings[EAGER])
        except peers.Unavailable as why:
            notes[COMPILED] = str(why)

    def check() -> list[Check]:
        if name == RANDOM:
            followed = {side: follow(side, training) for side, training in trainings.items()}
            checks = [check for one in followed.values() for check in one.checks]
            _, expected, masks = followed[EAGER]
        else:
            expected, masks = reference_values(trainings[EAGER]), None
            checks = [compare(side, training.values(), expected) for side, training in trainings.items()]
        if jax_training is not None:
            checks.append(compare(JAX, jax_training.values(masks), expected))
        return [*checks, compare(OWN_LSTM, lstm.values(), reference_values(lstm))]

    runs: dict[str, Callable[[], object]] = {**trainings, OWN_LSTM: lstm}
    if jax_training is not None:
        runs[JAX] = jax_training
    return Race({side: block(run) for side, run in runs.items()}, check, notes)


def open_feedback_race(size: Size, options: Options) -> Race:
    """A wiring whose edge from the top to the bottom ties all layers into one loop."""
    torch.manual_seed(0)
    stack = td.Stack([td.LSTMCell(size.H * reads, size.H) for reads in (2, 1, 1)], "feedback")
    trainings = {OURS: over_time(stack, size, options.engine), EAGER: over_time(stack, size, "reference")}

    def check() -> list[Check]:
        expected = reference_values(trainings[EAGER])
        return [compare(side, training.values(), expected) for side, training in trainings.items()]

    return Race({side: block(training) for side, training in trainings.items()}, check)


def cases(options: Options) -> list[Case]:
    """Every cell at every size, and one wiring."""
    sizes = TINY if options.tiny else CUSTOM
    return [
        *(Case(f"{name} {size}", "cells", partial(open_race, name, size, options)) for name in CELLS for size in sizes),
        Case(f"{FEEDBACK} {sizes[0]}", FEEDBACK, partial(open_feedback_race, sizes[0], options)),
    ]


def bars(results: list[Result]) -> list[Bar]:
    """As the issue states them."""
    return [
        bar("times the eager loop", 5.0, ratios(results, EAGER, "cells")),
        bar("times jax.lax.scan", 3.0, ratios(results, JAX, "cells")),
        at_most("own LSTMs' times at the same size, worst", 1.3, [1 / r for r in ratios(results, OWN_LSTM, "cells")]),
        bar(f"{FEEDBACK}, times the eager loop", 5.0, ratios(results, EAGER, FEEDBACK)),
    ]


SUITE = Suite("custom", "cells of one's own, two layers, forward and backward, against loops and JAX", cases, bars)
