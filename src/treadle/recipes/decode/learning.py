"""Where the network learns how users are: from what comes of its own guesses, with many simulated users at once.

Not even here is it told what was wanted. It is trained to foresee outcomes, those of its own actions.
"""

import itertools
from collections.abc import Iterator
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from treadle.recipes.decode.decoder import Rows, outcome_loss
from treadle.recipes.decode.memory import EvidenceCell
from treadle.recipes.decode.user import UserModel
from treadle.recipes.decode.world import COMMANDS, SITUATIONS, World
from treadle.recurrent import Recurrent
from treadle.state import detach
from treadle.training.optimiser import warm_up_and_cosine

__all__ = ["Crowd", "Round", "learn_users", "new_network"]

FIRST_SEED = 10**6
"""Of simulated users to learn from: those of the study are others."""
ROWS_TO_LEARN, ROWS_TO_USE = 20, 40
"""Memories of keys. The weights are the same for any number, and fewer are quicker."""
PRESSES = 500
"""Of each user."""
WINDOW = 100
"""Presses after which a step of training is taken."""
SHARPNESSES = (2.0, 4.0, 8.0)
"""How surely the likeliest is done; by turns, so that the network has seen all of them."""


class Crowd:
    """Users who press keys side by side, as rows of a batch; four in five change all meanings at some time.

    There is no time by which a change is to be expected: a network would learn that, and forget what it knows.

    Args:
        seeds: of the users.
        cell: for which inputs are made.
    """

    def __init__(self, seeds: range, cell: EvidenceCell):
        self.cell, self.worlds = cell, [World(seed) for seed in seeds]
        self._draws = [Random(f"crowd {seed}") for seed in seeds]
        self._rows = [Rows(cell.keys) for _ in seeds]
        self._presses = []
        for seed, draw in zip(seeds, self._draws, strict=True):
            user, change = UserModel.random(seed), min(draw.randint(100, 600), PRESSES)
            before = itertools.islice(user.presses(change, seed), change)
            after = itertools.islice(user.changed(seed).presses(PRESSES, seed + 1), PRESSES - change)
            self._presses.append([*before, *after])
        self._actions: list[int | None] = [None] * len(seeds)
        self._goods: list[bool | None] = [None] * len(seeds)

    def inputs(self, at: int) -> Tensor:
        """What the network reads at a press [B, I]."""
        presses = [row[at] for row in self._presses]
        names = [rows.names(press.key) for rows, press in zip(self._rows, presses, strict=True)]
        places = [rows.take(name) for rows, name in zip(self._rows, names, strict=True)]
        seconds = [len(name) > 1 for name in names]
        return self.cell.encode(places, [press.situation for press in presses], seconds, self._actions, self._goods)

    def outcomes(self, at: int, actions: list[int]) -> tuple[Tensor, float]:
        """What came of actions [B], and how many of them were wanted, which nobody learns from."""
        goods, right = [], 0
        for i, action in enumerate(actions):
            press = self._presses[i][at]
            good = self._draws[i].random() < self.worlds[i].good(press.situation, action, press.wanted)
            self._rows[i].acted(press.key, action, good)
            goods.append(good)
            right += action == press.wanted
        self._actions, self._goods = list(actions), goods
        return torch.tensor(goods, dtype=torch.float32), right / len(actions)


class Round(NamedTuple):
    """Some users, followed."""

    number: int
    """From 1."""
    loss: float
    """How badly outcomes were foreseen."""
    right: float
    """How often what was wanted was done."""


def new_network(hidden_size: int = 12, seed: int = 0) -> Recurrent:
    """A network that knows nothing of users yet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        cell = EvidenceCell(ROWS_TO_USE, SITUATIONS, COMMANDS + 1, hidden_size)
    return Recurrent(cell, engine="reference")


def learn_users(network: Recurrent, rounds: int = 150, users: int = 24, seed: int = 0) -> Iterator[Round]:
    """Learn how users are, a round each time that the iterator is asked.

    Args:
        network: of `new_network`; it learns in place.
        rounds: each with other users.
        users: in a round.
        seed: of what is done.
    """
    cell = EvidenceCell(ROWS_TO_LEARN, SITUATIONS, COMMANDS + 1, network.cell.hidden_size)
    for name, module in network.cell.named_children():
        setattr(cell, name, module)  # the same weights, with fewer rows
    for name, parameter in network.cell.named_parameters(recurse=False):
        setattr(cell, name, parameter)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.003)
    random = torch.Generator().manual_seed(seed)
    sharpness = torch.tensor([SHARPNESSES[i % len(SHARPNESSES)] for i in range(users)])[:, None]
    for number in range(1, rounds + 1):
        optimiser.param_groups[0]["lr"] = 0.003 * warm_up_and_cosine(number, (number - 1) / rounds)
        first = FIRST_SEED + (seed * rounds + number) * users
        crowd = Crowd(range(first, first + users), cell)
        state, foreseen, losses, shares = cell.initial_state(users), [], [], []
        for at in range(PRESSES):
            output, state = cell(crowd.inputs(at), state)
            likely = (output[:, : cell.actions].detach() * sharpness).softmax(1)
            actions = torch.multinomial(likely, 1, generator=random)[:, 0]
            goods, right = crowd.outcomes(at, actions.tolist())
            foreseen.append((output, actions, goods))
            shares.append(right)
            if len(foreseen) == WINDOW:
                outputs, acted, good = (torch.cat(part) for part in zip(*foreseen, strict=True))
                loss = outcome_loss(outputs, (acted, good))
                optimiser.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimiser.step()
                losses.append(loss.item())
                foreseen, state = [], detach(state)
        yield Round(number, sum(losses) / len(losses), sum(shares) / len(shares))
