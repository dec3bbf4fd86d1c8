import pytest
import torch
from torch import nn

import treadle as td
from treadle.adapt import freeze, parameter_groups, unfreeze_gradually
from treadle.errors import AdaptError
from treadle.training import Epochs, train
from treadle.training.budget import ShareDone


def network():
    g = td.Graph(3)
    low = g.add("low", td.LSTMCell(3, 4), reads=g.x)
    high = g.add("high", td.GRUCell(4, 4), reads=low)
    return td.Recurrent(g.outputs(g.add("head", nn.Linear(4, 2), reads=high)))


def learning(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_freeze_gives_a_copy_of_which_only_the_named_learns():
    model = network()
    tuned = freeze(model, ["cell.head", "*.bias_ih"])
    assert learning(tuned) == {"cell.head.weight", "cell.head.bias", "cell.low.bias_ih", "cell.high.bias_ih"}
    assert learning(model) == {name for name, _ in model.named_parameters()}
    before = {name: parameter.clone() for name, parameter in tuned.named_parameters()}
    optimiser = torch.optim.AdamW(tuned.parameters(), lr=0.1, weight_decay=0.1)
    tuned(torch.randn(2, 5, 3))[0].square().mean().backward()
    optimiser.step()
    changed = {name for name, parameter in tuned.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == learning(tuned)
    assert learning(freeze(tuned, "cell.low")) == {n for n in before if n.startswith("cell.low.")}
    assert not learning(freeze(model))


def test_a_pattern_that_names_nothing():
    with pytest.raises(AdaptError, match=r"'haed' names no parameter of this network: did you mean 'cell.head'\?"):
        freeze(network(), "haed")
    with pytest.raises(AdaptError, match="pattern is a text"):
        freeze(network(), [3])


def test_stages():
    model = network()
    thaw = unfreeze_gradually(model, ["cell.head", ["cell.high", "cell.low.bias*"], "cell.low"], every=2)
    optimiser = torch.optim.AdamW(parameter_groups(thaw.network, frozen=True), lr=0.1)
    names, sizes = [], []
    for _ in range(6):
        before = {name: parameter.clone() for name, parameter in thaw.network.named_parameters()}
        sizes.append(len(learning(thaw.network)))
        optimiser.zero_grad()
        thaw.network(torch.randn(2, 5, 3))[0].square().mean().backward()
        optimiser.step()
        changed = {n for n, p in thaw.network.named_parameters() if not torch.equal(p, before[n])}
        assert changed == learning(thaw.network)
        names.append(thaw.step())
    assert sizes == [2, 2, 8, 8, 10, 10]
    assert [len(some) for some in names] == [0, 6, 0, 2, 0, 0]
    assert set(names[3]) == {"cell.low.weight_ih", "cell.low.weight_hh"}
    assert learning(model) == {name for name, _ in model.named_parameters()}


def test_a_training_that_is_interrupted_goes_on_stage_by_stage_to_the_bit(tmp_path):
    def steps(count, checkpoint=None):
        """The losses of a run that is dropped after some steps; every third writes a checkpoint."""
        torch.manual_seed(0)
        thaw = unfreeze_gradually(network(), ["cell.head", "cell.high", "cell.low"], every=3)
        thaw.network.engine = "reference"
        optimiser = torch.optim.AdamW(parameter_groups(thaw.network, frozen=True), lr=0.1)
        xs, ys = torch.randn(8, 5, 3), torch.randint(2, (8, 5))
        batches = Epochs(lambda epoch: [[epoch % 8, 3], [5]], lambda i: (xs[i], ys[i]))
        run = train(
            thaw.network,
            batches,
            optimiser,
            ShareDone(steps=12),
            learning_rate=0.1,
            checkpoint=checkpoint,
            checkpoint_at=lambda step: step % 4 == 0,
            thaw=thaw,
        )
        found = []
        for step in run:
            found.append((step.loss, len(learning(thaw.network))))
            if len(found) == count:
                run.close()
        return found

    whole = steps(12)
    assert [size for _, size in whole] == [2, 2, 6, 6, 6, 10, 10, 10, 10, 10, 10, 10]
    for count in (5, 9):  # in the second stage, and in the third
        path = tmp_path / f"{count}.checkpoint"
        assert steps(count, path) == whole[:count]
        assert steps(99, path) == whole[4 * (count // 4) :]


@pytest.mark.parametrize(("stages", "every"), [([], 1), (["cell.head"], 0), (["cell.head"], 1.5), (["nothing"], 1)])
def test_stages_that_there_are_not(stages, every):
    with pytest.raises(AdaptError):
        unfreeze_gradually(network(), stages, every)


def test_rates_by_pattern():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.PReLU(4), nn.Linear(4, 2), nn.Linear(2, 2))
    groups = parameter_groups(model, 0.1, rates={"3.bias": 3.0, "3": 1.0, "0": 0.5})
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {(g.get("lr"), g["weight_decay"]): {names[id(p)] for p in g["params"]} for g in groups}
    assert found == {
        (3.0, 0.0): {"3.bias"},
        (1.0, 0.1): {"3.weight"},
        (0.5, 0.1): {"0.weight"},
        (0.5, 0.0): {"0.bias"},
        (None, 0.1): {"4.weight"},
        (None, 0.0): {"1.weight", "1.bias", "2.weight", "4.bias"},
    }
    optimiser = torch.optim.SGD(groups, lr=7.0)
    assert sorted({g["lr"] for g in optimiser.param_groups}) == [0.5, 1.0, 3.0, 7.0]


@pytest.mark.parametrize("decay", [-0.1, "much", float("nan"), True])
def test_decays_that_there_are_not(decay):
    with pytest.raises(AdaptError, match="weight_decay is 0 or a positive number"):
        parameter_groups(network(), decay)


def test_frozen_ones_are_left_out_unless_asked_for():
    model = freeze(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), "1")
    assert sum(len(g["params"]) for g in parameter_groups(model)) == 2
    assert sum(len(g["params"]) for g in parameter_groups(model, frozen=True)) == 4


@pytest.mark.parametrize("rates", [{"5": 0.1}, {"0": -1}, {"0": "fast"}, {"0": float("nan")}])
def test_rates_that_there_are_not(rates):
    with pytest.raises(AdaptError):
        parameter_groups(nn.Sequential(nn.Linear(3, 4)), rates=rates)
