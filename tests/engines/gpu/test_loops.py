"""Loops as kernels against the cell's own Python: values, states and gradients, over every cell and wiring.

Triton's interpreter runs the kernels. It does not know how a GPU shares out work, nor how long that takes.
"""

import copy
import functools

import pytest
import torch

import treadle as td
from tests.engines.gpu.conftest import TILINGS
from tests.outcome import chunked, outcome, whole
from tests.ragged import LENGTHS, MASK, RESETS
from tests.registry import LEFT_OUT, SUBJECTS, build, random_state, sequence
from tests.tolerances import assert_all_close, assert_close
from treadle.engines import verification
from treadle.engines.gpu.plan import launches
from treadle.state import map_state

pytestmark = [
    pytest.mark.usefixtures("poisoned_memory"),
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),  # NumPy's, in lanes that nobody reads
]

TAKEN = [subject for subject in SUBJECTS if subject not in LEFT_OUT]


def given(**options):
    return lambda rnn, xs, state: rnn(xs, state, return_states=True, **options)


RUNS = {
    "plain": whole,
    "lengths and resets": given(lengths=LENGTHS, resets=RESETS),
    "mask": given(mask=MASK, resets=RESETS),
}


def on(rnn, engine):
    other = copy.copy(rnn)
    other.engine = engine
    return other


def wide(tensor):
    return tensor.double() if tensor.is_floating_point() else tensor


def agree(subject, run, dtype=torch.float32, B=4, T=7, precision=None):
    """The engine gives what the reference gives in float64, within the tolerance of its own precision."""
    rnn = build(subject, dtype)
    xs, state = sequence(rnn, B, T, dtype), random_state(rnn, B, dtype)
    fine = on(copy.deepcopy(rnn).double(), "reference")
    torch.manual_seed(1)
    expected = outcome(run, fine, wide(xs), map_state(wide, state))
    torch.manual_seed(1)
    with verification.switched("never"):  # that is this test
        found = outcome(run, on(rnn, "gpu"), xs, state)
    assert_all_close(found, expected, precision or dtype)


@pytest.mark.share(3)
@pytest.mark.share(len(TAKEN))
@pytest.mark.parametrize("subject", TAKEN)
@pytest.mark.parametrize("run", ["plain", "lengths and resets", "mask"])
def test_loops_agree_with_the_reference(subject, run):
    agree(subject, RUNS[run])


SOME = "lstm gru layer-norm-lstm slstm-two-heads peephole-lstm recurrent-highway stack-feedback graph-tokens".split()


@pytest.mark.share(1)
@pytest.mark.parametrize("subject", SOME)
@pytest.mark.parametrize("tiling", [name for name in TILINGS if name != "as chosen"])
@pytest.mark.parametrize("run", ["plain", "lengths and resets"])
def test_however_kernels_are_cut(subject, tiling, run, cut):
    cut(tiling)
    short = {"lengths": torch.tensor([1, 3, 0]), "resets": RESETS[:3, :3]}
    agree(subject, given(**(short if run == "lengths and resets" else {})), torch.float64, 3, 3)


@pytest.mark.parametrize(("B", "T"), [(1, 1), (17, 3), (1, 5)])
def test_one_row_and_more_than_a_block_of_rows(B, T):
    agree("gru", whole, torch.float64, B, T)


def test_wider_than_a_tile():
    """Features that no tile holds, so that states lie in memory: 67 units, and products of 67 terms."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        rnn = td.Recurrent(td.LSTMCell(3, 67)).double()
    xs, state = sequence(rnn, 2, 3), random_state(rnn, 2)
    with verification.switched("never"):
        found = outcome(whole, on(rnn, "gpu"), xs, state)
    assert_all_close(found, outcome(whole, on(rnn, "reference"), xs, state))


def test_in_chunks():
    agree("stack-relay", chunked(1, 4, 2), torch.float64)


def test_products_in_bfloat16():
    def run(rnn, xs, state):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=rnn.engine == "gpu"):
            return rnn(xs, state, return_states=True)

    agree("lstm", run, precision=torch.bfloat16)


def test_second_derivatives_are_right():
    rnn = build("gru")
    xs, state = sequence(rnn, 2, 3).requires_grad_(), random_state(rnn, 2)

    def second(engine):
        ys, _ = on(rnn, engine)(xs, state)
        (first,) = torch.autograd.grad(ys.sin().sum(), xs, create_graph=True)
        return torch.autograd.grad(first.square().sum(), list(rnn.parameters()))

    for found, expected in zip(second("gpu"), second("reference"), strict=True):
        assert_close(found, expected)


def test_what_is_given_may_be_written_to():
    rnn = on(build("lstm"), "gpu")
    xs, state = sequence(rnn, 2, 3), random_state(rnn, 2)

    def gradient(write):
        ys, _ = rnn(xs, state)
        if write:
            ys += 1
        return torch.autograd.grad(ys.sum(), rnn.cell.weight_hh)[0]

    assert torch.equal(gradient(True), gradient(False))


def test_gradients_of_the_input_alone():
    rnn = build("layer-norm-lstm").requires_grad_(False)
    xs = sequence(rnn, 2, 3).requires_grad_()
    gradients = [torch.autograd.grad(on(rnn, e)(xs)[0].sin().sum(), xs)[0] for e in ("gpu", "reference")]
    assert_close(*gradients)


def test_gradients_of_initial_states_at_resets():
    rnn = build("lstm", learn_initial_state=True)
    xs = sequence(rnn, 4, 7)
    run = functools.partial(outcome, RUNS["lengths and resets"], xs=xs)
    assert_all_close(run(on(rnn, "gpu")), run(on(rnn, "reference")))


def with_sign_put_off(tensor):
    """The same numbers, whose sign PyTorch has not changed in memory yet."""
    return torch._neg_view(-tensor.detach())


def test_signs_that_were_put_off():
    rnn = build("lstm", learn_initial_state=True)
    xs, state = sequence(rnn, 4, 7), random_state(rnn, 4)
    run = RUNS["lengths and resets"]
    expected = outcome(run, on(rnn, "reference"), xs, state)
    for path, parameter in list(rnn.named_parameters()):
        holder, _, name = path.rpartition(".")
        setattr(rnn.get_submodule(holder), name, torch.nn.Parameter(with_sign_put_off(parameter)))
    with verification.switched("never"):
        found = outcome(run, on(rnn, "gpu"), with_sign_put_off(xs), map_state(with_sign_put_off, state))
    assert_all_close(found, expected)


@pytest.mark.parametrize("tiling", ["as chosen", "steps"])
def test_rows_that_32_bits_cannot_find(tiling, cut, monkeypatch):
    cut(tiling)
    monkeypatch.setattr(launches, "MOST_NUMBERS", 1)
    agree("lstm", RUNS["lengths and resets"], torch.float64)
