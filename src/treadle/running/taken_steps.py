"""Which steps of each row are taken: lengths, resets and masks; a row with holes as the row without them, and back.

A row with holes gives what the same row gives without these steps. Engines know of masks. For what knows of lengths
alone, the steps that are taken move to the front, the holes follow as padding, and afterwards everything moves back.
"""

from typing import Any

import torch
from torch import Tensor

from treadle import state as states
from treadle.caches import kept_property
from treadle.errors import ShapeError
from treadle.torch_internals import checked_later, is_compiled, is_exported


class TakenSteps:
    """Which steps of each row are taken, and where they lie without the others.

    Args:
        mask: [B, T] booleans.
    """

    def __init__(self, mask: Tensor):
        self.mask = mask
        self.lengths = mask.sum(1)
        """[B]: how many in all."""
        self.ends = (mask * (_steps(mask) + 1)).amax(1) if mask.shape[1] else self.lengths
        """[B]: how many steps there are up to the last that is taken."""

    @property
    def are_first(self) -> bool:
        """Whether holes are at the end of rows alone, so that the lengths say it all; False while it is traced."""
        return not is_compiled(self.mask) and bool((self.lengths == self.ends).all())

    def closed(self, xs: Tensor, axis: int) -> Tensor:
        """A sequence, its rows and its time (in ``axis``) in the first two axes, with the holes behind."""
        order = torch.empty_like(self._places).scatter(1, self._places, _steps(self.mask).expand_as(self._places))
        return _at(xs, order, axis).transpose(0, axis)

    def opened(self, ys: Tensor, axis: int) -> Tensor:
        """The inverse of `closed`."""
        return _at(ys.transpose(0, axis), self._places, 0).transpose(0, axis)

    @kept_property
    def _places(self) -> Tensor:
        """[B, T]: where each step lies without holes."""
        skipped = (~self.mask).cumsum(1)
        return torch.where(self.mask, self.mask.cumsum(1), self.lengths[:, None] + skipped) - 1


def checked_lengths(lengths: Any, xs: Tensor) -> Tensor | None:
    """``lengths`` as a tensor beside ``xs`` [T, B, ...], once they are known to fit."""
    if lengths is None:
        return None
    steps, rows = xs.shape[:2]
    lengths = states.as_tensor(lengths)
    if lengths.shape != (rows,) or (lengths.is_floating_point() and lengths.numel()) or lengths.dtype == torch.bool:
        raise ShapeError(
            f"lengths are {rows} whole numbers, one a row, but {states.shape(lengths)} of {lengths.dtype}"
            " were passed" + ("; batch and time may be swapped" if lengths.shape == (steps,) else "")
        )
    lengths = lengths.long()  # in int8, comparing with 300 steps would wrap around
    if is_exported(xs):  # there are no numbers yet
        fits = ((lengths >= 0) & (lengths <= steps)).all()
        checked_later(fits, "lengths are from 0 to the number of steps")
        return lengths.to(xs.device)
    wrong = ((lengths < 0) | (lengths > steps)).nonzero()[:, 0]
    if len(wrong):
        raise ShapeError(
            f"row {int(wrong[0])} has length {int(lengths[wrong[0]])}, but the sequence has {steps} steps: 0 to {steps}"
        )
    return lengths.to(xs.device)


def checked_resets(resets: Any, xs: Tensor) -> Tensor:
    """``resets`` as a tensor [T, B] beside ``xs`` [T, B, ...], once they are known to fit."""
    steps, rows = xs.shape[:2]
    resets = states.as_tensor(resets)
    if resets.shape != (rows, steps) or resets.dtype != torch.bool:
        hint = "; resets are [B, T] whatever batch_first is: pass resets.T" if resets.shape == (steps, rows) else ""
        raise ShapeError(
            f"resets are booleans [{rows}, {steps}], but {states.shape(resets)} of {resets.dtype} were passed{hint}"
        )
    return resets.T.to(xs.device)


