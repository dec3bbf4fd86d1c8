"""Time, applied from outside, for every cell and wiring: however a sequence is run, it is the same function."""

import copy
import pickle

import hypothesis
import pytest
import torch
from hypothesis import strategies
from torch import Tensor, nn

import treadle as td
from tests.outcome import chunked, outcome, row_by_row, stepped, whole
from tests.ragged import LENGTHS, RESETS, T
from tests.registry import SUBJECTS, build, engine_of, random_state, sequence, stack
from tests.tolerances import assert_all_close, assert_close
from treadle.engines.cpu.machine.target import host
from treadle.state import map_state, named_tensors

every_subject = pytest.mark.parametrize("subject", SUBJECTS)


def ragged(rnn: td.Recurrent, xs: Tensor, lengths: list[int]) -> Tensor:
    """``xs`` with what no network should ever see after the end of each row."""
    poison = float("nan") if xs.is_floating_point() else 10**6
    xs = xs.clone()
    for row, length in zip(xs, lengths, strict=True):
        row[length:] = poison
    return xs


# Whole = chunked = stepped


@pytest.mark.share(5)
@every_subject
@pytest.mark.parametrize("B", [1, 3])
def test_chunks_and_steps_equal_the_whole_from_any_state(subject, B):
    rnn = build(subject)
    xs, state = sequence(rnn, B, T), random_state(rnn, B)
    reference = outcome(stepped, rnn, xs, state)
    assert_all_close(outcome(whole, rnn, xs, state), reference)
    assert_all_close(outcome(chunked(1, 4, 2), rnn, xs, state), reference)


@pytest.mark.share(5)
@every_subject
@pytest.mark.parametrize("learned", [False, True], ids=["fixed", "learned"])
def test_chunks_and_steps_equal_the_whole_from_the_initial_state(subject, learned):
    rnn = build(subject, learn_initial_state=learned)
    xs = sequence(rnn, 2, 5)
    reference = outcome(stepped, rnn, xs)
    assert_all_close(outcome(whole, rnn, xs), reference)
    assert_all_close(outcome(chunked(3, 2), rnn, xs), reference)
    assert any(name.startswith("gradient of initial.") for name in reference) == learned


@pytest.mark.share(10)
@every_subject
def test_no_state_is_the_initial_state(subject):
    rnn = build(subject)
    xs = sequence(rnn)
    assert_close(rnn(xs)[0], rnn(xs, rnn.initial_state(3))[0])
    assert_close(rnn.step(xs[:, 0])[0], rnn(xs)[0][:, 0])


@pytest.mark.share(6)
@every_subject
def test_float32_is_within_its_tolerance_of_float64(subject):
    coarse = build(subject, torch.float32)
    fine = copy.deepcopy(coarse).double()
    xs, state = sequence(coarse, dtype=torch.float32), random_state(coarse, dtype=torch.float32)
    widened = map_state(lambda s: s.double() if s.is_floating_point() else s, state)
    reference = outcome(whole, fine, xs.double() if xs.is_floating_point() else xs, widened)
    results = outcome(whole, coarse, xs, state)
    assert all(r.dtype == torch.float32 for r in results.values() if r.is_floating_point())
    assert_all_close(results, reference)


@pytest.mark.share(10)
@every_subject
def test_time_first(subject):
    rnn = build(subject)
    other = copy.deepcopy(rnn)
    other.batch_first = False
    xs, state = sequence(rnn), random_state(rnn)

    def time_first(rnn, xs, state):
        ys, end, every = rnn(xs.transpose(0, 1), state, return_states=True)
        return ys.transpose(0, 1), end, map_state(lambda s: s.transpose(0, 1), every)

    assert_all_close(outcome(time_first, other, xs, state), outcome(whole, rnn, xs, state))


@pytest.mark.share(10)
@every_subject
def test_the_last_of_all_states_is_the_final_state(subject):
    rnn = build(subject)
    _, end, every = rnn(sequence(rnn), random_state(rnn), return_states=True)
    assert_all_close(dict(named_tensors(map_state(lambda s: s[:, -1], every))), dict(named_tensors(end)))


@pytest.mark.share(10)
@every_subject
def test_rows_are_independent(subject):
    rnn = build(subject)
    xs, state = sequence(rnn, 4), random_state(rnn, 4)
    ys, end = rnn(xs, state)
    rows = [2, 0]
    fewer, fewer_end = rnn(xs[rows], td.select(state, rows))
    assert_close(fewer, ys[rows])
    assert_all_close(dict(named_tensors(fewer_end)), dict(named_tensors(td.select(end, rows))))


# Shapes


