"""Steps that a mask does not take: each row is as the row without them, alone, in torch.nn and step by step."""

import itertools

import pytest
import torch
from torch import nn

import treadle as td
from tests.outcome import row_by_row
from tests.tolerances import assert_close
from treadle.errors import ShapeError
from treadle.state import map_state, named_tensors

MASK = torch.tensor(
    [
        [1, 1, 1, 1, 1, 1, 1],
        [0, 1, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 1],
        [1, 0, 1, 0, 1, 0, 1],
    ]
).bool()
RESETS = torch.zeros(6, 7, dtype=torch.bool)
RESETS[0, 3] = RESETS[1, 0] = RESETS[1, 2] = RESETS[1, 5] = RESETS[3, 4] = RESETS[5, 0] = RESETS[5, 2] = True
B, T = MASK.shape


def flat(ys, *parts):
    return [ys, *(tensor for part in parts for _, tensor in named_tensors(part))]


def gradients(results, leaves):
    torch.manual_seed(5)
    total = sum((torch.randn(one.shape, dtype=one.dtype) * one).sum() for one in results if one.is_floating_point())
    return torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)


def assert_same(found, expected, leaves):
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)
    for one, other in zip(gradients(found, leaves), gradients(expected, leaves), strict=True):
        assert_close(one, other)


def test_from_the_initial_state_a_learned_one_and_with_time_first():
    for learn, batch_first in itertools.product((False, True), (False, True)):
        rnn = td.Recurrent(td.Stack([td.LSTMCell(3, 4), td.GRUCell(4, 2)]), batch_first, learn_initial_state=learn)
        rnn.double()
        xs = torch.randn(B, T, 3, dtype=torch.float64, requires_grad=True)
        ys, end, every = rnn(xs if batch_first else xs.transpose(0, 1), mask=MASK, resets=RESETS, return_states=True)
        if not batch_first:
            ys, every = ys.transpose(0, 1), map_state(lambda part: part.transpose(0, 1), every)
        rnn.batch_first = True
        expected = row_by_row(None, RESETS, MASK)(rnn, xs, None)
        assert_same(flat(ys, end, every), flat(*expected), [xs, *rnn.parameters()])


def alone(network, xs, call):
    """What PyTorch's own network gives for each row without its holes; ``call`` makes rows of one for it."""
    outputs, ends = [], []
    for row, mask in enumerate(MASK):
        ys = xs.new_zeros(T, network.hidden_size * (2 if network.bidirectional else 1))
        end = None
        if mask.any():
            out, end = call(xs[row : row + 1, mask])
            ys = ys.index_copy(0, mask.nonzero()[:, 0], out[0])
        outputs.append(ys)
        ends.append(end)
    return torch.stack(outputs), ends


