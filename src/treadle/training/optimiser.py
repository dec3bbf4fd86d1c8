"""The schedule of the learning rate."""

import math


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
