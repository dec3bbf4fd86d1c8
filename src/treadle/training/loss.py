"""What training makes small: cross-entropy for labels, squared error for numbers. What has no answer does not count."""

import torch
from torch import Tensor
from torch.nn import functional as F

from treadle.training.sequences import IGNORED


def total_loss(ys: Tensor, y: Tensor, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """The loss over all answers of a batch, and how many there are; the mean is for whoever has all of them.

    Args:
        ys: [B, T, K]: scores (logits) of K labels, or K numbers.
        y: [B, T] labels, -100 where a step has none; or [B, T, K] numbers, NaN where there is none.
        label_smoothing: how much of each label's weight goes to all labels alike, against overconfidence.

    Returns:
        The sum, of cross-entropies in nats or of squared errors, and the number of terms in it.

    Example:
        >>> import torch
        >>> from treadle.training.loss import total_loss
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
