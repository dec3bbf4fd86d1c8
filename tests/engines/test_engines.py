"""Engines against the reference: the same function in values and in gradients, however a sequence is run."""

import copy
import logging
import pickle
import threading

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import treadle as td
from tests.outcome import chunked, outcome, whole
from tests.ragged import LENGTHS, RESETS
from tests.registry import CELLS, LEFT_OUT, SUBJECTS, build, engine_of, random_state, sequence
from tests.tolerances import assert_all_close, assert_close
from treadle import engines
from treadle.engines.cpu.machine import target
from treadle.state import map_state, named_tensors

pytestmark = pytest.mark.usefixtures("poisoned_memory")
every_subject = pytest.mark.parametrize("subject", SUBJECTS)

FAST = [subject for subject in SUBJECTS if subject not in LEFT_OUT]
SOME = "lstm gru layer-norm-lstm slstm-two-heads stack-relay stack-feedback graph-nested graph-tokens".split()

RANDOM = ["zoneout-lstm", "zoneout-lstm-forget-bias", "graph-memoryless-nodes", "stack-with-dropout"]


def on(rnn, engine):
    """The same network, run by an engine."""
    other = copy.copy(rnn)
    other.engine = engine
    return other


def agree(rnn, xs, state=None, run=whole, engine="cpu", seed=None):
    """An engine gives what the reference gives."""
    outcomes = []
    for name in ("reference", engine):
        if seed is not None:
            torch.manual_seed(seed)
        outcomes.append(outcome(run, on(rnn, name), xs, state))
    assert_all_close(outcomes[1], outcomes[0])


def options(**given):
    def run(rnn, xs, state):
        return rnn(xs, state, return_states=True, **given)

    return run


def lengths_and_resets(rnn, xs, state):
    return rnn(xs, state, lengths=LENGTHS, resets=RESETS, return_states=True)


RUNS = {
    "plain": whole,
    "chunked": chunked(1, 4, 2),
    "lengths": options(lengths=LENGTHS),
    "resets": options(resets=RESETS),
    "lengths and resets": lengths_and_resets,
}


@pytest.mark.share(8)
@every_subject
@pytest.mark.parametrize("run", RUNS)
def test_engines_agree_with_the_reference(subject, run):
    rnn = build(subject)
    xs, state = sequence(rnn, 4, 7), random_state(rnn, 4)
    reference = outcome(RUNS[run], on(rnn, "reference"), xs, state)
    assert_all_close(outcome(RUNS[run], on(rnn, engine_of(subject)), xs, state), reference)
    if run in ("plain", "lengths and resets"):
        assert_all_close(outcome(RUNS[run], on(rnn, "interpreter"), xs, state), reference)


@pytest.mark.share(16)
@pytest.mark.parametrize("subject", SOME)
@pytest.mark.parametrize("lengths", [[5, 5, 5, 5], [0, 0, 1, 0], [7, 7, 7, 7], torch.tensor([2, 7, 2, 0])], ids=str)
def test_lengths_of_every_kind(subject, lengths):
    rnn = build(subject)
    agree(rnn, sequence(rnn, 4, 7), random_state(rnn, 4), options(lengths=lengths))


@pytest.mark.share(8)
@every_subject
def test_from_a_learned_initial_state(subject):
    rnn = build(subject, learn_initial_state=True)
    agree(rnn, sequence(rnn, 4, 7), None, lengths_and_resets, engine_of(subject))


@pytest.mark.share(8)
@every_subject
def test_without_gradients(subject):
    rnn = build(subject)
    xs, state = sequence(rnn, 4, 7), random_state(rnn, 4)
    with torch.no_grad():
        results = [
            dict(named_tensors(dict(zip("yse", lengths_and_resets(on(rnn, e), xs, state), strict=True))))
            for e in ("reference", engine_of(subject))
        ]
    assert_all_close(results[1], results[0])
    assert not any(tensor.requires_grad for tensor in results[1].values())
    with torch.inference_mode():
        assert_close(on(rnn, engine_of(subject))(xs)[0], on(rnn, "reference")(xs)[0])


