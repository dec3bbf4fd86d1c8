import pytest
import torch
from torch import nn

import treadle as td
from tests.tolerances import assert_close
from treadle.adapt import Copy, Crop, Fresh, Widen, transplant
from treadle.errors import AdaptError


def convolutions(channels=3, classes=21, width=8):
    return nn.Sequential(nn.Conv2d(channels, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, classes, 1))


def test_every_tensor_of_both_has_a_row_and_the_value_that_it_says():
    trained, target = convolutions(), convolutions(5, 2)
    trained[1].running_mean.fill_(3)
    state = trained.state_dict() | {"extra": torch.zeros(1)}
    del state["1.bias"]
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    model, report = transplant(target, state, {"0.weight": Widen(1), "3": Fresh()})
    assert {row.name: row.action for row in report} == {
        "0.weight": "widened",
        "0.bias": "copied",
        "1.weight": "copied",
        "1.bias": "missing",
        "1.running_mean": "copied",
        "1.running_var": "copied",
        "1.num_batches_tracked": "copied",
        "3.weight": "fresh",
        "3.bias": "fresh",
        "extra": "unused",
    }
    assert torch.equal(model[0].weight[:, :3], trained[0].weight)
    assert not model[0].weight[:, 3:].any()
    assert torch.equal(model[1].running_mean, trained[1].running_mean)
    assert torch.equal(model[3].weight, before["3.weight"])
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert model[0].weight.data_ptr() != target[0].weight.data_ptr()
    assert all(name in str(report) for name in model.state_dict())
    assert report.names("missing") == ["1.bias"]
    assert report["3.bias"].shape == (2,)


def test_widening_computes_what_a_network_built_by_hand_computes():
    trained = nn.LSTM(3, 5, dtype=torch.float64)
    model, report = transplant(
        td.LSTM(4, 7, dtype=torch.float64),
        trained.state_dict(),
        {
            "weight_ih*": [Widen(0, blocks=4), Widen(1)],
            "weight_hh*": [Widen(0, blocks=4), Widen(1)],
            "bias*": Widen(0, blocks=4),
        },
    )
    assert report.counts == {"widened": 4}
    xs = torch.randn(6, 2, 4, dtype=torch.float64)
    expected, (_, c) = trained(xs[..., :3])
    ys, (_, c_n) = model(xs)
    assert_close(ys[..., :5], expected)
    assert_close(c_n[..., :5], c)
    assert not ys[..., 5:].any()


def test_the_ways_to_start():
    state = {"weight": torch.tensor([[1.0, 2, 6]]), "bias": torch.tensor([4.0])}
    torch.manual_seed(1)
    target = nn.Linear(50, 1)
    starts = {s: transplant(target, state, {"weight": Widen(1, s)})[0].weight for s in ("zeros", "mean", "fresh")}
    assert starts["zeros"][0, 3:].eq(0).all()
    assert starts["mean"][0, 3:].eq(3).all()
    assert torch.equal(starts["fresh"][0, 3:], target.weight[0, 3:])
    drawn = torch.cat([transplant(target, state, {"weight": Widen(1, "xavier")})[0].weight[0, 3:] for _ in range(50)])
    bound = (6 / 51) ** 0.5
    assert drawn.abs().max() <= bound
    assert drawn.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
    assert torch.equal(transplant(target, state, {"weight": Widen(1, "mean")})[0].weight[0, :3], state["weight"][0])


def test_xavier_counts_the_field_of_a_convolution():
    target = nn.Conv2d(40, 30, (3, 5))
    state = {"weight": torch.zeros(30, 3, 3, 5), "bias": torch.zeros(30)}
    drawn = transplant(target, state, {"weight": Widen(1, "xavier")})[0].weight[:, 3:]
    bound = (6 / (70 * 15)) ** 0.5
    assert 0.99 * bound < drawn.abs().max() <= bound


