"""How parameters start: within the documented bounds, the same from one seed, where and as precise as asked."""

import math

import pytest
import torch

import treadle as td
from tests.registry import CELL_TYPES, CELLS

every_cell = pytest.mark.parametrize("name", CELLS)
NOT_UNIFORM = {
    "weight_hh": td.IndRNNCell,
    "decay": td.RGLRUCell,
    "backbone": td.CfCCell,
    **dict.fromkeys(["to_u", "to_v", "to_slope", "to_shift"], td.CfCCell),
    **dict.fromkeys(["from_input", "from_hidden"], td.ConvLSTMCell),
}


@every_cell
@pytest.mark.usefixtures("poisoned_memory")
def test_parameters_are_drawn_anew_and_within_bounds(name):
    cell = CELLS[name](3, 37)
    first = {key: value.clone() for key, value in cell.state_dict().items()}
    torch.manual_seed(11)
    cell.reset_parameters()
    torch.manual_seed(11)
    same = CELLS[name](3, 37)
    bound = 1 / math.sqrt(cell.hidden_size)
    for key, value in cell.state_dict().items():
        assert torch.equal(value, same.state_dict()[key]), key
        if "norm_" in key:
            assert (value == (0 if key.endswith("bias") else 1)).all(), key
            continue
        if key == "nonlinearity.weight":
            assert (value == 0.25).all()
            continue
        assert not torch.equal(value, first[key]), key
        free, sets_forget_gate = value, getattr(cell, "forget_bias", None) is not None or isinstance(cell, td.SLSTMCell)
        if key.startswith("bias") and sets_forget_gate:
            free = torch.cat([value[: cell.hidden_size], value[2 * cell.hidden_size :]])
        elif key == "bias_ih" and isinstance(cell, td.MLSTMCell):
            free = value[: -cell.heads]
        elif key == "bias" and isinstance(cell, td.RecurrentHighwayCell):
            free = value[:, : cell.hidden_size]
        if isinstance(cell, NOT_UNIFORM.get(key.split(".")[0], ())):
            continue
        assert free.abs().max() <= bound, key
        assert free.abs().max() > 0.8 * bound, key
        assert free.min() < 0 < free.max(), key


@every_cell
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_precision_and_initial_state(name, dtype):
    cell = CELLS[name](3, 5).to(dtype)
    state = cell.initial_state(4)
    assert isinstance(state, cell.State)
    for field, tensor in state._asdict().items():
        assert tensor.dtype == dtype
        assert tensor.shape == (4, *cell.state_shape(field))
        assert not tensor.any()
    row = cell.input_size if isinstance(cell.input_size, tuple) else (cell.input_size,)
    y, after = cell(torch.randn(4, *row, dtype=dtype))
    assert y.dtype == dtype
    assert all(tensor.dtype == dtype for tensor in after)


@pytest.mark.parametrize("kind", CELL_TYPES)
def test_device_and_dtype_are_options_of_every_cell(kind):
    sizes = (3, 4, (3, 5)) if kind is td.ConvLSTMCell else (3, 4)
    cell = kind(*sizes, device="meta", dtype=torch.float64)
    assert all(parameter.is_meta and parameter.dtype == torch.float64 for parameter in cell.parameters())
    assert all(tensor.is_meta and tensor.dtype == torch.float64 for tensor in cell.initial_state(2))


@pytest.mark.parametrize("kind", [td.LSTMCell, td.PeepholeLSTMCell, td.ZoneoutLSTMCell])
def test_forget_bias_is_what_both_biases_add_up_to(kind):
    cell = kind(3, 5, forget_bias=1.5)
    for _ in range(2):
        total = (cell.bias_ih + cell.bias_hh).reshape(4, 5)
        assert (total[1] == 1.5).all()
        assert (total[[0, 2, 3]].abs() <= 2 / math.sqrt(5)).all()
        cell.reset_parameters()
    assert not (kind(3, 5).bias_ih[5:10] == 1.5).any()


def test_other_biases_that_start_somewhere():
    assert (td.LayerNormLSTMCell(3, 5, forget_bias=1.5).bias[5:10] == 1.5).all()
    highway = td.RecurrentHighwayCell(3, 5, depth=2, transform_bias=-4.0).bias
    assert (highway[:, 5:] == -4).all()
    assert (highway[:, :5] != -4).all()
    assert (td.MLSTMCell(3, 8, heads=4).bias_ih[-4:] == torch.linspace(3, 6, 4)).all()
    forget = td.SLSTMCell(3, 5).bias[5:10]
    assert torch.allclose(forget, torch.tensor([3, 3.75, 4.5, 5.25, 6]))


def test_independent_units_remember_from_the_start():
    recurrent = td.IndRNNCell(3, 200).weight_hh
    assert recurrent.min() >= 0
    assert recurrent.max() <= 1
    assert recurrent.max() - recurrent.min() > 0.9
