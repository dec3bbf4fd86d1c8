"""What cells refuse, and how they say it."""

import pytest
import torch

import treadle as td
from tests.registry import CELL_TYPES, CELLS
from treadle.errors import ShapeError, StateError

every_cell = pytest.mark.parametrize("name", CELLS)


def one_step(cell, B=2):
    row = cell.input_size if isinstance(cell.input_size, tuple) else (cell.input_size,)
    return torch.zeros(B, *row)


@pytest.mark.parametrize("kind", CELL_TYPES)
@pytest.mark.parametrize("size", [0, -1, 2.0, "3", True, None])
def test_sizes_that_are_not_positive_whole_numbers(kind, size):
    image = ((3, 5),) if kind is td.ConvLSTMCell else ()
    with pytest.raises(ShapeError, match=r"hidden_.* must be a positive whole number, but is"):
        kind(3, size, *image)
    with pytest.raises(ShapeError, match=r"input_.* must be a positive whole number, but is"):
        kind(size, 5, *image)


@every_cell
def test_inputs_that_do_not_fit(name):
    cell = CELLS[name](3, 5)
    x = one_step(cell)
    for wrong in (x[:, :-1], torch.cat([x, x], 1), x[None], x[0, ..., 0]):
        with pytest.raises(
            ShapeError, match=rf"{type(cell).__name__} takes one step of \[B, .*td.Recurrent runs whole sequences"
        ):
            cell(wrong)


@every_cell
def test_states_that_do_not_fit(name):
    cell = CELLS[name](3, 5)
    x, state = one_step(cell), cell.initial_state(2)
    fields = ", ".join(cell.State._fields)
    for wrong in ((), (*state, state[0]), "h", torch.zeros(2, 5), 0):
        with pytest.raises(StateError, match=rf"the state of {type(cell).__name__} is \({fields}\), but it was given"):
            cell(x, wrong)
    with pytest.raises(
        StateError,
        match=rf"state {cell.State._fields[0]} of {type(cell).__name__} is \[3, .*with this x it must be \[2, ",
    ):
        cell(x, cell.initial_state(3))
    for field in state._fields:
        wider = state._replace(**{field: torch.cat([getattr(state, field)] * 2, 1)})
        with pytest.raises(StateError, match=rf"state {field} of .* it must be \[2, "):
            cell(x, wider)


@every_cell
def test_no_state_and_plain_containers(name):
    cell = CELLS[name](3, 5).eval()
    x, state = torch.randn_like(one_step(cell)), cell.initial_state(2)
    y, after = cell(x)
    assert isinstance(after, cell.State)
    for same in (None, state, tuple(state), list(state)):
        assert torch.equal(cell(x, same)[0], y)


def test_projections_that_do_not_fit():
    for size in (-1, 5, 6):
        with pytest.raises(ShapeError, match=r"proj_size must be 0 or smaller than hidden_size \(5\), but is"):
            td.LSTMCell(3, 5, proj_size=size)


def test_options_that_contradict_each_other():
    for kind in (td.LSTMCell, td.PeepholeLSTMCell, td.ZoneoutLSTMCell):
        with pytest.raises(ShapeError, match="forget_bias sets the start of a bias, but bias=False"):
            kind(3, 5, bias=False, forget_bias=1.0)


@pytest.mark.parametrize("kind", [td.RNNCell, td.IndRNNCell])
def test_nonlinearities_that_do_not_exist(kind):
    with pytest.raises(ValueError, match=r"nonlinearity is one of 'linear', .*, but 'sine' was passed"):
        kind(3, 5, nonlinearity="sine")
    with pytest.raises(ShapeError, match=r"PReLU\(4\) has 4 slopes, but the cell has 5 units: pass PReLU\(5\)"):
        kind(3, 5, nonlinearity=torch.nn.PReLU(4))


@pytest.mark.parametrize("kind", [td.LSTMCell, td.GRUCell])
@pytest.mark.parametrize("option", ["activation", "gate_activation", "output_activation"])
def test_activations_that_do_not_exist(kind, option):
    if kind is td.GRUCell and option == "output_activation":
        return
    wrong = {
        "sine": rf"{option} is one of 'linear', .*, but 'sine' was passed",
        3: rf"{option} is one of 'linear', .*, but 3 was passed",
        "hard_sigmoid": rf"{option}='hard_sigmoid' is one of two functions: pass 'hard_sigmoid_0.2'",
        torch.nn.ReLU: rf"{option} is the class ReLU: pass an instance, ReLU\(",
    }
    for value, message in wrong.items():
        with pytest.raises(ValueError, match=message):
            kind(3, 5, **{option: value})
    with pytest.raises(ShapeError, match="PReLU\\(4\\) has 4 slopes, but the cell has 5 units"):
        kind(3, 5, **{option: torch.nn.PReLU(4)})


def test_depths_and_kernels():
    with pytest.raises(ShapeError, match="depth must be a positive whole number, but is 0"):
        td.RecurrentHighwayCell(3, 5, depth=0)
    with pytest.raises(ShapeError, match=r"kernel_size must be odd, .* but is 2"):
        td.ConvLSTMCell(3, 5, (4, 4), kernel_size=2)
    with pytest.raises(ShapeError, match="image height must be a positive whole number, but is 0"):
        td.ConvLSTMCell(3, 5, (0, 4))
    with pytest.raises(ShapeError, match="image width must be a positive whole number, but is -1"):
        td.ConvLSTMCell(3, 5, (4, -1))
    with pytest.raises(ShapeError, match="heads must be a positive whole number, but is 0"):
        td.SLSTMCell(3, 5, heads=0)


@every_cell
def test_print_names_the_sizes(name):
    cell = CELLS[name](3, 5)
    assert f"{type(cell).__name__}(" in repr(cell)
    assert f"3, {cell.hidden_size}" in repr(cell)
