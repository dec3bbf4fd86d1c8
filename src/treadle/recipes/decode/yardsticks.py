"""Baselines: a decoder that knows the keys, and a perceptron without memory."""

from random import Random

import torch
from torch import nn

from treadle.adapt import Online
from treadle.recipes.decode.decoder import Rows
from treadle.recipes.decode.user import UserModel
from treadle.recipes.decode.world import COMMANDS, SITUATIONS, WAIT
from treadle.wiring import Graph


class Informed:
    """A decoder that knows what each key means and when that changes: the best attainable accuracy.

    When the meanings change, set ``user``.
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


def reinforced(outputs: torch.Tensor, answers: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Makes what turned out good likelier and what turned out bad less likely (REINFORCE; Williams, 1992)."""
    actions, good = answers
    taken = outputs.log_softmax(1).gather(1, actions[:, None])[:, 0]
    return -((2 * good - 1) * taken).mean()


class Perceptron:
    """A perceptron with layers of 5, 15 and 10 units, from situation and key to a command.

    It is trained by REINFORCE on the outcomes of its own actions. So it learns what is usually good in a situation, and
    does that whatever is pressed. It has no memory, so it cannot use two presses, and it never waits.

    Args:
        keys: how many keys there are.
        seed: random seed of its weights and actions.
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
        """One step of gradient descent."""
        x, action = self._pending
        self.online.learn_one(x, (action, float(good)))

    def table(self, keys: list[int]) -> list[list[int]]:
        """The most likely command."""
        return [[int(self._scores(situation, key)[1].argmax()) for key in keys] for situation in range(SITUATIONS)]
