"""Scores of a large vocabulary, at a fraction of what one large product takes in training."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from treadle.files.description import kept_in_files


@kept_in_files("treadle.AdaptiveSoftmax")
class AdaptiveSoftmax(nn.Module):
    """A head over classes in the order of their frequency: rare ones are scored only where one of them comes next.

    The frequent classes and each group of rare ones are scored together, [N, ``cutoffs[0]`` + groups]; a group's own
    classes, from fewer features, only for the steps whose target is among them. `forward` gives the logarithms of all
    probabilities, which add up to 1 as those of a full softmax do.

    Source: Grave, Joulin, Cissé, Grangier and Jégou, *Efficient softmax approximation for GPUs*, 2017; it is
    `torch.nn.AdaptiveLogSoftmaxWithLoss`.

    Args:
        input_size: ``H``, features of a step.
        output_size: ``V``, classes.
        cutoffs: where the groups of rare classes begin, rising.
        div_value: by how much the features of each group are fewer than those of the one before it; less where too few
            would be left.

    Example:
        >>> import torch
        >>> from treadle.training.adaptive_softmax import AdaptiveSoftmax
        >>> head = AdaptiveSoftmax(16, 1000, cutoffs=[100, 400])
        >>> h, y = torch.randn(5, 16), torch.tensor([0, 99, 100, 999, 3])
        >>> bool((head(h).logsumexp(1).abs() < 1e-5).all())
        True
        >>> torch.allclose(head.losses(h, y), -head(h)[range(5), y], atol=1e-5)
        True
    """

    def __init__(self, input_size: int, output_size: int, cutoffs: Sequence[int], div_value: float = 4.0):
        super().__init__()
        self.input_size, self.output_size = input_size, output_size
        self.cutoffs, self.div_value = list(cutoffs), div_value
        least = 0.999 * input_size ** (1 / len(self.cutoffs))  # with which the last group has one feature
        self.softmax = nn.AdaptiveLogSoftmaxWithLoss(
            input_size, output_size, self.cutoffs, min(div_value, least), head_bias=True
        )

    def forward(self, x: Tensor) -> Tensor:
        """The logarithm of each class's probability: x [..., H] to [..., V]."""
        # Not PyTorch's log_prob, which writes into parts of a tensor and so cannot be compiled.
        softmax, frequent = self.softmax, self.cutoffs[0]
        head = F.log_softmax(softmax.head(x), -1)
        parts = [head[..., :frequent]]
        for i, tail in enumerate(softmax.tail):
            parts.append(F.log_softmax(tail(x), -1) + head[..., frequent + i : frequent + i + 1])
        return torch.cat(parts, -1)

    def losses(self, x: Tensor, y: Tensor) -> Tensor:
        """The cross-entropies of x [N, H] and the classes y [N], in nats: [N]."""
        # PyTorch's mixes what autocast keeps in float32 with what it does not, and refuses that.
        with torch.autocast(x.device.type, enabled=False):
            return -self.softmax(x.to(self.softmax.head.weight.dtype), y).output

    @torch.no_grad()
    def start_from(self, log_frequencies: Tensor) -> None:
        """Begin with how frequent the classes are [V]; within a group of rare ones they begin alike."""
        softmax: Any = self.softmax
        frequent, *groups = log_frequencies.tensor_split(self.cutoffs)
        softmax.head.bias.copy_(torch.cat([frequent, *(group.logsumexp(0, True) for group in groups)]))
