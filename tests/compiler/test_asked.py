"""What a step asks of a tensor besides its numbers: it may compute with the number of rows, and not decide by it."""

import pytest
import torch
from torch import nn

import treadle as td


class Asking(nn.Module):
    def __init__(self, of):
        super().__init__()
        self.input_size, self.of, self.linear = 3, of, nn.Linear(7, 4)

    def initial_state(self, rows):
        return (torch.zeros(rows, 4),)

    def forward(self, x, state):
        h = torch.tanh(self.linear(torch.cat([x, state[0]], 1)))
        h = self.of(self, h, state[0])
        return h, (h,)


DECIDES = {
    "one row": lambda c, h, s: h * 2 if h.shape[0] == 1 else h,
    "more than": lambda c, h, s: h * 2 if h.size(0) > 100 else h,
    "unpacked": lambda c, h, s: h * 2 if (lambda rows, features: rows != 3)(*h.shape) else h,
    "a whole shape": lambda c, h, s: h * 2 if h.shape == (3, 4) else h,
    "an even number": lambda c, h, s: h * 2 if h.shape[0] % 2 else h,
    "numbers in all": lambda c, h, s: h * 2 if h.numel() < 13 else h,
    "one less": lambda c, h, s: h * 2 if h.shape[0] - 1 else h,
    "a dictionary": lambda c, h, s: h * {3: 2.0}.get(h.shape[0], 1.0),
    "the smaller": lambda c, h, s: h * min(h.shape[0], 2),
    "version": lambda c, h, s: h * (1 + c.linear.weight._version % 2),
    "gradient": lambda c, h, s: h * 2 if c.linear.weight.grad is None else h,
    "by another name": lambda c, h, s: h * 2 if getattr(h, "requires_" + "grad") else h,
    "memory": lambda c, h, s: h * 2 if c.linear.weight.is_contiguous() else h,
    "strides": lambda c, h, s: h * h.stride(0),
    "caught": lambda c, h, s: _caught(h),
}


def _caught(h):
    try:
        return h * 2 if h.shape[0] == 1 else h
    except Exception:
        return h * 3


@pytest.mark.parametrize("name", DECIDES)
def test_a_step_that_decides_runs_as_python(name):
    cell = Asking(DECIDES[name])
    with pytest.raises(td.errors.EngineError, match=r"test_asked\.py:\d+: it (asks|decides)"):
        td.Recurrent(cell, engine="cpu")(torch.randn(3, 5, 3))
    for rows in (1, 3, 4):
        xs = torch.randn(rows, 5, 3)
        with torch.no_grad():
            assert torch.equal(td.Recurrent(cell)(xs)[0], td.Recurrent(cell, engine="reference")(xs)[0])


COMPUTES = {
    "in shapes": lambda c, h, s: h.view(h.shape[0], 2, -1).transpose(1, 2).reshape(h.size(0), -1) + 1,
    "there are rows": lambda c, h, s: h * 2 if h.shape[0] > 0 and h.shape[0] else h,
    "of two": lambda c, h, s: h * 2 if h.shape[0] == s.shape[0] and h.shape == s.shape else h,
    "features": lambda c, h, s: h * 2 if h.shape[1] == 4 and h.shape[1:] == (4,) and h.shape[-1] % 2 == 0 else h,
    "made": lambda c, h, s: h + torch.ones(h.shape[0], 4) * torch.zeros(h.shape) + h.new_ones(h.size()),
}


@pytest.mark.parametrize("name", COMPUTES)
def test_a_step_that_computes_is_compiled(name):
    cell = Asking(COMPUTES[name])
    for rows in (1, 3):
        xs = torch.randn(rows, 5, 3)
        torch.testing.assert_close(
            td.Recurrent(cell, engine="cpu")(xs)[0], td.Recurrent(cell, engine="reference")(xs)[0]
        )
