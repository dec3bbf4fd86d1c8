import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import treadle as td
from tests.tolerances import assert_close
from treadle.errors import ShapeError
from treadle.training import bits_per_byte, fit, language_model
from treadle.training.language_model import ROWS, start_from_frequencies
from treadle.training.text import text_of

PROSE = b"Now is the time for all good men to come to the aid of the party. " * 120


@pytest.fixture
def text():
    return text_of("prose", PROSE[:6000], PROSE[6000:])


@pytest.fixture
def model():
    torch.manual_seed(0)
    return language_model("gru", "skip", 2, 12)


def steps(number):
    return lambda step: step / number


def test_a_model_without_weights_has_the_bits_of_its_bias(model, text):
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    assert_close(torch.tensor(bits_per_byte(model, text.scored_rows())), torch.tensor(8.0))
    start_from_frequencies(model, text)
    assert_close(torch.tensor(bits_per_byte(model, text.scored_rows())), torch.tensor(text.unigram_bits()))


def test_bits_per_byte_leaves_the_mode_alone_and_uses_evaluation_mode(text):
    model = language_model("zoneout", hidden_size=8)
    assert bits_per_byte(model, text.scored_rows()) == bits_per_byte(model, text.scored_rows())
    assert model.training
    bits_per_byte(model.eval(), text.scored_rows())
    assert not model.training


def test_state_is_carried_and_gradients_stop_at_the_window(model, text):
    """The first two steps, written out."""
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    got = [progress.training_bits for progress in fit(model, text, share_done=steps(2), window=10, seed=3)]

    part = 6000 // ROWS
    cut = int(torch.randint(2, part - 1, (), generator=torch.Generator().manual_seed(3)))
    starts = sorted({0, *(cut + row * 6000 // ROWS for row in range(ROWS))})
    ends = [*starts[1:], 6000]
    order = np.random.default_rng([3, 0]).permutation(len(starts))[:ROWS]
    # No part of those that are read first may end here, or the two steps would read more than one in a row.
    assert all(ends[i] - starts[i] > 20 for i in order)
    batches = [
        torch.tensor([[PROSE[starts[i] + k * 10 + step] for step in range(11)] for i in order]) for k in range(2)
    ]
    model.load_state_dict(initial)
    state, wanted = None, []
    optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=0)
    for k, batch in enumerate(batches):
        scores, state = model(batch[:, :-1], state)
        loss = F.cross_entropy(scores.flatten(0, 1), batch[:, 1:].flatten())
        wanted.append(loss.item() / math.log(2))
        state = td.detach(state)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.param_groups[0]["lr"] = 0.015 * (k + 1) / 10 * 0.5 * (1 + math.cos(math.pi * k / 2))
        optimiser.step()
    assert_close(torch.tensor(got), torch.tensor(wanted))


def test_it_learns(model, text):
    before = bits_per_byte(model, text.scored_rows())
    progress = list(fit(model, text, share_done=steps(60), evaluate_at=[30, 60]))
    assert [p.step for p in progress] == list(range(1, 61))
    measured = {p.step: p.held_out_bits for p in progress if p.held_out_bits is not None}
    assert list(measured) == [30, 60]
    assert measured[60] == bits_per_byte(model, text.scored_rows())
    assert measured[60] < measured[30] < before
    assert measured[60] < text.unigram_bits() - 0.5


def test_evaluating_does_not_change_training(model, text):
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    list(fit(model, text, share_done=steps(4)))
    without = model.cell.scores.weight.clone()
    model.load_state_dict(initial)
    list(fit(model, text, share_done=steps(4), evaluate_at=range(5)))
    assert torch.equal(model.cell.scores.weight, without)


def test_a_short_text_is_refused_before_anything_happens(model):
    text = text_of("tiny", bytes(100), bytes(10))
    with pytest.raises(ShapeError, match="tiny has 110 bytes, but"):
        next(fit(model, text, share_done=steps(1)))
