"""Encoder and decoder against their equations, ragged against alone, in parts, and live."""

import copy
import itertools
import math
import pickle

import pytest
import torch
from torch import nn

import treadle as td
from tests.seq2seq.networks import TOKENS, by_hand, lstms, model
from tests.tolerances import assert_all_close, assert_close
from treadle.errors import ModelFileError, ShapeError, StateError
from treadle.seq2seq.attention import capped_softmax

NETWORKS = {
    "dot": {},
    "additive": {"kind": "additive"},
    "dot, knowing places": {"reach": 2},
    "additive, knowing places": {"kind": "additive", "reach": 3},
    "dot, with priorities": {"priority": True},
    "dot, minding where it looked last": {"window": 2},
    "dot, using up": {"fertility": 1},
    "everything at once": {"kind": "additive", "priority": True, "reach": 2, "window": 9, "fertility": 0.7},
    "everything, and a head with memory": {"priority": True, "window": 1, "fertility": 1, "head": "cell"},
    "no attention": {"kind": None},
    "no attention, no head": {"kind": None, "head": "none"},
    "no head": {"head": "none"},
    "a head with memory": {"head": "cell", "reach": 1},
    "one direction, handed over as it is": {"directions": 1},
    "one direction, other sizes": {"directions": 1, "decoder": (3, 6)},
}
every_network = pytest.mark.parametrize("name", NETWORKS)
SOURCE_LENGTHS, TARGET_LENGTHS = [5, 7, 0, 1, 4], [6, 2, 4, 0, 1]


def tokens(rows=5, steps=7):
    return torch.randint(TOKENS, (rows, steps))


def padded_by_hand(network, source, target, source_lengths, target_lengths):
    rows = []
    for row in range(len(source)):
        ys = by_hand(network, source[row, : source_lengths[row]], target[row, : target_lengths[row]])
        rows.append(nn.functional.pad(ys, (0, 0, 0, target.shape[1] - len(ys))))
    return torch.stack(rows)


def gradients(network, ys, above):
    network.zero_grad()
    (ys * above).sum().backward()
    none = {name: torch.zeros_like(p) for name, p in network.named_parameters() if p.grad is None}
    return {name: none.get(name, p.grad) for name, p in network.named_parameters()}


@every_network
def test_values_and_gradients_are_those_of_the_equations(name):
    network = model(**NETWORKS[name], engine="cpu")
    source, target = tokens(), tokens(steps=6)
    ys, _ = network(source, target, SOURCE_LENGTHS, TARGET_LENGTHS)
    expected = padded_by_hand(network, source, target, SOURCE_LENGTHS, TARGET_LENGTHS)
    assert_close(ys, expected)
    above = torch.randn_like(expected)
    assert_all_close(gradients(network, ys, above), gradients(network, expected, above))


def test_the_encoder_learns_through_the_state_alone():
    network = model(kind=None)
    ys, _ = network(tokens(), tokens())
    ys.sum().backward()
    assert all(parameter.grad.any() for parameter in network.parameters())


@every_network
def test_without_lengths_all_steps_count(name):
    network = model(**NETWORKS[name])
    source, target = tokens(3, 4), tokens(3, 5)
    assert_close(network(source, target)[0], padded_by_hand(network, source, target, [4] * 3, [5] * 3))


