"""Passes that are bound to where parameters lie: the same bits as the first call, and whatever moves is noticed."""

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import nn

import treadle as td
from treadle.engines.cpu.plan.bound_backward import BoundBackward
from treadle.engines.cpu.plan.bound_forward import BoundForward

TIMES = 6


@pytest.fixture
def bound(monkeypatch):
    """How many forward and backward passes were bound ones."""
    count = [0, 0]

    def counted(kind, i):
        run = kind.run

        def counting(self, *given):
            count[i] += 1
            return run(self, *given)

        monkeypatch.setattr(kind, "run", counting)

    monkeypatch.setenv("TREADLE_VERIFY", "never")
    counted(BoundForward, 0)
    counted(BoundBackward, 1)
    return count


def drop_in(kind: Any = td.LSTM, **options: Any) -> Any:
    torch.manual_seed(1)
    return kind(3, 5, 2, engine="cpu", **options)


def parts(hx):
    return hx if isinstance(hx, tuple) else (hx,)


def all_of(ys, hx):
    return [ys, *parts(hx)]


def gradients(network, xs, hx=None, of=all_of):
    """What a call gives, and the gradients of all that it reads."""
    xs = xs.detach().requires_grad_()
    hx = hx if hx is None else tuple(part.detach().requires_grad_() for part in hx)
    given = network(xs, hx)
    losses = [(one * torch.arange(one.numel()).view(one.shape)).sum() for one in of(*given)]
    found = torch.autograd.grad(losses, [xs, *network.parameters(), *(hx or ())], allow_unused=True)
    return [given[0], *parts(given[1]), *(gradient for gradient in found if gradient is not None)]


def assert_same_bits(given, expected):
    assert len(given) == len(expected)
    for one, other in zip(given, expected, strict=True):
        assert torch.equal(one, other)
        assert one.stride() == other.stride()


@pytest.mark.parametrize("kind", [td.LSTM, td.GRU, td.RNN])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"batch_first": True}, {"dtype": torch.float64}], ids=str)
def test_gives_the_same_bits(kind, options, bound):
    network, xs = drop_in(kind, **options), torch.randn(9, 4, 3, dtype=options.get("dtype"))
    first = gradients(network, xs)
    for _ in range(TIMES):
        assert_same_bits(gradients(network, xs), first)
    assert min(bound) >= 2


