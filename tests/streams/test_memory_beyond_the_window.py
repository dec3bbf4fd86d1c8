"""What example 08 shows, proved: its answers can come from nothing but state that was carried over 500 steps."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

EXAMPLE = Path(__file__).parents[2] / "examples" / "08_memory_beyond_the_window.py"


def elements(stream):
    """Tokens and answers of a stream, whole."""
    pieces = list(stream.pieces())
    return np.concatenate([piece.x for piece in pieces]), np.concatenate([piece.target for piece in pieces])


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(EXAMPLE))


def test_nothing_in_the_last_500_steps_tells_the_answer(example):
    words, ask, far = example["WORDS"], example["ASK"], example["FAR"]
    assert far == 500
    lags, heard = set(), set()
    for number in range(60):
        several = [elements(example["exam"](number, word)) for word in range(words)]
        tokens, answers = several[0]
        (at,) = np.flatnonzero(tokens < words)  # there is one word, and one question, which is the last step
        assert np.flatnonzero(tokens == ask).tolist() == np.flatnonzero(answers >= 0).tolist() == [len(tokens) - 1]
        lags.add(len(tokens) - 1 - at)
        for word, (others, wanted) in enumerate(several):
            assert others[at] == wanted[-1] == word
            assert np.array_equal(np.delete(others, at), np.delete(tokens, at))  # all else is the same for every word
        heard.add(at)
    assert min(lags) >= far
    assert len(lags) > 20  # no two exams are alike: a network cannot learn their moment by heart
    assert len(heard) > 20


def test_lessons_ask_for_the_latest_word(example):
    words, ask = example["WORDS"], example["ASK"]
    lags = []
    for number in range(8):
        tokens, answers = elements(example["lesson"](number))
        latest, at = None, None
        for t, (token, answer) in enumerate(zip(tokens, answers, strict=True)):
            latest, at = (token, t) if token < words else (latest, at)
            assert answer == (latest if token == ask else -1)
            lags += [t - at] if token == ask else []
    near = np.mean(np.array(lags) < example["STEPS"])
    assert 0.1 < near < 0.9  # some teach to write down, the others to hold
    assert max(lags) > example["FAR"]


@pytest.mark.slow
def test_state_that_is_carried_on_answers_and_without_it_there_is_chance(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run = runpy.run_path(str(EXAMPLE), run_name="__main__")
    carried, cut, words, far = (run[name] for name in ("carried", "cut", "WORDS", "FAR"))
    assert run["STEPS"] == 64
    assert run["right"](carried, carry=True) >= 0.95
    for rnn in (carried, cut):
        # More than an interval around chance: whatever the word was, the answer is the same, so it is right for one
        # of the words of each exam.
        found = [run["answers"](rnn, [run["exam"](n, word) for n in range(100)], carry=False) for word in range(words)]
        assert all(torch.equal(found[0], others) for others in found)
        assert run["right"](rnn, carry=False) == 1 / words
        # And of exams with one word each, drawn at random: 99.9 % of all who guess are between these two.
        drawn = torch.from_numpy(np.random.default_rng(2).integers(words, size=400))
        exams = [run["exam"](n, int(word)) for n, word in enumerate(drawn)]
        assert 72 <= int((run["answers"](rnn, exams, carry=False) == drawn).sum()) <= 129
        assert (run["answers"](carried, exams, carry=True) == drawn).double().mean() >= 0.95

    reach = {name: measured.states / measured.states[0] for name, measured in run["measured"].items()}
    assert reach["before learning"][far] < 1e-20
    assert reach["after learning"][far] > 0.1  # what was said there is what the answer depends on
    for name in ("after learning, in windows", "without carried state"):
        assert reach[name][63] > 0
        assert not reach[name][64:].any()

    assert (tmp_path / "reach.svg").stat().st_size
    assert "% right; chance is 25%" in capsys.readouterr().out