@every_network
def test_ragged_rows_are_as_if_alone_and_padding_is_never_read(name):
    network = model(**NETWORKS[name])
    source, target = tokens(), tokens(steps=6)
    ys, state = network(source, target, torch.tensor(SOURCE_LENGTHS), torch.tensor(TARGET_LENGTHS))
    other_source, other_target = source.clone(), target.clone()
    for row, (s, t) in enumerate(zip(SOURCE_LENGTHS, TARGET_LENGTHS, strict=True)):
        other_source[row, s:] = (source[row, s:] + 1) % TOKENS
        other_target[row, t:] = (target[row, t:] + 1) % TOKENS
        alone, end = network(source[row : row + 1, :s], target[row : row + 1, :t])
        assert_close(ys[row, :t], alone[0])
        assert not ys[row, t:].any()
        for (field, whole), (_, one) in zip(td.state.named_tensors(state), td.state.named_tensors(end), strict=True):
            if field in ("attention/last", "attention/coverage"):
                assert not whole[row, s:].any()
                whole = whole[:, :s]
            assert_close(whole[row : row + 1], one, what=field)
    assert torch.equal(network(other_source, other_target, SOURCE_LENGTHS, TARGET_LENGTHS)[0], ys)


@pytest.mark.share(4)
@every_network
@pytest.mark.parametrize("rows", [1, 3])
def test_whole_in_parts_and_live_are_one_function(name, rows):
    network = model(**NETWORKS[name]).eval()
    source, target = tokens(rows, 5), tokens(rows, 6)
    lengths = torch.tensor([3, 5, 1][:rows])
    ys, end = network(source, target, lengths)
    encoded = network.encode(source, lengths)
    first, state = network.decode(target[:, :2], encoded)
    second, state = network.decode(target[:, 2:2], encoded, state)
    third, state = network.decode(target[:, 2:], encoded, state)
    assert_close(torch.cat([first, second, third], 1), ys)
    for (field, whole), (_, parts) in zip(td.state.named_tensors(end), td.state.named_tensors(state), strict=True):
        assert_close(parts, whole, what=field)
    session = network.session(rows)
    session.start(source, lengths)
    live = torch.stack([session.step(x).clone() for x in target.unbind(1)], 1)
    assert_close(live, ys)
    for (field, whole), (_, stepped) in zip(
        td.state.named_tensors(end), td.state.named_tensors(session.state), strict=True
    ):
        assert_close(stepped, whole, what=field)


@every_network
def test_where_a_decoder_forgets_attention_does_not(name):
    network = model(**NETWORKS[name])
    source, target, lengths = tokens(3, 5), tokens(3, 6), torch.tensor([3, 5, 1])
    resets = torch.zeros(3, 6, dtype=torch.bool)
    resets[:, 4] = True
    ys, end = network(source, target, lengths, target_resets=resets)
    encoded = network.encode(source, lengths)
    first, state = network.decode(target[:, :4], encoded)
    for part, runs in (("decoder", network.decoder), ("head", network.head)):
        if part in state:
            state[part] = runs.initial_state(3)
    second, state = network.decode(target[:, 4:], encoded, state)
    assert_close(torch.cat([first, second], 1), ys)
    for (field, whole), (_, parts) in zip(td.state.named_tensors(end), td.state.named_tensors(state), strict=True):
        assert_close(parts, whole, what=field)