@pytest.mark.share(16)
@every_subject
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(("B", "steps"), [(2, 0), (0, 3), (0, 0), (1, 1)])
def test_empty_sequences_and_batches(subject, batch_first, B, steps):
    rnn = build(subject, batch_first=batch_first)
    xs, state = sequence(rnn, B, steps), random_state(rnn, B)
    row = rnn.step(sequence(rnn, 2, 1)[:, 0])[0].shape[1:]
    ys, end, every = rnn(xs if batch_first else xs.transpose(0, 1), state, return_states=True)
    axes = (B, steps) if batch_first else (steps, B)
    assert ys.shape == (*axes, *row)
    assert ys.dtype == torch.float64
    for (name, last), (_, first), (_, moments) in zip(*map(named_tensors, (end, state, every)), strict=True):
        assert last.shape == first.shape, name
        assert moments.shape == (*axes, *first.shape[1:]), name
        assert moments.dtype == first.dtype, name
        assert steps or torch.equal(last, first), name
    empty = (xs, None, torch.zeros(B, dtype=torch.long), torch.zeros(B, steps, dtype=torch.bool))
    assert rnn(empty[0] if batch_first else xs.transpose(0, 1), *empty[1:])[0].shape == ys.shape


@pytest.mark.share(10)
@every_subject
def test_stated_sizes_are_true(subject):
    rnn = build(subject)
    ys, _ = rnn(sequence(rnn))
    if rnn.output_size is not None:
        assert ys.shape[2:] == ((rnn.output_size,) if isinstance(rnn.output_size, int) else rnn.output_size)


@pytest.mark.share(10)
@every_subject
def test_strided_and_expanded_input(subject):
    rnn = build(subject)
    xs, state = sequence(rnn), random_state(rnn)
    strided = xs.transpose(0, -1).contiguous().transpose(0, -1)
    assert_close(rnn(strided, state)[0], rnn(xs, state)[0])
    expanded = map_state(lambda s: s[:1].expand(3, *s.shape[1:]), state)
    copied = map_state(Tensor.clone, expanded)
    assert_close(rnn(xs[:1].expand(3, *xs.shape[1:]), expanded)[0], rnn(xs[:1].repeat_interleave(3, 0), copied)[0])


@pytest.mark.share(10)
@every_subject
def test_arguments_stay_as_they_were(subject):
    rnn = build(subject)
    lengths, resets = torch.tensor(LENGTHS), RESETS.clone()
    xs, state = ragged(rnn, sequence(rnn, 4, T), LENGTHS), random_state(rnn, 4)
    xs_before, state_before = xs.clone(), map_state(Tensor.clone, state)
    with torch.no_grad():
        rnn(xs, state, lengths, resets, return_states=True)
        rnn.step(torch.zeros_like(xs[:, 0]), state)
    assert torch.equal(xs.nan_to_num() if xs.is_floating_point() else xs, xs_before.nan_to_num())
    assert all(map(torch.equal, dict(named_tensors(state)).values(), dict(named_tensors(state_before)).values()))
    assert torch.equal(lengths, torch.tensor(LENGTHS))
    assert torch.equal(resets, RESETS)


# Lengths and resets


@pytest.mark.share(10)
@every_subject
def test_lengths_equal_every_row_alone(subject):
    rnn = build(subject, engine=engine_of(subject))
    xs, state = sequence(rnn, 4, T), random_state(rnn, 4)
    reference = outcome(row_by_row(LENGTHS), rnn, xs, state)

    def padded(rnn, xs, state):
        return rnn(xs, state, lengths=LENGTHS, return_states=True)

    results = outcome(padded, rnn, ragged(rnn, xs, LENGTHS), state)
    assert_all_close(results, reference)
    assert not results["ys"][1].any()
    if xs.is_floating_point():
        assert not results["gradient of xs"][1].any()


@pytest.mark.share(5)
@every_subject
@pytest.mark.parametrize("learned", [False, True], ids=["fixed", "learned"])
def test_resets_equal_pieces_run_apart(subject, learned):
    rnn = build(subject, learn_initial_state=learned, engine=engine_of(subject))
    xs, state = sequence(rnn, 4, T), random_state(rnn, 4)

    def reset(rnn, xs, state):
        return rnn(xs, state, resets=RESETS, return_states=True)

    assert_all_close(outcome(reset, rnn, xs, state), outcome(row_by_row(resets=RESETS), rnn, xs, state))


