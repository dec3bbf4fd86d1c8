"""Tasks: data as batches, the network for it, and its evaluation. Each kind of data has a class."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from treadle.errors import DataError
from treadle.running.recurrent import Recurrent
from treadle.training.layered_networks import nearest_hidden_size

MOST_STEPS = 500
"""Validation comes after each epoch, or after so many steps if that is sooner."""


class Verdict(NamedTuple):
    """The scores of a network on data that it was not trained on."""

    sentence: str
    """The scores as a sentence."""
    scores: dict[str, float]
    """The same as numbers, by name."""


class Forecasts(NamedTuple):
    """Forecasts and true values of each row."""

    name: str
    rows: Sequence[int]
    true: Sequence[float]
    forecasts: Mapping[str, Sequence[float]]


class Predictions(NamedTuple):
    """Predicted numbers and true ones."""

    name: str
    true: Sequence[float]
    predicted: Sequence[float]


class Confusion(NamedTuple):
    """A confusion matrix: how often each label was predicted where each is true."""

    labels: Sequence[str]
    counts: Sequence[Sequence[int]]
    """A row for each true label, a column for each predicted one."""


Truth: TypeAlias = Forecasts | Predictions | Confusion


class Design(NamedTuple):
    """What can be chosen of a network, whatever it learns."""

    cell: str = "lstm"
    wiring: str = "stack"
    layers: int = 2
    parameters: int | None = 50_000
    """None leaves the size to the task."""
    dropout: float = 0.0

    def built(self, build: Callable[..., Recurrent], *arguments: Any, hidden_size: int = 0) -> Recurrent:
        """The network that ``build`` makes, which takes a design behind these arguments.

        Args:
            build: makes it, of any size.
            *arguments: what it takes first.
            hidden_size: for a design without a number of parameters.
        """
        design = self.cell, self.wiring, self.layers

        def sized(hidden_size: int) -> Recurrent:
            return build(*arguments, *design, hidden_size, self.dropout)

        if self.parameters is None:
            return sized(hidden_size)
        return sized(nearest_hidden_size(sized, self.parameters, *design)[0])


def require_finite(what: str, finite: bool) -> None:
    """Refuse to judge what a network says once it has diverged.

    Args:
        what: how the message calls it.
        finite: whether all of it is.

    Raises:
        DataError: it is not.
    """
    if not finite:
        raise DataError(f"{what} are not finite: train with a smaller `learning_rate`")


class Habits(NamedTuple):
    """Default settings for a kind of data."""

    budget: str
    parameters: int | None
    learning_rate: float
    rows: int = 32
    patience: int | None = None
    dropout: float = 0.0
    noise: float = 0.0
    label_smoothing: float = 0.0
    weight_decay: float = 0.0
    one_thread: bool = True
    """Whether products are so small that threads wait for each other longer than they work."""
    shortest_epoch: int = 1
    """Budget and patience are in epochs; of those with fewer steps than this, there are as many more."""

    def scaled(self, epochs: int, epoch_steps: int) -> int:
        """How many epochs of so many steps stand for a default in epochs.

        Example:
            >>> from treadle.training.task import Habits
            >>> habits = Habits("100epochs", 50_000, 0.003, shortest_epoch=10)
            >>> habits.scaled(100, epoch_steps=25), habits.scaled(100, epoch_steps=8), habits.scaled(100, epoch_steps=1)
            (100, 125, 1000)
        """
        return max(epochs, -(-epochs * self.shortest_epoch // epoch_steps))


class Task(Protocol):
    """What `treadle.training.training_loop.train` and the command need to know of what is learned."""

    name: str
    """How messages call the data."""
    size: str
    """How large the training set is, in words."""
    split: str
    """How the sets were split, as a sentence; empty where there is nothing to say."""
    batches: Any
    """Batches of the training set, without an end."""
    epoch_steps: int
    """How many batches make an epoch."""
    carry_state: bool
    """Whether batches continue where those before them ended."""
    evaluate_every: int
    """After how many steps to validate."""
    habits: Habits
    """What suits this kind of data."""
    losses: Mapping[str, Any]
    """``run`` and ``loss_of`` of `train`, where the usual ones do not do."""

    def build(self, design: Design) -> Recurrent:
        """A network to be trained."""
        ...

    def validate(self, model: Recurrent) -> float:
        """The score that tells when to stop, the lower the better."""
        ...

    def judge(self, model: Recurrent) -> Verdict:
        """How good the network is on what was never used."""
        ...

    def save(self, path: str | os.PathLike[str], model: Recurrent) -> None:
        """Write the network to a file, with what its numbers mean."""
        ...

    def truth(self, model: Recurrent) -> Truth | None:
        """Predictions beside what came true, for a picture; None if there is nothing to show."""
        ...
