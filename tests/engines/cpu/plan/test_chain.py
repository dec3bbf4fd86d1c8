"""Chains of sections: what the reference gives, whatever is asked for, in whatever order the threads come to it."""

import copy
import gc
import itertools
import random
import threading

import pytest
import torch
from torch import nn

import treadle as td
from tests.outcome import outcome, whole
from tests.ragged import LENGTHS, RESETS
from tests.registry import CELLS, LEFT_OUT, SUBJECTS, build, random_state, sequence, stack
from tests.tolerances import assert_all_close, assert_close
from treadle.caches import kept_property
from treadle.engines import ENGINES, say_once
from treadle.engines import network as networks
from treadle.engines.cpu.machine import memory_pool, scratch_memory, threads
from treadle.engines.cpu.machine.call_table import Phase
from treadle.engines.cpu.machine.recipe import Recipe
from treadle.engines.cpu.plan import chain as chains
from treadle.engines.cpu.plan import kernel
from treadle.engines.cpu.routines import copies, row_products, weight_panels
from treadle.engines.stages import staged
from treadle.state import named_tensors

FAST = [subject for subject in SUBJECTS if subject not in LEFT_OUT]
SOME = ["lstm", "layer-norm-lstm", "stack-skip", "stack-dense", "stack-feedback", "graph-nested", "graph-handed-over"]

RUNS = {
    "plain": {},
    "every state": {"return_states": True},
    "lengths": {"lengths": LENGTHS},
    "resets": {"resets": RESETS},
    "lengths and resets": {"lengths": LENGTHS, "resets": RESETS},
}


def running(**options):
    """A way to run a network, for `outcome`."""

    def run(rnn, xs, state):
        ys, end, *every = rnn(xs, state, **options)
        return ys, end, every[0] if every else {}

    return run


def on(rnn, engine):
    """The same network, run by an engine."""
    other = copy.copy(rnn)
    other.engine = engine
    return other


def agree(rnn, xs, state=None, **options):
    """The engine gives what the reference gives."""
    expected, found = (outcome(running(**options), on(rnn, engine), xs, state) for engine in ("reference", "cpu"))
    assert_all_close(found, expected)


def chains_of(rnn, keep_states=False):
    """The chains of a network that has run, in order."""
    (kinds,) = networks._networks[rnn.cell].values()
    (found,) = kinds.found
    network = found.network
    return [runner for _, runner in staged(network, ENGINES["cpu"], None, keep_states).runners]


def large(wiring="stack", cell=td.LSTMCell, H=40):
    """A network whose intermediate results fill pages."""
    return td.Recurrent(stack(wiring, cell, 3, (H, H)), engine="cpu").double()


def gradients(rnn, loss_of, xs=None, **options):
    xs = torch.ones(5, 30, 3, dtype=torch.float64) if xs is None else xs
    return torch.autograd.grad(loss_of(*rnn(xs, **options)), list(rnn.parameters()), materialize_grads=True)


def ys_only(ys, end):
    return ys.square().sum()


def end_only(ys, end):
    return sum((i + 1) * tensor.sin().sum() for i, (_, tensor) in enumerate(named_tensors(end)))


def both(ys, end):
    return ys_only(ys, end) + end_only(ys, end)


def same(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)


# Values and gradients


WORTH_THREADS = (
    (kernel, "_WORTH_A_THREAD"),
    (row_products, "WORTH_A_THREAD"),
    (copies, "ALONE"),
    (weight_panels, "ALONE"),
)


@pytest.fixture(params=["as written", "last task first"])
def three_threads(request, monkeypatch):
    """Even tiny work is split for three threads, but one does it all, and in this order within each phase."""
    monkeypatch.setattr(threads, "count", lambda limit: max(1, min(3, limit)))
    monkeypatch.setattr(threads, "together", lambda function, argument, _: function(argument))
    for module, name in WORTH_THREADS:
        monkeypatch.setattr(module, name, 1)
    if request.param == "last task first":
        ordered = Recipe._all_phases.compute
        turned = kept_property(lambda recipe: [Phase(phase.all[::-1]) for phase in ordered(recipe)])
        turned.__set_name__(Recipe, "_all_phases")
        monkeypatch.setattr(Recipe, "_all_phases", turned)