@pytest.mark.share(5)
@every_subject
@pytest.mark.parametrize("batch_first", [True, False])
def test_lengths_and_resets_together(subject, batch_first):
    rnn = build(subject, learn_initial_state=True, batch_first=batch_first, engine=engine_of(subject))
    xs, state = sequence(rnn, 4, T), random_state(rnn, 4)
    reference = outcome(row_by_row(LENGTHS, RESETS), rnn, xs, state)

    def run(rnn, xs, state):
        xs = xs if batch_first else xs.transpose(0, 1)
        ys, end, every = rnn(xs, state, torch.tensor(LENGTHS), RESETS, return_states=True)
        if batch_first:
            return ys, end, every
        return ys.transpose(0, 1), end, map_state(lambda s: s.transpose(0, 1), every)

    assert_all_close(outcome(run, rnn, ragged(rnn, xs, LENGTHS), state), reference)


@pytest.mark.share(2)
@hypothesis.given(data=strategies.data())
@pytest.mark.parametrize("subject", ["lstm", "slstm", "stack-feedback", "graph-handed-over", "own-cell"])
def test_any_lengths_any_resets_any_chunks(subject, data):
    B, steps = data.draw(strategies.integers(1, 4), "B"), data.draw(strategies.integers(1, 6), "T")
    lengths = data.draw(strategies.lists(strategies.integers(0, steps), min_size=B, max_size=B), "lengths")
    row = strategies.lists(strategies.booleans(), min_size=steps, max_size=steps)
    resets = torch.tensor(data.draw(strategies.lists(row, min_size=B, max_size=B), "resets"))
    cut = data.draw(strategies.integers(0, steps), "cut")
    rnn = build(subject, learn_initial_state=True)
    xs, state = sequence(rnn, B, steps), random_state(rnn, B)

    def in_two(rnn, xs, state):
        parts, left = [], torch.tensor(lengths)
        for chunk, some in zip(xs.split([cut, steps - cut], 1), resets.split([cut, steps - cut], 1), strict=True):
            ys, state, every = rnn(chunk, state, left.clamp(max=chunk.shape[1]), some, return_states=True)
            left = (left - chunk.shape[1]).clamp(min=0)
            parts.append((ys, every))
        ys = torch.cat([ys for ys, _ in parts], 1)
        return ys, state, map_state(lambda a, b: torch.cat([a, b], 1), parts[0][1], parts[1][1])

    reference = outcome(row_by_row(lengths, resets), rnn, xs, state)
    assert_all_close(outcome(in_two, rnn, ragged(rnn, xs, lengths), state), reference)


@pytest.mark.parametrize(
    "as_given",
    [
        list,
        tuple,
        torch.tensor,
        *(lambda v, d=d: torch.tensor(v, dtype=d) for d in (torch.int32, torch.int8, torch.uint8)),
    ],
)
def test_lengths_in_any_container(as_given):
    rnn = build("gru")
    xs = sequence(rnn, 4, T)
    assert torch.equal(rnn(xs, lengths=as_given(LENGTHS))[0], rnn(xs, lengths=torch.tensor(LENGTHS))[0])


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32])
def test_lengths_narrower_than_the_sequence_is_long(dtype):
    ys, _ = td.Recurrent(td.GRUCell(1, 1))(torch.ones(2, 300, 1), lengths=torch.tensor([100, 0], dtype=dtype))
    assert ys.count_nonzero(1).tolist() == [[100], [0]]


def test_resets_as_nested_lists():
    rnn = build("gru")
    xs = sequence(rnn, 4, T)
    assert torch.equal(rnn(xs, resets=RESETS.tolist())[0], rnn(xs, resets=RESETS)[0])


def test_the_gradient_is_cut_at_a_reset():
    rnn = build("lstm", learn_initial_state=True)
    xs, state = sequence(rnn, 1, T).requires_grad_(), map_state(Tensor.requires_grad_, random_state(rnn, 1))
    resets = torch.zeros(1, T, dtype=torch.bool)
    resets[0, 3] = True
    ys, _ = rnn(xs, state, resets=resets)
    gradient, h, learned = torch.autograd.grad(ys[:, 3:].sum(), [xs, state.h, rnn.initial["h"]])
    assert not gradient[:, :3].any()
    assert gradient[:, 3:].all()
    assert not h.any()
    assert learned.all()


def test_a_nan_state_is_gone_after_a_reset():
    rnn = build("stack-lateral")
    xs, resets = sequence(rnn, 2, T), torch.ones(2, 1, dtype=torch.bool).expand(2, T)
    state = map_state(lambda s: torch.full_like(s, float("nan")).requires_grad_(), random_state(rnn, 2))
    ys, _ = rnn(xs, state, resets=resets)
    gradients = torch.autograd.grad(ys.sum(), [*rnn.parameters(), *(s for _, s in named_tensors(state))])
    assert ys.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients)


# The initial state


