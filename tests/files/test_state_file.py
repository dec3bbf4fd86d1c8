"""State files: the same state comes back, to the network that it belongs to and to no other."""

import os

import pytest
import torch

import treadle as td
from tests.registry import SUBJECTS
from tests.tolerances import assert_close
from treadle.errors import ModelFileError, StateError
from treadle.files.model_file import write
from treadle.state import map_state, named_tensors


@pytest.mark.share(25)
@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_state_comes_back(name, dtype, tmp_path):
    rnn = td.Recurrent(SUBJECTS[name]()).to(dtype)
    state = map_state(lambda t: t + torch.randint(5, t.shape).to(t.dtype), rnn.initial_state(3))
    td.save_state(tmp_path / "s", state, rnn)
    again = td.load_state(tmp_path / "s", rnn)
    assert type(again) is type(state)
    for (what, a), (other, e) in zip(named_tensors(again), named_tensors(state), strict=True):
        assert what == other
        assert a.dtype == e.dtype
        assert torch.equal(a, e)


def test_a_stream_goes_on_from_a_file_as_if_it_had_not_stopped(tmp_path):
    rnn = td.Recurrent(td.Stack([td.LSTMCell(3, 4), td.LSTMCell(8, 4)], "lateral"))
    xs = torch.randn(2, 9, 3)
    whole, _ = rnn(xs)
    _, state = rnn(xs[:, :5])
    td.save_state(tmp_path / "s", state, rnn)
    rest, _ = rnn(xs[:, 5:], td.load_state(tmp_path / "s", rnn))
    assert_close(rest, whole[:, 5:])


def test_the_state_of_another_network_is_refused(tmp_path):
    torch.manual_seed(0)
    rnn, other = td.Recurrent(td.GRUCell(3, 4)), td.Recurrent(td.GRUCell(3, 4))
    td.save_state(tmp_path / "s", rnn.initial_state(2), rnn)
    with pytest.raises(StateError, match="another network, or of this one with other weights"):
        td.load_state(tmp_path / "s", other)
    with pytest.raises(StateError, match="another network"):
        td.save_state(tmp_path / "t", rnn.initial_state(2), td.Recurrent(td.LSTMCell(3, 4)))
    assert os.listdir(tmp_path) == ["s"]


def test_damaged_files_are_refused(tmp_path):
    rnn = td.Recurrent(td.GRUCell(3, 4))
    path = tmp_path / "s"
    td.save_state(path, rnn.initial_state(2), rnn)
    content = bytearray(path.read_bytes())
    path.write_bytes(content[:-3])
    with pytest.raises(ModelFileError, match="truncated"):
        td.load_state(path, rnn)
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="checksum"):
        td.load_state(path, rnn)
    td.save(path, rnn)
    with pytest.raises(ModelFileError, match="not a treadle state file but treadle model"):
        td.load_state(path, rnn)


def test_a_plain_tuple_is_saved_by_the_names_of_the_cell(tmp_path):
    rnn = td.Recurrent(td.LSTMCell(3, 4))
    h, c = torch.randn(2, 4), torch.randn(2, 4)
    td.save_state(tmp_path / "s", (h, c), rnn)
    assert torch.equal(td.load_state(tmp_path / "s", rnn).c, c)


@pytest.mark.parametrize("wiring", td.WIRINGS)
def test_a_drop_in_has_its_own_state(tmp_path, wiring):
    rnn = td.LSTM(3, 4, 2, wiring=wiring)
    xs = torch.randn(7, 2, 3)
    whole, _ = rnn(xs)
    _, hx = rnn(xs[:5])
    td.save_state(tmp_path / "s", hx, rnn)
    assert_close(rnn(xs[5:], td.load_state(tmp_path / "s", rnn))[0], whole[5:])
    state = td.load_state(tmp_path / "s", rnn.recurrent())  # the state of the same network
    assert torch.equal(state["layer1"].h, hx[0][1])
    with pytest.raises(ValueError, match="bidirectional"):
        td.save_state(tmp_path / "s", hx, td.LSTM(3, 4, bidirectional=True))
    with pytest.raises(TypeError, match="a Linear has no initial_state"):
        td.save_state(tmp_path / "s", hx, torch.nn.Linear(3, 4))


@pytest.mark.parametrize("shape", [(2, 5), (), (3, 4)])
def test_a_forged_state_is_refused(tmp_path, shape):
    rnn = td.Recurrent(td.LSTMCell(3, 4))
    tensors = {"h": torch.zeros(2, 4), "c": torch.zeros(shape)}
    write(tmp_path / "s", tensors, {"format": "treadle state", "fingerprint": td.fingerprint(rnn)})
    with pytest.raises(StateError):
        td.load_state(tmp_path / "s", rnn)