@pytest.mark.share(12)
@pytest.mark.usefixtures("poisoned_memory", "three_threads")
@pytest.mark.parametrize("subject", FAST)
def test_the_order_within_a_phase_does_not_matter(subject):
    rnn = build(subject)
    xs, state = sequence(rnn, 4, 7), random_state(rnn, 4)
    agree(rnn, xs, state)
    agree(rnn, xs, state, lengths=LENGTHS, resets=RESETS)


ALIKE = ["gru", "zoneout-lstm", "layer-norm-lstm", "ind-rnn"]


@pytest.mark.share(3)
@pytest.mark.usefixtures("poisoned_memory", "three_threads")
@pytest.mark.parametrize("wiring", td.WIRINGS)
@pytest.mark.parametrize("cell", ALIKE)
def test_room_for_one_result_is_never_another_s_too_early(wiring, cell):
    """All sizes are the same, so all room that is left is used again."""
    torch.manual_seed(1)
    rnn = td.Recurrent(stack(wiring, CELLS[cell], 4, (4, 4, 4))).double().eval()
    xs = torch.randn(4, 5, 4, dtype=torch.float64)
    agree(rnn, xs)
    agree(rnn, xs, lengths=[3, 0, 5, 4], resets=RESETS[:, :5])


@pytest.mark.share(4)
@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("wiring", td.WIRINGS)
def test_sizes_that_fill_pages(wiring):
    rnn = large(wiring)
    xs = torch.randn(5, 30, 3, dtype=torch.float64)
    agree(rnn, xs)
    agree(rnn, xs, lengths=[30, 2, 0, 17, 30])
    agree(rnn, xs, lengths=[1, 2, 0, 17, 29], resets=torch.rand(5, 30) < 0.1)


@pytest.mark.share(6)
@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("subject", SOME)
@pytest.mark.parametrize("run", RUNS)
def test_sections_are_joined(subject, run):
    """The tests below are about chains of several sections, and of one."""
    rnn = build(subject, engine="cpu")
    agree(rnn, sequence(rnn, 4, 7), random_state(rnn, 4), **RUNS[run])
    lengths = [len([*chain.links]) for chain in chains_of(rnn, "return_states" in RUNS[run])]
    assert lengths
    assert max(lengths) > 1 or run == "every state" or subject in ("lstm", "stack-feedback")


@pytest.mark.share(2)
@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("cell", ["gru", "layer-norm-lstm", "ind-rnn"])
def test_several_sections_read_one_input(cell):
    g = td.Graph(4)
    low = g.add("low", CELLS[cell](4, 4), reads=g.x)
    high = g.add("high", CELLS[cell](4, 4), reads=td.sum_of(low, g.x))
    rnn = td.Recurrent(g.outputs(td.sum_of(high, g.x, low)), engine="cpu").double()
    xs = torch.randn(4, 7, 4, dtype=torch.float64)
    agree(rnn, xs)
    agree(rnn, xs, lengths=LENGTHS, resets=RESETS)
    (chain,) = chains_of(rnn)
    (x,) = (v for v in chain.links.inputs if v.has_rows)
    assert sum(x in link.section.inputs for link in chain.links) > 1


# What gradients come from and go to


@pytest.mark.share(4)
@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("subject", SOME)
def test_what_has_no_gradient_from_above(subject):
    rnn = build(subject)
    xs = sequence(rnn, 4, 7).requires_grad_()
    start = random_state(rnn, 4)
    leaves = [xs, *rnn.parameters()]
    for run in RUNS.values():
        results = {}
        for engine in ("reference", "cpu"):
            ys, end, *every = on(rnn, engine)(xs, start, **run)
            results[engine] = [t for _, t in named_tensors({"y": ys, "end": end, "every": dict(enumerate(every))})]
        for i, pair in enumerate(zip(results["reference"], results["cpu"], strict=True)):
            found = [
                torch.autograd.grad(t.sin().sum(), leaves, retain_graph=True, materialize_grads=True)
                if t.requires_grad
                else [torch.zeros_like(leaf) for leaf in leaves]
                for t in pair
            ]
            for a, b in zip(*found, strict=True):
                assert_close(b, a, what=str(i))


