"""Weights that are made of others at every call: whatever PyTorch makes of them, and however it lies in memory."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import treadle as td
from tests.covering import pairwise
from tests.outcome import outcome, whole
from tests.registry import stack
from tests.tolerances import assert_all_close

pytestmark = pytest.mark.usefixtures("poisoned_memory")


class Made(nn.Module):
    """A weight as a function of what is learned, which has its shape."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, learned):
        return self.function(learned)


def through_qr(w):
    """Orthogonal columns or rows, whichever there can be."""
    return torch.linalg.qr(w)[0] if w.shape[0] >= w.shape[1] else torch.linalg.qr(w.t())[0].t()


def smoothed(w):
    return nn.functional.conv1d(w[:, None], w.new_tensor([[[0.25, 0.5, 0.25]]]), padding=1)[:, 0]


MADE = {
    "transposed": lambda w: (w * 2).t().contiguous().t(),
    "expanded": lambda w: w[:1].expand_as(w),
    "expanded along features": lambda w: w[:, :1].expand_as(w),
    "every second": lambda w: torch.cat([w, w.sin()], 1)[:, ::2],
    "a part of something larger": lambda w: torch.cat([w, w.sin(), w], 1)[:, 1 : 1 + w.shape[1]],
    "permuted": lambda w: w.unflatten(1, (-1, 1)).permute(2, 1, 0)[0].t().flip(0),
    "stacked": lambda w: torch.stack([row * 2 for row in w.unbind(1)], 1),
    "diagonal": lambda w: torch.diag_embed(w).diagonal(dim1=-2, dim2=-1),
    "scaled by its norm": lambda w: w / w.norm() * 2,
    "scaled by a number": lambda w: w * w.sum().tanh(),
    "signs that wait": lambda w: torch.complex(w, w).conj().imag,
    "through frequencies": lambda w: torch.fft.irfft(torch.fft.rfft(w), n=w.shape[1]),
    "through qr": through_qr,
    "convolved": smoothed,
    "cumulated": lambda w: w.cumsum(0).t().contiguous().t() / 4,
    "sorted": lambda w: w.sort(0).values,
}

KINDS = {name: (lambda m, w, f=f: parametrize.register_parametrization(m, w, Made(f))) for name, f in MADE.items()}
KINDS |= {
    f"weight_norm of {dim}": lambda m, w, dim=dim: parametrizations.weight_norm(m, w, dim=dim) for dim in (0, 1, None)
}
KINDS |= {
    f"orthogonal by {by}, {'with' if base else 'without'} a base": lambda m, w, by=by, base=base: (
        parametrizations.orthogonal(m, w, orthogonal_map=by, use_trivialization=base)
    )
    for by in ("matrix_exp", "cayley", "householder")
    for base in (True, False)
}
KINDS["spectral_norm"] = lambda m, w: parametrizations.spectral_norm(m, w).eval()


class ReadsBoth(nn.Module):
    """A cell of one's own that reads the input and the state through one layer."""

    input_size = 3

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3 + 4, 4)

    def initial_state(self, batch_size):
        return (self.layer.weight.new_zeros(batch_size, 4),)

    def forward(self, x, state):
        h = torch.tanh(self.layer(torch.cat([x, state[0]], 1)))
        return h, (h,)


def own():
    cell = ReadsBoth()
    return cell, [(cell.layer, "weight")]


def of_a_cell(kind, *names):
    cell = kind(3, 4)
    return cell, [(cell, name) for name in names]


def of_a_stack(wiring):
    """A wiring whose layers have different weights that are made of others."""
    cells = stack(wiring, td.GRUCell)
    return cells, [(cells.cells[1], "weight_ih"), (cells.cells[2], "weight_hh")]


PLACES = {
    "own cell": own,
    "LSTM": lambda: of_a_cell(td.LSTMCell, "weight_ih", "weight_hh"),
    "GRU": lambda: of_a_cell(td.GRUCell, "weight_hh"),
    "RNN": lambda: of_a_cell(td.RNNCell, "weight_hh"),
    "PeepholeLSTM": lambda: of_a_cell(td.PeepholeLSTMCell, "weight_hh"),
} | {wiring: lambda wiring=wiring: of_a_stack(wiring) for wiring in td.WIRINGS}


def parametrized(kind, place):
    torch.manual_seed(1)
    cell, weights = PLACES[place]()
    cell.double()
    for module, name in weights:
        KINDS[kind](module, name)
    return cell, torch.randn(5, 6, 3, dtype=torch.float64)


@pytest.mark.share(12)
@pytest.mark.parametrize(
    ("kind", "place", "dtype"),
    pairwise(kind=list(KINDS), place=list(PLACES), dtype=[torch.float64, torch.float32]),
    ids=str,
)
def test_gradients_reach_what_weights_are_made_of(kind, place, dtype):
    cell, xs = parametrized(kind, place)
    expected = outcome(whole, td.Recurrent(cell, engine="reference"), xs)
    assert_all_close(outcome(whole, td.Recurrent(cell.to(dtype)), xs.to(dtype)), expected, dtype)


@pytest.mark.share(3)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_compiled(kind):
    """None of them is a reason to leave the loop to Python."""
    cell, xs = parametrized(kind, "own cell")
    rnn = td.Recurrent(cell, engine="cpu")
    rnn(xs)[0].sum().backward()
    assert all(parameter.grad is not None for parameter in cell.parameters() if parameter.requires_grad)
    session = rnn.session(5)
    expected = td.Recurrent(cell, engine="reference")(xs)[0]
    assert_all_close({"y": session.steps(xs)}, {"y": expected})
