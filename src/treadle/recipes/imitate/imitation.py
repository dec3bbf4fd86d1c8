"""Imitating a machine: training set, training and evaluation."""

import itertools
from collections.abc import Callable, Generator, Iterable
from typing import Any, NamedTuple

import torch

from treadle.cells import GRUCell
from treadle.control import ClosedLoop, Discrete, Trace, record
from treadle.errors import DataError
from treadle.recipes.imitate.machine import Machine
from treadle.recipes.imitate.tape import RandomTapes, Tape
from treadle.training import Step, parameter_groups, trace_batches, train
from treadle.training.budget import ShareDone
from treadle.training.memory import require_memory
from treadle.wiring import NoisyStateCell


class Settings(NamedTuple):
    """Settings of an imitation."""

    letters: str
    """Symbols on tapes of the training set."""
    longest: int = 16
    """The longest tape of the training set, in cells."""
    traces: int = 2048
    """Number of training traces, one per run of the machine."""
    trace_steps: int = 500
    """Maximum length of a trace, in steps."""
    hidden_size: int = 48
    """Hidden size of the network's GRU."""
    noise: float = 0.1
    """Standard deviation of noise on its state in training."""
    dropout: float = 0.1
    """Dropout on its state in training."""
    steps: int = 1500
    """Number of training steps."""
    rows: int = 32
    """Batch size, in traces."""
    learning_rate: float = 0.01
    """The peak learning rate."""
    seed: int = 0
    """Random seed of tapes, weights and noise."""


def demonstrations(machine: Machine, settings: Settings) -> list[Trace]:
    """The training set: traces of the machine's readings and actions.

    Raises:
        DataError: letters that the machine does not know.
        ShapeError: no memory holds so much.
    """
    needed = 16 * settings.traces * settings.trace_steps
    require_memory(needed, f"{settings.traces:,} traces", "pass fewer `traces` or `trace_steps`")
    tapes = RandomTapes(machine, settings.letters, settings.longest, settings.trace_steps, settings.seed)
    return [record(machine.controller(), tapes, settings.trace_steps) for _ in range(settings.traces)]


def imitator(machine: Machine, settings: Settings) -> ClosedLoop:
    """An untrained network for the machine's symbols and actions."""
    torch.manual_seed(settings.seed)
    readings, actions = Discrete(len(machine.symbols)), Discrete(len(machine.actions))
    cell = GRUCell(readings.n + actions.n, settings.hidden_size)
    return ClosedLoop(NoisyStateCell(cell, settings.noise, settings.dropout), readings, actions)


class Learning:
    """Training of an imitation.

    Args:
        loop: the network; it is trained in place.
        traces: the training set.
        settings: batch size, learning rate and random seed.
    """

    def __init__(self, loop: ClosedLoop, traces: list[Trace], settings: Settings):
        self.loop, self.model, self.settings = loop, loop.follower(), settings
        self.batches = trace_batches(loop, traces, settings.rows, settings.seed)
        self.done = 0
        """Steps done when it is over."""

    def steps(self, share_done: Callable[[int], float] | None = None, **options: Any) -> Generator[Step, None, None]:
        """Train, one step per iteration.

        Args:
            share_done: from the number of steps done to the fraction of training that is over; None for as many steps
                as the settings say.
            **options: ``checkpoint``, ``checkpoint_at`` and ``about``, as of `treadle.training.train`.
        """
        rate = self.settings.learning_rate
        optimiser = torch.optim.AdamW(parameter_groups(self.model), lr=rate)
        share_done = share_done or ShareDone(steps=self.settings.steps)
        self.done = yield from train(self.model, self.batches, optimiser, share_done, learning_rate=rate, **options)
        self.loop.eval()


class Imitated(NamedTuple):
    """A closed-loop run of a network, compared with the machine's."""

    steps: int
    """Number of correct steps."""
    right: bool
    """Whether all steps were correct."""
    halted: bool
    """Whether the machine halted, and the network with it."""


def same_run(session: Any, machine: Machine, tape: Tape) -> Imitated:
    """Run a network's session in closed loop on a tape, and compare each action with the machine's.

    It ends when an action is wrong, the machine halts or the tape's budget is used up.
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
    """The number of tapes on which a network was correct."""

    tapes: int
    right: int
    """Tapes on which every action was the machine's, until it halted or the budget ended."""
    halted: int
    """Correct runs in which the machine halted."""
    steps: int
    """Number of correct steps on all tapes."""
    first_wrong: str | None
    """Content of the first tape with a wrong action."""


def judge(
    loop: ClosedLoop, machine: Machine, tapes: Iterable[Tape], stop: Callable[[], bool] = lambda: False
) -> Judgement:
    """Run a network in closed loop on tapes, and compare it with the machine; ``stop`` ends it early."""
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
    """Return a network that has the machine's readings and actions, or refuse it.

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
