"""Weights of published implementations, where these are installed: the cells give their numbers."""

import pytest
import torch

import treadle as td
from tests.tolerances import assert_close


def test_min_gru_pytorch():
    package = pytest.importorskip("minGRU_pytorch")
    theirs = package.minGRU(6, expansion_factor=1.0)
    cell = td.MinGRUCell(6, 6, bias=False)
    hidden, gate = theirs.to_hidden_and_gate.weight.detach().chunk(2)
    with torch.no_grad():
        cell.weight_ih.copy_(torch.cat([gate, hidden]))
    xs = torch.randn(3, 9, 6)
    assert_close(td.Recurrent(cell)(xs)[0], theirs(xs))


def test_min_lstm_pytorch():
    package = pytest.importorskip("minGRU_pytorch.minLSTM")
    theirs = package.minLSTM(6, expansion_factor=1.0)
    cell = td.MinLSTMCell(6, 6, bias=False)
    hidden, forget, read = theirs.to_hidden_and_f_i_gate.weight.detach().chunk(3)
    with torch.no_grad():
        cell.weight_ih.copy_(torch.cat([forget, read, hidden]))
    xs = torch.randn(3, 9, 6)
    assert_close(td.Recurrent(cell)(xs)[0], theirs(xs))


def test_recurrent_gemma():
    """Theirs reads the first step unscaled; from a state that is what it left, all others agree."""
    gemma = pytest.importorskip("transformers.models.recurrent_gemma.modeling_recurrent_gemma")
    config = pytest.importorskip("transformers").RecurrentGemmaConfig(
        hidden_size=8, lru_width=8, num_attention_heads=2, intermediate_size=16
    )
    theirs = gemma.RecurrentGemmaRglru(config)
    cell = td.RGLRUCell(8, 8, heads=2)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_()
        gates = [theirs.recurrent_gate_weight, theirs.input_gate_weight]
        cell.weight_gates.copy_(torch.cat([weight.transpose(1, 2) for weight in gates], 1))
        biases = [theirs.recurrent_gate_bias, theirs.input_gate_bias]
        cell.bias_gates.copy_(torch.cat([bias.flatten() for bias in biases]))
        cell.decay.copy_(-theirs.recurrent_param)
    xs = torch.randn(3, 9, 8)
    expected = theirs(xs, torch.arange(9)[None].expand(3, 9))
    ys, _ = td.Recurrent(cell)(xs[:, 1:], td.HiddenState(expected[:, 0]))
    assert_close(ys, expected[:, 1:])


def test_mlstm_kernels():
    native = pytest.importorskip("mlstm_kernels.torch.recurrent.native_sequence")
    cell = td.MLSTMCell(6, 8, heads=2)
    xs = torch.randn(3, 9, 6)
    ys, _ = td.Recurrent(cell)(xs)
    a = torch.nn.functional.linear(xs, cell.weight_ih, cell.bias_ih)
    q, k, v, o, i, f = a.split([8, 8, 8, 8, 2, 2], 2)
    q, k, v = (part.unflatten(2, (2, 4)).transpose(1, 2) for part in (q, k, v))  # [B, heads, T, d]
    i, f = i.transpose(1, 2), f.transpose(1, 2)
    theirs, _ = native.mlstm_recurrent_sequence__native_fw(
        q=q, k=k, v=v, i=i, f=f, return_last_states=True, eps=0.0, dtype_state=torch.float32
    )[:2]
    assert_close(ys, o.sigmoid() * theirs.transpose(1, 2).flatten(2))


@pytest.mark.parametrize(("theirs_mode", "mode"), [("default", "gated"), ("no_gate", "ungated"), ("pure", "solution")])
def test_ncps(theirs_mode, mode):
    package = pytest.importorskip("ncps.torch")
    theirs = package.CfCCell(3, 5, mode=theirs_mode, backbone_units=7, backbone_layers=2)
    cell = td.CfCCell(4, 5, backbone_size=7, backbone_layers=2, mode=mode, timed=True)
    pairs = [(cell.to_u, theirs.ff1)]
    if mode != "solution":
        pairs += [(cell.to_v, theirs.ff2), (cell.to_slope, theirs.time_a), (cell.to_shift, theirs.time_b)]
    linear = [module for module in theirs.backbone if isinstance(module, torch.nn.Linear)]
    pairs += zip([cell.backbone[0], cell.backbone[2]], linear, strict=True)
    with torch.no_grad():
        for ours, other in pairs:
            ours.load_state_dict(other.state_dict())
        if mode == "solution":
            cell.time_constant.copy_(theirs.w_tau.flatten().uniform_(-1, 1))
            cell.amplitude.copy_(theirs.A.flatten().uniform_(-1, 1))
    xs, elapsed = torch.randn(2, 6, 3), torch.rand(2, 6, 1)
    h, expected = torch.zeros(2, 5), []
    for t in range(6):
        h = theirs(xs[:, t], h, elapsed[:, t])[0]
        expected.append(h)
    assert_close(td.Recurrent(cell)(torch.cat([xs, elapsed], 2))[0], torch.stack(expected, 1))
