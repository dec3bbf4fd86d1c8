"""The drop-ins against `torch.nn`'s own modules, and their additions against plain loops over rows."""

import copy
import io
import itertools
import pickle
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import treadle as td
from tests.tolerances import assert_close
from treadle import engines

T, B, I, H = 6, 4, 3, 5
LENGTHS = [6, 1, 3, 2]

VARIANTS = [
    (kind, options | size)
    for kind, options in [
        ("LSTM", {}),
        ("LSTM", {"proj_size": 2}),
        ("LSTM", {"bias": False}),
        ("GRU", {}),
        ("GRU", {"bias": False}),
        ("RNN", {}),
        ("RNN", {"nonlinearity": "relu", "bias": False}),
    ]
    for size in [
        {"num_layers": layers, "bidirectional": bidirectional, "batch_first": layers % 2 == 0}
        for layers in (1, 2, 3, 4)
        for bidirectional in (False, True)
    ]
]


def twins(kind, options, **own):
    """A module of torch.nn and its drop-in with the same weights, in float64."""
    theirs = getattr(nn, kind)(I, H, dtype=torch.float64, **options)
    ours = getattr(td, kind)(I, H, dtype=torch.float64, **options, **own)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def some_input(options, rows=B, steps=T):
    shape = (rows, steps, I) if options.get("batch_first") else (steps, rows, I)
    return torch.randn(shape, dtype=torch.float64)


def some_hx(kind, options, rows=B):
    layers = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    h = torch.randn(layers, rows, options.get("proj_size") or H, dtype=torch.float64)
    return (h, torch.randn(layers, rows, H, dtype=torch.float64)) if kind == "LSTM" else h


def flat(result):
    """All tensors of a result, in order."""
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, nn.utils.rnn.PackedSequence):
        return [result.data]
    return [tensor for part in result for tensor in flat(part)]


def assert_same_with_gradients(theirs, ours, run_theirs, run_ours, leaves):
    """Equal results, and equal gradients of a random weighting of all results, for leaves and parameters."""
    expected, actual = flat(run_theirs(theirs)), flat(run_ours(ours))
    assert len(actual) == len(expected)
    weights = [torch.randn_like(tensor) for tensor in expected]
    gradients = []
    for module, results in ((theirs, expected), (ours, actual)):
        total = sum((w * r).sum() for w, r in zip(weights, results, strict=True))
        gradients.append(torch.autograd.grad(total, [*leaves, *module.parameters()]))
    for e, a in zip([*expected, *gradients[0]], [*actual, *gradients[1]], strict=True):
        assert_close(a, e)


@pytest.mark.share(30)
@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize(("kind", "options"), VARIANTS)
def test_equals_torch_in_values_and_gradients(kind, options, engine):
    theirs, ours = twins(kind, options, engine=engine)
    x, hx = some_input(options).requires_grad_(), some_hx(kind, options)
    given = [x, *(part.requires_grad_() for part in flat(hx))]
    assert_same_with_gradients(theirs, ours, lambda m: m(x, hx), lambda m: m(x, hx), given)
    assert_same_with_gradients(theirs, ours, lambda m: m(x), lambda m: m(x), [x])


@pytest.mark.share(20)
@pytest.mark.parametrize("sort", [False, True])
@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize(("kind", "options"), VARIANTS[::3])
def test_equals_torch_on_packed_sequences(kind, options, engine, sort):
    theirs, ours = twins(kind, options, engine=engine)
    x, hx = some_input(options).requires_grad_(), some_hx(kind, options)
    lengths = sorted(LENGTHS, reverse=True) if sort else LENGTHS
    pack = partial(pack_padded_sequence, lengths=lengths, batch_first=options["batch_first"], enforce_sorted=sort)
    assert_same_with_gradients(theirs, ours, lambda m: m(pack(x), hx), lambda m: m(pack(x), hx), [x])
    packed, theirs_packed = ours(pack(x))[0], theirs(pack(x))[0]
    for ours_part, theirs_part in zip(packed[1:], theirs_packed[1:], strict=True):
        assert (ours_part is None and theirs_part is None) or torch.equal(ours_part, theirs_part)


@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize(("kind", "options"), VARIANTS[::5])
def test_equals_torch_without_a_batch(kind, options, engine):
    theirs, ours = twins(kind, options, engine=engine)
    x = torch.randn(T, I, dtype=torch.float64, requires_grad=True)
    hx = some_hx(kind, options)
    hx = tuple(part[:, 0] for part in hx) if isinstance(hx, tuple) else hx[:, 0]
    assert_same_with_gradients(theirs, ours, lambda m: m(x, hx), lambda m: m(x, hx), [x])