@pytest.mark.parametrize("of", [lambda ys, hx: [hx[0]], lambda ys, hx: [hx[1]], lambda ys, hx: [ys, hx[1][1]]])
def test_gradients_of_final_states_alone(of, bound):
    network, xs, hx = drop_in(), torch.randn(9, 4, 3), [torch.randn(2, 4, 5) for _ in "hc"]
    theirs = nn.LSTM(3, 5, 2)
    theirs.load_state_dict(network.state_dict())
    expected = gradients(theirs, xs, hx, of)
    for _ in range(TIMES):
        for one, other in zip(gradients(network, xs, hx, of), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert min(bound) >= 2


def test_a_layer_that_learns_nothing(bound):
    """Its final states have gradients from above that nobody reads."""
    networks, xs, hx = [drop_in(), nn.LSTM(3, 5, 2)], torch.randn(9, 4, 3), [torch.randn(2, 4, 5) for _ in "hc"]
    networks[1].load_state_dict(networks[0].state_dict())
    above = [torch.randn(9, 4, 5), torch.randn(2, 4, 5), torch.randn(2, 4, 5)]

    def gradient(network):
        network.weight_ih_l0.requires_grad = network.weight_hh_l0.requires_grad = False
        network.bias_ih_l0.requires_grad = network.bias_hh_l0.requires_grad = False
        wanted = [network.weight_ih_l1, network.weight_hh_l1, network.bias_ih_l1]
        return torch.autograd.grad(all_of(*network(xs, hx)), wanted, above)

    expected = gradient(networks[1])
    for _ in range(TIMES):
        for one, other in zip(gradient(networks[0]), expected, strict=True):
            torch.testing.assert_close(one, other)
    assert min(bound) >= 2


def test_final_states_are_memory_of_their_own(bound):
    network, xs = drop_in(), torch.randn(9, 4, 3)
    with torch.no_grad():
        for _ in range(TIMES):
            ys, (h, c) = network(xs)
            assert h.is_contiguous() and c.is_contiguous() and h.shape == c.shape == (2, 4, 5)  # noqa: PT018
            kept = ys.clone()
            h.fill_(7)
            assert torch.equal(ys, kept)
            assert not (c == 7).any()


def test_strides_of_axes_of_one_are_anything(bound):
    network, xs = drop_in(), torch.randn(9, 1, 3)
    first = gradients(network, xs)
    for _ in range(TIMES):
        gradients(network, xs)
    other = torch.empty(1, 9, 3).copy_(xs.transpose(0, 1)).transpose(0, 1)
    assert other.is_contiguous()
    assert other.stride() != xs.stride()
    assert_same_bits(gradients(network, other), first)
    assert_same_bits(gradients(network, torch.stack([xs, xs], 3)[..., 0]), first)


def test_parameters_that_move_between_the_passes_are_read_where_they_are(bound):
    def gradient(network, xs, moves):
        ys, _ = network(xs)
        if moves:
            network.weight_hh_l0.data = 2 * network.weight_hh_l0.data
        return torch.autograd.grad(ys.square().sum(), network.weight_hh_l0)[0]

    xs, network = torch.randn(9, 4, 3), drop_in()
    expected = gradient(copy.deepcopy(network), xs, True)
    before = [gradient(network, xs, False) for _ in range(TIMES)][-1]
    assert min(bound) >= 2
    assert torch.equal(gradient(network, xs, True), expected)
    assert not torch.equal(expected, before)


def test_a_change_in_place_is_pytorchs_error(bound):
    network, xs = drop_in(), torch.randn(9, 4, 3)
    for _ in range(TIMES):
        ys, _ = network(xs)
        ys.sum().backward()
    ys, _ = network(xs)
    with torch.no_grad():
        network.weight_hh_l1.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        ys.sum().backward()


def test_the_same_gradient_of_two_parameters_is_two_tensors(bound):
    network, xs = drop_in(), torch.randn(9, 4, 3)
    for _ in range(TIMES):
        network.zero_grad()
        network(xs)[0].sum().backward()
        assert torch.equal(network.bias_ih_l0.grad, network.bias_hh_l0.grad)
        kept = network.bias_hh_l0.grad.clone()
        network.bias_ih_l0.grad += 1
        assert torch.equal(network.bias_hh_l0.grad, kept)
    assert min(bound) >= 2


def test_gradients_outlive_the_calls_after_them(bound):
    """Each in memory of its own, of the size that it has."""
    network, xs = drop_in(), torch.randn(9, 4, 3)
    for _ in range(TIMES):
        found = gradients(network, xs)
        kept = [one.clone() for one in found]
        assert all(one.untyped_storage().nbytes() == one.nbytes for one in found)
        gradients(network, 2 * xs)
        assert_same_bits(found, kept)


def test_derivatives_of_derivatives_and_many_at_once(bound):
    network, xs = drop_in(td.GRU, dtype=torch.float64), torch.randn(9, 2, 3, dtype=torch.float64)
    theirs = nn.GRU(3, 5, 2, dtype=torch.float64)
    theirs.load_state_dict(network.state_dict())

    def second(network):
        x = xs.detach().requires_grad_()
        ys, h = network(x)
        (first,) = torch.autograd.grad(ys.square().sum() + h.sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), [x, network.weight_hh_l0])

    for _ in range(TIMES):
        gradients(network, xs)
    for one, other in zip(second(network), second(theirs), strict=True):
        torch.testing.assert_close(one, other)
    many = []
    for one in (network, theirs):
        x = xs.detach().requires_grad_()
        ys, h = one(x)
        above = torch.ones(3, *ys.shape, dtype=xs.dtype), torch.ones(3, *h.shape, dtype=xs.dtype)
        many += torch.autograd.grad([ys, h], x, above, is_grads_batched=True)
    torch.testing.assert_close(*many)


def test_what_autograd_saves_may_come_back_from_elsewhere(bound):
    network, xs = drop_in(), torch.randn(9, 4, 3)
    first = gradients(network, xs)
    for _ in range(TIMES):
        gradients(network, xs)
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda tensor: tensor.clone()):
        assert_same_bits(gradients(network, xs), first)
    assert_same_bits(gradients(network, xs), first)


def test_keeps_no_parameter_alive(bound):
    network, xs = drop_in(), torch.randn(9, 4, 3)
    for _ in range(TIMES):
        gradients(network, xs)
    gone = weakref.ref(network.weight_hh_l1)
    network.weight_hh_l1 = nn.Parameter(torch.randn(20, 5))
    network(xs)
    gc.collect()
    assert gone() is None


def test_hooks_on_the_network_inside_are_called(bound):
    network, xs, called = drop_in(), torch.randn(9, 4, 3), []
    for _ in range(TIMES):
        network(xs)
    network.recurrent().register_forward_hook(lambda *given: called.append(1))
    network(xs)
    assert called == [1]
