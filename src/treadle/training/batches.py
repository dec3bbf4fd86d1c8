"""Padded batches of sequences and traces, in an order that the seed determines."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from treadle.control.loop import ClosedLoop
from treadle.control.traces import Trace
from treadle.errors import DataError
from treadle.training.sequences import IGNORED


class Batch(NamedTuple):
    """A batch for one training step."""

    x: Tensor
    """[B, T, …]"""
    y: Tensor
    """[B, T] labels, -100 where a step has none; or [B, T, K] numbers, NaN where there is none."""
    lengths: Tensor | None = None
    """[B], the steps of each row without padding; None if no row is padded."""
    resets: Tensor | None = None
    """[B, T], where a row is reset to the initial state; None if nowhere."""


class Epochs:
    """Endless batches, epoch after epoch; ``state_dict`` holds the position.

    Args:
        plan: given the number of an epoch, its batches: lists of whatever ``example`` takes. The same number must
            give the same plan, as a run that is resumed asks for it again.
        example: one item as a pair, ``x`` [T, I] and ``y``: [T] whole numbers or [T, K] floats.
        share: ``(rank, ranks)``: of every batch, only the rows of this process.
        batch_of: makes a batch of a list of what ``example`` gives; None pads pairs of ``x`` and ``y``.

    Example:
        >>> import torch
        >>> from treadle.training.batches import Epochs
        >>> def example(length):
        ...     return torch.ones(length, 1), torch.zeros(length, dtype=torch.long)
        >>> batches = Epochs(lambda epoch: [[1, 3], [2]], example)
        >>> next(batches).lengths.tolist(), batches.state_dict()
        ([1, 3], {'epoch': 0, 'next': 1})
    """

    def __init__(
        self,
        plan: Callable[[int], list[list[Any]]],
        example: Callable[[Any], Any],
        share: tuple[int, int] = (0, 1),
        batch_of: Callable[[list[Any]], Any] | None = None,
    ):
        self._plan, self._example, self._share = plan, example, share
        self._batch_of = batch_of or collate
        self.epoch = self.next = 0
        self._batches = plan(0)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self.next == len(self._batches):
            self.epoch, self.next = self.epoch + 1, 0
            self._batches = self._plan(self.epoch)
        items = self._batches[self.next]
        own = items[share_of(len(items), *self._share)]
        self.next += 1
        if own:
            return self._batch_of([self._example(item) for item in own])
        x, y = self._example(items[0])  # this process has no row in this batch, but takes part in the step
        return Batch(x.new_zeros(0, *x.shape), y.new_zeros(0, *y.shape))

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._batches)

    def state_dict(self) -> dict[str, int]:
        """The position of the next batch."""
        return {"epoch": self.epoch, "next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a position."""
        self.epoch, self.next = state["epoch"], state["next"]
        self._batches = self._plan(self.epoch)


def share_of(rows: int, rank: int, ranks: int) -> slice:
    """Which of some rows are those of a process: neighbours, as many as any other process has, or one more or less."""
    return slice(rows * rank // ranks, rows * (rank + 1) // ranks)


def collate(examples: Sequence[tuple[Tensor, Tensor]]) -> Batch:
    """A batch of examples of any lengths, padded at their ends."""
    xs, ys = zip(*examples, strict=True)
    lengths = torch.tensor([len(x) for x in xs])
    padding = float("nan") if ys[0].is_floating_point() else IGNORED
    x = pad_sequence(list(xs), batch_first=True)
    y = pad_sequence(list(ys), batch_first=True, padding_value=padding)
    return Batch(x, y, None if bool((lengths == x.shape[1]).all()) else lengths)


def buckets(lengths: Sequence[int], rows: int, seed: int, epoch: int, pool: int = 16) -> list[list[int]]:
    """An epoch's batches of sequences of like length, so that little is padding: drawn by seed, all of them once.

    Sequences are shuffled, ``pool`` batches of them at a time are sorted by length and cut into batches, and the
    batches are shuffled.

    Example:
        >>> from treadle.training.batches import buckets
        >>> sorted(map(sorted, buckets([5, 9, 5, 9], rows=2, seed=0, epoch=0)))
        [[0, 2], [1, 3]]
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    order = torch.randperm(len(lengths), generator=generator).tolist()
    pools = [order[i : i + pool * rows] for i in range(0, len(order), pool * rows)]
    batches = []
    for items in pools:
        items = sorted(items, key=lengths.__getitem__)  # stable, so equal lengths stay shuffled
        batches += [items[i : i + rows] for i in range(0, len(items), rows)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def trace_batches(loop: ClosedLoop, traces: Sequence[Trace], rows: int, seed: int = 0) -> Epochs:
    """Batches of traces for `treadle.training.train`, whose model is then ``loop.follower()``.

    Args:
        loop: the closed loop to train.
        traces: the training set.
        rows: batch size, in traces; they are shuffled in each epoch.
        seed: random seed of the order.

    Raises:
        DataError: no traces; a reading or an action that does not exist, with the number of the trace.
    """
    examples: list[tuple[Tensor, Tensor]] = []
    for number, trace in enumerate(traces):
        if len(trace.readings):
            try:
                targets = loop.actions.targets(trace.targets, "target")
                examples.append((loop.pairs(trace.readings, trace.actions), targets))
            except DataError as error:
                raise DataError(f"trace {number}: {error}") from None
    if not examples:
        raise DataError("there are no traces with a step in them to train on")

    def plan(epoch: int) -> list[list[int]]:
        order = np.random.default_rng([seed, epoch]).permutation(len(examples)).tolist()
        return [order[first : first + rows] for first in range(0, len(order), rows)]

    return Epochs(plan, lambda number: examples[number])