@pytest.mark.share(16)
@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize(("kind", "options"), VARIANTS[::2])
def test_lengths_are_what_packing_does_and_padding_may_hold_anything(kind, options, engine):
    theirs, ours = twins(kind, options, engine=engine)
    x, hx = some_input(options), some_hx(kind, options)
    garbage = x.clone()
    for row, length in enumerate(LENGTHS):
        (garbage if options["batch_first"] else garbage.transpose(0, 1))[row, length:] = torch.nan
    x.requires_grad_()
    garbage.requires_grad_()

    def packed(module):
        output, hidden = module(pack_padded_sequence(x, LENGTHS, options["batch_first"], enforce_sorted=False), hx)
        return pad_packed_sequence(output, options["batch_first"], total_length=T)[0], hidden

    expected, actual = flat(packed(theirs)), flat(ours(garbage, hx, lengths=torch.tensor(LENGTHS)))
    for e, a in zip(expected, actual, strict=True):
        assert_close(a, e)
    ours.zero_grad()
    sum(tensor.sum() for tensor in actual).backward()
    sum(tensor.sum() for tensor in expected).backward()
    for e, a in zip(theirs.parameters(), ours.parameters(), strict=True):
        assert_close(a.grad, e.grad)


@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_row_without_steps_keeps_its_state_and_gives_zeros(engine, bidirectional):
    options = {"num_layers": 2, "bidirectional": bidirectional}
    _, ours = twins("LSTM", options, engine=engine)
    x, hx = some_input(options), some_hx("LSTM", options)
    x[:, 1] = torch.nan
    output, (h, c) = ours(x, hx, lengths=[6, 0, 3, 0])
    assert not output[:, [1, 3]].any()
    assert torch.equal(h[:, [1, 3]], hx[0][:, [1, 3]])
    assert torch.equal(c[:, [1, 3]], hx[1][:, [1, 3]])
    alone, (h_alone, _) = ours(x[:3, 2:3], tuple(part[:, 2:3].contiguous() for part in hx))
    assert_close(output[:3, 2:3], alone)
    assert_close(h[:, 2:3], h_alone)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_reset_divides_a_row_into_sequences_of_their_own(bidirectional, batch_first):
    rnn = td.LSTM(I, H, 3, bidirectional=bidirectional, batch_first=batch_first, dtype=torch.float64)
    x = torch.randn(3, 8, I, dtype=torch.float64)
    lengths, resets = [8, 6, 8], torch.zeros(3, 8, dtype=torch.bool)
    resets[0, 3] = resets[0, 4] = resets[1, 2] = resets[1, 6] = resets[2, 0] = True  # [1, 6] is past the end
    given = x if batch_first else x.transpose(0, 1)
    output, (h, c) = rnn(given, lengths=lengths, resets=resets)
    output = output if batch_first else output.transpose(0, 1)
    for row, borders in enumerate([(0, 3, 4, 8), (0, 2, 6), (0, 8)]):
        for start, end in itertools.pairwise(borders):
            piece = x[row : row + 1, start:end]
            alone, (h_alone, c_alone) = rnn(piece if batch_first else piece.transpose(0, 1))
            assert_close(output[row : row + 1, start:end], alone if batch_first else alone.transpose(0, 1))
        forwards = slice(0, None, 2 if bidirectional else 1)
        assert_close(h[forwards, row], h_alone[forwards, 0])
        assert_close(c[forwards, row], c_alone[forwards, 0])


@pytest.mark.share(7)
@pytest.mark.parametrize(("kind", "options"), VARIANTS[1::4])
def test_states_at_every_step_end_in_the_final_state(kind, options):
    theirs, ours = twins(kind, options)
    x, hx = some_input(options), some_hx(kind, options)
    output, hidden, every = ours(x, hx, return_states=True)
    for e, a in zip(flat(theirs(x, hx)), flat((output, hidden)), strict=True):
        assert_close(a, e)
    time = 2 if options["batch_first"] else 1
    for final, moments in zip(flat(hidden), flat(every), strict=True):
        assert moments.shape[0] == final.shape[0]
        assert moments.shape[time] == T
        directions = 2 if options["bidirectional"] else 1
        assert_close(moments.select(time, T - 1)[::directions], final[::directions])
        if options["bidirectional"]:
            assert_close(moments.select(time, 0)[1::2], final[1::2])
    first = theirs(x.narrow(time - 1, 0, 2), hx)[1]
    if not options["bidirectional"]:
        for final, moments in zip(flat(first), flat(every), strict=True):
            assert_close(moments.select(time, 1), final)


