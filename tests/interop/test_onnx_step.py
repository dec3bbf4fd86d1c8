"""ONNX files that go forwards step by step, as networks over time: live, and as other files."""

import shutil

import numpy as np
import pytest
import torch
from torch import nn

import treadle as td
from tests.tolerances import assert_close
from treadle.errors import InteropError

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx onnxruntime")
pytest.importorskip("onnxruntime", reason="it is not installed: pip install onnx onnxruntime")
needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler: apt-get install gcc")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Tagger(nn.Module):
    """What people export from PyTorch: of every step, or of the last one."""

    def __init__(self, kind, before, batch_first=True, last=False, **options):
        super().__init__()
        self.before, self.rnn = before, kind(6, 5, 2, batch_first=batch_first, **options)
        self.head = nn.Linear(5 * (1 + self.rnn.bidirectional), 7)
        self.last, self.batch_first = last, batch_first

    def forward(self, x):
        y, _ = self.rnn(self.before(x))
        if self.last:
            y = y[:, -1] if self.batch_first else y[-1]
        return self.head(torch.relu(y)).softmax(-1)


KINDS = {
    "tokens": lambda: Tagger(nn.LSTM, nn.Embedding(11, 6)),
    "features, the last step": lambda: Tagger(nn.GRU, nn.Linear(3, 6), last=True),
    "time first": lambda: Tagger(nn.RNN, nn.Linear(3, 6), batch_first=False),
    "tokens, time first, the last step": lambda: Tagger(nn.LSTM, nn.Embedding(11, 6), batch_first=False, last=True),
}


def exported(model, batch_first=True):
    """A file as PyTorch's exporter writes it, as a network that was read."""
    shape = (2, 9) if batch_first else (9, 2)
    x = torch.randint(11, shape) if isinstance(model.before, nn.Embedding) else torch.randn(*shape, 3)
    axes = {"x": {0: "B", 1: "T"} if batch_first else {0: "T", 1: "B"}}
    torch.onnx.export(model.eval(), (x,), "net.onnx", dynamo=False, input_names=["x"], dynamic_axes=axes)
    return td.interop.from_onnx("net.onnx"), x


@pytest.mark.share(2)
@pytest.mark.filterwarnings("ignore")  # PyTorch's own, of its exporter
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_pytorch_goes_live(kind):
    torch.manual_seed(0)
    model = KINDS[kind]()
    network, x = exported(model, model.batch_first)
    assert network.report.compared
    assert network.report.difference < 1e-6
    rnn = network.recurrent()
    assert rnn.batch_first == model.batch_first
    with torch.no_grad():
        wanted, (ys, _) = model(x), rnn(x)
        time = 1 if model.batch_first else 0
        assert_close(ys.select(time, -1) if model.last else ys, wanted)
        session = rnn.session(batch_size=2)
        for one in x.unbind(time):
            y = session.step(one)
        assert_close(y, ys.select(time, -1))
    td.save("rnn.safetensors", rnn)
    assert torch.equal(td.load("rnn.safetensors")(x)[0], rnn(x)[0])


@needs_cc
@pytest.mark.share(1)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_it_becomes_other_files(kind):
    model = KINDS[kind]()
    network, _ = exported(model, model.batch_first)
    assert (td.interop.to_c(network, "net.c").difference or 0) < 2e-6
    assert (td.interop.to_onnx(network, "again.onnx", "sequence").difference or 0) < 2e-6
    assert (td.interop.to_pt2(network, "net.pt2").difference or 0) < 2e-6


class Mean(Tagger):
    def forward(self, x):
        return self.rnn(self.before(x))[0].mean(1)


class Difference(Tagger):
    """Reads a later step: not what a step can know."""

    def forward(self, x):
        y, _ = self.rnn(self.before(x))
        return y - y.flip(1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tagger(nn.LSTM, nn.Linear(3, 6), bidirectional=True), "reads sequences from their end"),
        (lambda: Mean(nn.LSTM, nn.Linear(3, 6)), "does not give step by step what it gives for a whole sequence"),
        (lambda: Difference(nn.GRU, nn.Linear(3, 6)), "does not give step by step"),
    ],
)
def test_what_has_no_steps_is_refused(make, message):
    network, _ = exported(make())
    with pytest.raises(InteropError, match=message):
        network.recurrent()
    with pytest.raises(InteropError, match=message):
        td.interop.to_c(network, "net.c")


def test_our_own_file_goes_live_again():
    """From the state that it is given, too; lengths are for whole sequences only."""
    rnn = td.Recurrent(td.Stack([td.LSTMCell(3, 5), td.GRUCell(5, 4)]))
    td.interop.to_onnx(rnn, "net.onnx", "sequence")
    again = td.interop.from_onnx("net.onnx").recurrent()
    xs, names = torch.randn(2, 7, 3), list(again.initial_state(1))
    before = {"layer0": td.LSTMState(torch.randn(2, 5), torch.randn(2, 5)), "layer1": td.HiddenState(torch.randn(2, 4))}
    same = {
        name: type(zeros)(*one)
        for name, zeros, one in zip(names, again.initial_state(1).values(), before.values(), strict=True)
    }
    (ys, after), (wanted, end) = again(xs, same), rnn(xs, before)
    assert_close(ys, wanted)
    for name, one in zip(names, end.values(), strict=True):
        for found, part in zip(after[name], one, strict=True):
            np.testing.assert_allclose(found.detach(), part.detach(), atol=1e-6)
