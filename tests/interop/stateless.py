"""A cell that computes a function of its input, for tests of what one operation becomes elsewhere."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Stateless(nn.Module):
    """Its output is a function of x; its state stays where it is."""

    def __init__(self, input_size: int, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.input_size, self.function = input_size, function

    def initial_state(self, batch_size):
        return (torch.zeros(batch_size, 1),)

    def forward(self, x, state):
        return self.function(x), (state[0] + 0,)