def test_double_backward_and_gradcheck_on_both_engines():
    for engine in ("auto", "reference"):
        rnn = td.GRU(2, 3, engine=engine, dtype=torch.float64)
        x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x, rnn=rnn: rnn(x)[0], x)
        assert torch.autograd.gradgradcheck(lambda x, rnn=rnn: rnn(x)[0], x)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_same_seed_same_weights_same_print(kind):
    torch.manual_seed(7)
    theirs = getattr(nn, kind)(I, H, 2, batch_first=True, bidirectional=True, dropout=0.25)
    torch.manual_seed(7)
    ours = getattr(td, kind)(I, H, 2, batch_first=True, bidirectional=True, dropout=0.25)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    theirs.load_state_dict(ours.state_dict())
    assert isinstance(ours, getattr(nn, kind))
    assert [[tuple(w.shape) for w in layer] for layer in ours.all_weights] == [
        [tuple(w.shape) for w in layer] for layer in theirs.all_weights
    ]


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_dropout_is_that_of_torch_and_only_while_training(kind):
    theirs, ours = twins(kind, {"num_layers": 3, "dropout": 0.5})
    x = some_input({})
    torch.manual_seed(2)
    expected = theirs(x)[0]
    torch.manual_seed(2)
    assert torch.equal(ours(x)[0], expected)
    assert_close(ours.eval()(x)[0], theirs.eval()(x)[0])
    slow = getattr(td, kind)(I, H, 3, dropout=1.0, engine="reference", dtype=torch.float64)
    dead = slow(x)[0]
    assert torch.equal(slow(torch.randn_like(x))[0], dead), "with dropout 1 nothing of x gets past the first layer"
    assert not torch.equal(slow.eval()(x)[0], dead)


@pytest.mark.parametrize(
    ("make", "call"),
    [
        ({"input_size": 0, "hidden_size": 2}, None),
        ({"input_size": 2, "hidden_size": 0}, None),
        ({"input_size": 2.0, "hidden_size": 2}, None),
        ({"input_size": 2, "hidden_size": 2, "num_layers": 0}, None),
        ({"input_size": 2, "hidden_size": 2, "bias": 1}, None),
        ({"input_size": 2, "hidden_size": 2, "dropout": 2}, None),
        ({"input_size": 2, "hidden_size": 2, "proj_size": 2}, None),
        ({"input_size": 2, "hidden_size": 2, "unknown": 2}, None),
        ({"input_size": 2, "hidden_size": 2}, lambda m: m(torch.randn(3, 4, 5))),
        ({"input_size": 2, "hidden_size": 2}, lambda m: m(torch.randn(2))),
        ({"input_size": 2, "hidden_size": 2}, lambda m: m(torch.randn(3, 4, 2), torch.randn(1, 5, 2))),
        ({"input_size": 2, "hidden_size": 2}, lambda m: m(torch.randn(3, 4, 2).double())),
    ],
)
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_refuses_what_torch_refuses_with_the_same_words(kind, make, call):
    def error(module):
        with pytest.raises(Exception) as caught:  # noqa: PT011
            (call or (lambda m: m))(module(**make))
        return caught.value

    theirs, ours = error(getattr(nn, kind)), error(getattr(td, kind))
    assert type(ours) is type(theirs)
    assert str(ours).replace("treadle.running.dropin.", "") == str(theirs)


@pytest.mark.share(2)
@pytest.mark.parametrize("wiring", td.WIRINGS)
@pytest.mark.parametrize("cell", [None, td.PeepholeLSTMCell, td.SLSTMCell])
def test_rewired_goes_on_from_its_own_state(wiring, cell):
    rnn = td.LSTM(I, H, 3, wiring=wiring, cell=cell, batch_first=True, dtype=torch.float64)
    x = torch.randn(2, 7, I, dtype=torch.float64)
    output, hidden = rnn(x)
    first, middle = rnn(x[:, :3])
    second, end = rnn(x[:, 3:], middle)
    assert_close(torch.cat([first, second], 1), output)
    for a, b in zip(flat(end), flat(hidden), strict=True):
        assert_close(a, b)
    hx, session = None, rnn.session(batch_size=2)
    for t in range(7):
        y, hx = rnn.step(x[:, t], hx)
        assert_close(y, output[:, t])
        assert_close(session.step(x[:, t]), output[:, t])
    for a, b in zip(flat(hx), flat(hidden), strict=True):
        assert_close(a, b)