@every_subject
def test_a_learned_initial_state_starts_where_the_cell_would(subject):
    plain = td.Recurrent(SUBJECTS[subject]()).eval()
    learning = td.Recurrent(plain.cell, learn_initial_state=True).eval()
    pairs = zip(named_tensors(plain.initial_state(3)), named_tensors(learning.initial_state(3)), strict=True)
    for (name, fixed), (_, learned) in pairs:
        assert torch.equal(fixed, learned), name
        assert learned.requires_grad == learned.is_floating_point(), name


@pytest.mark.share(10)
@every_subject
def test_a_learned_initial_state_gets_a_gradient(subject):
    rnn = build(subject, learn_initial_state=True)
    ys, _ = rnn(sequence(rnn))
    gradients = torch.autograd.grad(ys.square().sum(), list(rnn.initial.values()), allow_unused=True)
    replaced = {"layer1/h", "layer2/h", "middle/h", "middle/c", "high/h", "high/c"}  # relay and previous=: never read
    for name, gradient in zip(rnn.initial, gradients, strict=True):
        if gradient is None or not gradient.any():
            assert name in replaced, name


def test_a_learned_initial_state_of_an_untrained_slstm_learns():
    rnn = td.Recurrent(td.SLSTMCell(3, 4), learn_initial_state=True)
    rnn(torch.randn(2, 5, 3))[0].square().sum().backward()
    assert all(parameter.grad.any() for name, parameter in rnn.initial.items() if name != "m")
    assert all(parameter.grad.isfinite().all() for parameter in rnn.parameters())


class Adder(nn.Module):
    """A user's own cell that does not care where and how precise its state should be."""

    def initial_state(self, batch_size):
        return {"total": torch.zeros(batch_size, 3), "steps": torch.zeros(batch_size, 1, dtype=torch.long)}

    def forward(self, x, state):
        total = state["total"] + x
        return total, {"total": total, "steps": state["steps"] + 1}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("learned", [False, True], ids=["fixed", "learned"])
def test_the_initial_state_has_the_precision_of_the_input(dtype, learned):
    rnn = td.Recurrent(Adder(), learn_initial_state=learned)
    xs, resets = torch.ones(2, 4, 3, dtype=dtype), torch.zeros(2, 4, dtype=torch.bool)
    resets[0, 2] = True
    ys, end = rnn(xs, resets=resets)
    floating = dtype if dtype.is_floating_point else torch.float32
    assert ys.dtype == end["total"].dtype == rnn.step(xs[:, 0])[1]["total"].dtype == floating
    assert end["steps"].tolist() == [[2], [4]]
    assert ys[:, -1, 0].tolist() == [2, 4]


# Gradients


def as_function(rnn, xs, state):
    """Outputs and final state as a function of every floating-point tensor there is, for gradcheck."""
    names = [name for name, s in named_tensors(state) if s.is_floating_point()]
    parameters = dict(rnn.named_parameters())
    arguments = [dict(named_tensors(state))[name] for name in names] + list(parameters.values())
    arguments = [a.detach().clone().requires_grad_() for a in arguments]
    if xs.is_floating_point():
        arguments.append(xs.clone().requires_grad_())

    def function(*tensors):
        given = dict(zip(names, tensors, strict=False))
        it = iter([given.get(name, s) for name, s in named_tensors(state)])
        replaced = dict(zip(parameters, tensors[len(names) :], strict=False))
        inputs = tensors[-1] if xs.is_floating_point() else xs
        ys, end = torch.func.functional_call(rnn, replaced, (inputs, map_state(lambda _: next(it), state)))
        return (ys, *(s for _, s in named_tensors(end) if s.is_floating_point()))

    return function, arguments


@pytest.mark.share(10)
@every_subject
def test_gradients_against_finite_differences(subject):
    rnn = build(subject)
    function, arguments = as_function(rnn, sequence(rnn, 2, 3), random_state(rnn, 2))
    assert torch.autograd.gradcheck(function, arguments, fast_mode=True)


@pytest.mark.share(3)
@pytest.mark.parametrize("subject", ["lstm", "gru", "slstm", "layer-norm-lstm", "stack-residual", "stack-feedback"])
def test_second_derivatives_against_finite_differences(subject):
    rnn = build(subject)
    function, arguments = as_function(rnn, sequence(rnn, 2, 3), random_state(rnn, 2))
    assert torch.autograd.gradgradcheck(function, arguments, fast_mode=True)


