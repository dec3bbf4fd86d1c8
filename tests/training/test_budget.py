import pytest
import torch
from torch import nn

import treadle as td
from tests.registry import CELLS
from treadle.training import parameter_groups
from treadle.training.budget import EarlyStopping, warm_up_and_cosine


def grouped(model):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decaying, resting = parameter_groups(model, 0.1)
    assert (decaying["weight_decay"], resting["weight_decay"]) == (0.1, 0.0)
    return [{names[id(p)] for p in group["params"]} for group in (decaying, resting)]


def test_slopes_biases_and_norms_rest():
    g = td.Graph(4)
    low = g.add("low", td.LayerNormLSTMCell(4, 6), reads=g.x)
    norm = g.add("norm", nn.LayerNorm(6), reads=low)
    slope = g.add("slope", nn.PReLU(6), reads=norm)
    high = g.add("high", td.RecurrentHighwayCell(6, 6), reads=slope)
    head = g.add("head", nn.Linear(6, 2), reads=high)
    decaying, resting = grouped(td.Recurrent(g.outputs(head), learn_initial_state=True))
    assert decaying == {
        *("cell.low.weight_ih", "cell.low.weight_hh"),
        *("cell.high.weight_ih", "cell.high.weight_hh"),
        "cell.head.weight",
    }
    assert {"cell.slope.weight", "cell.norm.weight", "cell.high.bias", "cell.low.norm_cell.weight"} <= resting
    assert any(name.startswith("initial.") for name in resting)


def test_a_norm_over_images_rests_and_its_convolution_decays():
    decaying, resting = grouped(nn.Sequential(nn.Conv2d(1, 2, 3), nn.LayerNorm((2, 4, 4)), nn.BatchNorm2d(2)))
    assert decaying == {"0.weight"}
    assert resting == {"0.bias", "1.weight", "1.bias", "2.weight", "2.bias"}


def test_shared_parameters_come_once_and_frozen_ones_never():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model[2].requires_grad_(False)
    decaying, resting = parameter_groups(model)
    assert [len(group["params"]) for group in (decaying, resting)] == [1, 2]
    torch.optim.AdamW([decaying, resting])  # refuses a parameter that comes twice


@pytest.mark.parametrize("name", CELLS)
def test_every_parameter_of_every_cell_is_in_one_group(name):
    model = CELLS[name](3, 4)
    decaying, resting = grouped(model)
    assert decaying.isdisjoint(resting)
    assert decaying | resting == {name for name, _ in model.named_parameters()}
    assert decaying


def test_the_rate_rises_in_a_line_and_falls_along_half_a_cosine():
    assert [warm_up_and_cosine(step, 0, warm_up=4) for step in (1, 2, 4, 5)] == [0.25, 0.5, 1, 1]
    falling = [warm_up_and_cosine(100, share, warm_up=4) for share in (0, 1 / 3, 0.5, 2 / 3, 1)]
    assert falling == pytest.approx([1, 0.75, 0.5, 0.25, 0])


def test_early_stopping_is_resumed_from_a_checkpoint_that_has_no_list_of_scores():
    stopping = EarlyStopping(patience=2)
    stopping.load_state_dict({"score": 2.0, "waited": 1, "weights": {}})
    assert (stopping.score, stopping.scores) == (2.0, [])
    assert stopping.update(3.0, nn.Linear(1, 1))
