"""Where the network learns how users are: from many simulated users at once.

Of these it is known what they want and what situations are like, so here, and only here, it is told.
"""

import itertools
from collections.abc import Iterator
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy, nll_loss

from treadle.recipes.decode.decoder import outcome_loss
from treadle.recipes.decode.evidence_cell import EvidenceCell
from treadle.recipes.decode.user import Press, UserModel
from treadle.recipes.decode.world import COMMANDS, SITUATIONS, WAIT, World
from treadle.running.recurrent import Recurrent
from treadle.state import detach
from treadle.training.budget import warm_up_and_cosine

FIRST_SEED = 10**6
"""Of simulated users in training: those of the study are others."""
ROWS_TO_LEARN, ROWS_TO_USE = 24, 40
"""Memories of keys. The weights are the same for any number, and fewer are quicker."""
PRESSES = 600
"""Of each user."""
WINDOW = 100
"""Presses after which a step of training is taken."""
SHARPNESSES = (4.0, 8.0, 8.0, 16.0)
"""How often the most likely action is chosen; by turns, so that the network has seen all of them."""


def pressed_by(seed: int, presses: int, gaps: tuple[int, int] = (100, 700)) -> list[Press]:
    """What a user presses, who changes all meanings from time to time.

    There is no time by which a change is to be expected, but for the least and the most presses between two (``gaps``):
    a network would learn that, and forget what it knows.
    """
    user, draw = UserModel.random(seed), Random(f"changes {seed}")
    made: list[Press] = []
    for part in itertools.count():
        count = min(draw.randint(*gaps), presses - len(made))
        made += itertools.islice(user.presses(count, 1000 * seed + part), count)
        if len(made) == presses:
            return made
        user = user.changed(1000 * seed + part)
    raise AssertionError("there is always another part")


class Crowd:
    """Users who press keys side by side, as rows of a batch, in worlds of their own (``seeds``)."""

    def __init__(self, users: list[list[Press]], seeds: range, cell: EvidenceCell):
        count = len(users)
        self.cell, self.every = cell, np.arange(count)
        self.situations, self.keys, self.wanted, _ = np.array(users).transpose(2, 0, 1)
        self.luck = np.array([World(seed).luck for seed in seeds])
        self._random = np.random.default_rng(list(seeds))
        most = int(self.keys.max()) + 1
        self._rows = np.full((count, most + 1, most), -1)
        """Where the memory of each key is, by the key before that was waited for; the last is for none."""
        self._taken = np.zeros(count, int)
        self._used = np.zeros((count, cell.keys), int)
        self._waited_for = np.full(count, most)
        self._most = most
        self._before = np.zeros((count, cell.actions + 1), np.float32)

    def inputs(self, at: int) -> Tensor:
        """What the network reads at a press [B, I]."""
        keys, every, K, S = self.keys[:, at], self.every, self.cell.keys, self.cell.situations
        rows = self._rows[every, self._waited_for, keys]
        new = rows < 0
        for i in np.flatnonzero(new):
            if self._taken[i] < K:
                row = self._taken[i]
                self._taken[i] += 1
            else:
                row = int(self._used[i].argmin())
                self._rows[i][self._rows[i] == row] = -1
            rows[i] = self._rows[i, self._waited_for[i], keys[i]] = row
        self._used[every, rows] = at + 1
        x = np.zeros((len(keys), self.cell.input_size), np.float32)
        x[every, rows] = x[every, K + self.situations[:, at]] = 1
        x[:, K + S : -2] = self._before
        x[:, -2], x[:, -1] = self._waited_for < self._most, new
        return torch.from_numpy(x)

    def outcomes(self, at: int, actions: np.ndarray) -> np.ndarray:
        """Which actions [B] turned out good [B]."""
        luck = self.luck[self.every, self.situations[:, at], actions]
        good = self._random.random(len(actions)) < np.where(actions == self.wanted[:, at], World.wanted, luck)
        self._before[:] = 0
        self._before[self.every, actions] = 1
        self._before[:, -1] = np.where(good, 1, -1)
        self._waited_for = np.where((actions == WAIT) & good, self.keys[:, at], self._most)
        return good


class Round(NamedTuple):
    """Some users, followed."""

    number: int
    """From 1."""
    loss: float
    """How badly was foreseen what was wanted."""
    right: float
    """How often what was wanted was done."""


def new_network(hidden_size: int = 12, seed: int = 0) -> Recurrent:
    """A network that knows nothing of users yet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        cell = EvidenceCell(ROWS_TO_USE, SITUATIONS, COMMANDS + 1, hidden_size)
    return Recurrent(cell, engine="reference")


def with_rows(cell: EvidenceCell, keys: int) -> EvidenceCell:
    """A cell of the very same weights, with another number of rows for keys."""
    other = EvidenceCell(keys, cell.situations, cell.actions, cell.hidden_size)
    for name, module in cell.named_children():
        setattr(other, name, module)
    for name, parameter in cell.named_parameters(recurse=False):
        setattr(other, name, parameter)
    return other


def learn_users(
    network: Recurrent, rounds: int = 250, users: int = 48, seed: int = 0, rate: float = 0.004, compiled: bool = False
) -> Iterator[Round]:
    """Learn how users are, a round each time that the iterator is asked.

    What is told here, and what nobody tells when it is used, is what each press was to mean, and how often each action
    would have turned out good in the situation without being wanted. Outcomes of its own actions are learned from
    besides, as these are what it has to go by later. The network learns in place, in each round from other users.
    To compile a step first (`torch.compile`) takes minutes, and halves the time after.
    """
    cell = with_rows(network.cell, ROWS_TO_LEARN)
    step = torch.compile(cell, dynamic=False) if compiled else cell
    optimiser = torch.optim.Adam(network.parameters(), lr=rate, betas=(0.9, 0.99))
    random = torch.Generator().manual_seed(seed)
    sharpness = torch.tensor([SHARPNESSES[i % len(SHARPNESSES)] for i in range(users)])[:, None]
    for number in range(1, rounds + 1):
        first = FIRST_SEED + (seed * rounds + number) * users
        seeds = range(first, first + users)
        crowd = Crowd([pressed_by(one, PRESSES) for one in seeds], seeds, cell)
        wanted, luck = torch.from_numpy(crowd.wanted), torch.from_numpy(crowd.luck).float()
        state, parts, losses, right = cell.initial_state(users), [], [], 0.0
        for at in range(PRESSES):
            output, state = step(crowd.inputs(at), state)
            meaning = output[:, : cell.actions]
            actions = torch.multinomial((meaning.detach() * sharpness).softmax(1), 1, generator=random)[:, 0]
            good = torch.from_numpy(crowd.outcomes(at, actions.numpy())).float()
            parts.append(
                (output, actions, good, wanted[:, at], state.unasked, luck[crowd.every, crowd.situations[:, at]])
            )
            right += (actions == wanted[:, at]).float().mean().item()
            if len(parts) == WINDOW:
                outputs, acted, goods, wishes, unasked, lucks = (torch.cat(part) for part in zip(*parts, strict=True))
                told = nll_loss(outputs[:, : cell.actions], wishes)
                loss = told + outcome_loss(outputs, (acted, goods)) + binary_cross_entropy(unasked, lucks)
                done = (number - 1 + at / PRESSES) / rounds
                optimiser.param_groups[0]["lr"] = rate * warm_up_and_cosine(number, done)
                optimiser.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimiser.step()
                losses.append(told.item())
                parts, state = [], detach(state)
        yield Round(number, sum(losses) / len(losses), right / PRESSES)