def test_names_with_stars_and_shapes_that_are_laid_out_anew():
    source = nn.ModuleDict({"features": nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)), "top": nn.Linear(36, 5)})
    target = nn.ModuleDict({"trunk": nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)), "fc6": nn.Conv2d(4, 5, 3)})
    rules = {"trunk": Copy("features"), "fc6.weight": Copy("top.weight", reshape=True), "fc6.*": Copy("top.*")}
    model, report = transplant(target, source, rules)
    assert report.counts == {"copied": 6}
    assert torch.equal(model["trunk"][1].weight, source["features"][1].weight)
    x = torch.randn(2, 4, 3, 3)
    assert_close(model["fc6"](x).flatten(1), source["top"](x.flatten(1)))
    again, _ = transplant(
        target,
        source,
        {"fc6.weight": Copy("top.weight", True), "fc6.bias": Copy("top.bias"), "trunk.*": Copy("features.*")},
    )
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_cropping_only_where_it_was_asked_for():
    model, report = transplant(nn.Linear(3, 2), nn.Linear(5, 2).state_dict(), {"weight": Crop(1)})
    assert report["weight"].detail == "axis 1: 5 to 3"
    assert model.weight.shape == (2, 3)
    with pytest.raises(AdaptError, match=r"weight is \[2, 5\] .* \[2, 3\].*td.adapt.Crop\(axis=1\)"):
        transplant(nn.Linear(3, 2), nn.Linear(5, 2).state_dict())


def test_precision_is_that_of_the_network_and_frozen_stays_frozen():
    target = nn.Linear(3, 2).requires_grad_(False)
    model, report = transplant(target, nn.Linear(3, 2, dtype=torch.float64))
    assert model.weight.dtype == torch.float32
    assert report["weight"].detail == "float64 to float32"
    assert not model.weight.requires_grad


def test_tied_weights_stay_tied():
    def tied():
        model = nn.ModuleDict({"embedding": nn.Embedding(7, 3), "scores": nn.Linear(3, 7, bias=False)})
        model["scores"].weight = model["embedding"].weight
        return model

    source = tied()
    for state in (source.state_dict(), {"embedding.weight": source["embedding"].weight.detach()}):
        model, report = transplant(tied(), state)
        assert model["scores"].weight is model["embedding"].weight
        assert torch.equal(model["scores"].weight, source["embedding"].weight)
        assert [row.action for row in report] == ["copied", "tied"]
    model, report = transplant(tied(), {"scores.weight": source["scores"].weight.detach()})
    assert torch.equal(model["embedding"].weight, source["embedding"].weight)
    assert [(row.action, row.detail) for row in report] == [("tied", "one with scores.weight"), ("copied", "")]


def test_tied_weights_take_one_of_two_that_were_not_and_say_so():
    target = nn.ModuleDict({"embedding": nn.Embedding(7, 3), "scores": nn.Linear(3, 7, bias=False)})
    target["scores"].weight = target["embedding"].weight
    source = nn.ModuleDict({"embedding": nn.Embedding(7, 3), "scores": nn.Linear(3, 7, bias=False)})
    model, report = transplant(target, source)
    assert torch.equal(model["scores"].weight, source["embedding"].weight)
    row = report["scores.weight"]
    assert (row.action, row.source, row.source_shape) == ("tied", "scores.weight", (7, 3))
    assert row.detail == "one with embedding.weight, so what was given here has no place"
    model, _ = transplant(target, source, {"embedding": Fresh()})
    assert torch.equal(model["scores"].weight, target["embedding"].weight)  # and stays fresh by its other name


def test_what_modules_keep_beside_tensors_is_no_tensor():
    class Counting(nn.Linear):
        def get_extra_state(self):
            return {"calls": 3}

        def set_extra_state(self, state):
            pass

    source = Counting(3, 2)
    model, report = transplant(Counting(3, 2), source.state_dict())
    assert torch.equal(model.weight, source.weight)
    assert [row.name for row in report] == ["weight", "bias"]


