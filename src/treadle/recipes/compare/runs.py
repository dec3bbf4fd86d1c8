"""The runs of one process: each a network with a random generator of its own, that tells how far it is."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from treadle.files.checkpoint import read_checkpoint
from treadle.recipes.compare.plan import Plan
from treadle.training.language_model import Progress, fit, language_model, start_from_frequencies
from treadle.training.text import Text
from treadle.training.training_loop import is_kept

TELL_EVERY = 0.2
"""Seconds between messages about steps."""


class Stepped(NamedTuple):
    """A worker did some training steps."""

    steps: int


class Evaluated(NamedTuple):
    """A run reached an evaluation point."""

    run: int
    step: int
    bits: float
    """Bits per byte on the held-out text."""
    seconds: float
    """Time that it has trained for, evaluations excepted."""
    weights: dict[str, np.ndarray]
    """Its ``state_dict`` at this point; empty where only a later one was kept."""


class GivenUp(NamedTuple):
    """A run was stopped early, as others do better; its last evaluation point is where it ended."""

    run: int


class _Pace:
    """How much of a run is over, and the time that it has trained for, which goes into its checkpoints."""

    def __init__(self, steps: int):
        self._steps, self.seconds = steps, 0.0

    def __call__(self, step: int) -> float:
        return step / self._steps

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.seconds = state["seconds"]


class Run:
    """One network in training, with a random generator of its own.

    Args:
        number: which of the plan's runs.
        plan: the plan.
        text: the text to train on.
        checkpoint: the file to resume from, if it is there, and to write at each evaluation point; None for none.
    """

    def __init__(self, number: int, plan: Plan, text: Text, checkpoint: Path | None = None):
        contender, seed = plan.runs[number]
        torch.manual_seed(seed)
        self.number, self.done = number, 0
        self._plan, self._pace, self._checkpoint = plan, _Pace(plan.steps), checkpoint
        self.model = language_model(contender.cell, contender.wiring, contender.layers, contender.hidden_size)
        start_from_frequencies(self.model, text)
        self._progress = fit(
            self.model,
            text,
            share_done=self._pace,
            evaluate_at=frozenset(plan.evaluate_at),
            window=plan.window,
            seed=seed,
            checkpoint=checkpoint,
        )
        self._random_state = torch.get_rng_state()

    def resumed(self) -> list[Evaluated]:
        """The evaluation points that it had reached by its checkpoint, if that is there: the weights of the last only.

        Raises:
            ModelFileError: the checkpoint is of another network, or damaged.
        """
        if self._checkpoint is None or not is_kept(self._checkpoint):
            return []
        kept = read_checkpoint(self._checkpoint, self.model, {})
        self.done = kept.values["step"]
        self._pace.load_state_dict(kept.values["share_done"])
        self.model.load_state_dict(kept.weights)  # what resumes from the checkpoint does so once more
        points = zip(self._plan.evaluate_at, kept.values["stopping"]["scores"], strict=False)
        events = [Evaluated(self.number, step, bits, self._pace.seconds, {}) for step, bits in points]
        return [*events[:-1], *(self.evaluated(event.bits) for event in events[-1:])]

    def step(self) -> Progress:
        """Take the next training step."""
        # What others in this process draw (the masks of zoneout) must not change what this run draws.
        torch.set_rng_state(self._random_state)
        progress = next(self._progress)
        self._random_state = torch.get_rng_state()
        self._pace.seconds += progress.seconds
        self.done = progress.step
        return progress

    def evaluated(self, bits: float) -> Evaluated:
        """What there is to say at an evaluation point."""
        weights = {name: tensor.numpy() for name, tensor in self.model.state_dict().items()}
        return Evaluated(self.number, self.done, bits, self._pace.seconds, weights)


def train_share(
    plan: Plan, text: Text, share: Sequence[int], stopped: Callable[[], bool], folder: Path | None = None
) -> Iterator[Stepped | Evaluated]:
    """Train some of a plan's runs, all to the same evaluation point before any goes on to the next.

    Args:
        plan: the plan.
        text: the text to train on.
        share: which of its runs.
        stopped: asked before each step whether to end.
        folder: of checkpoints, a file a run, to resume from and to write at each evaluation point.
    """
    runs = [Run(number, plan, text, folder and folder / file_name(plan, number)) for number in share]
    for run in runs:
        yield from run.resumed()
        yield Stepped(run.done)
    yield from train_runs(plan, runs, stopped)


def file_name(plan: Plan, number: int) -> str:
    """What the checkpoint of a run is called in its folder."""
    contender, seed = plan.runs[number]
    return f"{contender.wiring}-{contender.cell}-{seed}"


def train_runs(plan: Plan, runs: Sequence[Run], stopped: Callable[[], bool]) -> Iterator[Stepped | Evaluated]:
    """As `train_share`, with runs that have resumed already."""
    untold, told_at = 0, time.monotonic()
    for point in plan.evaluate_at:
        for run in runs:
            while run.done < point:
                if stopped():
                    return
                progress = run.step()
                untold += 1
                if time.monotonic() - told_at > TELL_EVERY or progress.step == point:
                    yield Stepped(untold)
                    untold, told_at = 0, time.monotonic()
                if progress.step == point:
                    assert progress.held_out_bits is not None
                    yield run.evaluated(progress.held_out_bits)
