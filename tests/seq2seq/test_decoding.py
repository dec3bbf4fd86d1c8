"""What a decoder says: greedily, with beams, against every sequence that there is."""

import itertools

import pytest
import torch
from torch import nn

import treadle as td
from tests.seq2seq.networks import TOKENS, model
from treadle.errors import ShapeError, StateError

START, END = 0, 1


def opinionated(seed, ends=1.5, **options):
    """A network whose likeliest first token is often not the beginning of the likeliest sequence."""
    network = model(**options).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter))
        last = network.head if isinstance(network.head, nn.Linear) else network.head.cell.scores
        last.bias[END] += ends  # or hardly anything would ever end
    return network


def score(network, source, said, ended):
    """The logarithm of the probability of what was said, by teacher forcing."""
    wanted = torch.cat([said, torch.tensor([END])]) if ended else said
    read = torch.cat([torch.tensor([START]), wanted[:-1]])
    ys, _ = network(source, read[None])
    return ys[0].log_softmax(1)[torch.arange(len(wanted)), wanted].sum().item()


def every_sequence(network, source, steps):
    """The best of all sequences of so many tokens or fewer, ends included."""
    rest, found = [token for token in range(TOKENS) if token != END], []
    for n in range(steps + 1):
        for said in itertools.product(rest, repeat=n):
            if n < steps:
                found.append((score(network, source, torch.tensor(said, dtype=torch.long), True), said))
            else:
                found.append((score(network, source, torch.tensor(said, dtype=torch.long), False), said))
    return max(found)


@pytest.mark.share(1)
@pytest.mark.parametrize("options", [{}, {"head": "cell", "reach": 1}, {"kind": None, "directions": 1}])
def test_greedy_takes_the_likeliest_token_each_time(options):
    network = opinionated(0, **options)
    source, lengths = torch.randint(TOKENS, (7, 4)), torch.tensor([4, 2, 0, 1, 3, 4, 2])
    found = network.generate(source, lengths, start=START, end=END, steps=9)
    for row, said in enumerate(found.tokens):
        one = source[row : row + 1, : lengths[row]]
        read, expected = [START], []
        for _ in range(9):
            best = int(network(one, torch.tensor([read]))[0][0, -1].argmax())
            if best == END:
                break
            expected.append(best)
            read.append(best)
        assert said.tolist() == expected
        assert bool(found.finished[row]) == (len(expected) < 9)
        assert found.scores[row].item() == pytest.approx(score(network, one, said, bool(found.finished[row])), abs=1e-9)
    assert found.finished.any()


@pytest.mark.share(3)
@pytest.mark.parametrize("seed", range(5))
def test_a_beam_of_one_is_greedy(seed):
    network = opinionated(seed)
    source = torch.randint(TOKENS, (6, 5))
    greedy = network.generate(source, start=START, end=END, steps=8)
    beam = td.seq2seq.decoding.beam_search(network.session(6), source, None, START, END, 8, beams=1)
    assert [said.tolist() for said in beam.tokens] == [said.tolist() for said in greedy.tokens]
    assert torch.equal(beam.finished, greedy.finished)
    assert beam.scores == pytest.approx(greedy.scores)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_beams_find_the_best_of_all_sequences_and_wider_ones_are_never_worse(seed):
    network, steps = opinionated(seed), 3
    source = torch.randint(TOKENS, (4, 3))
    best = [every_sequence(network, source[row : row + 1], steps) for row in range(4)]
    before = torch.full((4,), -torch.inf, dtype=torch.float64)
    for beams in (1, 2, 4, 8, 36):  # 36 are all pairs of tokens, so that nothing is cut off
        found = network.generate(source, start=START, end=END, steps=steps, beams=beams)
        assert (found.scores >= before - 1e-12).all()
        before = found.scores
        for row, said in enumerate(found.tokens):
            finished = bool(found.finished[row])
            assert found.scores[row].item() == pytest.approx(score(network, source[row : row + 1], said, finished))
            assert found.scores[row] <= best[row][0] + 1e-9
    for row, (probability, said) in enumerate(best):
        assert tuple(found.tokens[row].tolist()) == said
        assert found.scores[row].item() == pytest.approx(probability)


@pytest.mark.share(2)
@pytest.mark.parametrize("options", [{}, {"head": "cell", "reach": 2}])
@pytest.mark.parametrize("ends", [0.0, -9.0])
def test_long_sequences_have_the_scores_that_are_said(options, ends):
    """Each beginning goes on from its own state, or the scores would be those of other sequences."""
    for seed in range(3):
        network = opinionated(seed, ends, **options)
        source, lengths = torch.randint(TOKENS, (3, 4)), torch.tensor([4, 1, 3])
        found = network.generate(source, lengths, start=START, end=END, steps=12, beams=4)
        for row, said in enumerate(found.tokens):
            expected = score(network, source[row : row + 1, : lengths[row]], said, bool(found.finished[row]))
            assert found.scores[row].item() == pytest.approx(expected)
        assert ends == 0 or not found.finished.any()


def test_greedy_is_not_always_the_best():
    """Or the test above would show nothing."""
    better = 0
    for seed in range(4):
        network, source = opinionated(seed), torch.randint(TOKENS, (4, 3))
        greedy, beam = (network.generate(source, start=START, end=END, steps=3, beams=n).scores for n in (1, 36))
        better += int((beam > greedy + 1e-6).sum())
    assert better > 0


@pytest.mark.parametrize("beams", [1, 3])
def test_rows_do_not_depend_on_each_other(beams):
    network = opinionated(1, head="cell")
    source, lengths = torch.randint(TOKENS, (5, 4)), torch.tensor([4, 0, 2, 3, 1])
    together = network.generate(source, lengths, start=START, end=END, steps=7, beams=beams)
    for row in range(5):
        one = source[row : row + 1, : lengths[row]]
        alone = network.generate(one, start=START, end=END, steps=7, beams=beams)
        assert together.tokens[row].tolist() == alone.tokens[0].tolist()
        assert together.scores[row].item() == pytest.approx(alone.scores[0].item())


def test_what_is_refused_and_what_is_empty():
    network = opinionated(0)
    source = torch.randint(TOKENS, (2, 3))
    for options in ({"steps": 0}, {"steps": 3, "beams": 0}, {"steps": 2.0}):
        with pytest.raises(ShapeError, match="is a positive whole number"):
            network.generate(source, start=START, end=END, **options)
    assert network.generate(source[:0], start=START, end=END, steps=3).tokens == []
    with torch.no_grad():
        network.head.bias.fill_(torch.nan)
    with pytest.raises(StateError, match="not finite"):
        network.generate(source, start=START, end=END, steps=3)


def test_dropout_is_off():
    network = opinionated(0)
    network.head = nn.Sequential(nn.Dropout(0.9), network.head)
    network.train()
    source = torch.randint(TOKENS, (3, 3))
    first, second = (network.generate(source, start=START, end=END, steps=6).scores for _ in range(2))
    assert torch.equal(first, second)
    assert network.training