def test_the_gradient_reaches_earlier_calls_unless_detached():
    rnn = build("gru")
    xs = sequence(rnn, 2, T).requires_grad_()
    _, state = rnn(xs[:, :4])
    assert torch.autograd.grad(rnn(xs[:, 4:], state)[0].sum(), xs, retain_graph=True)[0][:, :4].any()
    assert not torch.autograd.grad(rnn(xs[:, 4:], td.detach(state))[0].sum(), xs)[0][:, :4].any()


# Randomness, copies, files


@pytest.mark.parametrize("subject", ["zoneout-lstm", "graph-memoryless-nodes", "stack-with-dropout"])
def test_training_draws_anew_and_the_same_when_seeded(subject):
    rnn = build(subject).train()
    xs = sequence(rnn)
    torch.manual_seed(5)
    first, second = outcome(whole, rnn, xs), outcome(whole, rnn, xs)
    torch.manual_seed(5)
    assert_all_close(outcome(whole, rnn, xs), first)
    assert not torch.equal(first["ys"], second["ys"])
    assert not torch.equal(first["ys"], rnn.eval()(xs)[0])


@pytest.mark.share(5)
@every_subject
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda rnn: pickle.loads(pickle.dumps(rnn))], ids=["deepcopy", "pickle"]
)
def test_copies_do_the_same_and_share_nothing(subject, copied):
    rnn = build(subject, learn_initial_state=True)
    other = copied(rnn)
    xs, state = sequence(rnn), random_state(rnn)
    assert_all_close(outcome(whole, other, xs, state), outcome(whole, rnn, xs, state))
    assert repr(other) == repr(rnn)
    before = rnn(xs)[0]
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(rnn(xs)[0], before)


@pytest.mark.share(10)
@every_subject
def test_state_dicts_go_round(subject):
    rnn, other = build(subject, learn_initial_state=True), td.Recurrent(SUBJECTS[subject](), learn_initial_state=True)
    other.double().eval().load_state_dict(rnn.state_dict())
    xs = sequence(rnn)
    assert torch.equal(other(xs)[0], rnn(xs)[0])


def test_all_cells_and_wirings_are_registered():
    cells = {type(module) for make in SUBJECTS.values() for module in make().modules()}
    for name in td.cells.__all__:
        if name.endswith("Cell") and name != "RecurrentCell":
            assert getattr(td, name) in cells, f"{name} has no row in tests/registry.py"
    assert {f"stack-{wiring}" for wiring in td.WIRINGS} <= set(SUBJECTS)
    assert all(isinstance(make(), td.Cell) for make in SUBJECTS.values())


def test_a_shared_cell_has_its_weights_once():
    assert len(list(build("graph-shared-cell").parameters())) == 4


def test_repr_says_what_is_unusual():
    rnn = td.Recurrent(td.GRUCell(2, 3), batch_first=False, learn_initial_state=True)
    assert "batch_first=False, learn_initial_state=True" in repr(rnn)
    assert "engine" not in repr(rnn)


# Refusals


def test_sequences_that_do_not_fit():
    rnn = td.Recurrent(td.LSTMCell(3, 5))
    with pytest.raises(
        td.errors.ShapeError, match=r"Recurrent\(LSTMCell\) takes a sequence of \[B, T, 3\].*\[2, 7, 4\]"
    ):
        rnn(torch.zeros(2, 7, 4))
    with pytest.raises(td.errors.ShapeError, match=r"\[B, T, 3\].*\[7, 3\].*batch of one: xs\[None\]"):
        rnn(torch.zeros(7, 3))
    with pytest.raises(td.errors.ShapeError, match=r"\[T, B, 3\].*\[7, 2, 4\]"):
        td.Recurrent(td.LSTMCell(3, 5), batch_first=False)(torch.zeros(7, 2, 4))
    with pytest.raises(td.errors.ShapeError, match=r"a step of \[B, 3\].*\[2, 7, 3\]"):
        rnn.step(torch.zeros(2, 7, 3))
    with pytest.raises(td.errors.ShapeError, match=r"\[B, T, 1, 3, 5\].*\[2, 7, 1, 5, 3\]"):
        td.Recurrent(td.ConvLSTMCell(1, 2, (3, 5)))(torch.zeros(2, 7, 1, 5, 3))
    with pytest.raises(td.errors.ShapeError, match=r"\[B, T\].*\[2, 7, 3\]"):
        build("graph-tokens")(torch.zeros(2, 7, 3))
    with pytest.raises(td.errors.ShapeError, match=r"\[B, T, \.\.\.\].*\[7\]"):
        build("own-cell")(torch.zeros(7))
    with pytest.raises(TypeError, match=r"torch\.Tensor, but is a list.*as_tensor"):
        rnn([[1.0]])