@pytest.mark.share(4)
@pytest.mark.parametrize("wiring", td.WIRINGS)
def test_rewired_is_the_stack_of_the_same_cells(wiring):
    rnn = td.GRU(I, H, 2, wiring=wiring, batch_first=True)
    recurrent = rnn.recurrent()
    assert recurrent.cell.wiring == wiring
    assert {id(p) for p in recurrent.parameters()} == {id(p) for p in rnn.parameters()}
    x = torch.randn(2, 4, I)
    assert_close(recurrent(x)[0], rnn(x)[0])


def test_options_that_exclude_each_other_are_refused():
    with pytest.raises(ValueError, match="bidirectional layer needs the whole sequence"):
        td.LSTM(I, H, 2, wiring="relay", bidirectional=True)
    with pytest.raises(ValueError, match="no wiring 'ring': choose one of stack, relay"):
        td.LSTM(I, H, 2, wiring="ring")
    with pytest.raises(td.errors.EngineError, match="no engine 'tpu'"):
        td.LSTM(I, H, engine="tpu")
    with pytest.raises(ValueError, match="proj_size belongs to the classic LSTM"):
        td.LSTM(I, H, proj_size=2, cell=td.GRUCell)
    with pytest.raises(TypeError, match="gradient is a method"):
        td.LSTM(I, H, gradient="full")
    with pytest.raises(TypeError, match="class of cells"):
        td.LSTM(I, H, cell=nn.Linear)
    with pytest.raises(ValueError, match="cannot go step by step"):
        td.LSTM(I, H, bidirectional=True).step(torch.randn(2, I))
    with pytest.raises(ValueError, match="has its lengths itself"):
        td.LSTM(I, H)(pack_padded_sequence(torch.randn(T, B, I), [6, 5, 4, 3]), lengths=[1, 2, 3, 4])
    with pytest.raises(td.errors.ShapeError, match="lengths are 4 whole numbers"):
        td.LSTM(I, H)(torch.randn(T, B, I), lengths=[1, 2, 3])
    with pytest.raises(td.errors.ShapeError, match=r"row 2 has length 7, but the sequence has 6 steps"):
        td.LSTM(I, H)(torch.randn(T, B, I), lengths=[1, 2, 7, 1])
    with pytest.raises(td.errors.ShapeError, match=r"resets are booleans \[4, 6\].*pass resets.T"):
        td.LSTM(I, H)(torch.randn(T, B, I), resets=torch.zeros(T, B, dtype=torch.bool))


class Undecided(td.GRUCell):
    """What it does depends on numbers that no compiler can know."""

    def forward(self, x, state=None):
        y, state = super().forward(x, state)
        return (y, state) if y.sum() < 1e9 else (-y, state)


def test_says_once_when_it_steps_in_python(caplog):
    engines.say_once.cache_clear()
    compiled, undecided = td.GRU(I, H), td.GRU(I, H, cell=Undecided)
    for _ in range(3):
        compiled(torch.randn(T, B, I), return_states=True)
        undecided(torch.randn(T, B, I))
    (record,) = caplog.records
    assert record.message.startswith("Stack runs step by step in Python, much slower than compiled: test_dropin.py:")
    assert "use torch.where" in record.message


@pytest.mark.share(2)
@pytest.mark.parametrize("options", [{}, {"wiring": "dense"}, {"cell": td.PeepholeLSTMCell}])
def test_copies_pickles_and_moves(options):
    rnn = td.LSTM(I, H, 2, **options)
    x = torch.randn(T, B, I)
    expected = rnn(x)[0]
    buffer = io.BytesIO()
    torch.save(rnn, buffer)
    buffer.seek(0)
    again = [copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn)), torch.load(buffer, weights_only=False)]
    again.append(td.LSTM(I, H, 2, **options))
    again[-1].load_state_dict(rnn.state_dict())
    for other in again:
        assert torch.equal(other(x)[0], expected)
    assert_close(rnn.double()(x.double())[0], expected.double(), torch.float32)


