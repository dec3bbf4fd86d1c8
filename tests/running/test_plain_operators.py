"""What `torch.export` makes of a network is the same function, for sequences of any length, in any process."""

import io
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.export import Dim, export

import treadle as td
from tests.registry import GRAPHS, STACKS, build, random_state, sequence, stack
from tests.tolerances import assert_all_close, assert_close
from treadle.state import map_state, named_tensors

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch's own, while it looks at what it traces

ANY = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
LENGTHS, RESETS = torch.tensor([3, 0, 7, 5]), torch.zeros(4, 7, dtype=torch.bool)
RESETS[0, 0] = RESETS[1, 2] = RESETS[2, 6] = RESETS[3, 4] = True


def saved_and_loaded(program):
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file).module()


def named(results):
    ys, *parts = results
    return {"ys": ys} | {f"{i}/{name}": t for i, part in enumerate(parts) for name, t in named_tensors(part)}


@pytest.mark.share(2)
@pytest.mark.parametrize("subject", [*STACKS, *GRAPHS, "lstm-projection", "slstm-two-heads", "zoneout-lstm", "gru"])
def test_is_the_same_function_for_sequences_of_any_length(subject):
    rnn = build(subject, learn_initial_state=True)
    xs, state = sequence(rnn, 3, 5), random_state(rnn, 3)
    given = (xs, state, torch.tensor([5, 0, 2]), torch.zeros(3, 5, dtype=torch.bool), True)
    shapes = (ANY, map_state(lambda _: {0: Dim.DYNAMIC}, state), {0: Dim.DYNAMIC}, ANY, None)
    program = saved_and_loaded(export(rnn, given, dynamic_shapes=shapes))
    assert not any("treadle" in str(node.target) for node in program.graph.nodes)
    others = sequence(rnn, 4, 7), random_state(rnn, 4), LENGTHS, RESETS, True
    with torch.no_grad():
        for own in (given, others):
            assert_all_close(named(program(*own)), named(rnn(*own)))


@pytest.mark.share(1)
@pytest.mark.parametrize("T", [1, 4])
def test_gradients_flow_through_it(T):
    rnn = build("gru")
    program = export(rnn, (sequence(rnn, 3, 5),), dynamic_shapes=(ANY,)).module()
    xs = sequence(rnn, 2, T).requires_grad_()
    found = []
    for network in (program, rnn):
        learned = sorted(network.named_parameters(), key=lambda named: named[0])
        grads = torch.autograd.grad(network(xs)[0].square().sum(), [xs, *(p for _, p in learned)])
        found.append({str(i): grad for i, grad in enumerate(grads)})
    assert_all_close(found[0], found[1])


def test_a_program_for_some_sizes_does_not_bind_the_next():
    rnn, xs = build("gru"), torch.randn(4, 7, 3, dtype=torch.float64)
    for shapes in (None, (ANY,)):
        program = export(rnn, (sequence(rnn, 2, 5),), dynamic_shapes=shapes).module()
    with torch.no_grad():
        assert_close(program(xs)[0], rnn(xs)[0])


@pytest.mark.slow
def test_numbers_that_do_not_fit_are_refused_when_they_are_there():
    rnn = build("gru")
    given = (sequence(rnn, 2, 5), None, torch.tensor([5, 2]))
    program = saved_and_loaded(export(rnn, given, dynamic_shapes=(ANY, None, {0: Dim.DYNAMIC})))
    loop = NETWORKS["closed loop"][0]
    acting = export(loop, (torch.randint(3, (2, 5)),)).module()
    with torch.no_grad():
        for wrong in ([6, 0], [-1, 5]):
            with pytest.raises(RuntimeError, match="lengths are from 0 to the number of steps"):
                program(given[0], None, torch.tensor(wrong))
        with pytest.raises(RuntimeError, match="not one of those that there are"):
            acting(torch.full((2, 5), 3))


class Scores(nn.Module):
    def __init__(self, rnn):
        super().__init__()
        self.rnn, self.head = rnn, nn.Linear(4, 2)

    def forward(self, xs):
        ys, state = self.rnn(xs)
        return self.head(ys), state["layer1"].h


