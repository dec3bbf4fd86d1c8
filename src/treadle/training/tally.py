"""The scores of predictions that are given one after the other, in memory that does not grow."""

from collections.abc import Sequence

import torch
from torch import Tensor

from treadle.training.scores import Errors


class Tally:
    """Counts right labels and adds up errors of numbers.

    Example:
        >>> import torch
        >>> from treadle.training.tally import Tally
        >>> tally = Tally()
        >>> for part in torch.arange(6.0).reshape(3, 2):
        ...     tally.numbers(part + 1, part)
        >>> tally.sentence
        'mean absolute error 1 (RMSE 1, R² 0.657) over 6 values'
    """

    def __init__(self) -> None:
        self._errors, self._lasts, self._right, self._labels = Errors(), Errors(), 0, 0

    def labels(self, said: Sequence[str], true: Sequence[str | None]) -> None:
        """Labels beside true ones; None where there is none."""
        known = [(one, other) for one, other in zip(said, true, strict=True) if other is not None]
        self._right += sum(one == other for one, other in known)
        self._labels += len(known)

    def numbers(self, said: Tensor, true: Tensor) -> None:
        """Numbers beside true ones, of one shape; NaN where there is none."""
        self._errors = self._errors.add(Errors.of(said, true))

    def last(self, said: Tensor, true: Tensor) -> None:
        """Numbers that belong to the last step of a series, besides."""
        self._lasts = self._lasts.add(Errors.of(said, true))

    def forecasts(self, said: Tensor, true: Tensor, before: Tensor) -> None:
        """Forecasts [T, H, K] at some steps and those ``before`` them, beside what came true [T, K] at these steps."""
        everything, past = torch.cat([before, said]), len(before)
        for ahead in range(1, said.shape[1] + 1):
            first = max(ahead - past, 0)
            if first < len(true):
                self.numbers(everything[past - ahead + first : past - ahead + len(true), ahead - 1], true[first:])

    @property
    def scores(self) -> dict[str, float]:
        """By name; empty if there was no truth."""
        if self._labels:
            return {"accuracy": self._right / self._labels}
        last = list(self._lasts.scores.items())[:2]  # R² of few last steps says little
        return self._errors.scores | {f"{name}_at_last_step": value for name, value in last}

    @property
    def sentence(self) -> str:
        """The same in words; empty if there was no truth."""
        if self._labels:
            return f"{100 * self._right / self._labels:.1f} % of {self._labels} labels are correct"
        if not self._errors.count:
            return ""
        last = f"; at the last step of each series: {self._lasts}" if self._lasts.count else ""
        return f"{self._errors} over {self._errors.count} values{last}"