def taken_steps(mask: Any, lengths: Tensor | None, xs: Tensor) -> TakenSteps:
    """The steps of ``xs`` [T, B, ...] that are taken, of those within ``lengths``.

    Raises:
        ShapeError: the mask is not [B, T] of booleans.
    """
    steps, rows = xs.shape[:2]
    mask = states.as_tensor(mask)
    if mask.shape != (rows, steps) or mask.dtype != torch.bool:
        hint = "; it is [B, T] whatever batch_first is: pass mask.T" if mask.shape == (steps, rows) else ""
        hint = "; pass mask.bool()" if mask.shape == (rows, steps) else hint
        raise ShapeError(
            f"a mask is booleans [{rows}, {steps}], true where a step is taken, but {states.shape(mask)} of"
            f" {mask.dtype} were passed{hint}"
        )
    mask = mask.to(xs.device)
    return TakenSteps(mask if lengths is None else mask & (_steps(mask) < lengths[:, None]))


def without_holes(
    xs: Tensor, lengths: Any = None, resets: Any = None, mask: Any = None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Sequences [B, T, …] of the steps that are taken alone, with their lengths and resets [B, T].

    Raises:
        ShapeError: something does not fit.
    """
    by_time = xs.transpose(0, 1)
    lengths = checked_lengths(lengths, by_time)
    resets = None if resets is None else checked_resets(resets, by_time).T
    if mask is None:
        return xs, lengths, resets
    taken = taken_steps(mask, lengths, by_time)
    return taken.closed(xs, 1), taken.lengths, None if resets is None else taken.closed(resets, 1)


def repeat_last(ys: Tensor, mask: Any = None, lengths: Any = None, batch_first: bool = True) -> Tensor:
    """Outputs that repeat the last one at steps that are not taken, as Keras has them.

    treadle gives zeros there. With this, ``ys[:, -1]`` is the output of each row's last step, wherever that is. Before
    the first step that is taken there is nothing to repeat: zeros stay.

    Args:
        ys: [B, T, …], what a network gave; [T, B, …] without ``batch_first``.
        mask: [B, T] booleans, the mask that it was given.
        lengths: [B] whole numbers, the lengths that it was given.
        batch_first: whether rows come before time in ``ys``.

    Raises:
        ShapeError: ``mask`` or ``lengths`` do not fit.

    Example:
        >>> import torch, treadle as td
        >>> rnn, xs = td.Recurrent(td.GRUCell(2, 3)), torch.randn(1, 4, 2)
        >>> mask = torch.tensor([[True, False, True, False]])
        >>> ys, state = rnn(xs, mask=mask)
        >>> repeated = td.repeat_last(ys, mask)
        >>> torch.equal(repeated[:, 1], ys[:, 0]), torch.equal(repeated[:, -1], state.h)
        (True, True)
    """
    axis = 1 if batch_first else 0
    by_time = ys.transpose(0, axis)
    steps, rows = by_time.shape[:2]
    if lengths is not None:
        lengths = checked_lengths(lengths, by_time)
    everything = torch.ones(rows, steps, dtype=torch.bool, device=ys.device) if mask is None else mask
    taken = taken_steps(everything, lengths, by_time)
    last = torch.where(taken.mask, _steps(taken.mask) + 1, 0).cummax(1).values
    return _at(torch.cat([ys.new_zeros(1, rows, *ys.shape[2:]), by_time]), last, 0).transpose(0, axis)


def _steps(mask: Tensor) -> Tensor:
    return torch.arange(mask.shape[1], device=mask.device)


def _at(sequence: Tensor, places: Tensor, axis: int) -> Tensor:
    """[T, B, …]: of each row of a sequence, time in ``axis``, what is at some places [B, T].

    Time comes first in memory, because that is how engines read and write.
    """
    rows = places.shape[0]  # not len, which `torch.export` takes for a constant
    row = torch.arange(rows, device=places.device)
    index = row * sequence.shape[1] + places.T if axis else places.T * rows + row
    found = sequence.flatten(0, 1).index_select(0, index.reshape(-1))
    return found.reshape(*index.shape, *sequence.shape[2:])
