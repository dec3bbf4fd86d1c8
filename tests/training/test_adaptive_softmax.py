"""An adaptive softmax is a distribution, whose losses and gradients are those of its probabilities."""

import pytest
import torch

import treadle as td
from tests.tolerances import assert_close
from treadle.training import word_model
from treadle.training.adaptive_softmax import AdaptiveSoftmax
from treadle.training.word_model import losses


@pytest.mark.parametrize(
    ("size", "classes", "cutoffs"), [(37, 101, [10, 40]), (3, 9, [2, 5]), (1, 5, [1, 2, 3]), (8, 9, [8])]
)
def test_losses_are_those_of_the_probabilities(size, classes, cutoffs):
    torch.manual_seed(0)
    head = AdaptiveSoftmax(size, classes, cutoffs).double()
    x = torch.randn(63, size, dtype=torch.float64, requires_grad=True)
    y = torch.arange(63) % classes
    log_probabilities = head(x)
    assert_close(log_probabilities.exp().sum(1), torch.ones(63, dtype=torch.float64))
    assert_close(log_probabilities, head.softmax.log_prob(x))
    expected = -log_probabilities[range(63), y]
    assert_close(head.losses(x, y), expected)
    weights = torch.randn(63, dtype=torch.float64)
    inputs = [x, *head.parameters()]
    wanted = torch.autograd.grad((weights * expected).sum(), inputs)
    for one, other in zip(torch.autograd.grad((weights * head.losses(x, y)).sum(), inputs), wanted, strict=True):
        assert_close(one, other)
    assert_close(head(x[:1]), log_probabilities[:1])
    assert head(x[:0]).shape == (0, classes)


def test_it_begins_with_how_frequent_the_classes_are():
    head = AdaptiveSoftmax(4, 10, [2, 5])
    frequencies = torch.tensor([8.0, 4, 2, 2, 2, 1, 1, 1, 1, 1])
    frequencies /= frequencies.sum()
    head.start_from(frequencies.log())
    for parameter in head.parameters():
        if parameter is not head.softmax.head.bias:
            torch.nn.init.zeros_(parameter)
    assert_close(head(torch.randn(1, 4)).exp()[0], frequencies)


@pytest.mark.share(1)
@pytest.mark.parametrize("words", [50, 4_100])
def test_losses_of_a_network_are_those_of_its_scores(words):
    torch.manual_seed(0)
    rnn = word_model(words, "gru", "feedback", hidden_size=5).double()
    x, y = torch.randint(0, words, (2, 3, 7))
    scores, state = rnn(x)
    found, after = losses(rnn, x[:, :4], y[:, :4])
    more, after = losses(rnn, x[:, 4:], y[:, 4:], after)
    expected = -scores.log_softmax(2).gather(2, y[..., None])[..., 0]
    assert_close(found.reshape(3, 4), expected[:, :4])
    assert_close(more.reshape(3, 3), expected[:, 4:])
    for one, other in zip(td.state.named_tensors(after), td.state.named_tensors(state), strict=True):
        assert one[0] == other[0]
        assert_close(one[1], other[1])


def test_under_autocast():
    rnn = word_model(4_100, hidden_size=8)
    x = torch.randint(0, 4_100, (2, 5))
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = losses(rnn, x, x)
    found.sum().backward()
    assert torch.allclose(found, losses(rnn, x, x)[0], atol=0.05)


def test_files(tmp_path):
    rnn = word_model(4_100, hidden_size=8)
    td.save(tmp_path / "m", rnn)
    again = td.load(tmp_path / "m")
    x = torch.randint(0, 4_100, (2, 5))
    assert torch.equal(again(x)[0], rnn(x)[0])
