"""Matrices in int8: the arithmetic by itself, against NumPy in doubles."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.registry import build, sequence
from treadle.engines.network import network_of
from treadle.engines.passes.int8 import in_int8, round_parameters, rounded, rows_of_matrices, summed_axes

KINDS = {
    "usual": lambda: torch.randn(37, 19),
    "rows of all sizes": lambda: torch.randn(37, 19) * 10.0 ** torch.arange(-18.0, 19.0)[:, None],
    "huge": lambda: torch.randn(5, 7).clamp(-1, 1) * torch.finfo(torch.float32).max,
    "tiny": lambda: torch.randn(5, 7) * 1e-44,
    "zeros": lambda: torch.zeros(3, 4),
    "one number": lambda: torch.tensor([[-0.1]]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_is_a_factor_times_whole_numbers_and_no_number_is_off_by_more_than_half_of_it(kind, dtype):
    torch.manual_seed(0)
    matrix = KINDS[kind]().to(dtype)
    found = rounded(matrix, 1)
    whole = in_int8(found.T)
    assert whole is not None
    assert whole.numbers.dtype == torch.int8
    assert whole.numbers.min() >= -127
    assert torch.equal((whole.numbers * whole.factors).to(dtype), found.T)  # in the matrix's own precision, exactly
    exact = whole.numbers.double().numpy() * whole.factors.double().numpy()
    assert np.array_equal(exact, found.T.double().numpy())
    largest = matrix.double().abs().amax(1)
    off = (found.double() - matrix.double()).abs()
    least = torch.finfo(dtype).tiny
    assert (off <= (largest / 254 * (1 + 2**-15)).clamp_min(least)[:, None]).all()
    assert torch.equal(rounded(found, 1), found)  # nothing changes when it is rounded again
    assert torch.equal(rounded(-matrix, 1), -found)


def test_the_bound_holds_and_is_no_more_than_twice_the_error():
    torch.manual_seed(0)
    matrix = torch.randn(64, 100)
    found = rounded(matrix, 1)
    whole = in_int8(found.T)
    assert whole is not None
    error = ((found - matrix).norm() / found.norm()).item()
    assert error <= whole.bound <= 2 * error


def test_parts_of_a_rounded_matrix_have_factors_and_sums_of_them_have_none():
    torch.manual_seed(0)
    first, second = rounded(torch.randn(12, 20), 1).T, rounded(torch.randn(12, 20), 1).T
    for part in (first[:7], first[7:], first[:, 3:8], torch.cat([first, second], 1), first[:1], -first, 4 * first):
        whole = in_int8(part)
        assert whole is not None
        assert torch.equal(whole.numbers * whole.factors, part)
    for other in (torch.cat([first, second]), first + second, torch.randn(20, 12), first.double() / 3):
        assert in_int8(other) is None
    assert in_int8(first.masked_fill(first == first.max(), torch.nan)) is None
    assert in_int8(first[None]) is None


AXES = {
    "lstm": {"weight_ih": 1, "weight_hh": 1},
    "gru-reset-before": {"weight_ih": 1, "weight_hh": 1},
    "recurrent-highway": {"weight_ih": 1, "weight_hh": 2},
    "slstm-two-heads": {"weight_ih": 1, "weight_hh": 2},
    "ind-rnn": {"weight_ih": 1},
    "graph-tokens": {"low.weight_ih": 1, "low.weight_hh": 1, "scores.weight": 1},
}


@pytest.mark.parametrize("subject", AXES)
def test_the_axis_that_products_add_up_along(subject):
    rnn = build(subject, torch.float32)
    x = sequence(rnn, 2, 1, torch.float32)[:, 0]
    assert summed_axes(network_of(rnn.cell, x, rnn.initial_state(2)).program) == AXES[subject]


def test_without_a_program_matrices_are_multiplied_by_rows():
    module = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 4), nn.Conv1d(1, 1, 3))
    assert rows_of_matrices(module) == {"1.weight": 1}


def test_what_is_not_finite_is_refused_by_name():
    weight = nn.Parameter(torch.tensor([[1.0, torch.inf]]))
    with pytest.raises(ValueError, match=r"weights='int8' rounds low\.weight, but it holds NaN or infinity"):
        round_parameters({"low.weight": weight}, {"low.weight": 1})