@pytest.mark.parametrize("name", ["dot, knowing places", "additive", "no attention", "one direction, other sizes"])
def test_a_source_with_holes_is_the_source_without(name):
    network = model(**NETWORKS[name])
    source, target = tokens(), tokens(5, 6)
    mask = torch.rand(5, 7, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[2] = False
    resets = torch.zeros(5, 7, dtype=torch.bool)
    resets[:, 3] = True
    ys, _ = network(source.where(mask, -1), target, [7, 5, 7, 7, 7], source_resets=resets, source_mask=mask)
    mask[1, 5:] = False
    for row in range(5):
        one = source[row : row + 1, mask[row]]
        alone, _ = network(one, target[row : row + 1], source_resets=resets[row : row + 1, mask[row]])
        assert_close(ys[row], alone[0])


def test_what_is_generated_from_a_source_with_holes():
    network = model(**NETWORKS["dot"]).eval()
    source, mask = tokens(), torch.tensor([True, False, True, True, False, False, True]).expand(5, 7)
    found = network.generate(source.where(mask, -1), start=0, end=1, steps=4, mask=mask)
    wanted = network.generate(source[:, mask[0]], start=0, end=1, steps=4)
    assert all(map(torch.equal, found.tokens, wanted.tokens))


def test_an_encoder_forgets():
    network, source, resets = model(), tokens(2, 5), torch.zeros(2, 5, dtype=torch.bool)
    resets[:, 3] = True
    encoded = network.encode(source, resets=resets)
    assert_close(encoded.memory[:, 3:], network.encode(source[:, 3:]).memory)
    ys, _ = network(source, tokens(2, 4), source_resets=resets)
    assert ys.shape == (2, 4, TOKENS)


def test_what_is_used_up_is_not_looked_at_again_and_when_all_is_there_is_no_more():
    """Of three steps, the highest score first, each once: the order of a sort; a fourth query finds nothing left."""
    attention = td.Attention(1, 1, priority=True, fertility=1).double()
    memory = torch.tensor([[[1.0], [3.0], [2.0], [9.0]]], dtype=torch.float64)
    with torch.no_grad():
        attention.key.weight.zero_()
        attention.prior.weight.fill_(100.0)
    context, weights, state = attention(torch.zeros(1, 4, 1).double(), memory, torch.tensor([3]))
    assert_close(context[0, :, 0], torch.tensor([3.0, 2.0, 1.0, 0.0]).double())
    assert_close(weights.sum(2)[0], torch.tensor([1.0, 1.0, 1.0, 0.0]).double())
    assert_close(state.coverage[0], torch.tensor([1.0, 1.0, 1.0, 0.0]).double())
    with torch.no_grad():
        attention.fertile.weight.fill_(math.log(2.5) / 3)  # the step of 3 has 2.5 looks
    context, _, _ = attention(torch.zeros(1, 3, 1).double(), memory, torch.tensor([3]))
    assert_close(context[0, :, 0], torch.tensor([3.0, 3.0, 0.5 * 3 + 0.5 * 2]).double())


@pytest.mark.parametrize("steps", [1, 6, 60])
def test_priority_and_a_limit_sort_whatever_the_length(steps):
    attention = td.Attention(1, 5, priority=True, fertility=1.0)
    with torch.no_grad():
        attention.key.weight.zero_()
        attention.prior.weight.copy_(torch.arange(100.0, 0.0, -20.0))
    letters = torch.randint(5, (3, steps))
    memory = nn.functional.one_hot(letters, 5).float()
    context, _, _ = attention(torch.randn(3, steps, 1), memory, torch.full((3,), steps))
    assert torch.equal(context.argmax(-1), letters.sort(1).values)
    assert_close(context.sum(-1), torch.ones(3, steps))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0, 1000.0])
def test_limits_hold_whatever_the_scores(dtype, scale):
    scores = (scale * torch.randn(200, 9, dtype=torch.float64)).to(dtype).requires_grad_()
    most = (torch.rand(200, 9).pow(4) * 2 * (torch.rand(200, 9) > 0.2)).to(dtype).requires_grad_()
    weights = capped_softmax(scores, most)
    assert (weights <= most + 1e-6).all()
    assert_close(weights.sum(1), most.sum(1).clamp(max=1))
    free = weights < most - 1e-5  # among these, as the softmax has it
    for row in range(200):
        if scale <= 1 and free[row].any():
            share = scores[row][free[row]].softmax(0) * weights[row][free[row]].sum()
            assert_close(weights[row][free[row]], share)
    (weights * torch.randn_like(weights)).sum().backward()
    assert scores.grad.isfinite().all()
    assert most.grad.isfinite().all()


def test_the_gradient_of_limits():
    scores = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    most = (1.5 * torch.rand(6, 5, dtype=torch.float64).pow(2)).requires_grad_()
    assert torch.autograd.gradcheck(capped_softmax, (scores, most))


