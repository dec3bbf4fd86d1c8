"""When to stop, and which weights to keep: those that the validation part liked best."""

import math
from typing import Any

import torch
from torch import Tensor, nn


class EarlyStopping:
    """Remembers the best weights, and how long ago they were.

    Args:
        patience: after how many evaluations without a new best to stop; None never stops, but still remembers.

    Source: Prechelt, *Early Stopping: But When?*, 1998.

    Example:
        >>> import torch
        >>> from treadle.training.early_stopping import EarlyStopping
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
        self.waited = 0
        """Evaluations since then."""
        self.weights: dict[str, Tensor] = {}
        """The weights of then."""

    def update(self, score: float, model: nn.Module) -> bool:
        """Take an evaluation into account, the lower the better.

        Returns:
            Whether to stop.
        """
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
        """Put the best weights back, if there was an evaluation."""
        if self.weights:
            model.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"score": self.score, "waited": self.waited, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from there."""
        self.score, self.waited, self.weights = state["score"], state["waited"], state["weights"]
