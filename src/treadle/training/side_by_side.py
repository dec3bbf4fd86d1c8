"""Windows of a single long stream, of which each row of a batch reads a part."""

import itertools

import torch

from treadle.streams import Span, Stream, Windows, count


def side_by_side(stream: Stream, rows: int, steps: int, seed: int = 0, share: tuple[int, int] = (0, 1)) -> Windows:
    """Endless windows of a stream, for a state that is carried from window to window.

    It is cut into ``rows`` equal parts, which are read side by side; all of it is read before anything is read twice.
    The seed says where the first cut is, so other seeds see other windows.

    Args:
        stream: bytes or words.
        rows: ``B``, batch size.
        steps: ``T``, elements of a window.
        seed: random seed of where the stream is cut, and of the order of the parts.
        share: ``(rank, ranks)``: of the rows, only those of this process.
    """
    length = count(stream)
    part = length // rows
    first = int(torch.randint(2, part - 1, (), generator=torch.Generator().manual_seed(seed))) if part > 3 else 0
    cuts = sorted({0, *(first + length * row // rows for row in range(rows)), length})
    if cuts[-1] - cuts[-2] < 2:  # of a single element, nothing can be learned
        del cuts[-2]
    parts = [Span(stream, *ends) for ends in itertools.pairwise(cuts)]
    rank, ranks = share
    # Nothing is read ahead by a thread: reading takes a hundredth of the time of learning.
    return Windows(parts, rows, steps, seed=seed, epochs=None, prefetch=0, rank=rank, ranks=ranks)
