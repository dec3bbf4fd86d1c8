"""Cells whose parameters take their sizes from what they read first."""

import pytest
import torch
from torch import nn

import treadle as td
from tests.tolerances import assert_close


class Lazy(nn.Module):
    input_size = 3

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*(layers or (nn.LazyLinear(4),)))

    def initial_state(self, batch_size):
        return (torch.zeros(batch_size, 4),)

    def forward(self, x, state):
        h = torch.tanh(self.layers(torch.cat([x, state[0]], 1)))
        return h, (h,)


def seeded_run(engine, cell, xs, **options):
    torch.manual_seed(3)
    rnn = td.Recurrent(cell, engine=engine, **options)
    rnn(xs)[0].sum().backward()
    return rnn


@pytest.mark.parametrize("engine", ["auto", "cpu", "interpreter"])
@pytest.mark.parametrize(
    "options",
    [{}, {"gradient": td.TruncatedBPTT(2)}, {"gradient": td.CheckpointedBPTT(1)}, {"learn_initial_state": True}],
)
def test_the_first_call_gives_them_their_sizes(engine, options):
    xs = torch.randn(2, 5, 3)
    found, expected = seeded_run(engine, Lazy(), xs, **options), seeded_run("reference", Lazy(), xs, **options)
    for a, b in zip(found.parameters(), expected.parameters(), strict=True):
        assert torch.equal(a, b)  # drawn alike
        assert_close(a.grad, b.grad)
    assert td.explain(found).engine == ("cpu" if engine == "auto" else engine)


def test_the_step_that_gives_sizes_is_no_step_of_training():
    cell = Lazy(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.Dropout(0.5))
    rnn = td.Recurrent(cell)
    rnn.materialise(torch.randn(2, 3))
    assert cell.layers[1].num_batches_tracked == 0
    assert all(module.training for module in rnn.modules())


def test_whoever_asks_first_gives_them_their_sizes():
    xs = torch.randn(2, 5, 3)
    rnn = td.Recurrent(Lazy())
    assert td.explain(rnn).engine == "cpu"
    rnn = td.Recurrent(Lazy())
    ys = rnn.session(2).steps(xs)
    assert_close(ys, rnn(xs)[0])
    rnn = td.Recurrent(Lazy())
    y, _ = rnn.step(xs[:, 0])
    assert_close(y, rnn(xs)[0][:, 0])
    assert td.check_cell(Lazy())
