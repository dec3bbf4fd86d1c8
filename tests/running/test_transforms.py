"""Many gradients at once, and `torch.func`: kernels have no rule for either, and the numbers are those of PyTorch."""

import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian, jacobian
from torch.func import functional_call, grad, jacfwd, jacrev, vmap

import treadle as td
from tests.registry import build, sequence
from tests.tolerances import assert_all_close, assert_close

# Some of PyTorch's own operations have no rule either, and it says so.
pytestmark = pytest.mark.filterwarnings(
    "ignore:There is a performance drop:UserWarning", "ignore:`torch.jit.script` is deprecated"
)

LENGTHS = torch.tensor([3, 1])
RESETS = torch.tensor([[False, True, False], [False, False, False]])


def last(rnn, xs, **options):
    return rnn(xs, **options)[0][:, -1].sum(0)


@pytest.mark.share(9)
@pytest.mark.parametrize("options", [{}, {"lengths": LENGTHS}, {"resets": RESETS}], ids=["whole", "lengths", "resets"])
@pytest.mark.parametrize("gradient", [td.FullBPTT(), td.TruncatedBPTT(2, 3), td.CheckpointedBPTT(memory=1)], ids=str)
@pytest.mark.parametrize("subject", ["lstm", "stack-lateral"])
def test_many_gradients_at_once_are_those_of_one_after_another(subject, gradient, options):
    rnn = build(subject, gradient=gradient, engine="cpu", learn_initial_state=True)
    xs = sequence(rnn, 2, 3)
    expected = jacobian(lambda xs: last(rnn, xs, **options), xs)
    assert_close(jacobian(lambda xs: last(rnn, xs, **options), xs, vectorize=True), expected)
    names, parameters = zip(*rnn.named_parameters(), strict=True)
    y = last(rnn, xs, **options)
    rows = torch.eye(len(y), dtype=y.dtype)
    batched = torch.autograd.grad(y, parameters, rows, is_grads_batched=True, retain_graph=True)
    single = [torch.autograd.grad(y, parameters, row, retain_graph=True) for row in rows]
    expected = {name: torch.stack(one) for name, one in zip(names, zip(*single, strict=True), strict=True)}
    assert_all_close(dict(zip(names, batched, strict=True)), expected)


def test_second_derivatives_many_at_once():
    rnn = build("gru")
    xs = sequence(rnn, 1, 2)
    reference = td.Recurrent(rnn.cell, engine="reference")
    expected = hessian(lambda xs: reference(xs)[0].pow(2).sum(), xs)
    assert_close(hessian(lambda xs: rnn(xs)[0].pow(2).sum(), xs, vectorize=True), expected)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_dropins_under_vmap(kind):
    """PyTorch's own raise under vmap; ours are what a loop over its rows would give."""
    network = getattr(td, kind)(3, 4, 2, batch_first=True).double()
    theirs = getattr(nn, kind)(3, 4, 2, batch_first=True).double()
    theirs.load_state_dict(network.state_dict())
    many = torch.randn(3, 2, 5, 3, dtype=torch.float64)

    def loss(xs):
        return network(xs)[0].pow(2).sum()

    leaves = [xs.clone().requires_grad_() for xs in many]
    expected = torch.stack([torch.autograd.grad(theirs(xs)[0].pow(2).sum(), xs)[0] for xs in leaves])
    assert_close(vmap(lambda xs: network(xs)[0])(many), torch.stack([theirs(xs)[0] for xs in many]))
    assert_close(vmap(grad(loss))(many), expected)
    assert_close(jacrev(loss)(many[0]), expected[0])
    assert_close(jacfwd(loss)(many[0]), expected[0])
    lengths = torch.tensor([5, 2])
    expected = torch.stack([network(xs, lengths=lengths)[0] for xs in many])
    assert_close(vmap(lambda xs: network(xs, lengths=lengths)[0])(many), expected)


def test_a_gradient_for_each_sample_and_an_ensemble():
    network = td.LSTM(3, 4, batch_first=True).double()
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    xs = torch.randn(3, 5, 3, dtype=torch.float64)

    def loss(given, x):
        return functional_call(network, given, (x[None],))[0].pow(2).sum()

    found = vmap(grad(loss), in_dims=(None, 0))(parameters, xs)
    single = [torch.autograd.grad(network(x[None])[0].pow(2).sum(), list(network.parameters())) for x in xs]
    expected = {name: torch.stack(one) for name, one in zip(parameters, zip(*single, strict=True), strict=True)}
    assert_all_close(found, expected)
    several = {name: torch.stack([p, 2 * p]) for name, p in parameters.items()}
    found = vmap(lambda given: functional_call(network, given, (xs,))[0])(several)
    twice = {name: 2 * p for name, p in parameters.items()}
    assert_close(found, torch.stack([network(xs)[0], functional_call(network, twice, (xs,))[0]]))
