"""Sessions that stay from one `generate` to the next: what they give is what a new copy of the model gives."""

import copy
import gc
import pickle
import threading
import weakref

import pytest
import torch
from torch import nn

from tests.seq2seq.networks import TOKENS
from tests.seq2seq.test_decoding import END, START, opinionated
from treadle.engines import network as networks
from treadle.seq2seq import kept_sessions
from treadle.seq2seq.decoding import DecodingSession, beam_search, greedy


def sources(rows=3):
    generator = torch.Generator().manual_seed(rows)
    return torch.randint(TOKENS, (rows, 4), generator=generator)


def generated(network, rows=3, beams=2):
    return network.generate(sources(rows), start=START, end=END, steps=5, beams=beams)


def assert_as_new(network, rows=3, beams=2):
    """What is generated is what a session that was made just now gives."""
    found, source = generated(network, rows, beams), sources(rows)
    session = DecodingSession(network, rows * beams)
    search = (greedy, ()) if beams == 1 else (beam_search, (beams,))
    right = search[0](session, source, None, START, END, 5, *search[1])
    assert torch.equal(found.scores, right.scores)
    assert [said.tolist() for said in found.tokens] == [said.tolist() for said in right.tokens]
    return found.scores


@pytest.mark.parametrize("options", [{}, {"head": "cell"}])
def test_a_second_call_traces_nothing_and_gives_the_same(options, monkeypatch):
    network = opinionated(3, **options)
    first = assert_as_new(network)

    def refuse(*_):
        raise AssertionError("traced again")

    monkeypatch.setattr(networks, "traced", refuse)
    assert torch.equal(generated(network).scores, first)
    with torch.no_grad():
        network.decoder.cell.get_parameter(next(n for n, _ in network.decoder.cell.named_parameters())).mul_(1.1)
    assert not torch.equal(generated(network).scores, first)


@pytest.mark.parametrize("options", [{}, {"head": "cell"}])
def test_sessions_of_ones_own_share_what_was_traced(options, monkeypatch):
    network, source = opinionated(3, **options), sources()

    def said(rows):
        session = network.session(rows)
        session.start(source[:rows])
        return session.step(torch.full((rows,), START))

    def refuse(*_):
        raise AssertionError("traced again")

    first = said(3)
    with monkeypatch.context() as patch:
        patch.setattr(networks, "traced", refuse)
        assert torch.equal(said(3), first)
        torch.testing.assert_close(said(2), first[:2])
    with torch.no_grad():
        network.decoder.cell.get_parameter(next(n for n, _ in network.decoder.cell.named_parameters())).mul_(1.1)
    assert not torch.equal(said(3), first)


def step_of_an_optimiser(network):
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    network(sources(), sources())[0].square().mean().backward()
    optimiser.step()


def behind_the_back(network):
    network.decoder.cell.get_submodule("layers.layer0").weight_hh.data.mul_(0.5)


def load(network):
    network.load_state_dict({name: tensor * 0.9 for name, tensor in network.state_dict().items()})


def only_the_head(network):
    network.head.bias.data[2] += 3


def another_head(network):
    torch.manual_seed(8)
    network.head = nn.Sequential(network.head, nn.Linear(TOKENS, TOKENS, dtype=network.head.weight.dtype))


def another_parameter(network):
    cell = network.decoder.cell.get_submodule("layers.layer0")
    cell.weight_ih = nn.Parameter(cell.weight_ih.detach() * 2)


def another_precision(network):
    other = torch.float32 if network.head.weight.dtype == torch.float64 else torch.float64
    network.to(other)


def an_activation(network):
    network.head = nn.Sequential(network.head, nn.Hardtanh(-0.1, 0.2))


CHANGES = [
    step_of_an_optimiser,
    behind_the_back,
    load,
    only_the_head,
    another_head,
    another_parameter,
    another_precision,
    an_activation,
]


@pytest.mark.share(4)
@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_since_is_noticed(change):
    network = opinionated(4)
    before = assert_as_new(network)
    change(network)
    assert not torch.equal(assert_as_new(network), before)


def test_a_number_that_a_layer_keeps_is_noticed():
    network = opinionated(4)
    network.head = nn.Sequential(network.head, nn.Hardtanh(-0.1, 0.2))
    before = assert_as_new(network)
    network.head[1].max_val = 0.5
    assert not torch.equal(assert_as_new(network), before)


def test_training_in_between():
    network = opinionated(5)
    network.head = nn.Sequential(nn.Dropout(0.5), network.head)
    before = assert_as_new(network)
    network.train()
    assert torch.equal(assert_as_new(network), before)
    assert all(part.training for part in network.modules())
    step_of_an_optimiser(network)
    assert network.head[1].weight.grad is not None
    assert not torch.equal(assert_as_new(network), before)


def test_batch_sizes_and_beams_come_and_go():
    network = opinionated(6)
    for rows, beams in ((1, 1), (2, 3), (3, 2), (1, 1), (5, 1), (4, 1), (7, 1), (2, 3)):
        assert_as_new(network, rows, beams)
    kept = kept_sessions._kept[network]
    assert list(kept._sessions) == [5, 4, 7, 6]
    assert all(session._encoded is None for session in kept._sessions.values())  # nothing of the sources


def test_they_go_with_the_model_and_not_with_its_copies():
    network = opinionated(7)
    size = len(pickle.dumps(network))
    generated(network)
    assert len(pickle.dumps(network)) == size
    other = copy.deepcopy(network)
    assert other not in kept_sessions._kept
    assert_as_new(other)
    kept = weakref.ref(kept_sessions._kept[network])
    del network
    gc.collect()
    assert kept() is None


def test_large_models_are_not_kept(monkeypatch):
    monkeypatch.setattr(kept_sessions, "_HELD_BYTES", 100)
    network = opinionated(7)
    assert_as_new(network)
    assert network not in kept_sessions._kept


def test_a_failed_call_leaves_a_session_that_works():
    network = opinionated(9)
    before = assert_as_new(network)
    bias = network.head.bias.detach().clone()
    network.head.bias.data.fill_(torch.nan)
    with pytest.raises(Exception, match="not finite"):
        generated(network)
    network.head.bias.data.copy_(bias)
    assert torch.equal(assert_as_new(network), before)


def test_two_threads_generate_at_once():
    network = opinionated(10)
    right = [generated(network, rows).scores for rows in (3, 4)]
    found = {}

    def work(number):
        found[number] = [generated(network, rows).scores for rows in (3, 4) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(3):
        assert all(torch.equal(scores, right[i // 3]) for i, scores in enumerate(found[number]))


def test_in_inference_mode():
    network = opinionated(11)
    with torch.inference_mode():
        before = generated(network).scores
    network.head.bias.data.add_(torch.arange(TOKENS))
    after = assert_as_new(network)
    assert not torch.equal(before, after)
    with torch.inference_mode():
        assert torch.equal(generated(network).scores, after)
