"""Memory beyond the window: trained on windows of 64 steps, asked for a word more than 500 steps before.

Run: python examples/08_memory_beyond_the_window.py
"""

import itertools
import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import treadle as td
from treadle import streams
from treadle.show.reach import draw_reach

STEPS, ROWS, BATCHES = 64, 64, 700
WORDS, BABBLE = 4, 8  # tokens 0 to 3 are words, the next eight mean nothing, and the last one asks for the latest word
ASK = WORDS + BABBLE
FAR = 500


def lesson(number: int, length: int = 3000) -> streams.Array:
    """A word every 3 to 1,000 steps, and questions all the time: many near to it, and many beyond a window."""
    random = np.random.default_rng([0, number])
    tokens, answers = random.integers(WORDS, ASK, size=length), np.full(length, -1)
    at = 0
    while at < length:
        after = min(at + int(math.exp(random.uniform(math.log(3), math.log(1000)))), length)
        word, between = random.integers(WORDS), np.arange(at + 1, after)
        asked = between[random.random(len(between)) < 0.2]
        tokens[at], tokens[asked], answers[asked] = word, ASK, word
        at = after
    return streams.Array(tokens, answers, id=f"lesson {number}")


def exam(number: int, word: int, at: int | None = None, lag: int | None = None) -> streams.Array:
    """One word in the first window, one question at the end, 500 to 600 steps later, and nothing but babble else."""
    random = np.random.default_rng([1, number])
    early, more = random.integers([STEPS, 100]).tolist()
    at, lag = early if at is None else at, FAR + more if lag is None else lag
    tokens, answers = random.integers(WORDS, ASK, size=at + lag + 1), np.full(at + lag + 1, -1)
    tokens[at], tokens[-1], answers[-1] = word, ASK, word
    return streams.Array(tokens, answers, id=f"exam {number}, word {word}")


def network() -> td.Recurrent:
    """An embedding, a layer with memory and scores of the words."""
    torch.manual_seed(0)
    g = td.Graph(())
    embedded = g.add("embedded", torch.nn.Embedding(ASK + 1, 16), reads=g.x)
    layer = g.add("layer", td.LSTMCell(16, 32, forget_bias=1.0), reads=embedded)
    return td.Recurrent(g.outputs(g.add("scores", torch.nn.Linear(32, WORDS), reads=layer)))


def learn(carry: bool) -> td.Recurrent:
    """The gradient ends where a window begins; the state does so only if it is not carried on."""
    rnn = network()
    keeper = streams.StateKeeper(rnn)
    optimiser = torch.optim.Adam(rnn.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, BATCHES)
    windows = streams.Windows([lesson(number) for number in range(ROWS)], ROWS, STEPS, epochs=None)
    for batch in itertools.islice(windows, BATCHES):
        ys, state = rnn(batch.x, keeper.before(batch) if carry else None, batch.lengths, batch.resets)
        if carry:
            keeper.after(batch, state)
        loss = F.cross_entropy(ys[batch.mask], batch.y[batch.mask], ignore_index=-1)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(rnn.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return rnn


@torch.no_grad()
def answers(rnn: td.Recurrent, exams: list[streams.Array], carry: bool) -> Tensor:
    """The word that the network answers in each exam, [N]."""
    keeper = streams.StateKeeper(rnn)
    found = torch.empty(len(exams), dtype=torch.int64)
    for batch in streams.Windows(exams, len(exams), STEPS, seed=None):  # in order: row n reads exam n
        ys, state = rnn(batch.x, keeper.before(batch) if carry else None, batch.lengths, batch.resets)
        if carry:
            keeper.after(batch, state)
        found[batch.ends.any(1)] = ys[batch.ends].argmax(-1)
    return found


def right(rnn: td.Recurrent, carry: bool, exams: int = 100) -> float:
    """The share of right answers. Each exam comes with each word: without having heard it, one in four is right."""
    words = torch.arange(WORDS).repeat(exams)
    asked = [exam(n // WORDS, int(word)) for n, word in enumerate(words)]
    return (answers(rnn, asked, carry) == words).double().mean().item()


def reaches(carried: td.Recurrent, cut: td.Recurrent) -> dict[str, td.GradientReach]:
    """How far back from a question at the end of the ninth window the gradient flows; the word was its first step."""
    words = torch.arange(WORDS).repeat(8)
    length = 9 * STEPS
    asked = [exam(n, int(word), at=0, lag=length - 1) for n, word in enumerate(words)]
    xs = torch.stack([torch.from_numpy(next(one.pieces()).x) for one in asked])
    beginnings = torch.zeros(xs.shape, dtype=torch.bool)
    beginnings[:, ::STEPS] = True

    def reach(
        rnn: td.Recurrent, gradient: td.gradients.GradientMethod, resets: Tensor | None = None
    ) -> td.GradientReach:
        def loss(ys: Tensor) -> Tensor:
            return F.cross_entropy(ys.transpose(1, 2), words[:, None].expand(xs.shape), reduction="none")

        followed = td.Recurrent(rnn.cell, gradient=gradient)
        return td.gradient_reach(followed, xs, loss, steps=[length - 1], resets=resets)

    return {
        "before learning": reach(network(), td.FullBPTT()),
        "after learning": reach(carried, td.FullBPTT()),
        "after learning, in windows": reach(carried, td.TruncatedBPTT(STEPS)),
        "without carried state": reach(cut, td.FullBPTT(), beginnings),
    }


if __name__ == "__main__":
    carried, cut = learn(carry=True), learn(carry=False)
    print(f"state carried from window to window: {right(carried, True):.1%} right; chance is {1 / WORDS:.0%}")
    print(f"the same network without its state:  {right(carried, False):.1%} right")
    print(f"one that learned without:            {right(cut, False):.1%} right")
    measured = reaches(carried, cut)
    for name, reach in measured.items():
        print(f"gradient {name}: {reach.states[FAR] / reach.states[0]:.0e} of it flows {FAR} steps back")
    draw_reach("reach.svg", measured)
