"""Where the network learns how users are: from many simulated users at once.

Of these it is known what they want and what situations are like, so here, and only here, it is told.
"""

import itertools
from collections.abc import Callable, Generator
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy, nll_loss

from treadle.recipes.decode.decoder import outcome_loss
from treadle.recipes.decode.evidence_cell import EvidenceCell
from treadle.recipes.decode.user import Press, UserModel
from treadle.recipes.decode.world import COMMANDS, SITUATIONS, WAIT, World
from treadle.running.recurrent import Recurrent
from treadle.training.training_loop import Step, train

FIRST_SEED = 10**6
"""Of simulated users in training: those of the study are others."""
ROWS_TO_LEARN, ROWS_TO_USE = 24, 40
"""Memories of keys. The weights are the same for any number, and fewer are quicker."""
PRESSES = 600
"""Of each user."""
WINDOW = 100
"""Presses after which a step of training is taken."""
MOST_ROUNDS = 10**6
"""Of one random seed: users of other seeds are others."""
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


class Window(NamedTuple):
    """Presses of some users for one training step."""

    crowd: Crowd
    start: int
    """The first press, from 0."""
    random: torch.Generator
    """For the actions that are tried."""
    x: Tensor
    """[B, WINDOW, 0]: what is read depends on the network's own actions, and is not known before."""
    y: Tensor
    """[B, WINDOW], what each press is to mean."""
    lengths: None = None
    resets: None = None


class Windows:
    """Endless windows: rounds of users who are followed from their first press to their last, each time other users.

    ``state_dict`` holds the position, at the start of a round; within a round there is none.
    """

    def __init__(self, cell: EvidenceCell, users: int, seed: int):
        self._cell, self._users, self._seed = cell, users, seed
        self._random = torch.Generator().manual_seed(seed)
        self._crowd: Crowd | None = None
        self._start = PRESSES
        self.round = 0
        """From 1."""

    def __iter__(self) -> "Windows":
        return self

    def __next__(self) -> Window:
        if self.is_round_over:
            self.round, self._start = self.round + 1, 0
            first = FIRST_SEED + (self._seed * MOST_ROUNDS + self.round) * self._users
            seeds = range(first, first + self._users)
            self._crowd = Crowd([pressed_by(one, PRESSES) for one in seeds], seeds, self._cell)
        crowd, start = self._crowd, self._start
        assert crowd is not None
        self._start += self.presses
        wanted = torch.from_numpy(crowd.wanted[:, start : self._start])
        return Window(crowd, start, self._random, torch.zeros(*wanted.shape, 0), wanted)

    @property
    def presses(self) -> int:
        """In a window."""
        return min(WINDOW, PRESSES)

    @property
    def is_round_over(self) -> bool:
        """Whether the next window is the first of a round."""
        return self._start + self.presses > PRESSES

    def state_dict(self) -> dict[str, Any]:
        """The position."""
        assert self.is_round_over
        return {"round": self.round, "random": self._random.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a position."""
        self.round, self._start = state["round"], PRESSES
        self._random.set_state(state["random"])


class _WholeRounds:
    """How much of a training is over, which ends with a round of so many steps."""

    def __init__(self, share_done: Callable[[int], float], steps: int):
        self._share_done, self._steps, self._last = share_done, steps, 0.0
        if hasattr(share_done, "state_dict"):
            self.state_dict, self.load_state_dict = share_done.state_dict, share_done.load_state_dict  # pyright: ignore

    def __call__(self, step: int) -> float:
        share = self._share_done(step)
        if share < 1 or step % self._steps == 0:
            self._last = share
        return self._last


class Learning:
    """Training of a network on how users are.

    What is told here, and what nobody tells when it is used, is what each press was to mean, and how often each action
    would have turned out good in the situation without being wanted. Outcomes of its own actions are learned from
    besides, as these are what it has to go by later. Each round has other users.

    Args:
        network: the network; it is trained in place.
        users: how many are followed side by side in a round.
        seed: random seed of users and actions.
        learning_rate: the peak learning rate.
        compiled: whether to compile a step first (`torch.compile`), which takes minutes, and halves the time after.
    """

    def __init__(
        self,
        network: Recurrent,
        *,
        users: int = 48,
        seed: int = 0,
        learning_rate: float = 0.004,
        compiled: bool = False,
    ):
        self.network, self.learning_rate = network, learning_rate
        self._cell = with_rows(network.cell, ROWS_TO_LEARN)
        self._step = torch.compile(self._cell, dynamic=False) if compiled else self._cell
        self._sharpness = torch.tensor([SHARPNESSES[i % len(SHARPNESSES)] for i in range(users)])[:, None]
        self.windows = Windows(self._cell, users, seed)
        self.epoch_steps = max(PRESSES // WINDOW, 1)
        """Steps of a round."""
        self._right: list[float] = []
        self.done = 0
        """Steps done when it is over."""

    def steps(
        self,
        share_done: Callable[[int], float],
        *,
        checkpoint_at: Callable[[int], bool] = lambda step: False,
        **options: Any,
    ) -> Generator[Step, None, None]:
        """Train, one step per iteration. It ends with a round, and checkpoints are written at the end of rounds.

        Args:
            share_done: from the number of steps done to the fraction of training that is over.
            checkpoint_at: whether to write the checkpoint at the end of a round.
            **options: ``checkpoint`` and ``about``, as of `treadle.training.train`.
        """
        rate, due = self.learning_rate, False

        def keep_at(step: int) -> bool:
            nonlocal due
            due |= checkpoint_at(step)
            now = due and self.windows.is_round_over
            due &= not now
            return now

        self.done = yield from train(
            self.network,
            self.windows,
            torch.optim.Adam(self.network.parameters(), lr=rate, betas=(0.9, 0.99)),
            _WholeRounds(share_done, self.epoch_steps),
            learning_rate=rate,
            warm_up=10 * self.epoch_steps,
            carry_state=True,
            run=self._run,
            loss_of=lambda loss, wanted: (loss * wanted.numel(), torch.tensor(wanted.numel())),
            checkpoint_at=keep_at,
            **options,
        )

    @property
    def right(self) -> float:
        """How often what was wanted was done, in the round so far."""
        return sum(self._right) / len(self._right)

    def _run(self, network: Recurrent, window: Window, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Follow users for a window; the loss of it, and the state after it."""
        cell, crowd, users = self._cell, window.crowd, len(x)
        state = cell.initial_state(users) if window.start == 0 else state
        self._right = [] if window.start == 0 else self._right
        luck, parts = torch.from_numpy(crowd.luck).float(), []
        for at, wanted in enumerate(window.y.unbind(1), start=window.start):
            output, state = self._step(crowd.inputs(at), state)
            meaning = output[:, : cell.actions]
            chances = (meaning.detach() * self._sharpness).softmax(1)
            actions = torch.multinomial(chances, 1, generator=window.random)[:, 0]
            good = torch.from_numpy(crowd.outcomes(at, actions.numpy())).float()
            parts.append((output, actions, good, wanted, state.unasked, luck[crowd.every, crowd.situations[:, at]]))
            self._right.append((actions == wanted).float().mean().item())
        outputs, acted, goods, wishes, unasked, lucks = (torch.cat(part) for part in zip(*parts, strict=True))
        told = nll_loss(outputs[:, : cell.actions], wishes)
        return told + outcome_loss(outputs, (acted, goods)) + binary_cross_entropy(unasked, lucks), state
