"""A closed loop: fed with recorded actions, on its own, and one step at a time, it is one function."""

import numpy as np
import pytest
import torch
from torch import nn

import treadle as td
from tests.tolerances import assert_all_close, assert_close
from treadle.control.spaces import Likeliest
from treadle.state import named_tensors

R, A, H = 3, 4, 5
pytestmark = pytest.mark.usefixtures("poisoned_memory")


def loop_of(kind: str, **options) -> td.ClosedLoop:
    torch.manual_seed(0)
    spaces = {"readings": td.Discrete(R), "actions": td.Discrete(A)}
    if kind == "continuous":
        spaces = {"readings": td.Continuous(R), "actions": td.Continuous(A)}
    loop = td.ClosedLoop(td.LSTMCell(R + A, H), **spaces, **options).double()
    with torch.no_grad():
        for parameter in loop.parameters():
            parameter.mul_(2)
    return loop


def readings_of(loop: td.ClosedLoop, B: int, T: int, seed: int = 1) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    if isinstance(loop.readings, td.Discrete):
        return torch.randint(R, (B, T), generator=random)
    return torch.randn(B, T, R, generator=random, dtype=torch.float64)


def actions_of(loop: td.ClosedLoop, decisions: torch.Tensor) -> torch.Tensor:
    return decisions.argmax(-1) if isinstance(loop.actions, td.Discrete) else decisions.detach()


both = pytest.mark.parametrize("kind", ["discrete", "continuous"])