@pytest.mark.parametrize("method", ["forward", "step"])
def test_states_that_do_not_belong(method):
    rnn = td.Recurrent(td.Stack([td.LSTMCell(3, 5), td.GRUCell(5, 4)], "stack"))
    xs = torch.zeros(2, 7, 3)
    run = (lambda state: rnn(xs, state)) if method == "forward" else (lambda state: rnn.step(xs[:, 0], state))
    low, high = td.LSTMState(torch.zeros(2, 5), torch.zeros(2, 5)), td.HiddenState(torch.zeros(2, 4))
    run({"layer0": low, "layer1": high})
    run({"layer1": (high.h,), "layer0": [low.h, low.c]})  # plain containers in any order are fine

    def refused(state, words):
        with pytest.raises(td.errors.StateError, match=words):
            run(state)

    refused({"layer0": low}, r"\['layer0'\].*dict of \['layer0', 'layer1'\].*another network")
    refused(low, "LSTMState.*dict of .*another network")
    refused({"layer0": high, "layer1": high}, r"state\['layer0'\] has \(h\).*keeps \(h, c\)")
    refused({"layer0": (low.h,), "layer1": high}, r"state\['layer0'\] has 1 parts.*keeps \(h, c\)")
    refused({"layer0": low, "layer1": low}, r"state\['layer1'\] has \(h, c\).*keeps \(h\)")
    refused({"layer0": low, "layer1": high.h}, r"state\['layer1'\] has Tensor.*keeps \(h\)")
    refused({"layer0": low, "layer1": (5,)}, "is a int.*one tensor there")
    wide = {"layer0": low._replace(c=torch.zeros(2, 6)), "layer1": high}
    refused(wide, r"state layer0/c is \[2, 6\].*\[2, 5\].*another network")
    refused(
        td.select({"layer0": low, "layer1": high}, [0]), "input has 2 rows, but state layer0/h has 1.*td.select.*None"
    )
    refused(map_state(Tensor.double, {"layer0": low, "layer1": high}), r"torch\.float64.*torch\.float32.*\.to\(\)")
    refused(map_state(lambda s: s.to("meta"), {"layer0": low, "layer1": high}), r"on meta.*on cpu.*\.to\(\)")
    refused(map_state(lambda s: s[0, 0], {"layer0": low, "layer1": high}), "layer0/h")


def test_batch_and_time_swapped():
    rnn, other = td.Recurrent(td.GRUCell(3, 5)), td.Recurrent(td.GRUCell(3, 5), batch_first=False)
    xs, state = torch.zeros(7, 2, 3), td.HiddenState(torch.zeros(2, 5))
    with pytest.raises(td.errors.StateError, match=r"batch and time are swapped.*\[B, T, \.\.\.\].*batch_first=False"):
        rnn(xs, state)
    with pytest.raises(td.errors.StateError, match=r"batch and time are swapped.*\[T, B, \.\.\.\].*batch_first=True"):
        other(xs.transpose(0, 1), state)
    with pytest.raises(td.errors.ShapeError, match="batch and time may be swapped"):
        rnn(xs, lengths=[7, 7])
    with pytest.raises(td.errors.ShapeError, match=r"resets are \[B, T\] whatever batch_first is: pass resets\.T"):
        other(xs, resets=torch.zeros(7, 2, dtype=torch.bool))


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        ([7], r"2 whole numbers.*\[1\]"),
        ([[7, 7]], r"2 whole numbers.*\[1, 2\]"),
        (7, r"2 whole numbers.*\[\]"),
        ([7.0, 7.0], "whole numbers.*float32"),
        ([True, True], "whole numbers.*bool"),
        ([1, 8], "row 1 has length 8.*7 steps: 0 to 7"),
        ([-1, 7], "row 0 has length -1.*0 to 7"),
    ],
)
def test_lengths_that_do_not_fit(lengths, words):
    with pytest.raises(td.errors.ShapeError, match=words):
        td.Recurrent(td.GRUCell(3, 5))(torch.zeros(2, 7, 3), lengths=lengths)


@pytest.mark.parametrize(
    ("resets", "words"),
    [
        (torch.zeros(2, 6, dtype=torch.bool), r"booleans \[2, 7\].*\[2, 6\]"),
        (torch.zeros(2, dtype=torch.bool), r"booleans \[2, 7\].*\[2\]"),
        (torch.zeros(2, 7), r"booleans \[2, 7\].*float32"),
        (torch.zeros(2, 7, dtype=torch.uint8), r"booleans \[2, 7\].*uint8"),
    ],
)
def test_resets_that_do_not_fit(resets, words):
    with pytest.raises(td.errors.ShapeError, match=words):
        td.Recurrent(td.GRUCell(3, 5))(torch.zeros(2, 7, 3), resets=resets)


