"""Going back over pieces of which only the way forwards is known: which states to keep, and what to run again.

A sequence is cut into pieces. The derivative needs the pieces from the last to the first, each with the state before
it, but a state is only found by running forwards. With the states before ``most`` pieces kept at a time, and each piece
run forwards at most r times, one can go back over C(most + r, r) pieces: no order takes fewer runs than this one.

Source: Griewank and Walther, *Algorithm 799: Revolve*, 2000.
"""

import bisect
import math
from collections.abc import Callable, Iterator
from typing import TypeVar

Border = TypeVar("Border")


def backwards(
    kept: dict[int, Border], pieces: int, most: int, advance: Callable[[int, Border], Border]
) -> Iterator[tuple[int, Border]]:
    """Every piece with what is known before it, from the last to the first.

    ``kept`` is what is known before some of the pieces, in their order, the first among them; it is used up. No more
    than ``most`` are kept at a time. ``advance`` takes a piece's number and what is known before it, and gives what is
    known after it.
    """
    while kept:
        begin = next(reversed(kept))
        if begin == pieces - 1:
            pieces = begin
            yield begin, kept.pop(begin)
            continue
        border = kept[begin]
        following = begin + _ahead(pieces - begin, max(1, most - len(kept) + 1))
        for piece in range(begin, following):
            border = advance(piece, border)
        kept[following] = border


def kept_at_first(pieces: int, most: int) -> list[int]:
    """Before which pieces to keep the state while running forwards for the first time."""
    places = [0][:pieces]
    while 0 < len(places) < most and pieces - places[-1] > 1:
        places.append(places[-1] + _ahead(pieces - places[-1], most - len(places) + 1))
    return places


def least_kept(pieces: int, runs: int) -> int:
    """How many states have to be kept so that no piece is run forwards without its derivative more than ``runs`` times.

    The first run, which gives the outputs, counts.
    """
    return _least(lambda most: math.comb(most + runs, runs), pieces)


def _ahead(pieces: int, most: int) -> int:
    """How far to run from the first of some pieces, whose state is one of the ``most``, to the next that is kept."""
    runs = _least(lambda runs: math.comb(most + runs, runs), pieces)
    shorter = math.comb(most + runs - 2, most) if runs > 1 else 0
    return max(1, shorter, pieces - math.comb(most + runs - 1, most - 1))


def _least(reached: Callable[[int], int], pieces: int) -> int:
    """The least number from 1 on with which so many pieces are reached."""
    return bisect.bisect_left(range(pieces + 1), pieces, 1, key=reached)
