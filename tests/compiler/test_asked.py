"""What a step asks of a tensor besides its numbers: it may compute with the number of rows, and not decide by it."""

import math

import numpy as np
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
    "from the right": lambda c, h, s: h * 2 if 5 - h.shape[0] > 0 else h,
    "times": lambda c, h, s: h * 2 if 2 * h.shape[0] > 100 else h,
    "over": lambda c, h, s: h * 2 if 100 // h.shape[0] else h,
    "rest of": lambda c, h, s: h * 2 if 3 % h.shape[0] else h,
    "power": lambda c, h, s: h * 2 if h.shape[0] ** 2 > 100 else h,
    "power of": lambda c, h, s: h * 2 if 2 ** h.shape[0] > 100 else h,
    "negative": lambda c, h, s: h * 2 if -h.shape[0] < -100 else h,
    "absolute": lambda c, h, s: h * 2 if abs(h.shape[0]) > 100 else h,
    "rounded": lambda c, h, s: h * 2 if round(h.shape[0], -1) > 100 else h,
    "both of a division": lambda c, h, s: h * 2 if divmod(h.shape[0], 2)[1] else h,
    "both of another": lambda c, h, s: h * 2 if divmod(100, h.shape[0])[0] else h,
    "bits": lambda c, h, s: h * 2 if h.shape[0] & 1 else h,
    "bits of another": lambda c, h, s: h * 2 if 1 ^ h.shape[0] else h,
    "shifted": lambda c, h, s: h * 2 if h.shape[0] >> 1 else h,
    "shifted by": lambda c, h, s: h * 2 if 1 << h.shape[0] > 100 else h,
    "inverted": lambda c, h, s: h * 2 if ~h.shape[0] < -100 else h,
    "product of sizes": lambda c, h, s: h * 2 if math.prod(h.shape) > 100 else h,
    "numbers by a function": lambda c, h, s: h * 2 if torch.numel(h) > 100 else h,
    "bytes": lambda c, h, s: h * 2 if h.nbytes > 100 else h,
    "of NumPy": lambda c, h, s: h * 2 if np.int64(100) < h.shape[0] else h,
    "infinite": lambda c, h, s: h * 2 if h.shape[0] - 1 < float("inf") else h,
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
    runs_as_python(Asking(DECIDES[name]), "it (asks|decides)")


def runs_as_python(cell, why):
    with pytest.raises(td.errors.EngineError, match=rf"test_asked\.py:\d+: {why}"):
        td.Recurrent(cell, engine="cpu")(torch.randn(3, 5, 3))
    for rows in (1, 3, 4):
        xs = torch.randn(rows, 5, 3)
        with torch.no_grad():
            assert torch.equal(td.Recurrent(cell)(xs)[0], td.Recurrent(cell, engine="reference")(xs)[0])


LOSES = {
    "a fraction": lambda c, h, s: h * 2 if h.shape[0] / 2 > 50 else h,
    "a fraction of": lambda c, h, s: h * 2 if 1 / h.shape[0] < 0.01 else h,
    "times a float": lambda c, h, s: h * 2 if h.shape[0] * 0.5 > 50 else h,
    "times a float of NumPy": lambda c, h, s: h * 2 if np.float64(0.5) * h.shape[0] > 50 else h,
    "a root": lambda c, h, s: h * 2 if math.sqrt(h.shape[0]) > 10 else h,
    "a power": lambda c, h, s: h * 2 if h.shape[0] ** -1 < 0.01 else h,
    "int": lambda c, h, s: h * 2 if int(h.shape[0]) > 100 else h,
    "float": lambda c, h, s: h * 2 if float(h.shape[0]) > 100 else h,
    "int of a computed one": lambda c, h, s: h * 2 if int(h.numel()) > 100 else h,
    "text": lambda c, h, s: h * 2 if str(h.shape[0]) != "3" else h,
    "text in text": lambda c, h, s: h * 2 if f"{h.shape[0]}" != "3" else h,
    "digits": lambda c, h, s: h * 2 if h.shape[0].bit_length() > 3 else h,
    "a list of as many": lambda c, h, s: h * 2 if [1] * h.shape[0] == [1, 1, 1] else h,
}


@pytest.mark.parametrize("name", LOSES)
def test_a_step_that_makes_another_kind_of_number_runs_as_python(name):
    runs_as_python(Asking(LOSES[name]), "it makes something else than a whole number")


MULTIPLIES = {
    "a float on the left": lambda c, h, s: h * 2 if 0.5 * h.shape[0] > 50 else h,
    "a float compared": lambda c, h, s: h * 2 if h.shape[0] > 100.5 else h,
}


@pytest.mark.parametrize("name", MULTIPLIES)
def test_what_python_does_not_ask_is_found_by_verification(name):
    cell = Asking(MULTIPLIES[name])
    for rows in (1, 3, 4):
        xs = torch.randn(rows, 5, 3)
        with torch.no_grad():
            assert torch.equal(td.Recurrent(cell)(xs)[0], td.Recurrent(cell, engine="reference")(xs)[0])


@pytest.mark.parametrize("of_a_shape", [lambda h: h.shape.numel() > 100, lambda h: h.size().numel() > 100])
def test_how_many_numbers_a_shape_has_is_refused(of_a_shape):
    cell = Asking(lambda c, h, s: h * 2 if of_a_shape(h) else h)
    with pytest.raises(td.errors.EngineError, match="it asks how many numbers a shape has"):
        td.Recurrent(cell, engine="cpu")(torch.randn(3, 5, 3))


COMPUTES = {
    "in shapes": lambda c, h, s: h.view(h.shape[0], 2, -1).transpose(1, 2).reshape(h.size(0), -1) + 1,
    "backwards": lambda c, h, s: h.view(0 + h.shape[0], h.numel() // h.shape[0]),
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
