"""From traces of a machine to a network that does the same: training set, training and evaluation."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch

from treadle.cells import GRUCell
from treadle.control import ClosedLoop, Discrete, Trace, record
from treadle.errors import DataError
from treadle.recipes.imitate.machine import Machine
from treadle.recipes.imitate.tape import RandomTapes, Tape
from treadle.training import Step, parameter_groups, trace_batches, train
from treadle.training.memory import require_memory
from treadle.wiring import NoisyStateCell


class Settings(NamedTuple):
    """How a machine is imitated."""

    letters: str
    """What tapes of the training set are written in."""
    longest: int = 16
    """The longest tape of the training set, in cells."""
    traces: int = 2048
    """How many runs of the machine are seen."""
    trace_steps: int = 500
    """So much of each run is seen at most."""
    hidden_size: int = 48
    """Of the network's GRU."""
    noise: float = 0.1
    """Deviation of the noise on its state while it learns."""
    dropout: float = 0.1
    """The share of its state that is lost at each step while it learns."""
    steps: int = 1500
    """Steps of training."""
    rows: int = 32
    """Traces in a batch."""
    learning_rate: float = 0.01
    """The peak of the schedule."""
    seed: int = 0
    """Of tapes, start and noise."""


def demonstrations(machine: Machine, settings: Settings) -> list[Trace]:
    """What is seen of the machine, from outside: readings and actions.

    Raises:
        DataError: letters that the machine does not know.
        ShapeError: no memory holds so much.
    """
    needed = 16 * settings.traces * settings.trace_steps
    require_memory(needed, f"{settings.traces:,} traces", "pass fewer `traces` or `trace_steps`")
    tapes = RandomTapes(machine, settings.letters, settings.longest, settings.trace_steps, settings.seed)
    return [record(machine.controller(), tapes, settings.trace_steps) for _ in range(settings.traces)]


def imitator(machine: Machine, settings: Settings) -> ClosedLoop:
    """A network that knows the machine's alphabets, and nothing else of it."""
    torch.manual_seed(settings.seed)
    readings, actions = Discrete(len(machine.symbols)), Discrete(len(machine.actions))
    cell = GRUCell(readings.n + actions.n, settings.hidden_size)
    return ClosedLoop(NoisyStateCell(cell, settings.noise, settings.dropout), readings, actions)


def learn(
    loop: ClosedLoop, traces: list[Trace], settings: Settings, stop: Callable[[], bool] = lambda: False
) -> Iterator[Step]:
    """Train a network on traces, a step each time that the iterator is asked; `stop` ends it before its time."""
    follower = loop.follower()
    optimiser = torch.optim.AdamW(parameter_groups(follower))
    batches = trace_batches(loop, traces, settings.rows, settings.seed)

    def share_done(step: int) -> float:
        return 1.0 if stop() else step / settings.steps

    yield from train(follower, batches, optimiser, share_done, learning_rate=settings.learning_rate)
    loop.eval()


class Imitated(NamedTuple):
    """A run of a network beside the machine's own, on a tape of the network's."""

    steps: int
    """Steps that were right."""
    right: bool
    """Whether that was all of them."""
    halted: bool
    """Whether the machine came to its end, and the network with it."""


def same_run(session: Any, machine: Machine, tape: Tape) -> Imitated:
    """Let a network's session run free on a tape, and compare each action with that of the machine, which is right.

    It is over when an action is wrong, the machine halts or the tape's budget is used up.
    """
    controller = machine.controller()
    session.reset()
    act, apply, expected = session.act, tape.apply, controller.act
    reading, done = tape.reset(), tape.budget == 0
    while not done:
        action = act(reading)
        if action != expected(reading):
            return Imitated(tape.steps, False, False)
        reading, done = apply(action)
    return Imitated(tape.steps, True, tape.halted)


class Judgement(NamedTuple):
    """How many tapes a network was right on."""

    tapes: int
    right: int
    """On these, every action was the machine's, to its halt or to the end of the budget."""
    halted: int
    """So many of the runs that were right came to the machine's halt."""
    steps: int
    """Steps that were right, of all tapes."""
    first_wrong: str | None
    """The content of the first tape on which the network was wrong."""


def judge(
    loop: ClosedLoop, machine: Machine, tapes: Iterable[Tape], stop: Callable[[], bool] = lambda: False
) -> Judgement:
    """Run a network free on tapes, beside the machine; ``stop`` is asked after each whether to leave the rest."""
    session = loop.session()
    runs: list[Imitated] = []
    first_wrong = None
    for tape in itertools.takewhile(lambda _: not stop(), tapes):
        runs.append(same_run(session, machine, tape))
        if first_wrong is None and not runs[-1].right:
            first_wrong = "".join(machine.symbols[cell] for cell in tape.content)
    right = [run for run in runs if run.right]
    halted, steps = sum(run.halted for run in right), sum(run.steps for run in runs)
    return Judgement(len(runs), len(right), halted, steps, first_wrong)


def check_imitates(loop: Any, machine: Machine, name: str) -> ClosedLoop:
    """A network that reads and does what the machine does.

    Raises:
        DataError: it does not.
    """
    wanted = Discrete(len(machine.symbols)), Discrete(len(machine.actions))
    if not isinstance(loop, ClosedLoop) or (loop.readings, loop.actions) != wanted:
        raise DataError(
            f"{name} is not a network that imitates {machine.name}: one that does reads {wanted[0].n} symbols"
            f" and has {wanted[1].n} actions; make one with 'treadle imitate MACHINE -o MODEL'"
        )
    return loop
