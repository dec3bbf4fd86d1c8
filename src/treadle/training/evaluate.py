"""A network over sequences, for evaluation."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from treadle.running.recurrent import Recurrent
from treadle.training.loss import total_loss

ROWS, STEPS = 64, 4096
"""At most so much is computed at a time: sequences may be long, and there may be many of them."""


@torch.no_grad()
def outputs_of(model: Recurrent, xs: Sequence[Tensor]) -> list[Tensor]:
    """What a network gives for each of some sequences, in evaluation mode; the mode it is in does not change.

    Args:
        model: [B, T, I] in, [B, T, K] out.
        xs: each [T, I], of any lengths.

    Returns:
        Each [T, K].

    Example:
        >>> import torch, treadle as td
        >>> from treadle.training.evaluate import outputs_of
        >>> [tuple(ys.shape) for ys in outputs_of(td.Recurrent(td.GRUCell(2, 3)), [torch.ones(5, 2), torch.ones(1, 2)])]
        [(5, 3), (1, 3)]
    """
    was_training = model.training
    model.eval()
    found: list[Tensor] = []
    for first in range(0, len(xs), ROWS):
        group = list(xs[first : first + ROWS])
        lengths = torch.tensor([len(x) for x in group])
        padded, state, parts = pad_sequence(group, batch_first=True), None, []
        for start in range(0, max(padded.shape[1], 1), STEPS):
            part = padded[:, start : start + STEPS]
            ys, state = model(part, state, lengths=(lengths - start).clamp(0, part.shape[1]))
            parts.append(ys)
        ys = torch.cat(parts, 1)
        found += [ys[row, :length] for row, length in enumerate(lengths.tolist())]
    model.train(was_training)
    return found


def mean_loss(outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> float:
    """The mean loss over all answers of some sequences; NaN if there are none.

    Args:
        outputs: each [T, K].
        targets: each [T] labels or [T, K] numbers, as in `treadle.training.loss.total_loss`.
    """
    pairs = [total_loss(ys[None], y[None]) for ys, y in zip(outputs, targets, strict=True)]
    totals, counts = zip(*pairs, strict=True)
    return (torch.stack(totals).double().sum() / torch.stack(counts).sum()).item()
