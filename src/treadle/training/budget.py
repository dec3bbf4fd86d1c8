"""The length of training: steps, time or early stopping; and the learning rate over it."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class ShareDone:
    """How much of a training is over, from 0 to 1.

    Args:
        steps: how many there are; or
        seconds: how long it lasts. There is always a first step.
        start: when it began, on the clock of `time.monotonic`; now, if it is None.
        stop: asked at each step whether to end at once.

    Example:
        >>> from treadle.training.budget import ShareDone
        >>> share_done = ShareDone(steps=200)
        >>> share_done(50), share_done(200)
        (0.25, 1.0)
    """

    def __init__(
        self,
        steps: int | None = None,
        seconds: float | None = None,
        start: float | None = None,
        stop: Callable[[], bool] = lambda: False,
    ):
        if (steps is None) == (seconds is None):
            raise ValueError("a training lasts a number of steps or of seconds: pass one of the two")
        self._steps, self._seconds, self._stop = steps, seconds, stop
        self._start = time.monotonic() if start is None else start

    def __call__(self, step: int) -> float:
        """The share that is over when so many steps are done."""
        if self._stop():
            return 1.0
        if self._steps is not None:
            return step / self._steps
        return (time.monotonic() - self._start) / (self._seconds or 1) if step else 0.0

    def state_dict(self) -> dict[str, float]:
        """The time that was used."""
        return {"seconds": time.monotonic() - self._start}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Count on from there."""
        self._start = time.monotonic() - state["seconds"]


def every(steps: int | None = None, seconds: float | None = None) -> Callable[[int], bool]:
    """Whether it is time again, asked after each step: after so many steps, or so many seconds.

    Example:
        >>> from treadle.training.budget import every
        >>> due = every(steps=3)
        >>> [step for step in range(1, 8) if due(step)]
        [3, 6]
    """
    last = time.monotonic()

    def due(step: int) -> bool:
        nonlocal last
        if steps is not None:
            return step % steps == 0
        if time.monotonic() - last < (seconds or 0):
            return False
        last = time.monotonic()
        return True

    return due


def warm_up_and_cosine(step: int, share_done: float, warm_up: int = 10) -> float:
    """Warm-up and cosine schedule: the fraction of the peak learning rate after a share of the training.

    Source: Loshchilov and Hutter, *SGDR: Stochastic gradient descent with warm restarts*, 2017.

    Example:
        >>> from treadle.training.budget import warm_up_and_cosine
        >>> [round(warm_up_and_cosine(step, (step - 1) / 100), 2) for step in (1, 10, 51, 100)]
        [0.1, 0.98, 0.5, 0.0]
    """
    return min(step / warm_up, 1) * 0.5 * (1 + math.cos(math.pi * share_done))


class EarlyStopping:
    """Early stopping: keeps the best weights, and counts evaluations since then.

    Args:
        patience: evaluations without a new best before training stops; None never stops, but keeps the best weights.

    Source: Prechelt, *Early Stopping: But When?*, 1998.

    Example:
        >>> import torch
        >>> from treadle.training import EarlyStopping
        >>> model, stopping = torch.nn.Linear(1, 1), EarlyStopping(patience=2)
        >>> for score in (3.0, 2.0, 2.5, 2.1):
        ...     over = stopping.update(score, model)
        >>> over
        True
        >>> stopping.score
        2.0
    """

    def __init__(self, patience: int | None = None):
        self.patience = patience
        self.score = math.inf
        """The lowest so far."""
        self.scores: list[float] = []
        """All so far."""
        self.waited = 0
        """Evaluations since the lowest."""
        self.weights: dict[str, Tensor] = {}
        """The weights with the lowest."""

    def update(self, score: float, model: nn.Module) -> bool:
        """Take an evaluation into account; lower is better.

        Returns:
            Whether to stop.
        """
        self.scores.append(score)
        if score < self.score:
            self.score, self.waited = score, 0
            self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        else:
            self.waited += 1
        return self.is_over

    @property
    def is_over(self) -> bool:
        """Whether to stop."""
        return self.patience is not None and self.waited >= self.patience

    @torch.no_grad()
    def restore(self, model: nn.Module) -> None:
        """Restore the best weights, if there was an evaluation."""
        if self.weights:
            model.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"score": self.score, "scores": self.scores, "waited": self.waited, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from there."""
        self.score, self.waited, self.weights = state["score"], state["waited"], state["weights"]
        self.scores = list(state.get("scores", ()))  # older checkpoints have none


class NeverStopping(EarlyStopping):
    """In place of early stopping: remembers every evaluation, and leaves the network as it is.

    Example:
        >>> import torch
        >>> from treadle.training.budget import NeverStopping
        >>> never = NeverStopping()
        >>> never.update(3.0, torch.nn.Linear(1, 1)), never.scores, never.weights
        (False, [3.0], {})
    """

    def update(self, score: float, model: nn.Module) -> bool:
        """Remember an evaluation."""
        self.scores.append(score)
        return False
