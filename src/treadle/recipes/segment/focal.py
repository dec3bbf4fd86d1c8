"""A loss that looks at the pixels that are wrong or unsure, however few they are."""

import torch
from torch import Tensor
from torch.nn import functional as F

from treadle.training.evaluate import total_loss
from treadle.training.sequences import IGNORED


def focal_loss(ys: Tensor, y: Tensor, gamma: float = 2.0) -> tuple[Tensor, Tensor]:
    """Cross-entropy in which a pixel weighs as much as it is wrong: (1 - p)^gamma, for the probability p of its label.

    The weights of each image are scaled so that their mean is 1: an image whose object is nearly right still counts as
    much as another, and what it has to learn, the pixels along the edge, gets all of it. Weights have no gradients.

    Of scores [B, T, K] and labels [B, T], -100 where there is none, it gives the weighted sum and how many labels there
    are; of numbers [B, T, K], the squared errors, which all weigh the same. A ``gamma`` of 0 is plain cross-entropy.

    Source: Lin et al., *Focal loss for dense object detection*, ICCV 2017; scaled as in Sofiiuk, Barinova and Konushin,
    *AdaptIS*, ICCV 2019.

    Example:
        >>> import torch
        >>> from treadle.recipes.segment.focal import focal_loss
        >>> sure_and_unsure = torch.tensor([[[9.0, 0.0], [0.0, 0.0]]])
        >>> total, count = focal_loss(sure_and_unsure, torch.tensor([[0, 0]]))
        >>> round((total / count).item(), 3), count.item()  # of ln 2 = 0.693, as if there were none but the unsure one
        (0.693, 2)
    """
    if y.is_floating_point():
        return total_loss(ys, y)
    each = F.cross_entropy(ys.movedim(2, 1), y, ignore_index=IGNORED, reduction="none")
    there = y != IGNORED
    with torch.no_grad():
        weights = (1 - (-each).exp()).pow(gamma) * there
        weights *= there.sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp(min=1e-6)
    return (each * weights).sum(), there.sum()
