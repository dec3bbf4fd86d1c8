"""A trained network over series that arrive in pieces, as many at a time as come, in memory of their number alone."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from treadle import state as states
from treadle.training.evaluate import ROWS, STEPS, outputs_of
from treadle.training.fitted import Fitted
from treadle.training.scaling import last_known

WINDOWS_AT_ONCE = 1024


class Continuing:
    """Runs a network over many series, each from where its last piece ended.

    Chunked = whole: the outputs are those of `Fitted.outputs` for the whole series.

    Args:
        fitted: the network; it is put into evaluation mode.

    Example:
        >>> import torch
        >>> from treadle.training import Fitted, sequence_model
        >>> from treadle.training.continuing import Continuing
        >>> from treadle.training.scaling import Scaling
        >>> xs = torch.randn(9, 1)
        >>> fitted = Fitted(sequence_model(1, 2, hidden_size=4), Scaling.fit(["x"], [xs]), labels=("day", "night"))
        >>> continuing = Continuing(fitted)
        >>> pieces = [continuing.run([("sensor 1", part)])[0] for part in xs.split(4)]
        >>> torch.allclose(torch.cat(pieces), fitted.outputs([xs])[0], atol=1e-6)
        True
    """

    def __init__(self, fitted: Fitted):
        self.fitted, self.numbers = fitted, dict[str, int]()
        fitted.model.eval()
        self._state: Any = None
        self._last = torch.empty(0, len(fitted.inputs.names))
        self._tails: dict[int, Tensor] = {}

    @torch.no_grad()
    def run(self, pieces: Sequence[tuple[str, Tensor]]) -> list[Tensor]:
        """Outputs for the next steps of some series.

        Args:
            pieces: the name of each series, no two of them equal, and its next steps, [T, I] in their own units, NaN
                where a value is missing.

        Returns:
            [T, K] of each.
        """
        rows = [self.numbers.setdefault(name, len(self.numbers)) for name, _ in pieces]
        self._grow(len(self.numbers))
        xs = [self._filled(row, x) for row, (_, x) in zip(rows, pieces, strict=True)]
        if self.fitted.window is not None:
            return [self._by_windows(row, x) for row, x in zip(rows, xs, strict=True)]
        found: list[Any] = [None] * len(xs)
        order = sorted(range(len(xs)), key=lambda i: len(xs[i]))  # so that little is padding
        for first in range(0, len(order), ROWS):
            group = order[first : first + ROWS]
            for i, ys in zip(group, self._outputs([rows[i] for i in group], [xs[i] for i in group]), strict=True):
                found[i] = ys
        return found

    def _grow(self, count: int) -> None:
        """Room for so many series, twice as much each time."""
        more = max(count, 2 * len(self._last)) - len(self._last) if count > len(self._last) else 0
        if more:
            self._last = torch.cat([self._last, self._last.new_full((more, self._last.shape[1]), float("nan"))])
            fresh = states.kept(self.fitted.model.initial_state(more))
            self._state = (
                fresh
                if self._state is None
                else states.map_state(lambda held, new: torch.cat([held, new]), self._state, fresh)
            )

    def _filled(self, row: int, x: Tensor) -> Tensor:
        """Scaled, without gaps, as `fill_previous` fills them over the whole series."""
        known = last_known(torch.cat([self._last[row][None], self.fitted.inputs.apply(x)]))
        self._last[row] = known[-1]
        return known[1:].nan_to_num(0.0)

    def _outputs(self, rows: list[int], xs: list[Tensor]) -> list[Tensor]:
        lengths, places = torch.tensor([len(x) for x in xs]), torch.tensor(rows)
        padded, parts = pad_sequence(xs, batch_first=True), []
        state = states.select(self._state, places)
        for start in range(0, padded.shape[1], STEPS):
            part = padded[:, start : start + STEPS]
            ys, state = self.fitted.model(part, state, lengths=(lengths - start).clamp(0, part.shape[1]))
            parts.append(ys)
        states.map_state(lambda held, new: held.index_copy_(0, places, new), self._state, state)
        ys = torch.cat(parts, 1)
        return [ys[row, :length] for row, length in enumerate(lengths.tolist())]

    def _by_windows(self, row: int, x: Tensor) -> Tensor:
        """Each step from a window of its own, which begins in the pieces before."""
        window = self.fitted.window or 1
        tail = self._tails.get(row, x[:0])
        whole, found = torch.cat([tail, x]), []
        ends = range(len(tail) + 1, len(whole) + 1)
        for first in range(0, len(ends), WINDOWS_AT_ONCE):
            windows = [whole[max(end - window, 0) : end] for end in ends[first : first + WINDOWS_AT_ONCE]]
            found += [ys[-1] for ys in outputs_of(self.fitted.model, windows)]
        self._tails[row] = whole[max(len(whole) - window + 1, 0) :].clone()
        return torch.stack(found)