@pytest.mark.share(4)
@pytest.mark.parametrize("subject", FAST)
def test_float32_is_within_its_tolerance_of_the_float64_reference(subject):
    coarse = build(subject, torch.float32)
    fine = on(copy.deepcopy(coarse).double(), "reference")
    xs, state = sequence(coarse, dtype=torch.float32), random_state(coarse, dtype=torch.float32)
    wide = map_state(lambda s: s.double() if s.is_floating_point() else s, state)
    reference = outcome(whole, fine, xs.double() if xs.is_floating_point() else xs, wide)
    results = outcome(whole, on(coarse, "cpu"), xs, state)
    assert all(r.dtype == torch.float32 for r in results.values() if r.is_floating_point())
    assert_all_close(results, reference, torch.float32)


@pytest.mark.parametrize("subject", RANDOM)
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
def test_random_masks_are_the_same_in_every_engine(subject, lengths):
    rnn = build(subject).train()
    xs, state = sequence(rnn, 4, 7), random_state(rnn, 4)
    run = options(lengths=lengths, resets=RESETS)
    agree(rnn, xs, state, run, engine_of(subject), seed=5)
    agree(rnn, xs, state, run, "interpreter", seed=5)


# Sizes


@pytest.mark.share(3)
@pytest.mark.parametrize("name", [name for name in CELLS if not name.startswith("conv")])
def test_odd_sizes(name):
    torch.manual_seed(1)
    rnn = td.Recurrent(CELLS[name](5, 37), engine="cpu").double().eval()
    agree(rnn, torch.randn(3, 63, 5, dtype=torch.float64))


