"""States as values."""

import copy
import io
import pickle
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import treadle as td
from tests.registry import CELLS, SUBJECTS, build, random_state, sequence
from tests.tolerances import assert_close
from treadle import state as states
from treadle.errors import StateError
from treadle.interop.sequential import as_recurrent
from treadle.recipes.decode.evidence_cell import EvidenceState
from treadle.seq2seq.attention import AttentionState
from treadle.seq2seq.encoder_decoder import Encoded
from treadle.show.diagram import diagram_of

every_subject = pytest.mark.parametrize("subject", SUBJECTS)


class Pair(NamedTuple):
    a: Tensor
    b: Tensor


@pytest.mark.share(12)
@every_subject
def test_detach_keeps_values_and_containers_and_cuts_the_graph(subject):
    rnn = build(subject)
    _, state = rnn(sequence(rnn))
    cut = td.detach(state)
    assert _structure(cut) == _structure(state)
    for (name, tensor), (same, original) in zip(states.named_tensors(cut), states.named_tensors(state), strict=True):
        assert name == same
        assert not tensor.requires_grad
        assert torch.equal(tensor, original)


@pytest.mark.share(12)
@every_subject
def test_select_then_go_on(subject):
    rnn = build(subject)
    xs = sequence(rnn, 4, 6)
    _, state = rnn(xs[:, :3], random_state(rnn, 4))
    rows = [3, 1, 1]
    chosen = td.select(state, rows)
    assert _structure(chosen) == _structure(state)
    assert_close(rnn(xs[rows, 3:], chosen)[0], rnn(xs[:, 3:], state)[0][rows])


def _structure(state):
    if isinstance(state, Tensor):
        return "tensor"
    if isinstance(state, dict):
        return {name: _structure(part) for name, part in state.items()}
    return (type(state), [_structure(part) for part in state])


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([2, 0], [2, 0]),
        ((1,), [1]),
        (1, [1]),
        (-1, [2]),
        ([-3, 2, 2], [0, 2, 2]),
        (np.array([1, 2]), [1, 2]),
        (torch.tensor([1], dtype=torch.int32), [1]),
        ([True, False, True], [0, 2]),
        (torch.tensor([False, False, False]), []),
        ([], []),
        (slice(1, None), [1, 2]),
        (slice(None, None, -1), [2, 1, 0]),
        (slice(5, 9), []),
    ],
)
def test_ways_to_name_rows(rows, expected):
    state = {"low": Pair(torch.arange(6.0).reshape(3, 2), torch.arange(3)), "late": (torch.rand(3, 1, 4),)}
    chosen = td.select(state, rows)
    for (name, part), (_, original) in zip(states.named_tensors(chosen), states.named_tensors(state), strict=True):
        assert torch.equal(part, original[expected]), name


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([0, 3], "row 3 was asked for, but the state has 3 rows, 0 to 2"),
        (-4, "row -4 was asked for"),
        ([True, False], "mask has 2 entries, but the state has 3 rows: pass one per row"),
        ([0.5], "whole numbers or a boolean mask, but these are torch.float32"),
    ],
)
def test_rows_that_are_not_there(rows, words):
    with pytest.raises(StateError, match=words):
        td.select(Pair(torch.zeros(3, 2), torch.zeros(3)), rows)


def test_select_is_differentiable_and_a_copy():
    state = Pair(torch.rand(3, 2).requires_grad_(), torch.rand(3))
    chosen = td.select(state, [1, 1])
    (gradient,) = torch.autograd.grad(chosen.a.sum(), state.a)
    assert gradient.tolist() == [[0, 0], [2, 2], [0, 0]]
    chosen.b.zero_()
    assert state.b.all()


def test_select_from_no_rows():
    assert td.select((torch.zeros(0, 2),), [])[0].shape == (0, 2)
    with pytest.raises(StateError, match="row 0 was asked for, but the state has 0 rows"):
        td.select((torch.zeros(0, 2),), 0)


