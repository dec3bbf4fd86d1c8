"""Cells of one's own, forward and backward: a `td.Stack` of two layers, as deep as the classic ones."""

from collections.abc import Callable
from typing import Any

import torch

import treadle as td
from benchmarks import peers
from benchmarks.bars import at_most, bar, ratios
from benchmarks.cells import PReLUGRUCell, SievingCell
from benchmarks.following import check_random
from benchmarks.gates import Check, compare
from benchmarks.race import OURS, Race
from benchmarks.registry import Bar, Case, Options, Result, Suite
from benchmarks.sizes import CUSTOM, LAYERS, TINY, Size
from benchmarks.timing import block
from benchmarks.training import Training, draw, inputs, recurrent_outputs

EAGER, COMPILED, JAX, OWN_LSTM = "eager loop", "torch.compile", "jax.lax.scan", "own LSTM"

CELLS: dict[str, Callable[[int, int], Any]] = {
    "layer-norm LSTM": td.LayerNormLSTMCell,
    "peephole LSTM": td.PeepholeLSTMCell,
    "zoneout LSTM": td.ZoneoutLSTMCell,
    "PReLU GRU": PReLUGRUCell,
    "sieving cell": SievingCell,
}
FEEDBACK = "feedback, three LSTMs"


def over_time(stack: td.Stack, size: Size, engine: str) -> Training:
    """A stack on an engine, training; networks made of one stack share its parameters."""
    rnn = td.Recurrent(stack, batch_first=False, engine=engine)
    return draw(rnn, recurrent_outputs, inputs(*size))


def stack_of(cell: Callable[[int, int], Any], size: Size) -> td.Stack:
    """Layers as wide as the input."""
    torch.manual_seed(0)
    return td.Stack([cell(size.H, size.H) for _ in range(LAYERS)])


def open_race(name: str, size: Size, options: Options) -> Race:
    """Ours against the eager loop, `torch.compile`, JAX, and our own LSTM."""
    stack = stack_of(CELLS[name], size)
    trainings = {OURS: over_time(stack, size, options.engine), EAGER: over_time(stack, size, "reference")}
    notes = {}
    if options.tiny or options.quick:
        notes[COMPILED] = "left out of tiny and quick runs, because it compiles for a long time"
    else:
        try:
            trainings[COMPILED] = peers.load("torch_compile").compiled(trainings[EAGER])
        except peers.Unavailable as why:
            notes[COMPILED] = str(why)
    jax_training = None
    try:
        jax_training = peers.load("jax_scan").JaxTraining(name, LAYERS, trainings[EAGER])
    except peers.Unavailable as why:
        notes[JAX] = str(why)
    lstm = over_time(stack_of(td.LSTMCell, size), size, options.engine)

    def check() -> list[Check]:
        checks, masks = [], None
        if name == "zoneout LSTM":
            for side, training in trainings.items():
                found, reference = check_random(side, training)
                checks += found
            expected = reference.values()
        return checks

    sides = {side: block(training) for side, training in trainings.items()}
    if jax_training is not None:
        sides[JAX] = block(jax_training)
    return Race(sides | {OWN_LSTM: block(lstm)}, check, notes)
