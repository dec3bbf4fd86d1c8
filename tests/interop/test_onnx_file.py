"""Networks as ONNX files, against the network itself: live and in sequences, for batches of any size."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import treadle as td
from tests import registry
from tests.interop.stateless import Stateless
from tests.tolerances import assert_close
from treadle.errors import InteropError, TraceError
from treadle.state import named_tensors, rebuild

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx onnxruntime")
onnxruntime = pytest.importorskip("onnxruntime", reason="it is not installed: pip install onnx onnxruntime")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def opened():
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession("net.onnx", options)


def run(session, **given):
    read = {one.name for one in session.get_inputs()}
    names = [one.name for one in session.get_outputs()]
    fed = {name: value.numpy() if torch.is_tensor(value) else value for name, value in given.items() if name in read}
    return dict(zip(names, map(torch.as_tensor, session.run(None, fed)), strict=True))


def as_fed(state):
    return {name.replace("/", "."): tensor.detach().contiguous() for name, tensor in named_tensors(state)}


def assert_states(found, state):
    for name, tensor in as_fed(state).items():
        assert_close(found[f"{name}_after"], tensor, what=name)


def subject_of(name, dtype=torch.float32):
    rnn = registry.build(name, dtype)
    return rnn, 3 if rnn.input_size is None else None


@pytest.mark.share(6)
@pytest.mark.parametrize("name", registry.SUBJECTS)
def test_every_cell_and_wiring_live(name):
    rnn, size = subject_of(name)
    td.interop.to_onnx(rnn, "net.onnx", input_size=size)
    session = opened()
    for B in (1, 2, 7):
        state = registry.random_state(rnn, B, torch.float32)
        fed = as_fed(state)
        for x in registry.sequence(rnn, B, 200, torch.float32).transpose(0, 1):
            found = run(session, x=x.contiguous(), **fed)
            with torch.no_grad():
                y, state = rnn.step(x, state)
            fed = {key: found[f"{key}_after"] for key in fed}
        assert_close(found["y"], y)
        assert_states(found, state)


@pytest.mark.share(6)
@pytest.mark.parametrize("name", registry.SUBJECTS)
def test_every_cell_and_wiring_over_sequences(name):
    rnn, size = subject_of(name)
    td.interop.to_onnx(rnn, "net.onnx", "sequence", input_size=size)
    session = opened()
    for B, T in ((1, 200), (2, 1), (7, 33)):
        state, xs = registry.random_state(rnn, B, torch.float32), registry.sequence(rnn, B, T, torch.float32)
        lengths = torch.tensor([T, 1, 0, 20, 33, 40, 5][:B])
        found = run(session, xs=xs, lengths=lengths, **as_fed(state))
        with torch.no_grad():
            ys, state = rnn(xs, state, lengths=lengths.clamp(max=T))
        assert_close(found["ys"], ys)
        assert_states(found, state)


@pytest.mark.parametrize("form", ["step", "sequence"])
def test_double_precision_and_time_first(form):
    rnn = td.Recurrent(td.GRUCell(3, 4), batch_first=False, learn_initial_state=True).double()
    with torch.no_grad():
        for parameter in rnn.parameters():
            parameter += 0.3
    assert (td.interop.to_onnx(rnn, "net.onnx", form).difference or 0) < 1e-13
    model = onnx.load("net.onnx")
    rest = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    np.testing.assert_array_equal(rest["h_rest"], rnn.initial_state(1).h.detach().numpy())
    about = json.loads(model.metadata_props[0].value)["states"]
    assert about["h"]["after"] == "h_after"
    np.testing.assert_array_equal(about["h"]["rest"], rest["h_rest"][0])
    if form == "sequence":
        xs = torch.randn(5, 2, 3, dtype=torch.float64)
        found = run(opened(), xs=xs, lengths=np.array([5, 5]), h=np.repeat(rest["h_rest"], 2, 0))
        assert_close(found["ys"], rnn(xs)[0])


@pytest.mark.parametrize(
    ("network", "kinds"),
    [
        (lambda: td.LSTM(3, 4, 2, batch_first=True), ["LSTM", "LSTM"]),
        (lambda: td.Recurrent(td.Stack([td.GRUCell(3, 4), td.LSTMCell(4, 2)])), ["GRU", "LSTM"]),
        (lambda: td.RNN(3, 4, nonlinearity="relu"), ["RNN"]),
        (lambda: td.Recurrent(td.LSTMCell(3, 4, proj_size=2)), ["Scan"]),
        (lambda: td.Recurrent(td.GRUCell(3, 4, reset_after=False, activation="elu")), ["GRU"]),
        (lambda: td.Recurrent(td.GRUCell(3, 4, gate_activation="silu")), ["Scan"]),
        (lambda: td.Recurrent(td.RNNCell(3, 4, nonlinearity=nn.PReLU())), ["Scan"]),
        (lambda: td.Recurrent(td.LSTMCell(3, 4, activation="softplus", output_activation="linear")), ["LSTM"]),
        (lambda: td.Recurrent(td.LSTMCell(3, 4, gate_activation="hard_sigmoid_1/6", activation="elu")), ["LSTM"]),
        (lambda: td.LSTM(3, 4, 2, wiring="relay"), ["Scan", "Scan"]),
    ],
)
def test_classic_layers_are_nodes(network, kinds):
    report = td.interop.to_onnx(network(), "net.onnx", "sequence")
    assert report.difference <= 1e-6
    found = [node.op_type for node in onnx.load("net.onnx").graph.node]
    assert [kind for kind in found if kind in ("LSTM", "GRU", "RNN", "Scan")] == kinds


@pytest.mark.parametrize("form", ["step", "sequence"])
def test_what_is_around_a_network_comes_with_it(form):
    torch.manual_seed(0)
    rnn = td.LSTM(6, 5, batch_first=True)
    parts = [nn.Embedding(11, 6), nn.LayerNorm(6), nn.Dropout(), rnn, nn.Linear(5, 7), nn.PReLU(), nn.Softmax(-1)]
    td.interop.to_onnx(nn.Sequential(*parts), "net.onnx", form)
    tokens, session = torch.randint(11, (2, 9)), opened()
    with torch.no_grad():
        wanted = nn.Sequential(*parts[4:])(rnn(parts[1](parts[0](tokens)))[0])
    state = {one.name: torch.zeros(2, 5) for one in session.get_inputs() if one.name.startswith("part3.")}
    assert set(state) == {"part3.layer0.h", "part3.layer0.c"}
    if form == "sequence":
        assert_close(run(session, xs=tokens, lengths=np.array([9, 9]), **state)["ys"], wanted)
    else:
        for t in range(9):
            found = run(session, x=tokens[:, t].contiguous(), **state)
            assert_close(found["y"], wanted[:, t])
            state = {name: found[f"{name}_after"] for name in state}


BOTH_DIRECTIONS = {
    "drop-in": (lambda: td.LSTM(3, 4, 2, batch_first=True, bidirectional=True), ["LSTM", "LSTM"]),
    "drop-in, time first": (lambda: td.GRU(3, 4, bidirectional=True), ["GRU"]),
    "drop-in with projections": (
        lambda: td.LSTM(3, 4, 2, batch_first=True, bidirectional=True, proj_size=2),
        ["Scan"] * 4,
    ),
    "alike": (lambda: td.Bidirectional(td.RNNCell(3, 4), td.RNNCell(3, 4)), ["RNN"]),
    "of other sizes": (lambda: td.Bidirectional(td.LSTMCell(3, 4), td.LSTMCell(3, 5)), ["LSTM", "LSTM"]),
    "of other kinds": (lambda: td.Bidirectional(td.GRUCell(3, 4), td.PeepholeLSTMCell(3, 4)), ["GRU", "Scan"]),
    "from the end": (lambda: td.Reversed(td.GRUCell(3, 4, reset_after=False)), ["GRU"]),
    "from the end, no node": (lambda: td.Reversed(td.PeepholeLSTMCell(3, 4)), ["Scan"]),
    "of several layers": (
        lambda: td.Bidirectional(td.Stack([td.GRUCell(3, 4), td.LSTMCell(4, 4)]), registry.stack("relay")),
        ["GRU", "LSTM", "Scan", "Scan", "Scan"],
    ),
    "no recurrence of its own": (
        lambda: td.Bidirectional(registry.delays(), registry.memoryless_nodes()),
        ["Scan", "Scan", "Scan"],
    ),
}


@pytest.mark.share(4)
@pytest.mark.parametrize("kind", BOTH_DIRECTIONS)
def test_both_directions(kind):
    """Every row from its own end, from states that are not zero, for any number of rows and steps."""
    torch.manual_seed(0)
    make, kinds = BOTH_DIRECTIONS[kind]
    network = make().eval()
    td.interop.to_onnx(network, "net.onnx", "sequence")
    found = [node.op_type for node in onnx.load("net.onnx").graph.node]
    assert [kind for kind in found if kind in ("LSTM", "GRU", "RNN", "Scan")] == kinds
    session, first = opened(), getattr(network, "batch_first", True)
    for B, T in ((1, 20), (2, 1), (7, 33)):
        xs = torch.randn(B, T, 3)
        xs = xs if first else xs.transpose(0, 1).contiguous()
        lengths = torch.tensor([T, 1, 0, 20, 33, 40, 5][:B])
        shapes = {one.name: one.shape[1:] for one in session.get_inputs() if one.name not in ("xs", "lengths")}
        state = {name: torch.randn(B, *shape) for name, shape in shapes.items()}
        given = run(session, xs=xs, lengths=lengths, **state)
        with torch.no_grad():
            ys, after = network(xs, as_state(network, state, B), lengths=lengths.clamp(max=T))
        assert_close(given["ys"], ys)
        for name, tensor in by_name(network, after).items():
            assert_close(given[f"{name}_after"], tensor, what=name)


def as_state(network, given, B):
    """What a file calls its states, as the network takes them."""
    if isinstance(network, td.Bidirectional | td.Reversed):
        like = network.initial_state(B)
        return rebuild(like, {name: given[name.replace("/", ".")] for name, _ in named_tensors(like)})
    kinds = dict.fromkeys(name.rpartition(".")[2] for name in given)
    parts = [torch.stack([one for name, one in given.items() if name.endswith(f".{kind}")]) for kind in kinds]
    return tuple(parts) if len(parts) > 1 else parts[0]


def by_name(network, state):
    """States of a network, as a file calls them."""
    if isinstance(network, td.Bidirectional | td.Reversed):
        return as_fed(state)
    parts = dict(zip("hc", state if isinstance(state, tuple) else (state,), strict=False))
    ways = ("forward", "backward")
    return {f"layer{n // 2}.{ways[n % 2]}.{name}": row for name, part in parts.items() for n, row in enumerate(part)}


def test_a_tagger_in_both_directions():
    torch.manual_seed(0)
    lstm = td.LSTM(6, 5, 2, batch_first=True, bidirectional=True)
    parts = [nn.Embedding(11, 6), nn.Dropout(), lstm, nn.LayerNorm(10), td.GRUCell(10, 4), nn.Linear(4, 7)]
    td.interop.to_onnx(nn.Sequential(*parts).eval(), "net.onnx", "sequence")
    found = [node.op_type for node in onnx.load("net.onnx").graph.node]
    assert [kind for kind in found if kind in ("LSTM", "GRU", "RNN", "Scan")] == ["LSTM", "LSTM", "GRU"]
    tokens, lengths = torch.randint(11, (2, 9)), torch.tensor([9, 4])
    tokens[1, 4:] = 99  # padding may hold anything
    session = opened()
    state = {one.name: torch.zeros(2, *one.shape[1:]) for one in session.get_inputs() if "part" in one.name}
    assert list(state)[::8] == ["part2.layer0.forward.h", "part4.h"]
    with torch.no_grad():
        ys, _ = lstm(parts[0](tokens.clamp(max=10)), lengths=lengths)
        ys, _ = td.Recurrent(parts[4])(parts[3](ys), lengths=lengths)
        wanted = parts[5](ys)
    wanted[1, 4:] = 0
    assert_close(run(session, xs=tokens, lengths=lengths, **state)["ys"], wanted)


def test_functions_that_onnx_lacks():
    def functions(x):
        parts = [x.expm1(), x.abs().log1p(), nn.functional.logsigmoid(x), x.trunc(), (x * x + 1).rsqrt(), x.sign()]
        return torch.cat(parts, 1)

    td.interop.to_onnx(Stateless(1, functions), "net.onnx")
    x = torch.cat([torch.linspace(-80, 80, 401), torch.tensor([1e-30, -1e-30, 1e-8, -1e-8, 3e7, 1e30])])[:, None]
    found = run(opened(), x=x, **{"0": torch.zeros(len(x), 1)})["y"]
    wanted = Stateless(1, functions)(x, (torch.zeros(len(x), 1),))[0]
    torch.testing.assert_close(found, wanted, rtol=2e-6, atol=0)


def test_what_cannot_be_written_is_refused(folder):
    with pytest.raises(TraceError, match=r"test_onnx_file.py:\d+: aten.cumsum cannot be said in ONNX"):
        td.interop.to_onnx(Stateless(3, lambda x: x.cumsum(1)), "net.onnx")
    with pytest.raises(ValueError, match="'step' or 'sequence'"):
        td.interop.to_onnx(td.LSTMCell(3, 4), "net.onnx", "steps")
    with pytest.raises(TypeError, match="part 1 of the Sequential is a Conv1d, which cannot be exported"):
        td.interop.to_onnx(nn.Sequential(td.LSTMCell(3, 4), nn.Conv1d(4, 4, 3)), "net.onnx")
    with pytest.raises(TypeError, match="only over the last"):
        td.interop.to_onnx(nn.Sequential(td.LSTMCell(3, 4), nn.Softmax(1)), "net.onnx")
    with pytest.raises(InteropError, match=r"differs from the network by .*nothing was written"):
        td.interop.to_onnx(td.LSTMCell(3, 4), "net.onnx", tolerance=0)
    assert not list(folder.iterdir())