def test_what_is_no_cell_gradient_or_engine():
    for wrong in (nn.Linear(3, 5), "lstm", td.GRUCell):
        with pytest.raises(TypeError, match=r"initial_state\(batch_size\), but was given a"):
            td.Recurrent(wrong)
    with pytest.raises(TypeError, match=r"td\.FullBPTT\(\), but is 7"):
        td.Recurrent(td.GRUCell(3, 5), gradient=7)
    words = "no engine 'fast': choose one of auto, cpu, gpu, interpreter, reference"
    with pytest.raises(td.errors.EngineError, match=words):
        td.Recurrent(td.GRUCell(3, 5), engine="fast")
    assert td.Recurrent(td.GRUCell(3, 5), engine="reference").engine == "reference"


class Returns(nn.Module):
    """A cell that returns what it is told to."""

    input_size = 3

    def __init__(self, results):
        super().__init__()
        self.results = results

    def initial_state(self, batch_size):
        return (torch.zeros(batch_size, 3),)

    def forward(self, x, state):
        return self.results(x, (state[0] + x,))


@pytest.mark.parametrize("engine", ["auto", "reference", "interpreter"])
@pytest.mark.parametrize(
    ("results", "words"),
    [
        (lambda x, state: (x, state, {"gate": x}), r"Returns\.forward returned 3 things, but a step returns two"),
        (lambda x, state: x, r"Returns\.forward returned a Tensor, but a step returns two"),
        (lambda x, state: ((x, 2 * x), state), r"the output of Returns is a tuple, but has to be one tensor \[B, "),
        (lambda x, state: (None, state), r"the output of Returns is a NoneType"),
    ],
)
def test_what_a_step_returns(results, words, engine):
    rnn = td.Recurrent(Returns(results), engine=engine)
    for call in (
        lambda: rnn(torch.ones(2, 4, 3)),
        lambda: rnn.step(torch.ones(2, 3)),
        lambda: rnn(torch.ones(2, 0, 3)),
    ):
        with pytest.raises(td.errors.CellError, match=words):
            call()


def test_a_packed_sequence_is_no_tensor():
    packed = nn.utils.rnn.pack_sequence([torch.randn(3, 3), torch.randn(2, 3)])
    with pytest.raises(td.errors.InputError, match=r"is a PackedSequence: pass what .*pad_packed_sequence gives"):
        td.Recurrent(td.LSTMCell(3, 4))(packed)


class Broken(nn.Module):
    """Steps as told; its state is (a [B, 2], b [B, 2])."""

    def __init__(self, step):
        super().__init__()
        self.told = step

    def initial_state(self, batch_size):
        return (torch.zeros(batch_size, 2), torch.zeros(batch_size, 2))

    def forward(self, x, state):
        return x, self.told(x, state)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (lambda x, s: (s[0],), r"state of \['0', '1'\], but returned one of \['0'\]: a step must keep its form"),
        (lambda x, s: td.LSTMState(*s), r"returned one of \['c', 'h'\].*keep its form"),
        (lambda x, s: s[0], r"returned one of \['state'\]"),
        (lambda x, s: (s[0], torch.cat([s[1], x], 1)), r"state 1 as \[2, 2\], but returned \[2, 5\].*keep the shape"),
        (lambda x, s: (s[0].sum(0), s[1]), r"state 0 as \[2, 2\], but returned \[2\]"),
        (lambda x, s: (s[0].double(), s[1]), r"state 0 as torch\.float32, but returned torch\.float64.*keep the dtype"),
        (lambda x, s: (s[0], None), "holds NoneType"),
    ],
)
def test_cells_whose_state_changes_its_form(step, words):
    with pytest.raises(td.errors.StateError, match=words):
        td.Recurrent(Broken(step))(torch.zeros(2, 7, 3))


def test_a_state_that_is_not_made_of_tensors():
    class Strange(nn.Module):
        def initial_state(self, batch_size):
            return ("nothing",)

        def forward(self, x, state):
            return x, state

    with pytest.raises(td.errors.StateError, match=r"holds str \('nothing'\).*first axis is the batch"):
        td.Recurrent(Strange())(torch.zeros(2, 7, 3))


