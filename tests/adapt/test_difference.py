import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import treadle as td
from treadle.adapt import diff
from treadle.errors import AdaptError, ModelFileError
from treadle.training import save_checkpoint


def network():
    return td.Recurrent(td.Stack([td.LSTMCell(3, 4), td.GRUCell(4, 4)]))


def test_by_layer_and_by_tensor(tmp_path):
    a = network()
    b = copy.deepcopy(a)
    with torch.no_grad():
        b.cell.layer1.bias_ih += 1
    found = diff(a, b)
    assert found
    assert found.changed == ["cell.layer1"]
    moved = (b.cell.layer1.bias_ih - a.cell.layer1.bias_ih).norm() / a.cell.layer1.bias_ih.norm()
    assert found["cell.layer1.bias_ih"].distance == pytest.approx(moved.item(), rel=1e-6)
    assert found["cell.layer1.bias_hh"].change == "same"
    assert str(found).splitlines()[2].split() == ["cell.layer1", "3", "same,", "1", "changed", f"{moved:.3g}"]
    assert not diff(a, copy.deepcopy(a))
    td.save(tmp_path / "a.safetensors", a)
    save_file(b.state_dict(), tmp_path / "b.safetensors")
    in_files = diff(tmp_path / "a.safetensors", str(tmp_path / "b.safetensors"))
    assert set(in_files) == set(found)
    assert diff(a.state_dict(), b).tensors == found.tensors


def test_other_shapes_and_names():
    a = nn.ModuleDict({"low": nn.Linear(3, 4), "old": nn.Linear(1, 1, bias=False)})
    b = nn.ModuleDict({"low": nn.Linear(5, 4), "new": nn.Linear(1, 1, bias=False)})
    b["low"].bias = a["low"].bias
    found = diff(a, b)
    assert {t.name: t.change for t in found} == {
        "low.weight": "shape",
        "low.bias": "same",
        "old.weight": "removed",
        "new.weight": "added",
    }
    assert found["low.weight"].before == (4, 3)
    assert "weight [4, 3] to [4, 5]" in str(found)


def test_nan_equals_nan_and_precision_does_not_count():
    weights = {"w": torch.tensor([1.0, float("nan")])}
    assert not diff(weights, {"w": weights["w"].double()})
    assert diff(weights, {"w": torch.tensor([2.0, float("nan")])})["w"].change == "changed"


def test_whole_numbers_are_compared_to_the_last_digit():
    assert diff({"n": torch.tensor(2**60)}, {"n": torch.tensor(2**60 + 1)})["n"].change == "changed"


def test_files_that_torch_wrote_and_checkpoints_of_a_training(tmp_path):
    a = network()
    b = copy.deepcopy(a)
    with torch.no_grad():
        b.cell.layer1.bias_ih += 1
    torch.save(a.state_dict(), tmp_path / "a.pth")
    optimiser = torch.optim.AdamW(b.parameters())
    save_checkpoint(tmp_path / "run.checkpoint", b, optimiser=optimiser, step=7)
    names = [name for name, _ in a.named_parameters()]
    for first in (a, tmp_path / "a.pth"):
        for second in (b, tmp_path / "run.checkpoint"):
            found = diff(first, second)
            assert found.changed == ["cell.layer1"]
            assert sorted(tensor.name for tensor in found) == sorted(names)
    assert [tensor.name for tensor in diff(tmp_path / "run.checkpoint", a)] == names  # in the network's order
    torch.save(a, tmp_path / "code.pth")  # a pickle of objects, which would run code
    with pytest.raises(ModelFileError, match=r"code.pth is no file of weights alone"):
        diff(tmp_path / "code.pth", a)
    torch.save({"model": a.state_dict(), "step": 7}, tmp_path / "whole.pth")
    with pytest.raises(TypeError, match=r"whole.pth .* is a whole checkpoint: pass checkpoint\['model'\]"):
        diff(tmp_path / "whole.pth", a)


def test_refusals(tmp_path):
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(ModelFileError, match="is no file of weights alone, or is damaged"):
        diff(tmp_path / "text", network())
    with pytest.raises(OSError, match="nowhere"):
        diff(tmp_path / "nowhere", network())
    with pytest.raises(TypeError, match="given a int"):
        diff(network(), 3)
    with pytest.raises(TypeError, match="'model' is a dict, not a tensor"):
        diff({"model": {}}, network())
    with pytest.raises(AdaptError, match="no tensor in common"):
        diff(network(), nn.Linear(2, 3))