def test_a_session_goes_on_from_other_rows():
    network = model(head="cell", reach=2, window=1, fertility=1).eval()
    source = tokens(1, 5).expand(3, 5)
    session, x = network.session(3), torch.tensor([0, 1, 2])
    session.start(source)
    session.step(x)
    session.select(torch.tensor([2, 2, 0]))
    y = session.step(torch.tensor([3, 4, 5]))
    for row, begins in enumerate([2, 2, 0]):
        alone, _ = network(source[:1], torch.tensor([[begins, 3 + row]]))
        assert_close(y[row], alone[0, -1])


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda session: pickle.loads(pickle.dumps(session))])
def test_a_copy_of_a_session_decodes_by_itself(way):
    network = model(head="cell", reach=2, window=1, fertility=1).eval()
    session = network.session(2)
    session.start(tokens(2, 5))
    session.step(torch.tensor([0, 1]))
    other = way(session)
    others = [other.step(torch.tensor([2, 3 + t])).clone() for t in range(3)]
    for t, y in enumerate(others):
        assert torch.equal(session.step(torch.tensor([2, 3 + t])), y)


def test_a_session_does_not_see_training_go_on():
    network = model()
    session = network.session(2)
    source = tokens(2, 3)
    session.start(source)
    before = session.step(torch.tensor([0, 1])).clone()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    session.start(source)
    assert_close(session.step(torch.tensor([0, 1])), before)


@pytest.mark.parametrize("window", [0, 1])
def test_weights_of_attention_add_up_over_the_memory_of_each_row(window):
    attention = td.Attention(4, 3, "additive", reach=2, window=window)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.normal_()
    lengths = torch.tensor([5, 2, 0])
    context, weights, _ = attention(torch.randn(3, 4, 4), torch.randn(3, 5, 3), lengths)
    assert_close(weights.sum(2), (lengths > 0).float()[:, None].expand(3, 4))
    assert all(not weights[row, :, n:].any() for row, n in enumerate(lengths))
    assert not context[2].any()


def test_a_row_without_memory_has_a_finite_gradient():
    attention, memory = td.Attention(4, 3), torch.randn(2, 5, 3, requires_grad=True)
    attention(torch.randn(2, 1, 4), memory, torch.tensor([0, 2]))[0].sum().backward()
    assert memory.grad.isfinite().all()
    assert attention.key.weight.grad.isfinite().all()


def test_the_state_of_one_network_goes_to_the_next_which_reads_the_same():
    """The handing over between layers of a sequence: nothing is learned by it, nothing is lost."""
    first, second = lstms(3, 4, 5).double(), lstms(3, 4, 5).double()
    network = td.EncoderDecoder(first, second)
    assert not list(network.bridge.parameters())
    xs = torch.randn(2, 6, 3, dtype=torch.float64)
    ys, state = network(xs, xs, [6, 4], [6, 4])
    _, end = td.Recurrent(first)(xs, lengths=[6, 4])
    expected, last = td.Recurrent(second)(xs, end, lengths=[6, 4])
    assert_close(ys, expected)
    assert_close(state["decoder"]["layer1"].c, last["layer1"].c)


def test_cells_of_different_kinds_and_numbers_of_layers():
    for encoder, decoder in itertools.permutations([lstms(3, 4, 5), td.GRUCell(3, 6), td.RNNCell(3, 2)], 2):
        network = td.EncoderDecoder(encoder, decoder).double()
        xs = torch.randn(2, 4, 3, dtype=torch.float64)
        ys, _ = network(xs, xs)
        ys.sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())


def test_whole_numbers_in_a_state_start_as_always():
    g = td.Graph(())
    embedded = g.add("embedded", nn.Embedding(9, 3), reads=g.x.delayed())
    decoder = g.outputs(g.add("layers", td.GRUCell(3, 4), reads=embedded))
    network = td.EncoderDecoder(td.GRUCell(2, 4), decoder)
    ys, state = network(torch.randn(2, 3, 2), torch.tensor([[7, 8], [5, 6]]))
    assert state["decoder"]["x.delayed"][0].tolist() == [8, 6]
    assert ys.shape == (2, 2, 4)


