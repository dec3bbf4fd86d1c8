"""Networks that are gone leave nothing behind: neither machine code nor what it was made from."""

import gc
import threading
import weakref

import pytest
import torch

import treadle as td
from tests.registry import LEFT_OUT, SUBJECTS, build, sequence
from treadle.compiler.program import value
from treadle.engines import network as networks
from treadle.engines.cpu.machine import compilation
from treadle.engines.cpu.plan import chain as chains
from treadle.engines.cpu.plan.kernel import CompiledKernel
from treadle.engines.stages import staged

kernels: "weakref.WeakSet[CompiledKernel]" = weakref.WeakSet()


@pytest.fixture(autouse=True)
def counted(monkeypatch):
    make = CompiledKernel.__init__

    def counting(self, *given):
        make(self, *given)
        kernels.add(self)

    monkeypatch.setattr(CompiledKernel, "__init__", counting)
    gc.collect()


def use(rnn):
    """Train it, with and without lengths, and run it live."""
    xs = sequence(rnn)
    for options in ({}, {"lengths": torch.tensor([7, 0, 3])}):
        ys, _ = rnn(xs, **options)
        ys.sum().backward()
    session = rnn.session(3)
    session.step(xs[:, 0])
    session.steps(xs)


@pytest.mark.share(4)
@pytest.mark.parametrize("subject", [name for name in SUBJECTS if name not in LEFT_OUT])
def test_code_goes_with_its_network(subject):
    use(build(subject))  # what all networks share is there from now on
    gc.collect()
    libraries, values = len(compilation._libraries), len(value._values)
    rnn = build(subject)
    use(rnn)
    assert kernels
    gone = weakref.ref(rnn.cell)
    del rnn
    gc.collect()
    assert gone() is None
    assert not kernels
    assert len(compilation._libraries) == libraries
    assert len(value._values) == values


@pytest.mark.slow
def test_many_networks_of_other_sizes():
    counts, sizes = [], range(3, 15)
    for size in [*sizes, *sizes]:  # the second time, what all networks share is there
        rnn = td.Recurrent(td.GRUCell(2, size))
        rnn(torch.ones(1, 3, 2))[0].sum().backward()
        del rnn
        gc.collect()
        counts.append((len(compilation._libraries), len(value._values), len(kernels)))
    assert len(set(counts[len(sizes) :])) == 1


def test_code_stays_while_a_backward_pass_may_come():
    rnn = td.Recurrent(td.LSTMCell(3, 6)).double()
    xs = torch.randn(2, 7, 3, dtype=torch.float64)
    ys = td.Recurrent(rnn.cell, engine="reference")(xs)[0]
    expected = torch.autograd.grad(ys.sum(), list(rnn.parameters()))
    ys = rnn(xs)[0]
    parameters = list(rnn.parameters())
    del rnn
    gc.collect()
    found = torch.autograd.grad(ys.sum(), parameters)
    torch.testing.assert_close(found, expected)
    del ys
    gc.collect()
    assert not kernels


def test_code_stays_while_a_session_lives():
    rnn = td.Recurrent(td.LSTMCell(3, 6))
    session, x = rnn.session(), torch.randn(1, 3)
    expected = rnn.step(x)[0]
    del rnn
    gc.collect()
    torch.testing.assert_close(session.step(x), expected)
    session.reset()
    torch.testing.assert_close(torch.from_numpy(session.step(x.numpy())), expected)


def test_recipes_that_are_forgotten_do_not_free_what_others_need(monkeypatch):
    monkeypatch.setattr(chains, "_MOST_RECIPES", 1)
    rnn = td.Recurrent(td.LSTMCell(3, 6), engine="cpu")
    results = []
    for T in (3, 5, 3):
        ys, _ = rnn(torch.ones(2, T, 3))
        results.append(ys)
    gc.collect()
    for ys in results:
        ys.sum().backward()
    network = networks.network_of(rnn.cell, torch.ones(2, 3), rnn.initial_state(2))
    assert all(len(one._recipes) == 1 for _, one in staged(network, td.engines.ENGINES["cpu"], None, False).runners)


def test_code_is_freed_later_if_another_thread_makes_some():
    rnn = td.Recurrent(td.GRUCell(2, 21), engine="cpu")
    rnn(torch.ones(1, 3, 2))
    ready, go_on = threading.Event(), threading.Event()

    def make():
        with compilation.MAKING:
            ready.set()
            go_on.wait(60)

    thread = threading.Thread(target=make)
    thread.start()
    ready.wait(60)
    del rnn
    gc.collect()
    assert not kernels
    assert compilation._gone
    go_on.set()
    thread.join()
    use(td.Recurrent(td.GRUCell(2, 22), engine="cpu").double())
    assert not compilation._gone
