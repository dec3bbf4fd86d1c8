"""Tools that look for modules of `torch.nn` find what stands in for them, or it is said that they do not."""

import sys
import types

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import treadle as td
from tests.tolerances import assert_close


class Model(nn.Module):
    def __init__(self, rnn):
        super().__init__()
        self.rnn, self.head = rnn, nn.Linear(4, 2)

    def forward(self, xs):
        ys, _ = self.rnn(xs)
        return self.head(ys)


NETWORKS = {
    "drop-in": lambda: td.LSTM(3, 4, batch_first=True),
    "rewired drop-in": lambda: td.LSTM(3, 4, 2, wiring="skip", batch_first=True),
    "recurrent": lambda: td.Recurrent(td.LSTMCell(3, 4)),
    "both directions": lambda: td.Bidirectional(td.LSTMCell(3, 2), td.LSTMCell(3, 2)),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_is_one_operation_for_torch_fx(kind):
    model = Model(NETWORKS[kind]())
    traced = torch.fx.symbolic_trace(model)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["rnn", "head"]
    for xs in (torch.randn(2, 5, 3), torch.randn(1, 12, 3)):
        assert torch.equal(traced(xs), model(xs))
    with pytest.raises(td.errors.EngineError, match="trace a module that holds it"):
        torch.fx.symbolic_trace(model.rnn)


@pytest.mark.filterwarnings("ignore:torch")  # PyTorch's own: it will drop the whole of it
@pytest.mark.parametrize("spec", [None, {nn.LSTM}])
def test_what_is_not_quantised_is_said(spec):
    from torch.ao.quantization import quantize_dynamic

    model, xs = Model(td.LSTM(3, 4, batch_first=True)).eval(), torch.randn(2, 5, 3)
    with pytest.warns(UserWarning, match=r"quantises torch\.nn\.LSTM alone"):
        quantised = quantize_dynamic(model, spec)
    assert_close(quantised.rnn(xs)[0], model.rnn(xs)[0])
    assert not hasattr(quantised.rnn, "qconfig")
    recurrent = Model(td.Recurrent(td.LSTMCell(3, 4))).eval()
    assert_close(quantize_dynamic(recurrent, spec).rnn(xs)[0], recurrent.rnn(xs)[0])


def test_opacus_validates_and_replaces_what_it_would_of_pytorch(monkeypatch):
    own = types.SimpleNamespace(
        VALIDATORS={nn.LSTM: lambda module: ["an LSTM"]},
        FIXERS={nn.LSTM: lambda module: nn.LSTM(module.input_size, module.hidden_size, module.num_layers)},
    )
    monkeypatch.setitem(sys.modules, "opacus.validators", types.SimpleNamespace(ModuleValidator=own))
    lstm, skip, gru = td.LSTM(3, 4), td.LSTM(3, 4, 2, wiring="skip"), td.GRU(3, 4)
    assert own.VALIDATORS[type(lstm)](lstm) == ["an LSTM"]
    assert isinstance(own.FIXERS[type(lstm)](lstm), nn.LSTM)
    with pytest.raises(td.errors.EngineError, match="the classic LSTM alone"):
        own.FIXERS[type(skip)](skip)
    assert type(gru) not in own.VALIDATORS


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_torchscript_of_a_recurrent_is_refused():
    for module in (NETWORKS["recurrent"](), Model(NETWORKS["both directions"]())):
        with pytest.raises(td.errors.EngineError, match=r"cannot compile Recurrent\(LSTMCell\): use torch.export"):
            torch.jit.script(module)


@pytest.mark.parametrize("kind", ["drop-in", "recurrent"])
def test_pruned_weights_are_those_that_run(kind):
    network, xs = NETWORKS[kind](), torch.randn(2, 5, 3)
    module, name = (network, "weight_hh_l0") if kind == "drop-in" else (network.cell, "weight_hh")
    prune.l1_unstructured(module, name, 0.5)
    ys = network(xs)[0]
    ys.sum().backward()
    unseen = getattr(module, f"{name}_mask") == 0
    assert 0 < unseen.sum() < unseen.numel()
    assert not getattr(module, f"{name}_orig").grad[unseen].any()
    prune.remove(module, name)
    assert_close(network(xs)[0], ys)