def test_a_bridge_of_ones_own():
    class Half(nn.Module):
        def forward(self, ended, begins):
            return type(begins)(h=ended[0].h / 2)

    encoder, decoder, xs = td.GRUCell(2, 4), td.GRUCell(2, 4), torch.randn(3, 5, 2)
    network = td.EncoderDecoder(encoder, decoder, bridge=Half())
    _, end = td.Recurrent(encoder)(xs)
    assert_close(network(xs, xs)[0], td.Recurrent(decoder)(xs, td.HiddenState(end.h / 2))[0])


@every_network
def test_model_files(name, tmp_path):
    network = model(**NETWORKS[name])
    td.save(tmp_path / "m.safetensors", network)
    again = td.load(tmp_path / "m.safetensors")
    source, target = tokens(), tokens()
    assert torch.equal(network(source, target)[0], again(source, target)[0])
    assert td.fingerprint(again) == td.fingerprint(network)


def test_a_damaged_model_file_is_refused(tmp_path):
    td.save(tmp_path / "m.safetensors", model())
    data = bytearray((tmp_path / "m.safetensors").read_bytes())
    data[-9] ^= 1
    (tmp_path / "m.safetensors").write_bytes(data)
    with pytest.raises(ModelFileError, match="checksum"):
        td.load(tmp_path / "m.safetensors")


def test_what_is_refused():
    cell, xs = td.GRUCell(2, 4), torch.randn(3, 5, 2)
    with pytest.raises(TypeError, match=r"the encoder is a GRU, but is read cell by cell here: pass td.GRUCell"):
        td.EncoderDecoder(td.GRU(2, 4), cell)
    with pytest.raises(TypeError, match="the decoder is a cell or a network over time, but is a str"):
        td.EncoderDecoder(cell, "gru")
    with pytest.raises(TypeError, match="a decoder goes forward only"):
        td.EncoderDecoder(cell, td.Bidirectional(cell, td.GRUCell(2, 4)))
    with pytest.raises(ShapeError, match=r"the encoder takes \[T, B, …\]"):
        td.EncoderDecoder(td.Recurrent(cell, batch_first=False), cell)
    with pytest.raises(ShapeError, match="one takes 2 features and the other 3"):
        td.Bidirectional(cell, td.GRUCell(3, 4))
    with pytest.raises(ValueError, match="attention scores by 'dot' or 'additive', but 'cosine' was passed"):
        td.EncoderDecoder(cell, td.GRUCell(2, 4), attention="cosine")
    with pytest.raises(ValueError, match="reach is how far"):
        td.Attention(2, 3, reach=-1)
    with pytest.raises(ValueError, match="fertility is how many looks"):
        td.Attention(2, 3, fertility=-1)
    with pytest.raises(ValueError, match="window is how far"):
        td.Attention(2, 3, window=1.5)
    network = td.EncoderDecoder(cell, td.GRUCell(2, 4))
    with pytest.raises(ShapeError, match="there are 3 sources, but 2 targets"):
        network(xs, xs[:2])
    with pytest.raises(ShapeError, match="row 1 has length 6, but the sequence has 5 steps"):
        network(xs, xs, [1, 6, 2])
    with pytest.raises(ShapeError, match="row 0 has length 9"):
        network(xs, xs, None, [9, 6, 2])
    encoded = network.encode(xs)
    _, state = network.decode(xs, encoded)
    with pytest.raises(StateError, match="rows"):
        network.decode(xs[:2], network.encode(xs[:2]), state)
    session = network.session(2)
    with pytest.raises(StateError, match=r"read no source yet: call start"):
        session.step(torch.zeros(2, 2))
    with pytest.raises(ShapeError, match="this session has 2 rows, but there are 3 sources"):
        session.start(xs)