@pytest.mark.parametrize("state", [3.5, "h", (torch.zeros(2, 3), 1.0), {"h": [None]}])
def test_what_is_no_state(state):
    for function in (td.detach, lambda s: td.select(s, [0]), lambda s: dict(states.named_tensors(s))):
        with pytest.raises(
            StateError, match=r"made of tensors, tuples, named tuples and dicts.*first axis is the batch"
        ):
            function(state)


def test_a_state_without_a_batch_axis():
    with pytest.raises(StateError, match=r"state 0 has no axes: the first axis .* is the batch"):
        td.select((torch.tensor(1.0),), [0])


def test_names_and_back():
    state = {"low": Pair(torch.rand(2), torch.rand(2)), "late": (torch.rand(2), [torch.rand(2)])}
    names = dict(states.named_tensors(state))
    assert list(names) == ["low/a", "low/b", "late/0", "late/1/0"]
    assert dict(states.named_tensors(torch.zeros(1))).keys() == {"state"}
    back = states.rebuild(state, {name: tensor + 1 for name, tensor in names.items()})
    assert _structure(back) == _structure(state)
    assert torch.equal(back["late"][1][0], state["late"][1][0] + 1)


def test_where_takes_rows_of_any_shape_and_sends_gradients_one_way():
    a, b = torch.rand(3, 2, 2).requires_grad_(), torch.full((3, 2, 2), float("nan")).requires_grad_()
    mixed = states.where(torch.tensor([True, False, True]), (a, torch.ones(3)), (b, torch.zeros(3)))
    assert mixed[1].tolist() == [1, 0, 1]
    to_a, to_b = torch.autograd.grad(mixed[0][[0, 2]].sum(), [a, b])
    assert to_a[:, 0, 0].tolist() == [1, 0, 1]
    assert not to_b.any()


def test_the_initial_state_stays_the_initial_state():
    assert td.detach(None) is None


def test_rows_of_any_whole_numbers():
    state = (torch.arange(3.0)[:, None],)
    assert td.select(state, torch.tensor([2, 0], dtype=torch.uint8))[0].flatten().tolist() == [2, 0]


STATES = [td.LSTMState, td.HiddenState, td.SLSTMState, td.ConvLSTMState, AttentionState, Encoded, EvidenceState]


@pytest.mark.parametrize("kind", STATES)
def test_states_of_our_own_are_loaded_without_running_code(kind):
    state = {"layer0": kind(*(torch.randn(2, 3) for _ in kind._fields))}
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert type(loaded["layer0"]) is kind
    assert all(map(torch.equal, loaded["layer0"], state["layer0"]))
    for way in (copy.copy, copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))):
        assert all(map(torch.equal, way(state)["layer0"], state["layer0"]))


def test_every_cell_of_our_own_has_a_state_that_is_loaded():
    assert {make(3, 4).State for make in CELLS.values()} <= set(torch.serialization.get_safe_globals())


class OwnState(NamedTuple):
    h: torch.Tensor


class Own(nn.Module):
    """A user's cell, a part of which is called as a drop-in's function is."""

    def __init__(self):
        super().__init__()
        self.input, self.recurrent = nn.Linear(3, 4), nn.Linear(4, 4)

    def initial_state(self, batch_size):
        return OwnState(self.input.weight.new_zeros(batch_size, 4))

    def forward(self, x, state):
        h = torch.tanh(self.input(x) + self.recurrent(state.h))
        return h, OwnState(h)


def test_a_part_that_is_called_recurrent_makes_no_drop_in(tmp_path):
    own = Own()
    state = OwnState(torch.randn(2, 4))
    assert states.over_time(own) is own
    assert states.by_name(own, state) is state
    assert states.as_given(own, state) is state
    td.save_state(tmp_path / "s", state, own)
    assert torch.equal(td.load_state(tmp_path / "s", own).h, state.h)
    assert as_recurrent(own).cell is own
    assert diagram_of(own).boxes
    assert isinstance(states.over_time(td.GRU(3, 4)), td.Recurrent)
