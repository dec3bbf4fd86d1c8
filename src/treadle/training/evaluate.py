"""The loss of labels and numbers, and a network over sequences, for evaluation. What has no answer does not count."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from treadle.running.recurrent import Recurrent
from treadle.training.sequences import IGNORED


def total_loss(ys: Tensor, y: Tensor, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """The summed loss over all targets of a batch, and their number; divide for the mean.

    Args:
        ys: [B, T, K]: scores (logits) of K labels, or K numbers.
        y: [B, T] labels, -100 where a step has none; or [B, T, K] numbers, NaN where there is none.
        label_smoothing: the fraction of each label's weight that is spread over all labels, against overconfidence.

    Returns:
        The sum, of cross-entropies in nats or of squared errors, and the number of terms in it.

    Example:
        >>> import torch
        >>> from treadle.training.evaluate import total_loss
        >>> total, count = total_loss(torch.zeros(1, 3, 2), torch.tensor([[1, -100, 0]]))
        >>> (total / count).item(), count.item()
        (0.6931471824645996, 2)
    """
    if y.is_floating_point():
        there = ~y.isnan()
        # Not (ys - y)[there]: what is NaN in y must not reach the gradient, and where() keeps the shapes.
        return torch.where(there, ys - y.nan_to_num(), 0).square().sum(), there.sum()
    options = {"ignore_index": IGNORED, "reduction": "sum", "label_smoothing": label_smoothing}
    total = F.cross_entropy(ys.flatten(0, 1), y.flatten(), **options)
    return total, (y != IGNORED).sum()


ROWS, STEPS = 64, 4096
"""At most so much is computed at a time: sequences may be long, and there may be many of them."""


@torch.no_grad()
def outputs_of(model: Recurrent, xs: Sequence[Tensor]) -> list[Tensor]:
    """What a network [B, T, I] gives for each [T, I] of some sequences of any lengths: each [T, K].

    In evaluation mode; the mode it is in does not change.

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
    """The mean of `total_loss` over all answers of some sequences; NaN if there are none."""
    pairs = [total_loss(ys[None], y[None]) for ys, y in zip(outputs, targets, strict=True)]
    totals, counts = zip(*pairs, strict=True)
    return (torch.stack(totals).double().sum() / torch.stack(counts).sum()).item()