def test_autocast_may_change_the_precision_of_a_state():
    rnn = td.Recurrent(stack("lateral", td.GRUCell))
    xs = torch.randn(2, 5, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first, middle = rnn(xs[:, :2])
        second, _ = rnn(xs[:, 2:], middle)
    assert_close(torch.cat([first, second], 1).float(), rnn(xs)[0], torch.bfloat16)


class RoundedProduct(torch.autograd.Function):
    """A linear layer all of whose products multiply bfloat16 and add up in float32, forwards and backwards."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        x, weight = x.bfloat16().float(), weight.bfloat16().float()
        ctx.save_for_backward(x, weight)
        return x @ weight.T + (0 if bias is None else bias)

    @staticmethod
    def backward(ctx, from_above):
        (x, weight), rounded = ctx.saved_tensors, from_above.bfloat16().float()
        return rounded @ weight, rounded.T @ x, from_above.sum(0) if ctx.needs_input_grad[2] else None


@pytest.mark.share(2)
@pytest.mark.parametrize("cell", [td.LSTMCell, td.GRUCell, td.LayerNormLSTMCell])
def test_autocast_rounds_matrices_and_no_more(cell, monkeypatch):
    rnn = td.Recurrent(stack("lateral", cell))
    rounded = copy.deepcopy(rnn)
    with torch.no_grad():
        for weight in rounded.parameters():
            if weight.ndim > 1:
                weight.copy_(weight.bfloat16())
    xs = torch.randn(5, 7, 3)

    def passes(network, autocast):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            ys, state = network(xs)
        (ys.sum() + (state["layer0"].h ** 2).sum()).backward()
        return [ys, *(p.grad for p in network.parameters())]

    ours = passes(rnn, True)
    if host().bf16_dot:  # which rounds what they are multiplied with, too
        monkeypatch.setattr(nn.functional, "linear", lambda x, w, b=None: RoundedProduct.apply(x, w, b))
        rounded.engine = "reference"
        for one, other in zip(ours, passes(rounded, False), strict=True):
            assert_close(one, other, torch.bfloat16)
    else:
        assert all(map(torch.equal, ours, passes(rounded, False)))
        assert not torch.equal(ours[0], passes(rnn, False)[0])


def test_an_input_of_another_precision_than_the_weights_is_refused_by_name():
    rnn = td.Recurrent(td.GRUCell(3, 4))
    for call in (lambda x: rnn(x), lambda x: rnn.step(x[:, 0])):
        with pytest.raises(ValueError, match=r"weights of torch.float32, but the \w+ is torch.float64: convert one"):
            call(torch.randn(2, 5, 3).double())
    with torch.autocast("cpu", torch.bfloat16):
        _, state = rnn(torch.randn(2, 5, 3))
        rnn(torch.randn(2, 5, 3), state)


def test_a_step_that_changes_the_form_of_its_state_is_refused_when_stepping_too():
    class Growing(nn.Module):
        def initial_state(self, batch_size):
            return (torch.zeros(batch_size, 2),)

        def forward(self, x, state):
            return x, (torch.cat([state[0], x], 1),)

    with pytest.raises(td.errors.StateError, match="a step must keep the shape of its state"):
        td.Recurrent(Growing()).step(torch.randn(2, 3))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])  # the two that torch's Embedding takes
def test_tokens_may_be_any_whole_numbers_also_where_they_are_read_late(dtype):
    g = td.Graph(())
    now = g.add("now", nn.Embedding(5, 2), reads=g.x)
    before = g.add("before", nn.Embedding(5, 2), reads=g.x.delayed())
    rnn = td.Recurrent(g.outputs(g.add("cell", td.GRUCell(4, 3), reads=[now, before])))
    xs = torch.randint(5, (2, 6))
    assert torch.equal(rnn(xs.to(dtype))[0], rnn(xs)[0])


def test_padding_cannot_hurt_a_cell_that_divides_by_its_input():
    class Direction(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(3, 3)

        def initial_state(self, batch_size):
            return (self.mix.weight.new_zeros(batch_size, 3),)

        def forward(self, x, state):
            h = self.mix(x / x.norm(dim=1, keepdim=True)) + state[0]
            return h, (h,)

    rnn = td.Recurrent(Direction())
    xs = torch.randn(2, 5, 3)
    xs[1, 2:] = torch.nan
    ys, _ = rnn(xs, lengths=[5, 2])
    ys.sum().backward()
    gradient = rnn.cell.mix.weight.grad.clone()
    rnn.zero_grad()
    (rnn(xs[:1])[0].sum() + rnn(xs[1:, :2])[0].sum()).backward()
    assert_close(gradient, rnn.cell.mix.weight.grad)


def test_whole_numbers_for_a_network_of_features_are_refused_by_name():
    rnn = td.Recurrent(td.GRUCell(3, 4))
    with pytest.raises(td.errors.ShapeError, match=r"reads features, which are floats, but x is torch.int64"):
        rnn(torch.ones(2, 5, 3, dtype=torch.long))
    with pytest.raises(td.errors.ShapeError, match="which are floats"):
        rnn.session().step([0, 1, 0])
