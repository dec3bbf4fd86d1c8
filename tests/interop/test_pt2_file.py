"""Networks as PT2 archives: PyTorch alone runs them, for any number of rows and steps."""

import itertools
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from torch import nn

import treadle as td
from tests import registry
from tests.interop.stateless import Stateless
from tests.tolerances import assert_close
from treadle.errors import InteropError
from treadle.state import named_tensors

LONG = pytest.mark.skipif("TREADLE_LONG" not in os.environ, reason="a compiler takes minutes: set TREADLE_LONG=1")
pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch's own, where archives are loaded


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded():
    return torch.export.load("net.pt2").module()


def as_dict(state):
    return {name.replace("/", "."): tensor.detach() for name, tensor in named_tensors(state)}


def assert_states(found, state):
    assert list(found) == list(as_dict(state))
    for name, tensor in as_dict(state).items():
        assert_close(found[name], tensor, what=name)


@pytest.mark.share(1)
@pytest.mark.parametrize(("name", "form"), list(zip(registry.SUBJECTS, itertools.cycle(["step", "sequence"]))))
def test_every_cell_and_wiring(name, form):
    rnn = registry.build(name, torch.float32, learn_initial_state=True)
    td.interop.to_pt2(rnn, "net.pt2", form, input_size=3 if rnn.input_size is None else None)
    program = loaded()
    for B, T in ((1, 20), (2, 1), (7, 33)):
        state, xs = registry.random_state(rnn, B, torch.float32), registry.sequence(rnn, B, T, torch.float32)
        with torch.no_grad():
            if form == "step":
                y, after = program(xs[:, 0], as_dict(state))
                wanted, state = rnn.step(xs[:, 0], state)
            else:
                lengths = torch.tensor([40, 1, 0, 20, 33, T, 5][:B])  # 40: whole, whatever T is
                y, after = program(xs, lengths, as_dict(state))
                wanted, state = rnn(xs, state, lengths=lengths.clamp(max=T))
        assert_close(y, wanted)
        assert_states(after, state)


def tagger():
    torch.manual_seed(0)
    lstm = td.LSTM(6, 5, batch_first=True, bidirectional=True)
    return nn.Sequential(nn.Embedding(2, 6), nn.Dropout(), lstm, nn.LayerNorm(10), td.GRUCell(10, 4), nn.Linear(4, 3))


ELSEWHERE = """
import json, sys, torch
sys.modules["treadle"] = None
about = {"treadle.json": ""}
program = torch.export.load("net.pt2", extra_files=about)
rest = {name: torch.tensor([one["rest"]] * 2) for name, one in json.loads(about["treadle.json"])["states"].items()}
ys, state = program.module()(*torch.load("given.pt"), rest)
torch.save((ys, list(state)), "found.pt")
"""


@pytest.mark.slow
def test_it_runs_where_there_is_no_treadle():
    """A tagger in both directions, from the state that the archive says, in a process of its own."""
    parts = tagger().eval()
    td.interop.to_pt2(parts, "net.pt2", "sequence")
    tokens, lengths = torch.randint(2, (2, 9)), torch.tensor([9, 4])
    torch.save((tokens, lengths), "given.pt")
    subprocess.run([sys.executable, "-W", "ignore", "-c", ELSEWHERE], check=True)
    ys, names = torch.load("found.pt")
    assert names[::4] == ["part2.layer0.forward.h", "part4.h"]
    with torch.no_grad():
        middle, _ = parts[2](parts[0](tokens), lengths=lengths)
        middle, _ = td.Recurrent(parts[4])(parts[3](middle), lengths=lengths)
        wanted = parts[5](middle)
    wanted[1, 4:] = 0
    assert_close(ys, wanted)


def test_double_precision_and_time_first():
    rnn = td.Recurrent(td.GRUCell(3, 4), batch_first=False).double()
    assert (td.interop.to_pt2(rnn, "net.pt2", "sequence").difference or 0) < 1e-14
    xs = torch.randn(6, 2, 3, dtype=torch.float64)
    ys, _ = loaded()(xs, torch.tensor([6, 6]), {"h": torch.zeros(2, 4, dtype=torch.float64)})
    assert_close(ys, rnn(xs)[0])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler: apt-get install g++")
@pytest.mark.parametrize("form", ["step", pytest.param("sequence", marks=LONG)])
def test_machine_code(form):
    rnn = td.Recurrent(td.PeepholeLSTMCell(3, 5), engine="reference")
    report = td.interop.to_pt2(rnn, "net.pt2", form, compiled=True)
    assert (report.difference or 0) < 1e-6
    assert "machine code" in str(report)
    program = torch._inductor.aoti_load_package("net.pt2")
    assert set(json.loads(program.get_metadata()["treadle.json"])["states"]) == set(as_dict(rnn.initial_state(1)))
    for B, T in ((1, 1), (4, 17)):
        xs, state = torch.randn(B, T, 3), registry.random_state(rnn, B, torch.float32)
        given = (xs[:, 0].contiguous(),) if form == "step" else (xs, torch.full((B,), T))
        y, after = program(*given, as_dict(state))
        wanted, end = rnn.step(xs[:, 0], state) if form == "step" else rnn(xs, state)
        assert_close(y, wanted.detach())
        assert_states(after, end)


def test_what_cannot_be_written_is_refused(folder, monkeypatch):
    cell = td.LSTMCell(3, 4)
    with pytest.raises(ValueError, match="'step' or 'sequence'"):
        td.interop.to_pt2(cell, "net.pt2", "steps")
    with pytest.raises(ValueError, match=r"archives that end in \.pt2 only"):
        td.interop.to_pt2(cell, "net.pt")
    with pytest.raises(TypeError, match="this is a Linear"):
        td.interop.to_pt2(nn.Linear(3, 4), "net.pt2", "sequence")
    with pytest.raises(InteropError, match="PyTorch cannot export the network: "):
        td.interop.to_pt2(Stateless(3, lambda x: x * float(x.sum())), "net.pt2")
    with pytest.raises(InteropError, match=r"differs from the network by .*nothing was written"):
        td.interop.to_pt2(Stateless(3, lambda x: x + torch.randn_like(x)), "net.pt2")
    monkeypatch.setenv("CXX", "no-such-c++")
    with pytest.raises(InteropError, match="there is no C\\+\\+ compiler 'no-such-c\\+\\+'"):
        td.interop.to_pt2(cell, "net.pt2", compiled=True)
    assert not list(folder.iterdir())