def test_what_stands_in_for_a_parameter_is_used():
    rnn = td.LSTM(I, H, engine="reference")
    x = torch.randn(T, B, I)
    weights = {name: torch.randn_like(p) for name, p in rnn.named_parameters()}
    other = nn.LSTM(I, H)
    other.load_state_dict(weights)
    called = torch.func.functional_call(rnn, weights, (x,))
    assert_close(called[0], other(x)[0])
    normed = nn.utils.parametrizations.weight_norm(td.LSTM(I, H, engine="reference"), "weight_hh_l0")
    normed(x)[0].sum().backward()
    assert normed.parametrizations.weight_hh_l0.original1.grad.abs().sum() > 0


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.filterwarnings("ignore:`torch.jit.save` is deprecated")
@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_torchscript_takes_the_classic_ones(kind):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = getattr(td, kind)(I, H, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output, _ = self.rnn(x)
            return output

    model, x = Model(), torch.randn(T, B, I)
    expected, weights = model(x), list(model.parameters())
    assert_close(torch.jit.script(model)(x), expected)  # by PyTorch's own kernels
    assert all(a is b for a, b in zip(model.parameters(), weights, strict=True))
    with pytest.raises(td.errors.EngineError, match="wiring is 'skip'"):
        torch.jit.script(getattr(td, kind)(I, H, 2, wiring="skip"))


def test_works_in_the_place_of_torchs_own(monkeypatch):
    for kind in ("LSTM", "GRU", "RNN"):
        monkeypatch.setattr(nn, kind, getattr(td, kind))
        monkeypatch.setattr(nn.modules.rnn, kind, getattr(td, kind))
    for kind in ("LSTM", "GRU", "RNN"):
        assert getattr(nn, kind)(I, H, 2, bidirectional=True)(torch.randn(T, B, I))[0].shape == (T, B, 2 * H)
        assert getattr(nn, kind)(I, H, 2, wiring="skip", cell=td.PeepholeLSTMCell)(torch.randn(T, B, I))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("steps", "rows"), [(0, 2), (3, 0), (0, 0)])
def test_no_steps_and_no_rows_on_the_reference_engine(steps, rows, bidirectional):
    rnn = td.LSTM(I, H, 2, bidirectional=bidirectional, engine="reference")
    resets = torch.zeros(rows, steps, dtype=torch.bool)
    output, (h, _), (every, _) = rnn(torch.randn(steps, rows, I), resets=resets, return_states=True)
    directions = 2 if bidirectional else 1
    assert output.shape == (steps, rows, directions * H)
    assert h.shape == (2 * directions, rows, H)
    assert every.shape == (2 * directions, steps, rows, H)
    assert not h.any()


@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_a_session_follows_weights_that_were_replaced_or_are_computed(engine):
    rnn = td.LSTM(I, H, batch_first=True, engine=engine)
    session, x = rnn.session(), torch.randn(1, I)
    rnn.load_state_dict({name: torch.randn_like(p) for name, p in rnn.state_dict().items()}, assign=True)
    session.refresh()
    assert_close(session.step(x), rnn(x[:, None])[0][:, 0])
    normed = nn.utils.parametrizations.weight_norm(td.LSTM(I, H, batch_first=True, engine=engine), "weight_hh_l0")
    assert_close(normed.session().step(x), normed(x[:, None])[0][:, 0])


def test_options_of_the_classic_cells_are_refused_with_another_cell():
    for make in (
        lambda: td.GRU(I, H, bias=False, cell=td.GRUCell),
        lambda: td.RNN(I, H, nonlinearity="relu", cell=td.RNNCell),
    ):
        with pytest.raises(ValueError, match="belong to the classic cells"):
            make()


def test_hx_and_lengths_that_do_not_fit_are_refused_with_another_cell():
    rnn = td.GRU(I, H, bidirectional=True, cell=td.GRUCell)
    for layers in (1, 6):
        with pytest.raises(td.errors.ShapeError, match="a slice for each layer and direction"):
            rnn(torch.randn(T, B, I), torch.randn(layers, B, H))
    with pytest.raises(td.errors.ShapeError, match="has one length, but 2 were passed"):
        td.GRU(I, H)(torch.randn(T, I), lengths=[1, 2])


def test_lateral_goes_on_from_the_undropped_output():
    rnn = td.GRU(I, H, 2, wiring="lateral", dropout=1.0, batch_first=True)
    x = torch.randn(2, 6, I)
    whole, _ = rnn(x)
    first, middle = rnn(x[:, :3])
    second, _ = rnn(x[:, 3:], middle)
    assert_close(torch.cat([first, second], 1), whole)