@pytest.mark.share(2)
@pytest.mark.parametrize("name", ["lstm", "gru", "layer-norm-lstm", "slstm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_wide(name, dtype):
    torch.manual_seed(1)
    rnn = td.Recurrent(CELLS[name](33, 130)).to(dtype)
    fine = copy.deepcopy(rnn).double()
    xs = torch.randn(17, 5, 33, dtype=dtype)
    reference = outcome(whole, on(fine, "reference"), xs.double())
    assert_all_close(outcome(whole, on(rnn, "cpu"), xs), reference, dtype)


@pytest.mark.share(2)
@pytest.mark.parametrize("H", [1, 8, 9])
def test_sizes_around_those_of_a_vector(H):
    for cell in (td.LSTMCell, td.SLSTMCell):
        rnn = td.Recurrent(cell(1, H)).double()
        for B in (1, 2, 9):
            agree(rnn, torch.randn(B, 3, 1, dtype=torch.float64))


@pytest.mark.parametrize("subject", SOME)
def test_one_row_one_step(subject):
    rnn = build(subject)
    for B, T in ((1, 1), (1, 5), (5, 1)):
        agree(rnn, sequence(rnn, B, T), random_state(rnn, B))


# Memory


@pytest.mark.parametrize("subject", ["lstm", "layer-norm-lstm", "stack-feedback", "graph-delays"])
def test_any_strides(subject):
    rnn = build(subject)
    random = torch.Generator().manual_seed(3)
    wide = torch.randn(8, 14, 6, dtype=torch.float64, generator=random)
    size = rnn.input_size
    state = random_state(rnn, 4)
    strided = map_state(lambda s: s.repeat_interleave(2, 1)[:, ::2], state)
    for xs in (
        wide[::2, ::2, ::2][..., :size],
        wide[:4, :7, :size].transpose(0, 1).contiguous().transpose(0, 1),
        wide[:4, :7, :size].transpose(1, 2).contiguous().transpose(1, 2),
        wide[:1, :7, :size].expand(4, 7, size),
        wide[:4, :1, :size].expand(4, 7, size),
        wide[:4, :7, :1].expand(4, 7, size),
    ):
        expected, end = on(rnn, "reference")(xs, state)
        for engine in ("cpu", "interpreter"):
            ys, finals = on(rnn, engine)(xs, strided)
            assert_close(ys, expected)
            assert_all_close(dict(named_tensors(finals)), dict(named_tensors(end)))


def test_gradients_that_arrive_strided_and_expanded():
    rnn = build("layer-norm-lstm")
    xs = sequence(rnn, 4, 7)
    found = []
    for engine in ("reference", "cpu"):
        leaf = xs.clone().requires_grad_()
        ys, state = on(rnn, engine)(leaf)
        total = ys.sum() + (state.h.t()[::2] * 2).sum() + ys.transpose(0, 2)[::2].pow(2).sum() + ys.mean((0, 1))[1]
        found.append(torch.autograd.grad(total, [leaf, *rnn.parameters()]))
    for a, b in zip(*found, strict=True):
        assert_close(b, a)


@pytest.mark.parametrize("subject", SOME)
def test_arguments_stay_as_they_were(subject):
    rnn = on(build(subject), engine_of(subject))
    xs, state = sequence(rnn, 4, 7), random_state(rnn, 4)
    kept = map_state(Tensor.clone, {"xs": xs, "state": state})
    before = copy.deepcopy(rnn.state_dict())
    outcome(lengths_and_resets, rnn, xs, state)
    for (name, now), (_, was) in zip(*map(named_tensors, ({"xs": xs, "state": state}, kept)), strict=True):
        assert torch.equal(now, was), name
    assert all(torch.equal(tensor, before[name]) for name, tensor in rnn.state_dict().items())


@pytest.mark.share(6)
@pytest.mark.parametrize("subject", [*SOME, "graph-delays", "graph-handed-over", "ind-rnn"])
def test_results_are_memory_of_their_own(subject):
    """Writing into what a call returned changes neither the next call nor the gradient of this one."""
    rnn = on(build(subject), "cpu")
    xs, state = sequence(rnn, 3, 4), random_state(rnn, 3)
    with torch.no_grad():
        ys, end, every = rnn(xs, state, return_states=True)
        kept = map_state(Tensor.clone, {"ys": ys, "end": end, "every": every})
        again = rnn(xs, state, return_states=True)
        for part in (ys, *(t for _, t in named_tensors(end)), *(t for _, t in named_tensors(every))):
            part.zero_()
    again = {"ys": again[0], "end": again[1], "every": again[2]}
    assert_all_close(dict(named_tensors(again)), dict(named_tensors(kept)))


def test_what_is_saved_for_the_gradient_may_not_be_overwritten():
    """Either it is refused, or it makes no difference."""
    rnn = on(build("lstm"), "cpu")
    ys, _ = rnn(sequence(rnn).requires_grad_())
    expected = torch.autograd.grad(ys.sum(), rnn.cell.weight_hh, retain_graph=True)[0]
    try:
        ys.add_(1)
        found = torch.autograd.grad(ys.sum(), rnn.cell.weight_hh)[0]
    except RuntimeError as error:
        message = str(error)
        assert "inplace" in message
    else:
        assert_close(found, expected)


# Threads


@pytest.fixture
def two_threads(monkeypatch):
    """Even tiny work is split."""
    from treadle.engines.cpu.plan import kernel

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(kernel, "_WORTH_A_THREAD", 1)
    yield
    torch.set_num_threads(before)


@pytest.mark.share(8)
@pytest.mark.parametrize("subject", SOME)
@pytest.mark.parametrize("run", ["plain", "lengths and resets"])
def test_rows_shared_out_over_threads(subject, run, two_threads):
    rnn = build(subject)
    agree(rnn, sequence(rnn, 4, 7), random_state(rnn, 4), RUNS[run])


def test_two_threads_with_many_rows(two_threads):
    rnn = td.Recurrent(td.LSTMCell(3, 5)).double()
    lengths = torch.randint(0, 12, (201,))
    agree(rnn, torch.randn(201, 11, 3, dtype=torch.float64), None, options(lengths=lengths.clamp(max=11)))


def test_several_python_threads_at_once():
    """The same network and others, first calls among them."""
    rnns = [build(subject, engine="cpu") for subject in ("lstm", "gru", "stack-feedback", "graph-sums")]
    inputs = [(sequence(rnn, 3, 5), random_state(rnn, 3)) for rnn in rnns]
    expected = [outcome(whole, on(rnn, "reference"), *given) for rnn, given in zip(rnns, inputs, strict=True)]
    fresh = [copy.deepcopy(rnn) for rnn in rnns]
    failures = []

    def work(number):
        try:
            for i in range(12):
                k = (number + i) % len(fresh)
                assert_all_close(outcome(whole, fresh[k], *inputs[k]), expected[k])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]


# Derivatives


def as_function(rnn, xs, state):
    """Everything that can be differentiated, in and out."""
    parts = [t.detach().clone().requires_grad_() for _, t in named_tensors(state)]
    xs = xs.detach().clone().requires_grad_()
    parameters = list(rnn.parameters())

    def run(xs, *rest):
        given = iter(rest[: len(parts)])
        ys, end = rnn(xs, map_state(lambda _: next(given), state))
        return (ys, *(t for _, t in named_tensors(end)))

    return run, [xs, *parts, *parameters]


@pytest.mark.share(8)
@pytest.mark.parametrize("name", [name for name in CELLS if not name.startswith("conv")])
def test_gradients_against_finite_differences(name):
    rnn = on(build(name), "cpu")
    function, inputs = as_function(rnn, sequence(rnn, 2, 3), random_state(rnn, 2))
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("cell", [td.LSTMCell, td.GRUCell])
def test_second_derivatives(cell):
    torch.manual_seed(0)
    rnn = td.Recurrent(cell(2, 2), engine="cpu").double()
    function, inputs = as_function(rnn, torch.randn(2, 2, 2), rnn.initial_state(2))
    inputs[0] = torch.randn(2, 2, 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("subject", ["lstm", "layer-norm-lstm", "stack-lateral", "graph-sums"])
def test_gradients_of_gradients_equal_the_reference(subject):
    rnn = build(subject)
    xs, state = sequence(rnn, 4, 7), random_state(rnn, 4)
    found = []
    for engine in ("reference", "cpu"):
        leaf = xs.clone().requires_grad_()
        ys, end, _ = lengths_and_resets(on(rnn, engine), leaf, state)
        total = ys.sum() + sum(t.pow(2).sum() for _, t in named_tensors(end))
        (g,) = torch.autograd.grad(total, leaf, create_graph=True)
        found.append(torch.autograd.grad(g.pow(2).sum(), [leaf, *rnn.parameters()]))
    for a, b in zip(*found, strict=True):
        assert_close(b, a)


@pytest.mark.share(2)
@pytest.mark.parametrize("subject", ["lstm", "stack-feedback", "graph-sums"])
def test_only_some_gradients_are_wanted(subject):
    rnn = build(subject)
    xs, state = sequence(rnn, 3, 5), random_state(rnn, 3)
    names = [name for name, _ in rnn.named_parameters()]
    for frozen in (names, names[:1], names[1::2], names[::2]):
        for name, parameter in rnn.named_parameters():
            parameter.requires_grad_(name not in frozen)
        agree(rnn, xs, state)
        for x_wanted in (False, True):
            leaf = xs.clone().requires_grad_(x_wanted)
            found = []
            for engine in ("reference", "cpu"):
                ys, _ = on(rnn, engine)(leaf, state)
                wanted = [t for t in (leaf, *rnn.parameters()) if t.requires_grad]
                assert ys.requires_grad == bool(wanted)
                found.append(torch.autograd.grad(ys.sum(), wanted, allow_unused=True) if wanted else [])
            for a, b in zip(*found, strict=True):
                assert (a is None) == (b is None) or not (b if a is None else a).any()
                if a is not None and b is not None:
                    assert_close(b, a)


@pytest.mark.parametrize("subject", ["lstm", "stack-relay", "graph-delays"])
def test_a_gradient_from_the_last_state_alone(subject):
    rnn = build(subject)
    xs, state = sequence(rnn, 4, 7), random_state(rnn, 4)
    found = []
    for engine in ("reference", "cpu"):
        leaf = xs.clone().requires_grad_()
        _, end, _ = lengths_and_resets(on(rnn, engine), leaf, state)
        found.append(torch.autograd.grad(next(t for _, t in named_tensors(end)).sum(), leaf))
    assert_close(found[1][0], found[0][0])


class WritesIntoItsInput(nn.Module):
    """Its first operation overwrites what it reads."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(5, 2)

    def initial_state(self, batch_size):
        return self.mix.weight.new_zeros(batch_size, 2)

    def forward(self, x, state):
        h = self.mix(torch.cat([x.mul_(2), state], 1)).tanh()
        return h, h


def test_a_cell_may_write_into_its_input():
    cell, outcomes = WritesIntoItsInput(), []
    for by_hand in (True, False):
        leaf = torch.linspace(-1, 1, 3 * 7 * 3).view(7, 3, 3).requires_grad_()
        xs = leaf * 2
        if by_hand:
            state, ys = cell.initial_state(3), []
            for t in range(7):
                y, state = cell(xs[t], state)
                ys.append(y)
            ys = torch.stack(ys)
        else:
            ys, _ = td.Recurrent(cell, batch_first=False)(xs)
        outcomes.append((ys, xs, *torch.autograd.grad(ys.square().sum(), [leaf, *cell.parameters()])))
    assert all(torch.equal(*pair) for pair in zip(*outcomes, strict=True))


class Large(TorchDispatchMode):
    """Counts operations that give a tensor of at least so many numbers."""

    def __init__(self, numel: int):
        super().__init__()
        self.numel, self.count = numel, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.count += isinstance(result, Tensor) and result.numel() >= self.numel
        return result


@pytest.mark.parametrize("engine", ["reference", "interpreter"])
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_step_by_step_the_gradient_of_a_long_sequence_takes_as_long_as_it_has_steps(engine, lengths):
    counts = []
    for T in (100, 200):
        rnn = build("own-cell", engine=engine)
        xs = sequence(rnn, B=len(LENGTHS), T=T).requires_grad_()
        ys, _ = rnn(xs, lengths=lengths)
        with Large(T) as large:
            torch.autograd.grad(ys.sum(), xs)
        counts.append(large.count)
    assert counts[0] == counts[1]


def test_the_graph_may_be_walked_twice():
    rnn = build("lstm", engine="cpu")
    xs = sequence(rnn).requires_grad_()
    ys, _ = rnn(xs)
    first = torch.autograd.grad(ys.sum(), xs, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(ys.sum(), xs)[0], first)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(ys.sum(), xs)


def test_saved_tensor_hooks_see_what_is_saved():
    rnn = build("lstm", engine="cpu")
    xs = sequence(rnn)
    expected = outcome(whole, rnn, xs)
    with torch.autograd.graph.save_on_cpu():
        assert_all_close(outcome(whole, rnn, xs), expected)


class Strides(nn.Module):
    """What a parameter gives is read in steps and turned round, so its gradient is added up in steps."""

    input_size = 3

    def __init__(self):
        super().__init__()
        self.w, self.bias, self.other = (
            nn.Parameter(torch.randn(3, 36)),
            nn.Parameter(torch.randn(36)),
            nn.Parameter(torch.randn(18)),
        )

    def initial_state(self, batch_size):
        return (self.w.new_zeros(batch_size, 36),)

    def forward(self, x, state):
        both = x @ self.w + self.bias + state[0]
        even, odd = both[:, 0:24:2].tanh(), both[:, 1::2] * self.other
        turned = both.view(-1, 4, 9).transpose(1, 2).reshape(-1, 36)
        h = (turned + torch.stack([odd, odd.sin()], 2).flatten(1) + even.repeat(1, 3)).tanh()
        return h, (h,)


def test_gradients_that_are_added_up_in_strides():
    torch.manual_seed(3)
    agree(td.Recurrent(Strides().double()), torch.randn(3, 4, 3, dtype=torch.float64))


# What falls back


def logged(caplog, run):
    engines.say_once.cache_clear()
    caplog.clear()
    with caplog.at_level(logging.WARNING, "treadle"):
        result = run()
    texts = [record.getMessage() for record in caplog.records]
    assert texts
    assert len(texts) == len(set(texts)) <= 2
    return result


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # PyTorch's own forward mode calls it
def test_transforms_of_torch_func_are_right(caplog):
    rnn = build("gru")
    reference = on(rnn, "reference")
    xs = sequence(rnn, 2, 3)
    parameters = {name: p.detach() for name, p in rnn.named_parameters()}

    def loss(given, network=rnn):
        return torch.func.functional_call(network, given, (xs,))[0].pow(2).sum()

    expected = torch.func.grad(lambda given: loss(given, reference))(parameters)
    assert_all_close(logged(caplog, lambda: torch.func.grad(loss)(parameters)), expected)
    many = torch.stack([xs, -xs, 2 * xs])
    expected = torch.stack([reference(part)[0] for part in many])
    assert_close(logged(caplog, lambda: torch.vmap(lambda part: rnn(part)[0])(many)), expected)
    tangent = torch.ones_like(xs)
    expected = torch.func.jvp(lambda part: reference(part)[0], (xs,), (tangent,))[1]
    assert_close(logged(caplog, lambda: torch.func.jvp(lambda part: rnn(part)[0], (xs,), (tangent,))[1]), expected)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(xs, tangent)
        found = logged(caplog, lambda: torch.autograd.forward_ad.unpack_dual(rnn(dual)[0]).tangent)
    assert_close(found, expected)
    hessian = torch.autograd.functional.hessian(lambda part: rnn(part)[0].pow(2).sum(), xs[:, :1])
    assert_close(hessian, torch.autograd.functional.hessian(lambda part: reference(part)[0].pow(2).sum(), xs[:, :1]))


def test_functional_call_uses_the_parameters_that_it_was_given():
    rnn = build("lstm", engine="cpu")
    xs = sequence(rnn)
    other = {name: (2 * p).detach().requires_grad_() for name, p in rnn.named_parameters()}
    found = []
    for network in (on(rnn, "reference"), rnn):
        ys, _ = torch.func.functional_call(network, other, (xs,))
        found.append([ys, *torch.autograd.grad(ys.sum(), list(other.values()))])
    for a, b in zip(*found, strict=True):
        assert_close(b, a)


@pytest.mark.parametrize("subject", LEFT_OUT)
def test_what_the_engine_does_not_take_is_said(subject, caplog):
    rnn = build(subject)
    xs = sequence(rnn)
    with pytest.raises(td.errors.EngineError, match=f"engine 'cpu' cannot run the loop over .*{LEFT_OUT[subject]}"):
        on(rnn, "cpu")(xs)
    ys, _ = logged(caplog, lambda: rnn(xs))
    assert "runs in PyTorch, step by step" in caplog.text
    assert_close(ys, on(rnn, "reference")(xs)[0])


@pytest.mark.parametrize("engine", ["cpu", "interpreter"])
def test_an_engine_that_was_asked_for_by_name_says_why_it_cannot(engine):
    rnn = on(build("lstm"), engine)
    xs = sequence(rnn)
    with pytest.raises(td.errors.EngineError, match=r"torch\.func"):
        torch.vmap(lambda part: rnn(part)[0])(xs[None])
    handle = rnn.cell.register_forward_hook(lambda *_: None)
    with pytest.raises(td.errors.EngineError, match="LSTMCell has hooks"):
        rnn(xs)
    handle.remove()
    assert_close(rnn(xs)[0], on(rnn, "reference")(xs)[0])


# Weights that change


def steps(rnn, xs):
    return on(rnn, "cpu")(xs)[0].detach().clone(), on(rnn, "reference")(xs)[0].detach()


CHANGES = {
    "in place": lambda rnn: rnn.cell.weight_hh.detach().mul_(-1),
    "through data": lambda rnn: rnn.cell.weight_hh.data.copy_(rnn.cell.weight_hh.data * -0.5),
    "data replaced": lambda rnn: setattr(rnn.cell.weight_hh, "data", rnn.cell.weight_hh.data * -0.7),
    "a bias in place": lambda rnn: rnn.cell.bias_hh.detach().add_(1),
    "a state dict": lambda rnn: rnn.load_state_dict({k: v * 1.1 for k, v in rnn.state_dict().items()}),
    "a state dict, assigned": lambda rnn: rnn.load_state_dict(
        {k: v * 0.9 for k, v in rnn.state_dict().items()}, assign=True
    ),
    "another parameter": lambda rnn: setattr(
        rnn.cell, "weight_hh", nn.Parameter(rnn.cell.weight_hh.detach().flip(0).clone())
    ),
    "NumPy": lambda rnn: rnn.cell.weight_hh.detach().numpy().__imul__(-1),
    "NumPy, a bias": lambda rnn: rnn.cell.bias_hh.detach().numpy().__iadd__(1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_are_used(change):
    rnn = build("lstm")
    xs = sequence(rnn)
    before, _ = steps(rnn, xs)
    CHANGES[change](rnn)
    after, expected = steps(rnn, xs)
    assert_close(after, expected)
    assert not torch.allclose(before, after)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("foreach", [False, True])
def test_training_is_the_same(make, foreach):
    xs = torch.randn(4, 6, 3, dtype=torch.float64)
    losses = []
    for engine in ("reference", "cpu"):
        rnn = on(build("stack-feedback"), engine)
        optimiser = make(rnn.parameters(), lr=0.05, foreach=foreach)
        losses.append([])
        for _ in range(5):
            optimiser.zero_grad()
            loss = (rnn(xs)[0] - 0.5).pow(2).mean()
            loss.backward()
            optimiser.step()
            losses[-1].append(loss.detach())
    assert_close(torch.stack(losses[1]), torch.stack(losses[0]))


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda rnn: pickle.loads(pickle.dumps(rnn))], ids=["deepcopy", "pickle"]
)
@pytest.mark.parametrize("subject", ["lstm", "stack-feedback", "graph-nested"])
def test_copies_have_weights_of_their_own(copied, subject):
    rnn = build(subject, engine="cpu")
    xs = sequence(rnn)
    expected = rnn(xs)[0].detach()
    other = copied(rnn)
    assert other.engine == "cpu"
    with torch.no_grad():
        for parameter in rnn.parameters():
            parameter.zero_()
    assert_close(other(xs)[0], expected)
    assert_close(rnn(xs)[0], on(rnn, "reference")(xs)[0])


def test_networks_are_freed():
    import gc
    import weakref

    rnn = build("lstm", engine="cpu")
    rnn(sequence(rnn))
    cell = weakref.ref(rnn.cell)
    del rnn
    gc.collect()
    assert cell() is None


def test_another_precision_is_another_program():
    rnn = build("lstm", engine="cpu")
    for dtype in (torch.float32, torch.float64, torch.float32):
        rnn.to(dtype)
        xs = sequence(rnn, dtype=dtype)
        ys, _ = rnn(xs)
        assert ys.dtype == dtype
        assert_close(ys, on(rnn, "reference")(xs)[0])


class Options(nn.Module):
    """A cell with options of every kind."""

    input_size = 3

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(7, 4)
        self.dropout = nn.Dropout(0.5)
        self.scale, self.settings, self.names, self.function = 1.0, {"add": 0.0}, ["tanh"], torch.tanh
        self.settings["inner"] = {"factor": 1.0}
        self.table = torch.ones(4)

    def initial_state(self, batch_size):
        return (self.mix.weight.new_zeros(batch_size, 4),)

    def forward(self, x, state):
        h = self.dropout(self.function(self.mix(torch.cat([x, state[0]], 1)))) * self.scale + self.settings["add"]
        for name in self.names:
            h = getattr(h, name)()
        return h * self.table * self.settings["inner"]["factor"], (h,)


SETTINGS = {
    "a number": lambda cell: setattr(cell, "scale", 0.5),
    "an integer for a float": lambda cell: setattr(cell, "scale", 2),
    "in a dict": lambda cell: cell.settings.__setitem__("add", 1.0),
    "in a dict in a dict": lambda cell: cell.settings["inner"].__setitem__("factor", 3.0),
    "in a list": lambda cell: cell.names.append("sigmoid"),
    "in place of a list's": lambda cell: cell.names.__setitem__(0, "sin"),
    "a function": lambda cell: setattr(cell, "function", torch.sin),
    "a plain tensor": lambda cell: setattr(cell, "table", torch.arange(4.0)),
    "a plain tensor in place": lambda cell: cell.table.mul_(3),
    "a module": lambda cell: setattr(cell, "mix", nn.Linear(7, 4, bias=False)),
    "a module's number": lambda cell: setattr(cell.dropout, "p", 0.9),
    "training": lambda cell: cell.eval(),
}


@pytest.mark.share(6)
@pytest.mark.parametrize("setting", SETTINGS)
def test_changed_settings_are_seen(setting):
    rnn = td.Recurrent(Options(), engine="cpu")
    xs = torch.randn(2, 5, 3)

    def both():
        found = []
        for engine in ("reference", "cpu"):
            torch.manual_seed(7)
            found.append(on(rnn, engine)(xs)[0].detach())
        assert_close(found[1], found[0])
        return found[1]

    before = both()
    SETTINGS[setting](rnn.cell)
    assert not torch.equal(both(), before)


def test_functions_that_come_and_go_are_not_mistaken_for_each_other():
    cell = Options().eval()
    rnn, xs = td.Recurrent(cell, engine="cpu"), torch.randn(2, 5, 3)
    for k in range(8):
        cell.function = (lambda factor: lambda h: h * factor)(k)
        assert_close(rnn(xs)[0], on(rnn, "reference")(xs)[0])


# Other CPUs


@pytest.mark.slow
@pytest.mark.parametrize("level", [level for level in target.runnable(target.host()) if level != "avx512"])
@pytest.mark.parametrize("subject", ["lstm", "gru", "layer-norm-lstm", "slstm-two-heads"])
def test_other_instructions_give_the_same_numbers(level, subject, monkeypatch):
    from treadle.engines.cpu.plan import kernel, section
    from treadle.engines.cpu.routines import row_products

    narrow = target.restrict(target.host(), level)
    for module in (kernel, row_products):
        if hasattr(module, "host"):
            monkeypatch.setattr(module, "host", lambda: narrow)
    made = []
    monkeypatch.setattr(section, "compiled", lambda k: made.append(k) or kernel.CompiledKernel(k, narrow))
    for dtype in (torch.float32, torch.float64):
        rnn = build(subject, dtype)
        fine = on(copy.deepcopy(rnn).double(), "reference")
        for run, rows in ((lengths_and_resets, 4), (whole, 9)):  # tiles of few rows, and of many
            xs, state = sequence(rnn, rows, 7, dtype), random_state(rnn, rows, dtype)
            reference = outcome(run, fine, xs.double(), map_state(Tensor.double, state))
            assert_all_close(outcome(run, on(rnn, "cpu"), xs, state), reference, dtype)
    assert made


class HandsOn(nn.Module):
    """A state that is the same after every step, and that nobody reads."""

    def __init__(self):
        super().__init__()
        self.input_size, self.output_size, self.mix = 3, 2, nn.Linear(3, 2)

    def initial_state(self, batch_size):
        return {"same": torch.zeros(batch_size, 2)}

    def forward(self, x, state):
        return self.mix(x), {"same": state["same"]}


@pytest.mark.parametrize("engine", ["interpreter", "cpu"])
@pytest.mark.parametrize("every", [False, True])
def test_a_state_that_is_handed_on_and_never_read(engine, every):
    rnn = td.Recurrent(HandsOn(), engine=engine)
    xs, state = torch.randn(2, 5, 3), {"same": torch.randn(2, 2)}

    def run(rnn, xs, state):
        result = rnn(xs, state, return_states=every)
        return result if every else (*result, ())

    assert_all_close(outcome(run, rnn, xs, state), outcome(run, on(rnn, "reference"), xs, state))