WRONG = {
    "names nothing": ({"features.9.weight": Widen(1)}, r"'features.9.weight' names no tensor.*"),
    "too long already": (
        {"0.weight": Widen(0), "3": Fresh()},
        r"'0.weight' does not fit 0.weight.*\[8, 3, 3, 3\].*\[8, 5, 3, 3\].*axis 0 is not longer.*Widen\(axis=1\)",
    ),
    "no such axis": ({"0.weight": Widen(4), "3": Fresh()}, r"no axis 4 .*Widen\(axis=1\)"),
    "crop what grows": ({"0.weight": Crop(1), "3": Fresh()}, r"axis 1 is not shorter.*Widen\(axis=1\)"),
    "blocks": ({"0.weight": Widen(1, blocks=2), "3": Fresh()}, "not made of 2 equal blocks"),
    "copy": ({"0.weight": Copy(), "3": Fresh()}, r"Copy needs equal shapes; write .*Widen\(axis=1\)"),
    "reshape": ({"0.weight": Copy(reshape=True), "3": Fresh()}, "216 numbers cannot be laid out as 360"),
    "no source": (
        {"0.weight": Widen(1, source="0.wieght"), "3": Fresh()},
        r"wants '0.wieght' for 0.weight .*did you mean '0.weight'",
    ),
    "stars": ({"0.weight": Widen(1, source="*.weight"), "3": Fresh()}, "more \\* than the pattern"),
    "no rule": (
        {},
        r"0.weight is \[8, 3, 3, 3\].*\[8, 5, 3, 3\].*write \{'0.weight': td.adapt.Widen\(axis=1\)\}.*and 2 more",
    ),
    "half": ({"0.weight": Widen(1), "3.weight": Widen(1)}, r"3.weight"),
    "too late": ({"0": Widen(1), "0.weight": Widen(1)}, "comes too late"),
    "not a rule": ({"0.weight": "zeros"}, r"'0.weight' is 'zeros': pass td.adapt.Copy\(\)"),
    "not a pattern": ({0: Fresh()}, "a pattern is a text such as 'head'"),
    "not a source": ({"0.weight": Widen(1, source=3)}, "source=3, which is no name of a tensor"),
    "fresh among others": ({"0.weight": [Widen(1), Fresh()]}, "a list of these, or Fresh"),
    "start": ({"0.weight": Widen(1, "ones")}, "one of zeros, xavier, mean, fresh"),
    "xavier of a bias": (
        {"0.weight": Widen(1), "3.weight": Crop(0), "3.bias": Widen(0, "xavier")},
        "axis 0 is not longer",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_says_what_to_write_and_changes_nothing(name):
    rules, message = WRONG[name]
    trained, target = convolutions(), convolutions(5, 2)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(AdaptError, match=message) as caught:
        transplant(target, trained.state_dict(), rules)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


def test_a_bias_has_no_fan():
    with pytest.raises(AdaptError, match="Xavier needs a fan in"):
        transplant(nn.PReLU(5), {"weight": torch.zeros(3)}, {"weight": Widen(0, "xavier")})


def test_weights_of_another_architecture():
    with pytest.raises(
        AdaptError, match=r"another architecture: of 9 tensors.*'0.weight'.*4 that were given.*'weight_ih_l0'"
    ):
        transplant(convolutions(), nn.LSTM(2, 3).state_dict())
    with pytest.raises(AdaptError, match="another architecture"):
        transplant(convolutions(), {})
    with pytest.raises(TypeError, match=r"whole checkpoint: pass checkpoint\['model'\]"):
        transplant(convolutions(), {"model": convolutions().state_dict()})
    with pytest.raises(TypeError, match="'epoch' is a int, not a tensor"):
        transplant(convolutions(), {"epoch": 3})
    with pytest.raises(TypeError, match="read a file first"):
        transplant(convolutions(), "weights.pth")
