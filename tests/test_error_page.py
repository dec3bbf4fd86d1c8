"""Every message on the page about errors is one that is really raised, by the class that the page says."""

import logging
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import treadle as td
from treadle.training import read_series

PAGE = (Path(__file__).parent.parent / "docs" / "reference" / "errors.md").read_text()
ROWS = re.findall(r"^\| `(.+?)` \| ", PAGE, re.MULTILINE)


class Branching(nn.Module):
    """Its step does one thing or another, which depends on numbers."""

    input_size = 3

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(3, 3)

    def initial_state(self, batch_size):
        return (self.mix.weight.new_zeros(batch_size, 3),)

    def forward(self, x, state):
        h = self.mix(x) + state[0]
        if h.sum() > 0:
            h = 2 * h
        return h, (h,)


class Mixing(Branching):
    """Its rows influence each other."""

    def forward(self, x, state):
        h = self.mix(x) + state[0].mean(0)
        return h, (h,)


class Measured(td.GRUCell):
    """It looks at its weights while it is made."""

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.largest = float(self.weight_hh.abs().max())


class Counting(Branching):
    """Its step does one thing or another, which depends on the number of rows."""

    def forward(self, x, state):
        h = self.mix(x) + state[0]
        return h, (h if h.shape[0] == 1 else 2 * h,)


class Dividing(Branching):
    """Its step makes a fraction of the number of rows."""

    def forward(self, x, state):
        h = self.mix(x) + state[0]
        return h, (h / (h.shape[0] / 2),)


class Filtering(Branching):
    """A part of its step has no machine code."""

    def __init__(self):
        super().__init__()
        self.filter = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x, state):
        h = torch.tanh(self.mix(self.filter(x[:, None])[:, 0]) + state[0])
        return h, (h,)


XS = torch.randn(4, 7, 3)
RNN = td.Recurrent(td.LSTMCell(3, 5))


def concatenated():
    g = td.Graph(40)
    low = g.add("low", td.LSTMCell(40, 64), reads=g.x)
    g.add("high", td.LSTMCell(64, 64), reads=[low, g.x])


def summed():
    g = td.Graph(40)
    low = g.add("low", td.LSTMCell(40, 64), reads=g.x)
    g.add("high", td.LSTMCell(64, 64), reads=td.sum_of(low, g.x))


def state_of(cell, xs=XS):
    return td.Recurrent(cell)(xs)[1]


def truncated_file():
    Path("cut.safetensors").write_text("{")
    td.load("cut.safetensors")


def file_of_an_unknown_class():
    td.save("own.safetensors", Branching())
    td.load("own.safetensors")


def changed_file():
    td.save("m.safetensors", RNN)
    content = bytearray(Path("m.safetensors").read_bytes())
    content[-9] ^= 1
    Path("m.safetensors").write_bytes(content)
    td.load("m.safetensors")


def state_with_other_weights():
    td.save_state("s.safetensors", RNN(XS)[1], RNN)
    td.load_state("s.safetensors", td.Recurrent(td.LSTMCell(3, 5)))


def pool_of(id):
    pool = RNN.sessions(capacity=1, limit=1)
    pool.open(id)
    return pool


def diverged():
    rnn = td.Recurrent(td.LSTMCell(3, 5))
    nn.init.constant_(rnn.cell.weight_hh, float("nan"))
    return rnn


def table(text, **options):
    Path("t.csv").write_text(text)
    return read_series("t.csv", **options)


def streams(*streams):
    return next(iter(td.streams.Windows(streams, rows=1, steps=3)))


