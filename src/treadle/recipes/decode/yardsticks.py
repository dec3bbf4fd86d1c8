"""Whom the decoder is compared with: one who knows the keys, one who counts, and the perceptron that goes deaf."""

import math
from random import Random
from typing import Any

import torch
from torch import nn

from treadle.adapt import Online
from treadle.recipes.decode.decoder import Rows
from treadle.recipes.decode.user import UserModel
from treadle.recipes.decode.world import COMMANDS, SITUATIONS, WAIT, World
from treadle.wiring import Graph

__all__ = ["Counting", "Informed", "Perceptron"]

ACTIONS = COMMANDS + 1


class Informed:
    """Knows what each key means, and when that changes: only the user's own mistakes mislead it. What is attainable.

    Args:
        user: whose keys they are; set ``user`` when the meanings change.
    """

    def __init__(self, user: UserModel):
        self.user = user
        self._rows = Rows(1)

    def press(self, situation: int, key: int) -> int:
        """What the keys mean; of two that mean nothing together, what the last one does."""
        meaning = self.user.meaning
        self._key, self._action = key, meaning.get(self._rows.names(key), meaning.get((key,), WAIT))  # pyright: ignore
        return self._action

    def learn(self, good: bool) -> None:
        """Whether to go on waiting."""
        self._rows.acted(self._key, self._action, good)

    def table(self, keys: list[int]) -> list[list[int]]:
        """What each key means."""
        return [[self.user.meaning.get((key,), WAIT) for key in keys] for _ in range(SITUATIONS)]


class Counting:
    """Bayes' rule over the meanings of each key, told how the world works: the upper yardstick.

    It knows the probability of every outcome (the network has to find that out), takes one mistake in 17 for granted,
    holds that a key is as good as sure to mean something else than the others, and forgets a little at each press. It
    does what is likeliest.

    Args:
        world: which it knows.
    """

    mistakes, forgets, alone = 0.06, 0.003, 0.9

    def __init__(self, world: World):
        self.world = world
        self._rows = Rows(1)
        self._beliefs: dict[tuple[Any, ...], list[float]] = {}
        """For whatever was pressed, the logarithms of what its outcomes say of each meaning."""

    def _meaning(self, name: tuple[Any, ...]) -> list[float]:
        """How probable each meaning is, with what others mean taken into account."""
        own = list(self._beliefs.get(name, [0.0] * ACTIONS))
        for other, belief in self._beliefs.items():
            if other != name:
                own = [a + math.log1p(-self.alone * p) for a, p in zip(own, _shares(belief), strict=True)]
        own[WAIT] -= 0.7 if len(name) == 1 else 3.7
        return _shares(own)

    def press(self, situation: int, key: Any) -> int:
        """The likeliest meaning."""
        name = self._rows.names(key)
        meaning = self._meaning(name)
        action = meaning.index(max(meaning))
        self._pending = name, situation, action
        return action

    def learn(self, good: bool) -> None:
        """Bayes' rule."""
        name, situation, action = self._pending
        luck, slip = self.world.luck[situation][action], self.mistakes / COMMANDS
        likelihood = [(1 - slip) * luck + slip * self.world.wanted] * ACTIONS
        likelihood[action] = (1 - self.mistakes) * self.world.wanted + self.mistakes * luck
        before = _shares(self._beliefs.get(name, [0.0] * ACTIONS))
        self._beliefs[name] = [
            math.log((1 - self.forgets) * p + self.forgets / ACTIONS) + math.log(like if good else 1 - like)
            for p, like in zip(before, likelihood, strict=True)
        ]
        self._rows.acted(name[-1], action, good)

    def table(self, keys: list[Any]) -> list[list[int]]:
        """The likeliest meaning of each key."""
        meanings = [self._meaning((key,)) for key in keys]
        return [[meaning.index(max(meaning)) for meaning in meanings]] * SITUATIONS


def _shares(logarithms: list[float]) -> list[float]:
    most = max(logarithms)
    shares = [math.exp(one - most) for one in logarithms]
    total = sum(shares)
    return [one / total for one in shares]


def reinforced(outputs: torch.Tensor, answers: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Makes what turned out good likelier and what turned out bad less likely (REINFORCE; Williams, 1992)."""
    actions, good = answers
    taken = outputs.log_softmax(1).gather(1, actions[:, None])[:, 0]
    return -((2 * good - 1) * taken).mean()


class Perceptron:
    """The network of the question, of layers of 5, 15 and 10 units: from situation and key to a command.

    It is trained on the outcomes of what it did itself: what turned out good becomes likelier, what turned out bad less
    likely. So it finds what is usually good in a situation, does that whatever is pressed, and is content. It has no
    memory, so two presses are nothing to it, and it never waits.

    Args:
        keys: how many keys there are.
        seed: of its start, and of what it does.
    """

    def __init__(self, keys: int, seed: int):
        self.keys = keys
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = nn.Sequential(
                nn.Linear(SITUATIONS + keys, 5), nn.Tanh(), nn.Linear(5, 15), nn.Tanh(), nn.Linear(15, COMMANDS)
            )
        g = Graph(SITUATIONS + keys)
        network = g.outputs(g.add("layers", layers, reads=g.x))
        optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
        self.online = Online(network, reinforced, optimiser, horizon=1, history=1)
        self._random = Random(seed)

    def _scores(self, situation: int, key: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.zeros(SITUATIONS + self.keys)
        x[situation] = x[SITUATIONS + key] = 1
        return x, self.online.predict_one(x)

    def press(self, situation: int, key: int) -> int:
        """A command, drawn by its probability."""
        x, scores = self._scores(situation, key)
        action = int(self._random.choices(range(COMMANDS), scores.softmax(0).tolist())[0])
        self._pending = x, action
        return action

    def learn(self, good: bool) -> None:
        """One step down the gradient."""
        x, action = self._pending
        self.online.learn_one(x, (action, float(good)))

    def table(self, keys: list[int]) -> list[list[int]]:
        """The likeliest command."""
        return [[int(self._scores(situation, key)[1].argmax()) for key in keys] for situation in range(SITUATIONS)]