@pytest.mark.share(6)
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("engine", ["auto", "cpu"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_drop_ins_as_rows_alone_in_torch(kind, engine, both):
    theirs = getattr(nn, kind)(3, 4, num_layers=2, bidirectional=both, batch_first=True).double()
    ours = getattr(td, kind)(3, 4, num_layers=2, bidirectional=both, batch_first=True, engine=engine).double()
    ours.load_state_dict(theirs.state_dict())
    xs = torch.randn(B, T, 3, dtype=torch.float64, requires_grad=True)
    expected, ends = alone(theirs, xs, theirs)
    ys, hidden = ours(xs, mask=MASK)
    ys_again, hidden_again, every = ours(xs, mask=MASK, return_states=True)
    for found, last in ((ys, hidden), (ys_again, hidden_again)):
        assert_close(found, expected)
        parts = last if isinstance(last, tuple) else (last,)
        for row, end in enumerate(ends):
            for part, wanted in zip(parts, end if isinstance(end, tuple) else (end,), strict=False):
                assert_close(part[:, row], torch.zeros_like(part[:, row]) if wanted is None else wanted[:, 0])
    theirs_by_name = dict(theirs.named_parameters())
    own = gradients([ys], [xs, *ours.parameters()])
    wanted = gradients([expected], [xs, *(theirs_by_name[name] for name, _ in ours.named_parameters())])
    for one, other in zip(own, wanted, strict=True):
        assert_close(one, other)
    h = every[0] if isinstance(every, tuple) else every
    assert_close(h[-2 if both else -1, :, :, :], torch.where(MASK[..., None], ys[..., :4], h[-2 if both else -1]))


def test_one_sequence_and_packed_ones():
    rnn = td.LSTM(3, 4).double()
    xs, mask = torch.randn(T, 3, dtype=torch.float64), MASK[1]
    ys, (h, _) = rnn(xs, mask=mask)
    expected, (end, _) = rnn(xs[mask])
    assert_close(ys[mask], expected)
    assert not ys[~mask].any()
    assert_close(h, end)
    packed = nn.utils.rnn.pack_sequence([xs[:5], xs], enforce_sorted=False)
    ys, _ = nn.utils.rnn.pad_packed_sequence(rnn(packed, mask=MASK[[1, 5]])[0])
    assert_close(ys[:5, 0][MASK[1, :5]], rnn(xs[:5][MASK[1, :5]])[0])
    assert_close(ys[:, 1][MASK[5]], rnn(xs[MASK[5]])[0])


EXACT = [td.FullBPTT(), td.CheckpointedBPTT(memory="1kB"), td.CheckpointedBPTT()]


@pytest.mark.parametrize("method", EXACT, ids=repr)
def test_gradients_are_those_of_the_row_alone(method):
    rnn = td.Recurrent(td.Stack([td.LSTMCell(3, 4), td.GRUCell(4, 3)]), gradient=method).double()
    xs = torch.randn(B, T, 3, dtype=torch.float64, requires_grad=True)
    ys, end, every = rnn(xs, mask=MASK, resets=RESETS, return_states=True)
    found, expected = [], []
    for row, mask in enumerate(MASK):
        if mask.any():
            one, last, moments = rnn(xs[row : row + 1, mask], resets=RESETS[row : row + 1, mask], return_states=True)
            expected += [one[0], last["layer0"].c[0], last["layer1"].h[0], moments["layer0"].c[0]]
            found += [ys[row, mask], end["layer0"].c[row], end["layer1"].h[row], every["layer0"].c[row, mask]]
    assert_same(found, expected, [xs, *rnn.parameters()])


@pytest.mark.parametrize("last", [MASK.shape[1], 4], ids=["a row to the end", "padding behind all"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_truncated_gradients_are_those_of_windows(steps, last):
    """Blocks are where they are without a mask: a step that is not taken counts."""
    mask = MASK & (torch.arange(T) < last)
    rnn = td.Recurrent(td.Stack([td.LSTMCell(3, 4), td.GRUCell(4, 3)])).double()
    xs = torch.randn(B, T, 3, dtype=torch.float64, requires_grad=True)
    rnn.gradient = td.TruncatedBPTT(steps)
    found, _ = rnn(xs, mask=mask, resets=RESETS)
    rnn.gradient, state, windows = td.FullBPTT(), None, []
    for begin in range(0, T, steps):
        part = slice(begin, begin + steps)
        ys, state = rnn(xs[:, part], state, resets=RESETS[:, part], mask=mask[:, part])
        state = td.detach(state)
        windows.append(ys)
    assert_same([found], [torch.cat(windows, 1)], [xs, *rnn.parameters()])


def test_what_lies_in_holes_does_not_matter():
    for network in (td.Recurrent(td.LSTMCell(3, 4)), td.Reversed(td.LSTMCell(3, 4)), td.LSTM(3, 4, batch_first=True)):
        xs = torch.randn(B, T, 3)
        clean, _ = network(xs, mask=MASK)
        dirty = torch.where(MASK[..., None], xs, torch.nan).requires_grad_()
        ys, _ = network(dirty, mask=MASK)
        assert torch.equal(ys, clean)
        ys.sum().backward()
        assert not dirty.grad[~MASK].any()


@pytest.mark.parametrize("return_states", [False, True])
def test_holes_at_the_end_are_lengths(return_states):
    lengths = torch.tensor([7, 0, 3, 1, 6, 7])
    mask = torch.arange(T) < lengths[:, None]
    cell = td.GRUCell(3, 4).double()
    networks = (td.Recurrent(cell), td.Reversed(cell), td.Bidirectional(cell, cell), td.GRU(3, 4, 2, batch_first=True))
    xs = torch.randn(B, T, 3, dtype=torch.float64)
    for network in networks:
        for resets in (None, RESETS):
            network.double()
            by_mask = network(xs, mask=mask, resets=resets, return_states=return_states)
            by_lengths = network(xs, lengths=lengths, resets=resets, return_states=return_states)
            for one, other in zip(flat(*by_mask), flat(*by_lengths), strict=True):
                assert torch.equal(one, other)


def test_lengths_and_a_mask():
    rnn, lengths = td.Recurrent(td.LSTMCell(3, 4)), [7, 5, 3, 2, 7, 4]
    xs = torch.randn(B, T, 3)
    both = MASK & (torch.arange(T) < torch.tensor(lengths)[:, None])
    for one, other in zip(flat(*rnn(xs, lengths=lengths, mask=MASK)), flat(*rnn(xs, mask=both)), strict=True):
        assert torch.equal(one, other)


def test_chunks_are_the_whole():
    rnn = td.Recurrent(td.Stack([td.LSTMCell(3, 4), td.GRUCell(7, 3)], wiring="skip")).double()
    xs = torch.randn(B, T, 3, dtype=torch.float64)
    whole = rnn(xs, None, None, RESETS, True, MASK)
    state, pieces, moments = None, [], []
    for part in ([0, 1, 2], [3], [4, 5, 6]):
        ys, state, every = rnn(xs[:, part], state, None, RESETS[:, part], True, MASK[:, part])
        pieces.append(ys)
        moments.append(every)
    chunked = torch.cat(pieces, 1), state, map_state(lambda *parts: torch.cat(parts, 1), *moments)
    for one, other in zip(flat(*chunked), flat(*whole), strict=True):
        assert_close(one, other)


def test_gradcheck_compiled():
    rnn = td.Recurrent(td.LSTMCell(2, 3), engine="cpu").double()
    xs = torch.randn(3, 5, 2, dtype=torch.float64, requires_grad=True)
    state = tuple(torch.randn(3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    mask = MASK[[1, 2, 5], :5]

    def run(xs, h, c):
        return tuple(flat(*rnn(xs, td.LSTMState(h, c), None, None, True, mask)))

    assert torch.autograd.gradcheck(run, (xs, *state))
    assert torch.autograd.gradgradcheck(lambda *given: run(*given)[0], (xs, *state))


def test_no_steps_no_rows_and_tokens():
    rnn = td.Recurrent(td.GRUCell(3, 4))
    for shape in ((2, 0), (0, 3), (0, 0)):
        ys, state, every = rnn(torch.randn(*shape, 3), mask=torch.ones(shape, dtype=torch.bool), return_states=True)
        assert ys.shape == (*shape, 4)
        assert every.h.shape == (*shape, 4)
        assert state.h.shape == (shape[0], 4)
    graph = td.Graph(())
    graph.outputs(graph.add("layer", td.GRUCell(2, 3), reads=graph.add("embedded", nn.Embedding(9, 2), reads=graph.x)))
    tokens = torch.randint(9, (B, T))
    ys, _ = td.Recurrent(graph)(torch.where(MASK, tokens, -1), mask=MASK)  # -1 is no token
    assert_close(ys[1][MASK[1]], td.Recurrent(graph)(tokens[1:2, MASK[1]])[0][0])


def test_masks_that_do_not_fit():
    xs = torch.randn(B, T, 3)
    networks = (
        td.Recurrent(td.GRUCell(3, 4)), td.Reversed(td.GRUCell(3, 4)), td.GRU(3, 4, batch_first=True),
        td.Bidirectional(td.GRUCell(3, 4), td.GRUCell(3, 4)),
    )  # fmt: skip
    for network in networks:
        with pytest.raises(ShapeError, match=r"a mask is booleans \[6, 7\], .*: pass mask.T"):
            network(xs, mask=MASK.T)
        with pytest.raises(
            ShapeError, match=r"a mask is booleans \[6, 7\], .* torch.float32 were passed; pass mask.bool"
        ):
            network(xs, mask=MASK.float())
        with pytest.raises(ShapeError, match=r"but \[6, 6\] of torch.bool were passed$"):
            network(xs, mask=MASK[:, :6])
    assert torch.equal(networks[0](xs, mask=MASK.tolist())[0], networks[0](xs, mask=MASK)[0])


@pytest.mark.slow
def test_compiled_and_exported(tmp_path):
    rnn = td.Recurrent(td.LSTMCell(3, 4)).eval()
    xs = torch.randn(B, T, 3)
    expected = flat(*rnn(xs, None, None, RESETS, True, MASK))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = rnn

        def forward(self, xs, mask, resets):
            return tuple(flat(*self.rnn(xs, resets=resets, mask=mask, return_states=True)))

    compiled = torch.compile(Model(), fullgraph=True, backend="aot_eager")
    steps, rows = torch.export.Dim("T", min=2), torch.export.Dim("B", min=2)
    axes = {0: rows, 1: steps}
    exported = torch.export.export(
        Model(), (xs, MASK, RESETS), dynamic_shapes={"xs": axes, "mask": axes, "resets": axes}
    ).module()
    leaves = [xs.requires_grad_(), *rnn.parameters()]
    for one, other in zip(
        gradients(compiled(xs, MASK, RESETS), leaves),
        gradients(flat(*rnn(xs, None, None, RESETS, True, MASK)), leaves),
        strict=True,
    ):
        assert_close(one, other)
    for found in (compiled(xs, MASK, RESETS), exported(xs, MASK, RESETS)):
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)
    short = exported(xs[:3, :5], MASK[:3, :5], RESETS[:3, :5])
    for one, other in zip(short, flat(*rnn(xs[:3, :5], None, None, RESETS[:3, :5], True, MASK[:3, :5])), strict=True):
        assert_close(one, other)


def test_values_are_recorded():
    cell = td.LSTMCell(3, 4)
    networks = (
        td.Recurrent(cell), td.Reversed(cell), td.Bidirectional(cell, cell),
        td.LSTM(3, 4, 2, batch_first=True, bidirectional=True),
    )  # fmt: skip
    xs = torch.randn(B, T, 3)
    for network in networks:
        ys, _, every = network(xs, None, None, RESETS, True, MASK)
        values = td.record(network, xs, None, None, RESETS, MASK)
        assert_close(values["y"], ys)
        forget = values[next(name for name in values if name.endswith("forget"))]
        assert not forget[~MASK].any()
        assert forget[MASK].all()
        if isinstance(network, td.Recurrent | td.Reversed):
            assert_close(values["c"], every.c)


def test_the_last_output_is_repeated():
    rnn, xs = td.Recurrent(td.GRUCell(3, 4)), torch.randn(B, T, 3)
    ys, state = rnn(xs, mask=MASK)
    repeated = td.repeat_last(ys, MASK)
    for row, t in itertools.product(range(B), range(T)):
        taken = MASK[row, : t + 1].nonzero()[:, 0]
        assert torch.equal(repeated[row, t], ys[row, taken[-1]] if len(taken) else torch.zeros(4))
    assert torch.equal(repeated[:, -1], state.h)
    assert torch.equal(td.repeat_last(ys.transpose(0, 1), MASK, batch_first=False), repeated.transpose(0, 1))
    lengths = [7, 0, 3, 1, 6, 7]
    ys, state = rnn(xs, lengths=lengths)
    assert torch.equal(td.repeat_last(ys, lengths=lengths)[:, -1], state.h)
    assert torch.equal(td.repeat_last(ys), ys)


def test_as_keras_does_it(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")  # before the first import
    keras = pytest.importorskip("keras", reason="Keras is not installed: pip install keras")
    if keras.backend.backend() != "torch":
        pytest.skip("Keras runs on another backend here")
    layer = keras.layers.LSTM(4, return_sequences=True, return_state=True)
    layer.build((None, T, 3))
    cell = td.LSTMCell(3, 4)
    kernel, recurrent, bias = (torch.tensor(one) for one in layer.get_weights())
    cell.load_state_dict(
        {"weight_ih": kernel.T, "weight_hh": recurrent.T, "bias_ih": bias, "bias_hh": torch.zeros_like(bias)}
    )
    xs = torch.randn(B, T, 3)
    with torch.no_grad():
        expected, h, c = (torch.as_tensor(one) for one in layer(xs, mask=MASK))
        ys, state = td.Recurrent(cell)(xs, mask=MASK)
    torch.testing.assert_close(td.repeat_last(ys, MASK), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(state.h, h, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(state.c, c, atol=1e-6, rtol=1e-5)