CASES = [
    (td.errors.ShapeError, lambda: RNN(XS[0])),
    (td.errors.ShapeError, lambda: RNN(XS[..., :2])),
    (td.errors.ShapeError, lambda: td.LSTMCell(3, 5)(XS, None)),
    (td.errors.ShapeError, lambda: td.LSTMCell(3, 5)(torch.zeros(4, 3, dtype=torch.long), None)),
    (td.errors.ShapeError, concatenated),
    (td.errors.ShapeError, lambda: td.Stack([td.LSTMCell(40, 64), td.LSTMCell(40, 64)])),
    (td.errors.ShapeError, summed),
    (td.errors.ShapeError, lambda: RNN(XS, lengths=[1, 2])),
    (td.errors.ShapeError, lambda: RNN(XS, lengths=[8, 1, 1, 1])),
    (td.errors.ShapeError, lambda: RNN(XS, resets=torch.zeros(7, 4, dtype=torch.bool))),
    (td.errors.ShapeError, lambda: RNN(XS, mask=torch.ones(4, 7))),
    (td.errors.ShapeError, lambda: RNN.session(2).step(XS[:1, 0])),
    (td.errors.InputError, lambda: RNN(XS.numpy())),
    (td.errors.InputError, lambda: RNN(nn.utils.rnn.pack_padded_sequence(XS, [7] * 4, batch_first=True))),
    (ValueError, lambda: RNN(XS.double())),
    (TypeError, lambda: td.Recurrent(nn.LSTMCell(3, 5))),
    (ValueError, lambda: td.LSTM(3, 5, wiring="ladder")),
    (ValueError, lambda: td.Recurrent(td.LSTMCell(3, 5)).double().session(weights="int8")),
    (ValueError, lambda: diverged().session(weights="int8")),
    (td.errors.StateError, lambda: RNN(XS, state_of(td.LSTMCell(3, 5), XS[:2]))),
    (td.errors.StateError, lambda: RNN(XS, state_of(td.LSTMCell(3, 5), XS.transpose(0, 1)))),
    (td.errors.StateError, lambda: RNN(XS, state_of(td.LSTMCell(3, 5).double(), XS.double()))),
    (td.errors.StateError, lambda: RNN(XS, state_of(td.GRUCell(3, 5)))),
    (td.errors.StateError, lambda: RNN(XS, state_of(td.LSTMCell(3, 6)))),
    (td.errors.StateError, state_with_other_weights),
    (td.errors.StateError, lambda: pool_of("ada").step({"ben": XS[0, 0]})),
    (td.errors.StateError, lambda: pool_of("ada").open("ada")),
    (td.errors.StateError, lambda: pool_of("ada").open("ben")),
    (td.errors.ShapeError, lambda: pool_of("ada").step({"ada": torch.zeros(4)})),
    (td.errors.EngineError, lambda: td.Recurrent(Branching(), engine="cpu")(XS)),
    (td.errors.EngineError, lambda: td.Recurrent(td.LSTMCell(3, 5), engine="tpu")),
    (td.errors.EngineError, lambda: torch.jit.trace(RNN, XS)),
    (td.errors.CellError, lambda: td.check_cell(Mixing())),
    (td.errors.CellError, lambda: td.Stack.of(Measured, 3, 4)),
    (td.errors.InteropError, lambda: td.interop.to_c(RNN, "net.c", compiler="no-such-cc")),
    (td.errors.ModelFileError, truncated_file),
    (td.errors.ModelFileError, file_of_an_unknown_class),
    (td.errors.ModelFileError, changed_file),
    (td.errors.DataError, lambda: table("y\n1\n2\n" * 30, target=["z"])),
    (td.errors.DataError, lambda: table("y\n1\ntwo\n" + "3\n" * 30, target=["y"])),
    (td.errors.DataError, lambda: table("y\n1\nNA\n" + "3\n" * 30, target=["y"])),
    (td.errors.DataError, lambda: table("t,y\n2,1\n1,2\n", target=["y"], time="t")),
    (td.errors.DataError, lambda: streams(td.streams.Array([1.0, float("nan"), 2.0], id="a"))),
    (td.errors.DataError, lambda: streams(td.streams.Array(range(9), id="a"), td.streams.Array(range(9), id="a"))),
    (td.errors.AdaptError, lambda: td.adapt.freeze(nn.Sequential(nn.Linear(3, 5)), except_="head")),
    (td.errors.AdaptError, lambda: td.adapt.transplant(nn.Linear(3, 5), nn.Linear(4, 5).state_dict())),
    (td.errors.AdaptError, lambda: td.adapt.transplant(nn.Linear(3, 5), {"model.weight": torch.zeros(5, 3)})),
    (td.errors.AdaptError, lambda: td.adapt.grow_hidden(td.LSTMCell(3, 5), 4)),
]
LOGGED = [
    lambda: td.Recurrent(Mixing())(XS),
    lambda: td.Recurrent(Counting())(XS),
    lambda: td.Recurrent(Dividing())(XS),
    lambda: td.Recurrent(Branching())(XS),
    lambda: td.Recurrent(Filtering()).session(),
]


def pattern(row):
    """What a row of the page matches: ``…`` is anything."""
    return re.compile(".*".join(map(re.escape, row.split("…"))))


@pytest.fixture(scope="module")
def messages(tmp_path_factory):
    """What is raised and logged, each with the name of its class."""
    found = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(("", record.getMessage()))
    logger = logging.getLogger("treadle")
    logger.addHandler(handler)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("errors"))
        for kind, case in CASES:
            with pytest.raises(kind) as raised:
                case()
            found.append((type(raised.value).__name__, " ".join(str(raised.value).split())))
        for case in LOGGED:
            case()
    logger.removeHandler(handler)
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", ROWS)
def test_a_message_of_the_page_is_raised_under_the_class_that_the_page_says(row, messages):
    section = PAGE[: PAGE.index(f"`{row}`")]
    found = [kind for kind, message in messages if pattern(row).fullmatch(message)]
    assert found, row
    classes = re.findall(r"`(\w+Error)`", section.rpartition("\n## ")[2])
    assert all(kind in classes for kind in found if kind), (found, classes)


@pytest.mark.filterwarnings("ignore")
def test_each_case_is_on_the_page(messages):
    for kind, message in messages:
        assert any(pattern(row).fullmatch(message) for row in ROWS), (kind, message)


def test_every_class_is_on_the_page():
    prose = PAGE.partition("## The classes")[0]
    assert all(f"`{name}" in prose for name in td.errors.__all__)
