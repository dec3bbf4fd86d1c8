"""What the optimiser is told: which parameters decay, and how fast to learn when."""

import math
from typing import Any

from torch import nn

NORMS = (
    *(nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm),
    *(nn.modules.batchnorm._NormBase,),
)


def parameter_groups(model: nn.Module, weight_decay: float = 0.01) -> list[dict[str, Any]]:
    """The parameters of a network for an optimiser: those that decay, and those that must not.

    Weight decay pulls towards zero. That is good for weights that multiply inputs, and wrong for slopes of `PReLU`,
    biases, and the gains and biases of norms, whose natural place is not zero; so for everything with fewer than two
    axes, such as learned initial states.

    Args:
        model: any network.
        weight_decay: of those that decay.

    Returns:
        Two groups for `torch.optim`, decaying first; frozen parameters are in neither, shared ones in one of them once.

    Example:
        >>> import torch, treadle as td
        >>> from treadle.training import parameter_groups
        >>> rnn = td.Recurrent(td.LSTMCell(3, 5))
        >>> optimiser = torch.optim.AdamW(parameter_groups(rnn, 0.1), lr=0.01)
        >>> decaying, resting = optimiser.param_groups
        >>> decaying["weight_decay"], resting["weight_decay"], len(resting["params"])
        (0.1, 0.0, 2)
    """
    decaying, resting, seen = [], [], set()
    for owner in model.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter in seen or not parameter.requires_grad:
                continue
            seen.add(parameter)
            rests = isinstance(owner, (nn.PReLU, *NORMS)) or parameter.ndim < 2 or "bias" in name
            (resting if rests else decaying).append(parameter)
    return [{"params": decaying, "weight_decay": weight_decay}, {"params": resting, "weight_decay": 0.0}]


def warm_up_and_cosine(step: int, share_done: float, warm_up: int = 10) -> float:
    """The share of the highest learning rate: it rises over the first steps and falls along half a cosine to nothing.

    Args:
        step: which step it is, from 1.
        share_done: how much of the training is over, from 0 to 1.
        warm_up: steps over which it rises.

    Source: Loshchilov and Hutter, *SGDR: Stochastic gradient descent with warm restarts*, 2017.

    Example:
        >>> from treadle.training.optimiser import warm_up_and_cosine
        >>> [round(warm_up_and_cosine(step, (step - 1) / 100), 2) for step in (1, 10, 51, 100)]
        [0.1, 0.98, 0.5, 0.0]
    """
    return min(step / warm_up, 1) * 0.5 * (1 + math.cos(math.pi * share_done))