class Adding(nn.Module):
    """Keeps a running total that no output is made of: the gradient of what is added is that of the state itself."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def initial_state(self, batch_size):
        return {"total": self.linear.weight.new_zeros(batch_size, 4)}

    def forward(self, x, state):
        y = self.linear(x).tanh()
        return y, {"total": 0.9 * state["total"] + y}


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("run", RUNS)
def test_states_that_only_the_caller_reads(run):
    rnn = td.Recurrent(Adding()).double()
    agree(rnn, torch.randn(4, 7, 4, dtype=torch.float64), **RUNS[run])


@pytest.mark.share(2)
@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("subject", SOME)
def test_what_needs_no_gradient(subject):
    rnn = build(subject)
    state = random_state(rnn, 3)
    xs, parts = sequence(rnn), dict(named_tensors(state))
    leaves = [xs, *parts.values(), *rnn.parameters()]
    for wanted in (
        [0],
        [1],
        [len(parts)],
        [len(parts) + 1],
        [len(leaves) - 1],
        [0, len(leaves) - 2],
        range(len(leaves)),
    ):
        for i, leaf in enumerate(leaves):
            leaf.requires_grad_(i in wanted)
        found = []
        for engine in ("reference", "cpu"):
            loss = both(*on(rnn, engine)(xs, state))
            ask = [leaves[i] for i in wanted]
            found.append(torch.autograd.grad(loss, ask, materialize_grads=True))
        for a, b in zip(*found, strict=True):
            assert_close(b, a)


@pytest.mark.share(10)
@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("subject", FAST)
def test_writing_into_results_leaves_gradients_alone(subject):
    """Into outputs, always; into a state either that or it is refused."""
    rnn = on(build(subject), "cpu")
    xs, state = sequence(rnn), random_state(rnn)

    def found(into=()):
        ys, end = rnn(xs, state)
        parts = {"ys": ys} | dict(named_tensors(end))
        loss = sum(part.sum() for part in parts.values() if part.is_floating_point())
        with torch.no_grad():
            for name in into:
                parts[name].fill_(7)
        return torch.autograd.grad(loss, list(rnn.parameters()), materialize_grads=True)

    expected = found()
    for a, b in zip(found(["ys"]), expected, strict=True):
        assert torch.equal(a, b)
    for name, _ in named_tensors(state):
        try:
            gradients = found([name])
        except RuntimeError as error:
            refused = str(error)
            assert "inplace" in refused
        else:
            assert all(torch.equal(a, b) for a, b in zip(gradients, expected, strict=True)), name


def test_results_may_be_changed_in_place_with_a_gradient():
    rnn = large()
    xs = torch.randn(5, 30, 3, dtype=torch.float64)

    def in_place(ys, end):
        ys += 1
        ys[:, ::2].mul_(3)
        return ys_only(ys, end)

    def plainly(ys, end):
        return (3 * (ys[:, ::2] + 1)).square().sum() + (ys[:, 1::2] + 1).square().sum()

    same(gradients(rnn, in_place, xs), gradients(on(rnn, "reference"), plainly, xs))


# More than one backward pass


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("subject", SOME)
def test_backward_twice(subject):
    rnn = on(build(subject), "cpu")
    ys, end = rnn(sequence(rnn), random_state(rnn))
    parameters = list(rnn.parameters())
    one = torch.autograd.grad(ys_only(ys, end), parameters, retain_graph=True, materialize_grads=True)
    other = torch.autograd.grad(end_only(ys, end), parameters, retain_graph=True, materialize_grads=True)
    again = torch.autograd.grad(ys_only(ys, end), parameters, retain_graph=True, materialize_grads=True)
    for a, b in zip(one, again, strict=True):
        assert torch.equal(a, b)
    last = torch.autograd.grad(both(ys, end), parameters, materialize_grads=True)
    same(last, [a + b for a, b in zip(one, other, strict=True)])
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(ys.sum(), parameters, materialize_grads=True)


# Memory


@pytest.fixture
def lent(monkeypatch):
    """How many bytes of large memory are in use."""
    sizes: dict[int, int] = {}

    class Lent(memory_pool._Lent):
        def __init__(self, *given):
            sizes[id(self)] = self.nbytes

        def __del__(self):
            if self.lent is not None:
                del sizes[id(self)]
            super().__del__()

    monkeypatch.setattr(memory_pool, "_Lent", Lent)
    gc.collect()

    def count():
        scratch_memory.release()  # what the next call would find
        return sum(sizes.values())

    return count


def test_memory_is_free_after_the_backward_pass(lent, monkeypatch):
    monkeypatch.setenv("TREADLE_VERIFY", "never")  # that runs recipes of its own
    monkeypatch.setattr(memory_pool, "_SMALL", 1 << 20)  # so that outputs are small, and what is kept is large
    monkeypatch.setenv("TREADLE_VERIFY", "never")  # that writes recipes, too
    rnn = large(H=64)
    xs = torch.randn(8, 64, 3, dtype=torch.float64)
    with torch.no_grad():
        ys, end = rnn(xs)
    assert not lent()

    ys, end = rnn(xs)
    (chain,) = chains_of(rnn)
    (forward,) = (recipes.forward for recipes in chain._recipes.values() if recipes.forward.derivatives)
    kept = forward.recipe.kept.size
    assert kept > 1 << 20
    assert lent() == kept + 64
    loss = both(ys, end)
    loss.backward(retain_graph=True)
    assert lent() == kept + 64
    loss.backward()
    assert not lent()
    assert ys.grad_fn is not None

    for letting_go in ("ys", "end", "loss"):
        ys, end = rnn(xs)
        loss = both(ys, end)
        assert lent() == kept + 64
        if letting_go == "loss":
            del ys, end, loss
            assert not lent()
    many = [rnn(xs) for _ in range(3)]
    assert lent() == 3 * (kept + 64)
    many.clear()
    assert not lent()


# Recipes


@pytest.fixture
def written(monkeypatch):
    """The frames that recipes were written for; those of verification are left out."""
    monkeypatch.setenv("TREADLE_VERIFY", "never")
    frames, make = [], chains.ForwardRecipe.__init__

    def counting(self, links, frame, needs):
        frames.append(frame)
        make(self, links, frame, needs)

    monkeypatch.setattr(chains.ForwardRecipe, "__init__", counting)
    return frames


@pytest.mark.share(1)
@pytest.mark.parametrize("count", [1, 3])
def test_a_recipe_serves_sequences_of_many_lengths(written, set_num_threads, monkeypatch, count):
    """Whichever of these layouts a recipe was written for, it is right for all; by three threads, each with little."""
    set_num_threads(count)
    for module, name in WORTH_THREADS if count > 1 else ():
        monkeypatch.setattr(module, name, 1)
    rnn, numbers = large(H=4), random.Random(0)
    for i in range(40):
        B, T = numbers.randint(3, 6), numbers.randint(12, 24)
        xs, options = torch.randn(B, T, 3, dtype=torch.float64), {}
        if i % 2:
            options["lengths"] = torch.tensor([T, *(numbers.randint(0, T) for _ in range(B - 1))])
        if i % 4 > 1:
            options["resets"] = torch.rand(B, T) < 0.2
            options["resets"][0, 1] = True
        agree(rnn, xs, **options)
    assert len(set(written)) == len(written) < 40


def test_recipes_are_not_kept_for_ever(written, monkeypatch):
    monkeypatch.setattr(chains, "_MOST_RECIPES", 4)
    rnn = large(H=4)
    xs = [torch.randn(1, T, 3, dtype=torch.float64) for T in (1, 2, 3, 4, 1, 5, 1, 2)]
    for x in xs:
        gradients(rnn, both, x)
    # The fifth and the seventh use what is there, the eighth asks for what was not used for the longest time.
    assert [frame.most_rows for frame in written] == [1, 2, 3, 4, 5, 2]
    (chain,) = chains_of(rnn)
    assert len(chain._recipes) == 4


def test_a_forgotten_recipe_is_written_anew():
    xs, losses = torch.randn(5, 30, 3, dtype=torch.float64), [ys_only, end_only, both]
    for others in range(chains._MOST_RECIPES - 5, chains._MOST_RECIPES + 1):
        rnn = large()
        expected = [gradients(on(rnn, "reference"), loss, xs) for loss in losses]
        for loss in losses:
            gradients(rnn, loss, xs)
        with torch.no_grad():
            for T in range(others):
                rnn(xs[:, : T + 1])
        for loss, right in reversed([*zip(losses, expected, strict=True)]):
            same(gradients(rnn, loss, xs), right)


def test_the_number_of_threads_may_change_at_any_time(set_num_threads):
    rnn, xs = large(), torch.randn(5, 30, 3, dtype=torch.float64)
    expected = gradients(on(rnn, "reference"), both, xs)
    for forwards, backwards in itertools.product([1, 2, 3], [3, 2, 1]):

        def loss(ys, end, backwards=backwards):
            set_num_threads(backwards)
            return both(ys, end)

        set_num_threads(forwards)
        same(gradients(rnn, loss, xs), expected)


def test_the_number_of_threads_may_change_between_steps(set_num_threads):
    rnn, xs = large(), torch.randn(5, 30, 3, dtype=torch.float64)
    expected = gradients(on(rnn, "reference"), both, xs)
    for count in (1, 3, 2, 3, 1):
        set_num_threads(count)
        same(gradients(rnn, both, xs), expected)


def test_several_python_threads_share_a_chain(set_num_threads):
    rnn, xs = large(), torch.randn(5, 30, 3, dtype=torch.float64)
    expected = gradients(on(rnn, "reference"), both, xs)
    gradients(rnn, both, xs)
    failed, meet = [], threading.Barrier(4)

    def work():
        try:
            meet.wait(60)
            for _ in range(10):
                same(gradients(rnn, both, xs), expected)
        except BaseException as error:
            failed.append(error)

    callers = [threading.Thread(target=work) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not failed, failed[0]


@pytest.mark.usefixtures("poisoned_memory")
def test_parameters_are_read_anew_by_every_call():
    rnn = td.Recurrent(nn.ModuleList([td.LayerNormLSTMCell(3, 5)])[0], engine="cpu").double()
    xs = torch.randn(4, 7, 3, dtype=torch.float64)
    for _ in range(3):
        agree(rnn, xs)
        for parameter in rnn.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))


@pytest.mark.parametrize(("B", "T"), [(1, 100_000), (100_000, 1), (7, 15_000)])
def test_many_rows_and_steps_cost_no_precision(B, T):
    """Numbers that are added one after another to a sum of 100,000 lose three digits."""

    class Adds(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias, self.weight = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.eye(3))

        def initial_state(self, batch_size):
            return (torch.zeros(batch_size, 3),)

        def forward(self, x, state):
            h = torch.tanh(state[0] / 8 + x + self.bias)
            return h @ self.weight, (h,)

    def run(dtype):
        rnn = td.Recurrent(Adds(), engine="cpu").to(dtype)
        ys, _ = rnn(torch.full((B, T, 3), 0.3, dtype=dtype))
        ys.backward(torch.full_like(ys, 0.1))
        return {name: parameter.grad for name, parameter in rnn.named_parameters()}

    assert_all_close(run(torch.float32), run(torch.float64))


def test_a_backward_pass_that_cannot_be_compiled_runs_in_pytorch(monkeypatch, caplog):
    """In the middle of a training nothing is raised that PyTorch can do as well."""
    rnn = td.Recurrent(td.LSTMCell(3, 4), engine="cpu")
    xs = torch.randn(2, 5, 3)
    expected = outcome(whole, td.Recurrent(rnn.cell, engine="reference"), xs)

    def fails(*_):
        raise MemoryError("no room for machine code")

    monkeypatch.setattr(chains, "BackwardRecipe", fails)
    say_once.cache_clear()
    with caplog.at_level("WARNING", "treadle"):
        found = outcome(whole, rnn, xs)
    assert_all_close(found, expected)
    (record,) = caplog.records
    assert "the backward pass over h, c runs in PyTorch" in record.getMessage()
    assert "MemoryError: no room for machine code" in record.getMessage()
