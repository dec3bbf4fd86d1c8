"""Random numbers of all steps: drawn in another way, they are the same."""

import pytest
import torch
from torch import nn

import treadle as td
from treadle.engines import random_values


class Dropped(nn.Module):
    """A cell whose state and output are dropped in part, by other shares."""

    def __init__(self):
        super().__init__()
        self.mix, self.input_size = nn.Linear(3, 3), 3

    def initial_state(self, batch_size):
        return self.mix.weight.new_zeros(batch_size, 3)

    def forward(self, x, state):
        state = nn.functional.dropout(x + self.mix(state), 0.3)
        return nn.functional.dropout(state, 0.5), state


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masks_of_dropout_are_those_of_the_cells_own_python_and_need_no_interpreter(dtype, monkeypatch):
    xs, cell = torch.randn(4, 9, 3, dtype=dtype), Dropped().to(dtype)
    torch.manual_seed(5)
    state, steps = cell.initial_state(4), []
    for x in xs.unbind(1):
        y, state = cell(x, state)
        steps.append(y)
    monkeypatch.setattr(random_values, "_step_by_step", lambda *_: pytest.fail("interpreted"))
    torch.manual_seed(5)
    ys, _ = td.Recurrent(cell, engine="cpu")(xs)
    torch.testing.assert_close(ys, torch.stack(steps, 1))