ELSEWHERE = """
import sys, torch
folder, sys.modules["treadle"] = sys.argv[1], None
xs = torch.load(f"{folder}/xs.pt")
scores = torch.export.load(f"{folder}/scores.pt2").module()(xs)
del sys.modules["treadle"]
import treadle as td
others = [td.Recurrent(td.LSTMCell(3, 5)) for _ in range(3)]
whole = torch.export.load(f"{folder}/whole.pt2").module()(xs)
torch.save((scores, whole), f"{folder}/found.pt")
strict = torch.export.export(others[0], (xs,), dynamic_shapes=({1: torch.export.Dim.DYNAMIC},), strict=True).module()
assert torch.allclose(strict(xs[:, :4])[0], others[0](xs[:, :4])[0], atol=1e-6)
"""


@pytest.mark.slow
def test_a_program_runs_in_another_process_and_needs_treadle_only_for_the_names_of_states(tmp_path):
    rnn = td.Recurrent(stack("relay", hidden_sizes=(4, 4)))
    model, xs = Scores(rnn), torch.randn(2, 9, 3)
    for name, module in (("scores", model), ("whole", rnn)):
        torch.export.save(export(module, (torch.randn(2, 5, 3),), dynamic_shapes=(ANY,)), tmp_path / f"{name}.pt2")
    torch.save(xs, tmp_path / "xs.pt")
    subprocess.run([sys.executable, "-W", "ignore", "-c", ELSEWHERE, tmp_path], check=True)
    (scores, h), (ys, state) = torch.load(tmp_path / "found.pt")
    assert_close(scores, model(xs)[0])
    assert_close(h, model(xs)[1])
    assert type(state["layer1"]) is td.LSTMState
    assert_all_close(named((ys, state)), named(rnn(xs)))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"wiring": "skip"}, {"cell": td.PeepholeLSTMCell}])
@pytest.mark.parametrize("ragged", [False, True])
def test_drop_ins(options, ragged):
    rnn = td.LSTM(3, 4, 2, batch_first=True, **options).eval()
    lengths = {"lengths": torch.tensor([3, 0, 7, 5])} if ragged else {}
    shapes = {"input": ANY} | {name: {0: Dim.DYNAMIC} for name in lengths}
    given = {name: torch.tensor([5, 2]) for name in lengths}
    program = saved_and_loaded(export(rnn, (torch.randn(2, 5, 3),), given, dynamic_shapes=shapes))
    xs = torch.randn(4, 7, 3)
    (ys, (h, c)), (expected, (h_n, c_n)) = program(xs, **lengths), rnn(xs, **lengths)
    assert_all_close({"ys": ys, "h": h, "c": c}, {"ys": expected, "h": h_n, "c": c_n})


def test_a_network_without_memory():
    g = td.Graph(3)
    rnn = td.Recurrent(g.outputs(g.add("only", nn.Linear(3, 2), reads=g.x)))
    program = saved_and_loaded(export(rnn, (torch.randn(2, 5, 3),), dynamic_shapes=(ANY,)))
    xs = torch.randn(4, 7, 3)
    with torch.no_grad():
        (ys, state), (wanted, own) = program(xs), rnn(xs)
    assert_close(ys, wanted)
    assert state == own == {}


def test_masks_are_drawn_anew_and_are_those_of_the_network():
    rnn = td.Recurrent(stack("stack", hidden_sizes=(4, 4), dropout=0.5))
    program = saved_and_loaded(export(rnn, (torch.randn(2, 5, 3),), dynamic_shapes=(ANY,)))
    xs, found = torch.randn(2, 9, 3), []
    with torch.no_grad():
        for run in (program, rnn):
            torch.manual_seed(5)
            found.append(run(xs)[0])
        assert not torch.equal(program(xs)[0], found[0])
    assert_close(found[0], found[1])


NETWORKS = {
    "both directions": (td.Bidirectional(td.LSTMCell(3, 4), td.GRUCell(3, 4)), lambda B, T: (torch.randn(B, T, 3),)),
    "closed loop": (
        td.ClosedLoop(td.GRUCell(5, 4), td.Discrete(3), td.Discrete(2)),
        lambda B, T: (torch.randint(3, (B, T)),),
    ),
    "encoder and decoder": (
        td.EncoderDecoder(td.GRUCell(2, 5), td.GRUCell(3, 5), nn.Linear(5, 3)),
        lambda B, T: (torch.randn(B, T, 2), torch.randn(B, T + 1, 3)),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_of_networks(kind):
    network, given = NETWORKS[kind]
    example = given(2, 5)
    program = saved_and_loaded(export(network, example, dynamic_shapes=(ANY,) * len(example)))
    others = given(4, 7)
    with torch.no_grad():
        assert_close(program(*others)[0], network(*others)[0])
