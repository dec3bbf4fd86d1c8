"""Bayes' rule over the meanings of keys, with the world's probabilities known: a baseline for the network."""

from typing import Any

import numpy as np

from treadle.recipes.decode.decoder import Rows
from treadle.recipes.decode.world import COMMANDS, SITUATIONS, WAIT, World

ACTIONS = COMMANDS + 1


class Bayes:
    """Bayes' rule over the meanings of each key, with the world's probabilities known: the upper baseline.

    It knows the probability of every outcome (the network has to learn it), assumes one mistake in 17 presses, and does
    what is most likely. Besides outcomes, it uses three facts:

    - Keys rarely mean the same. Beliefs are made to fit each other, keys by commands, as by Sinkhorn and Knopp (1967).
    - All keys may change their meaning at once. It holds beliefs that began at different times side by side,
      each with the probability that the last change was then (Adams and MacKay, 2007).
    - Habits outlive a change. Beliefs begin with what was wanted in which situation, as those before understand it now.
      So each press of a key says something of every command, whatever is done. As habits are known from few presses,
      presses of the key itself count among them (Dirichlet's distribution), and what they say counts a third.

    Args:
        world: the world, which it knows.
        habits: whether to use habits.
        change: probability of a change at each press.
    """

    mistakes, alone, trust = 0.06, 0.6, 0.35
    every, most = 3, 24
    """Presses between two beginnings of beliefs, and how many of these are kept."""

    def __init__(self, world: World, habits: bool = True, change: float = 0.001):
        self.luck, self.wanted, self.habits, self.change = np.array(world.luck), world.wanted, habits, change
        self._rows = Rows(1)
        self._names: dict[tuple[Any, ...], int] = {}
        self._presses = 0
        self._begun = np.zeros(1)
        """Of each beginning [R], the logarithm of its probability."""
        self._said = np.zeros((1, 0, ACTIONS))
        """What has been seen since says of each meaning of whatever was pressed [R, N, A], in logarithms."""
        self._pressed = np.zeros((1, SITUATIONS, 0))
        """How often each was pressed since, by situation [R, S, N]."""
        self._wishes = np.zeros((1, SITUATIONS, ACTIONS))
        """How often each action had been wanted before [R, S, A]."""

    def _place(self, name: tuple[Any, ...]) -> int:
        if name not in self._names:
            self._names[name] = len(self._names)
            self._said = np.pad(self._said, ((0, 0), (0, 1), (0, 0)))
            self._pressed = np.pad(self._pressed, ((0, 0), (0, 0), (0, 1)))
        return self._names[name]

    def _meanings(self) -> np.ndarray:
        """How probable each meaning of each is, for each beginning [R, N, A]."""
        x = self._said.copy()
        x[:, :, WAIT] -= [0.7 if len(name) == 1 else 3.7 for name in self._names]
        p = np.exp(x - x.max(2, keepdims=True))
        p /= p.sum(2, keepdims=True)
        for _ in range(8):
            meant = np.maximum(p.sum(1, keepdims=True), 1.0)
            meant[:, :, WAIT] = 1.0
            p /= meant**self.alone
            p /= p.sum(2, keepdims=True)
        return p

    def _fit(self, situation: int, places: list[int]) -> np.ndarray:
        """How probable a press of each would be, for each meaning, but for mistakes [R, N, A]."""
        if not self.habits:
            return np.full((len(self._begun), len(places), ACTIONS), 1 / ACTIONS)
        wishes = self._wishes[:, :, :WAIT] * 0.6
        usual = wishes.sum(1) + 1
        wishes = wishes[:, situation] + 3 * usual / usual.sum(1, keepdims=True)
        own, total = self._pressed[:, situation, places, None], self._pressed[:, situation].sum(1)[:, None, None]
        known = wishes.sum(1)[:, None, None]
        first_of_two = np.broadcast_to(known / 4, (*known.shape[:2], 1))
        return (np.concatenate([wishes[:, None], first_of_two], 2) + own) / (known + total)

    def _weights(self) -> np.ndarray:
        weights = np.exp(self._begun - self._begun.max())
        return weights / weights.sum()

    def press(self, situation: int, key: Any) -> int:
        """The most likely meaning."""
        name = self._rows.names(key)
        place = self._place(name)
        alike = [at for other, at in self._names.items() if other[:-1] == name[:-1]]
        meanings = self._meanings()
        fit = self._fit(situation, alike)
        pressed = (1 - self.mistakes) * fit + self.mistakes / COMMANDS  # with mistakes
        expected = (meanings[:, alike] * pressed).sum(2)
        i = alike.index(place)
        if self.habits and len(name) == 1:
            self._begun = self._begun + np.log(expected[:, i] / expected.sum(1))
        now = meanings[:, place] * pressed[:, i]
        action = int((self._weights() @ (now / now.sum(1, keepdims=True))).argmax())
        self._pending = name, place, situation, action, meanings[:, place], fit[:, i], pressed[:, i]
        return action

    def learn(self, good: bool) -> None:
        """Bayes' rule."""
        name, place, situation, action, meaning, fit, pressed = self._pending
        outcome = np.full(ACTIONS, self.luck[situation, action])
        outcome[action] = self.wanted
        outcome = outcome if good else 1 - outcome
        seen = (1 - self.mistakes) * fit * outcome + self.mistakes / COMMANDS * outcome[:WAIT].mean()
        self._begun = self._begun + np.log((meaning * seen).sum(1) / (meaning * pressed).sum(1))
        self._said[:, place] += np.log(seen / pressed) + self.trust * np.log(pressed)
        self._pressed[:, situation, place] += 1
        self._presses += 1
        if self._presses % self.every == 0:
            self._begin()
        self._rows.acted(name[-1], action, good)

    def _begin(self) -> None:
        """Beliefs that begin now; of all those before, the least probable is given up, but for the last few."""
        weights, change = self._weights(), self.change * self.every
        wishes = self._wishes + np.einsum("rsn,rna->rsa", self._pressed, self._meanings())
        self._begun = np.append(np.log(np.maximum(weights * (1 - change), 1e-300)), np.log(change))
        self._wishes = np.concatenate([self._wishes, np.einsum("r,rsa->sa", weights, wishes)[None]])
        self._said, self._pressed = (np.pad(x, ((0, 1), (0, 0), (0, 0))) for x in (self._said, self._pressed))
        if len(self._begun) > self.most:
            least = int(self._begun[:-8].argmin())
            self._begun, self._said, self._pressed, self._wishes = (
                np.delete(x, least, 0) for x in (self._begun, self._said, self._pressed, self._wishes)
            )

    def table(self, keys: list[Any]) -> list[list[int]]:
        """The most likely meaning of each key, whatever the situation."""
        new = [key for key in keys if (key,) not in self._names]
        believed = np.einsum("r,rna->na", self._weights(), self._meanings()) if self._names else np.zeros((0, ACTIONS))
        return [[0 if key in new else int(believed[self._names[(key,)]].argmax()) for key in keys]] * SITUATIONS