def by_hand(loop: td.ClosedLoop, readings: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """The definition: the cell reads the reading and the action before it, in a Python loop over steps."""
    cell, readout = loop.cell.controller, loop.cell.decision
    rows = len(readings)
    action, state, out = torch.zeros(rows, A, dtype=torch.float64), cell.initial_state(rows), []
    for t in range(readings.shape[1]):
        reading = readings[:, t]
        if isinstance(loop.readings, td.Discrete):
            reading = torch.eye(R, dtype=torch.float64)[reading]
        y, state = cell(torch.cat([reading, action], 1), state)
        out.append(readout(y))
        action = actions[:, t]
        if isinstance(loop.actions, td.Discrete):
            action = torch.eye(A, dtype=torch.float64)[action]
    return torch.stack(out, 1)


@both
@pytest.mark.parametrize("engine", ["cpu", "interpreter", "reference"])
def test_it_follows_recorded_actions(kind, engine):
    loop = loop_of(kind, engine=engine)
    readings = readings_of(loop, 3, 9)
    random = torch.Generator().manual_seed(2)
    actions = torch.randint(A, (3, 9), generator=random)
    if kind == "continuous":
        actions = torch.randn(3, 9, A, generator=random, dtype=torch.float64)
    decisions, state = loop.follow(readings, actions)
    expected = by_hand(loop, readings, actions)
    assert_close(decisions, expected)
    assert_close(state["action.delayed"][0], loop.actions.encode(actions[:, -1]).double())
    weights = list(loop.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(decisions.square().sum(), weights),
        torch.autograd.grad(expected.square().sum(), weights),
        strict=True,
    ):
        assert_close(ours, theirs)


@pytest.mark.share(2)
@both
@pytest.mark.parametrize("B", [1, 3])
def test_fed_with_its_own_actions_it_is_the_one_that_acts_alone(kind, B):
    loop = loop_of(kind)
    readings = readings_of(loop, B, 11)
    alone, end = loop(readings)
    actions = actions_of(loop, alone)
    fed, state = loop.follow(readings, actions)
    assert_close(fed, alone)
    assert_all_close(dict(named_tensors(state)), dict(named_tensors(end)))
    session = loop.session(batch_size=B)
    for t in range(11):
        reading = readings[:, t].numpy() if B > 1 else readings[0, t].numpy()
        done = session.act(reading if kind == "continuous" or B > 1 else int(reading))
        assert_close(torch.as_tensor(np.asarray(done)).reshape(actions[:, t].shape), actions[:, t])
    if kind == "discrete":
        assert len(actions.unique()) > 1  # or all this would show nothing


@both
def test_a_sequence_is_followed_and_then_gone_on_with_alone(kind):
    loop = loop_of(kind)
    readings = readings_of(loop, 2, 10)
    alone, _ = loop(readings)
    actions = actions_of(loop, alone)
    first, state = loop.follow(readings[:, :4], actions[:, :4])
    more, state = loop.follow(readings[:, 4:6], actions[:, 4:6], td.detach(state))
    rest, _ = loop(readings[:, 6:], td.detach(state))
    assert_close(torch.cat([first, more, rest], 1), alone)


@both
@pytest.mark.parametrize("batch_first", [True, False])
def test_rows_that_end_and_begin_anew(kind, batch_first):
    loop = loop_of(kind, batch_first=batch_first, learn_initial_state=True)
    with torch.no_grad():
        for parameter in loop.initial.values():
            parameter.normal_(generator=torch.Generator().manual_seed(5))
    readings = readings_of(loop, 3, 7)
    actions = readings_of(loop, 3, 7, seed=4)
    if kind == "continuous":
        actions = torch.cat([actions, actions[..., :1]], 2)
    lengths, resets = torch.tensor([7, 0, 4]), torch.zeros(3, 7, dtype=torch.bool)
    resets[0, 3] = True
    readings[2, 4:], actions[2, 4:] = (-1, -1) if kind == "discrete" else (float("nan"), float("nan"))
    readings[1], actions[1] = readings[2, 4], actions[2, 4]

    def follow(rows, steps, **options):
        r, a = readings[rows, steps], actions[rows, steps]
        if not batch_first:
            r, a = r.transpose(0, 1), a.transpose(0, 1)
        decisions, state = loop.follow(r, a, **options)
        return (decisions if batch_first else decisions.transpose(0, 1)), state

    everything = slice(None)
    decisions, state = follow(everything, everything, lengths=lengths, resets=resets)
    begin, _ = follow(slice(0, 1), slice(0, 3))
    anew, end = follow(slice(0, 1), slice(3, 7))
    short, over = follow(slice(2, 3), slice(0, 4))
    assert_close(decisions[0], torch.cat([begin, anew], 1)[0])
    assert_close(decisions[2], torch.cat([short[0], torch.zeros(3, A, dtype=torch.float64)]))
    for (name, tensor), (_, initial), (_, last), (_, third) in zip(
        *map(named_tensors, (state, loop.initial_state(3), end, over)), strict=True
    ):
        assert_close(tensor, torch.stack([last[0], initial[1], third[0]])), name


def test_scheduled_sampling_goes_on_from_its_own_actions():
    loop = loop_of("discrete")
    readings, actions = readings_of(loop, 3, 9), torch.zeros(3, 9, dtype=torch.long)
    alone, _ = loop(readings)
    always, _ = loop.follow(readings, actions, sampling=1.0)
    assert_close(always, alone)
    loop.eval()
    assert_close(loop.follow(readings, actions, sampling=1.0)[0], by_hand(loop, readings, actions))
    loop.train()
    torch.manual_seed(3)
    half, _ = loop.follow(readings, actions, sampling=0.5)
    assert not torch.allclose(half, alone)
    assert not torch.allclose(half, by_hand(loop, readings, actions))


@pytest.mark.parametrize("sampling", [-0.1, 1.5, "often"])
def test_sampling_is_a_probability(sampling):
    with pytest.raises(ValueError, match="from 0 to 1"):
        loop_of("discrete").follower(sampling)


def test_followers_have_the_loops_parameters_and_no_others():
    loop = loop_of("discrete")
    names = set(loop.state_dict())
    follower = loop.follower()
    assert set(loop.state_dict()) == names
    assert {id(p) for p in follower.parameters()} == {id(p) for p in loop.parameters()}
    assert loop.eval().follower().training is False


def test_followed_in_the_precision_and_mode_that_it_has_now():
    loop = loop_of("discrete")
    readings, actions = readings_of(loop, 2, 5), torch.ones(2, 5, dtype=torch.long)
    exact, _ = loop.follow(readings, actions)
    rounded, _ = loop.float().follow(readings, actions)
    assert rounded.dtype == torch.float32
    assert_close(rounded.double(), exact.float().double(), torch.float32)


@both
def test_it_is_saved_with_what_it_reads_and_does(kind, tmp_path, caplog):
    loop = loop_of(kind, batch_first=False)
    td.save(tmp_path / "loop.safetensors", loop)
    again = td.load(tmp_path / "loop.safetensors")
    assert (again.readings, again.actions, again.batch_first) == (loop.readings, loop.actions, False)
    again.session()
    assert not caplog.records  # it is compiled as before, live too
    readings = readings_of(loop, 7, 2)
    assert torch.equal(again(readings)[0], loop(readings)[0])


def test_of_equal_scores_the_first_is_the_likeliest():
    scores = torch.tensor([[0.0, 0, 0], [1, 3, 3], [-5, -5, -1], [float("nan"), 0, 1]])
    expected = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
    assert torch.equal(Likeliest(3)(scores), expected)
    one = td.Discrete(3).writer(1)
    assert [one(row.numpy()) for row in scores[:3]] == expected[:3].argmax(1).tolist()
    with pytest.raises(td.errors.ModelFileError, match="diverged"):
        one(scores[3].numpy())


def test_errors_say_what_does_not_fit():
    loop = loop_of("discrete")
    readings, actions = readings_of(loop, 2, 5), torch.zeros(2, 5, dtype=torch.long)
    actions[1, 3] = A
    with pytest.raises(td.errors.DataError, match=r"action 4 at \[1, 3\] is not one of the 4"):
        loop.follow(readings, actions)
    with pytest.raises(td.errors.ShapeError, match="one action after each reading"):
        loop.follow(readings, actions[:, :3])
    readings[0, 0] = -1
    with pytest.raises(td.errors.DataError, match=r"reading -1 at \[0, 0\]"):
        loop(readings)
    numbers = loop_of("continuous")
    wrong = torch.zeros(2, 5, R, dtype=torch.float64)
    wrong[1, 2, 0] = float("nan")
    with pytest.raises(td.errors.DataError, match=r"reading at \[1, 2, 0\] is nan"):
        numbers(wrong)
    with pytest.raises(td.errors.ShapeError, match="expects 9"):
        td.ClosedLoop(td.GRUCell(9, H), td.Discrete(R), td.Discrete(A))
    with pytest.raises(TypeError, match="Discrete"):
        td.ClosedLoop(td.GRUCell(R + A, H), R, A)
    with pytest.raises(TypeError, match="takes a cell"):
        td.ClosedLoop(nn.Linear(R + A, H), td.Discrete(R), td.Discrete(A))
    with pytest.raises(td.errors.ShapeError, match="positive whole number"):
        td.Discrete(0)


@both
def test_a_step_that_is_masked_is_not_taken(kind):
    loop, mask = loop_of(kind), torch.tensor([[True, False, True, True], [False, True, True, False]])
    readings = readings_of(loop, 2, 4)
    decisions, end = loop(readings, mask=mask)
    followed, _ = loop.follow(readings, actions_of(loop, decisions), mask=mask)
    assert_close(followed, decisions)
    assert not decisions[~mask].any()
    for b in range(2):
        alone, alone_end = loop(readings[b : b + 1, mask[b]])
        assert_close(decisions[b : b + 1, mask[b]], alone)
        for (_, ours), (_, expected) in zip(named_tensors(td.select(end, [b])), named_tensors(alone_end), strict=True):
            assert_close(ours, expected)
