"""How the rows of a sequence lie in memory: step after step, of each step only the rows that still run.

Rows are sorted by length, the longest first, so that those of step t are the first ``counts[t]``, and lie from
``offsets[t]`` on. Where all rows have all steps, this is simply [T * B, ...].
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from treadle.caches import kept_property
from treadle.protocol import State
from treadle.state import map_state, where

_CPU = torch.device("cpu")
_arange = functools.partial(torch.arange, device="cpu")  # whatever the default device is


@dataclasses.dataclass(eq=False)
class Layout:
    """The rows of [T, B, ...], packed.

    Args:
        steps, batch: T and B.
        lengths: [B] on the CPU, or None if all rows are T long.
        resets: [T, B] booleans, or None.
        mask: [T, B] booleans on the CPU, or None: the steps that rows take, where these are not the first ``lengths``.
            Only they are packed.
        device: where the rows are. ``counts`` and ``offsets`` are on the CPU wherever that is; what rows are looked up
            by is beside them.
    """

    steps: int
    batch: int
    lengths: Tensor | None = None
    resets: Tensor | None = None
    mask: Tensor | None = None
    device: torch.device = _CPU

    def __post_init__(self) -> None:
        self._shares: dict[int, list[tuple[int, int]]] = {}
        if self.mask is not None:
            self.lengths = self.mask.sum(0)
        if self.lengths is not None and bool((self.lengths == self.steps).all()):
            self.lengths = self.mask = None
        if self.lengths is None:
            self.counts, self.offsets = _whole(self.steps, self.batch)
            self.rows = self.steps * self.batch
            self.order = None
        else:
            lengths = self.lengths.cpu()
            self.sorted, self.order = lengths.sort(descending=True, stable=True)
            steps = _arange(self.steps)
            self.counts = (self.sorted[None] > steps[:, None]).sum(1)
            self.offsets = self.counts.cumsum(0) - self.counts
            self.rows = int(self.counts.sum())
            self.inverse = torch.empty_like(self.order)
            self.inverse[self.order] = _arange(self.batch)
        self.packed_resets = None
        # To ask another device whether there are any would be to wait for it.
        if self.resets is not None and (self.resets.device.type != "cpu" or bool(self.resets.any())):
            self.packed_resets = self.packed(self._beside(self.resets)).to(torch.uint8)

    def _beside(self, tensor: Tensor) -> Tensor:
        """A tensor where the rows are."""
        return tensor if tensor.device == self.device else tensor.to(self.device, non_blocking=True)

    def _row_of_each(self) -> Tensor:
        """[N]: which of the sorted rows each packed row is."""
        return _arange(self.rows) - torch.repeat_interleave(self.offsets, self.counts)

    @kept_property
    def places(self) -> Tensor:
        """[N]: where each packed row is in [T * B]."""
        assert self.order is not None
        step = torch.repeat_interleave(_arange(self.steps), self.counts)
        row = self.order[self._row_of_each()]
        if self.mask is not None:
            step = (~self.mask).byte().argsort(dim=0, stable=True)[step, row]
        return self._beside(step * self.batch + row)

    @kept_property
    def ragged(self) -> tuple[Tensor, Tensor] | None:
        """How many steps each sorted row has [B], and where the rows of each step begin [T], both where the rows are.

        None if all rows have all steps.
        """
        if self.order is None:
            return None
        return self._beside(self.sorted.to(torch.int32)), self._beside(self.offsets)

    @kept_property
    def before(self) -> Tensor:
        """[N]: where, in [B start rows, N packed rows], the row was one step before."""
        step = torch.repeat_interleave(_arange(self.steps), self.counts)
        return self._beside(self._place_after(step - 1, self._row_of_each()))

    @kept_property
    def origins(self) -> Tensor:
        """[N]: where the row that a step begins with is, in [B fresh rows, B start rows, N packed rows]."""
        whole = self.order is None
        every = torch.arange(self.batch, self.batch + self.rows, device=self.device)
        origins = every if whole else self.before + self.batch
        if self.packed_resets is None:
            return origins
        return torch.where(self.packed_resets.bool(), self._beside(self._row_of_each()), origins)

    def packed(self, sequence: Tensor) -> Tensor:
        """[T, B, ...] as [N, ...]."""
        flat = sequence.reshape(self.steps * self.batch, *sequence.shape[2:])
        return flat if self.order is None else flat.index_select(0, self.places)

    def padded(self, rows: Tensor) -> Tensor:
        """[N, ...] as [T, B, ...], zeros where a row takes no step."""
        if self.order is None:
            return rows.view(self.steps, self.batch, *rows.shape[1:])
        whole = rows.new_zeros(self.steps * self.batch, *rows.shape[1:])
        return whole.index_copy(0, self.places, rows).view(self.steps, self.batch, *rows.shape[1:])

    def held(self, rows: Tensor, start: Tensor) -> Tensor:
        """A state at every step, [N, ...] as [T, B, ...]: where a row takes no step, it stands still."""
        if self.order is None:
            return self.padded(rows)
        assert self.lengths is not None
        if self.mask is None:
            step = torch.minimum(_arange(self.steps)[:, None], (self.lengths - 1)[None])  # [T, B]
        else:
            step = self.mask.cumsum(0) - 1
        place = self._beside(self._place_after(step, self.inverse[None]))
        return torch.cat([start, rows]).index_select(0, place.reshape(-1)).view(self.steps, self.batch, *rows.shape[1:])

    def last(self, rows: Tensor, start: Tensor) -> Tensor:
        """The state after the last step of each (sorted) row, from the states at every step."""
        if self.order is None:
            return rows[self.rows - self.batch :].clone()
        place = self._beside(self._place_after(self.sorted - 1, _arange(self.batch)))
        return torch.cat([start, rows]).index_select(0, place)

    def _place_after(self, step: Tensor, row: Tensor) -> Tensor:
        """Where, in [B start rows, N packed rows], a (sorted) row is after a step; -1 is before the first."""
        return torch.where(step >= 0, self.batch + self.offsets[step.clamp(min=0)] + row, row)

    def previous(self, rows: Tensor, start: Tensor, fresh: Tensor) -> Tensor:
        """The state that each step begins with, from the states [N, ...] after each."""
        if self.order is None:
            late = torch.cat([start, rows[: self.rows - self.batch]])
        else:
            late = torch.cat([start, rows]).index_select(0, self.before)
        return self.anew(late, fresh)

    def anew(self, late: Tensor, fresh: Tensor) -> Tensor:
        """``late`` [N, ...], but what ``fresh`` [B, ...] says at resets."""
        if self.packed_resets is None:
            return late
        if self.order is None:
            every = fresh.expand(self.steps, *fresh.shape).reshape(late.shape)
        else:
            every = fresh.index_select(0, self._beside(self._row_of_each()))
        return where(self.packed_resets.bool(), every, late)

    def sort(self, state: State) -> State:
        """A state's rows in the order of the layout."""
        return state if self.order is None else self._reordered(state, self.order)

    def unsort(self, state: State) -> State:
        """The inverse of `sort`."""
        return state if self.order is None else self._reordered(state, self.inverse)

    def _reordered(self, state: State, order: Tensor) -> State:
        order = self._beside(order)
        return map_state(lambda part: part.index_select(0, order), state)

    def shares(self, count: int) -> list[tuple[int, int]]:
        """The batch in ``count`` runs of rows with about the same number of steps each; some may have no rows."""
        if count not in self._shares:
            if self.order is None:
                borders = [i * self.batch // count for i in range(count + 1)]
            else:
                done = self.sorted.cumsum(0)
                goals = [self.rows * i / count for i in range(1, count)]
                borders = [0, *(min(int((done < goal).sum()) + 1, self.batch) for goal in goals), self.batch]
            self._shares[count] = list(itertools.pairwise(borders))
        return self._shares[count]


class Split:
    """Another order of a layout's rows: all steps of the first rows, then all steps of the next, a run for each thread.

    Threads that write next to each other slow each other down, though never to the same place: what one of them writes
    and what is fetched ahead for it lies in the pages of the other. So each has a region of its own.

    Args:
        layout: rows that all have all steps.
        shares: the runs of rows, in order, and together all of the batch.
    """

    def __init__(self, layout: Layout, shares: Sequence[tuple[int, int]]):
        self.offsets, self.outside, self.usual = _split(layout.steps, layout.batch, tuple(shares))
        self.layout = layout

    @kept_property
    def packed_resets(self) -> Tensor | None:
        """The layout's resets, in this order."""
        resets = self.layout.packed_resets
        return None if resets is None else resets[self.outside]

    @kept_property
    def origins(self) -> Tensor:
        """The layout's `origins`, in this order, of rows in this order."""
        if self.packed_resets is None:
            return self.usual
        return torch.where(self.packed_resets.bool(), self.outside % self.layout.batch, self.usual)


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)
def _split(steps: int, batch: int, shares: tuple[tuple[int, int], ...]) -> tuple[list[Tensor], Tensor, Tensor]:
    """Of each run, where the rows of each step begin, less the run's first row; which row is where; and the origins."""
    offsets = [steps * first + _arange(steps) * (last - first) - first for first, last in shares]
    places = _arange(steps * batch).view(steps, batch)
    outside = torch.cat([places[:, first:last].reshape(-1) for first, last in shares])
    before = torch.cat([_arange(steps * (last - first)) + (steps * first - last + first) for first, last in shares])
    origins = torch.where(outside < batch, batch + outside, 2 * batch + before)
    return offsets, outside, origins


@functools.lru_cache(maxsize=64)
def whole(steps: int, batch: int, device: torch.device) -> Layout:
    """The layout of rows that all have all steps, and are never reset."""
    return Layout(steps, batch, device=device)


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)
def _whole(steps: int, batch: int) -> tuple[Tensor, Tensor]:
    return torch.full((steps,), batch, device="cpu"), _arange(steps) * batch
