import re

import pytest
import torch

import treadle as td
from treadle.errors import ModelFileError, ShapeError
from treadle.training import CELLS, language_model, match_hidden_size, require_language_model
from treadle.training.layered_networks import parameter_count


@pytest.mark.parametrize("wiring", td.WIRINGS)
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_parameters_match_within_two_percent(wiring, layers):
    hidden_size, total = match_hidden_size("lstm", wiring, layers, 200_000)
    assert total == parameter_count(language_model("lstm", wiring, layers, hidden_size))
    assert abs(total - 200_000) <= 0.02 * 200_000
    for other in (hidden_size - 1, hidden_size + 1):
        assert abs(parameter_count(language_model("lstm", wiring, layers, other)) - 200_000) >= abs(total - 200_000)


@pytest.mark.share(1)
@pytest.mark.parametrize("wiring", td.WIRINGS)
@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_matches_and_reads_bytes_under_every_wiring(cell, wiring):
    hidden_size, total = match_hidden_size(cell, wiring, 2, 60_000)
    assert abs(total - 60_000) <= 0.02 * 60_000
    model = language_model(cell, wiring, 2, hidden_size)
    scores, _ = model(torch.tensor([list(b"import")]))
    assert scores.shape == (1, 6, 256)
    assert require_language_model(model) is model


def test_forget_gates_start_open():
    layer = language_model("lstm", "stack", 1, 8).cell.layers.cells[0]
    assert (layer.bias_ih + layer.bias_hh)[8:16].tolist() == [1.0] * 8


def test_a_number_that_no_hidden_size_reaches_is_refused_with_one_that_is_reached():
    with pytest.raises(ShapeError, match=r"30 layers of lstm wired as stack cannot have 18,300 parameters") as refusal:
        match_hidden_size("lstm", "stack", 30, 18_300)
    near = [int(number.replace(",", "")) for number in re.findall(r"([\d,]+) \(hidden size", str(refusal.value))]
    assert near[0] < 18_300 < near[1]
    for number in near:
        assert match_hidden_size("lstm", "stack", 30, number)[1] == number


def test_too_few_parameters_are_refused():
    with pytest.raises(ShapeError, match="hidden size 1"):
        match_hidden_size("lstm", "stack", 2, 1)


def test_names_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="no cell 'lsmt'"):
        language_model("lsmt")
    with pytest.raises(ValueError, match="no wiring 'stak'"):
        language_model("lstm", "stak")
    with pytest.raises(ShapeError, match="at least one layer"):
        language_model("lstm", layers=0)


@pytest.mark.parametrize(
    "model",
    [
        td.LSTMCell(3, 4),
        td.Recurrent(td.LSTMCell(3, 4)),
        td.Recurrent(td.LSTMCell(3, 256)),
        torch.nn.Linear(1, 256),
        language_model("gru", hidden_size=4).cell,
    ],
)
def test_another_network_is_not_a_language_model(model):
    with pytest.raises(ModelFileError, match=r"x\.safetensors is not a byte-level language model"):
        require_language_model(model, "x.safetensors")
