"""The decoder: from situation and key to an action, learning the keys' meanings from outcomes."""

import collections
import math
import os
from collections.abc import Hashable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from treadle.adapt import Online
from treadle.errors import DataError, ModelFileError
from treadle.files import model_file
from treadle.recipes.decode.evidence_cell import EvidenceCell
from treadle.recipes.decode.world import COMMANDS, SITUATIONS, WAIT
from treadle.running.recurrent import Recurrent
from treadle.state import map_state

OWN = Path(__file__).parent / "decoder.safetensors"
"""The bundled network; ``treadle decode --learn`` makes one."""


class Decoder(Protocol):
    """What guesses the meaning of keys. Any object with these methods is a decoder."""

    def press(self, situation: int, key: Any) -> int:
        """The action after a key: a command, or `WAIT`."""
        ...

    def learn(self, good: bool) -> None:
        """The outcome of the last action."""
        ...

    def table(self, keys: list[Any]) -> list[list[int]]:
        """For each situation, what each key would mean now as the first of a command. Nothing changes."""
        ...


class Rows:
    """Where the memory of each key is: keys as they come, and a key after one that was waited for by itself.

    Where all rows are taken, a new key gets the row that was used longest ago.
    """

    def __init__(self, count: int):
        self.count = count
        self._rows: collections.OrderedDict[tuple[Hashable, ...], int] = collections.OrderedDict()
        self._waited_for: Hashable | None = None

    def names(self, key: Hashable) -> tuple[Hashable, ...]:
        """What is pressed with a key: the key, or two."""
        return (key,) if self._waited_for is None else (self._waited_for, key)

    def take(self, name: tuple[Hashable, ...]) -> int:
        """The row of what was pressed."""
        row = self.find(name)
        if name not in self._rows and len(self._rows) == self.count:
            self._rows.popitem(last=False)
        self._rows[name] = row
        self._rows.move_to_end(name)
        return row

    def knows(self, name: tuple[Hashable, ...]) -> bool:
        """Whether it has a row already."""
        return name in self._rows

    def find(self, name: tuple[Hashable, ...]) -> int:
        """The row that it has, or would get."""
        if name in self._rows:
            return self._rows[name]
        return len(self._rows) if len(self._rows) < self.count else next(iter(self._rows.values()))

    def acted(self, key: Hashable, action: int, good: bool | None) -> None:
        """After an action: whether the next key is the second of two, as it was right to wait after this one."""
        self._waited_for = key if action == WAIT and good else None

    def state_dict(self) -> dict[str, Any]:
        waited = None if self._waited_for is None else [self._waited_for]
        return {"rows": [[list(name), row] for name, row in self._rows.items()], "waited_for": waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rows = collections.OrderedDict((tuple(name), row) for name, row in state["rows"])
        self._waited_for = None if state["waited_for"] is None else state["waited_for"][0]


def outcome_loss(outputs: Tensor, answers: tuple[Tensor, Tensor]) -> Tensor:
    """The loss of predicted outcomes: cross-entropy, for the actions that were taken.

    Args:
        outputs: of an `EvidenceCell`, [N, 2 A].
        answers: which actions were taken [N], and which turned out good, 1 or 0 [N].
    """
    actions, good = answers
    return binary_cross_entropy_with_logits(outputs[:, outputs.shape[1] // 2 :].gather(1, actions[:, None])[:, 0], good)


class _Pending(NamedTuple):
    key: Any
    x: Tensor
    action: int


class KeyDecoder:
    """Infers what a user's keys mean while they press them, from outcomes alone.

    The network's state does it, as trained on many simulated users; `treadle.adapt.Online` can also adapt its weights
    to this user. A key is any hashable value, such as its name, and is known from the first press on.

    Args:
        network: a `Recurrent` over an `EvidenceCell`; by default a copy of the bundled one.
        learning_rate: online learning rate of the weights; at 0 they stay fixed, and only the state adapts. One user's
            outcomes are mostly noise for the weights: 0.0001 is a high rate.
        sharpness: how often the most likely meaning is chosen: each is drawn with the power ``sharpness`` of its
            probability. What is never tried is never learned.
        seed: random seed of these draws.

    Example:
        >>> from treadle.recipes.decode import KeyDecoder
        >>> decoder = KeyDecoder(seed=0)
        >>> command = decoder.press(situation=2, key="x")   # a guess
        >>> decoder.learn(good=False)                       # and what came of it
    """

    def __init__(
        self, network: Recurrent | None = None, learning_rate: float = 0.0, sharpness: float = 8.0, seed: int = 0
    ):
        network = load_network() if network is None else network
        self.cell: EvidenceCell = network.cell
        self.learning_rate, self.sharpness = learning_rate, sharpness
        optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate)
        self.online = Online(network, outcome_loss, optimiser, horizon=2, history=128, replays=2, seed=seed)
        self._rows = Rows(self.cell.keys)
        self._random = Random(seed)
        self._pending: _Pending | None = None
        self._last: tuple[int | None, bool | None] = (None, None)

    def press(self, situation: int, key: Hashable) -> int:
        """The action after a key.

        Raises:
            DataError: there is no such situation.
        """
        if not isinstance(situation, int) or not 0 <= situation < self.cell.situations:
            raise DataError(f"situation {situation!r:.40} is not one of the {self.cell.situations} there are, from 0")
        if self._pending is not None:
            self._conclude(None)
        name = self._rows.names(key)
        new = not self._rows.knows(name)
        x = self._input([self._rows.take(name)], [situation], [len(name) > 1], [new])[0]
        meaning = self.online.predict_one(x)[: self.cell.actions].double()
        action = int(self._random.choices(range(self.cell.actions), (meaning * self.sharpness).softmax(0).tolist())[0])
        self._pending = _Pending(key, x, action)
        return action

    def learn(self, good: bool) -> None:
        """Learn from the outcome of the last action.

        Raises:
            DataError: good is neither true nor false (nor 1 or 0), or there was no action. Nothing has changed then:
                call it again.
        """
        if self._pending is None:
            raise DataError("nothing was done since the last outcome: press a key first")
        if not isinstance(good, bool | int | float) or good not in (0, 1):
            raise DataError(f"an outcome is good or bad, True or False, but {good!r:.40} was passed")
        self._conclude(bool(good))

    def _conclude(self, good: bool | None) -> None:
        key, x, action = self._pending  # pyright: ignore[reportGeneralTypeIssues]
        answer = None if good is None or not self.learning_rate else (action, float(good))
        self.online.learn_one(x, answer)
        self._pending, self._last = None, (action, good)
        self._rows.acted(key, action, good)

    def meanings(self, key: Hashable) -> list[float]:
        """The probability of each meaning of a key, `WAIT` last, if it were pressed now. Nothing changes."""
        return self._foreseen([key], [0], self._rows.names(key)[:-1])[0].exp().tolist()

    def table(self, keys: list[Any]) -> list[list[int]]:
        """For each situation, what each key would mean now as the first of a command. Nothing changes."""
        situations = [s for s in range(self.cell.situations) for _ in keys]
        return self._foreseen(keys * self.cell.situations, situations).argmax(1).reshape(-1, len(keys)).tolist()

    def _foreseen(self, keys: list[Any], situations: list[int], before: tuple[Hashable, ...] = ()) -> Tensor:
        names = [(*before, key) for key in keys]
        new = [not self._rows.knows(name) for name in names]
        xs = self._input([self._rows.find(name) for name in names], situations, [bool(before)] * len(keys), new)
        state = map_state(lambda tensor: tensor.expand(len(keys), *tensor.shape[1:]), self.online.state)
        with torch.no_grad():
            ys, _ = self.online.model.step(xs, state)
        return ys[:, : self.cell.actions]

    def _input(self, rows: list[int], situations: list[int], seconds: list[bool], new: list[bool]) -> Tensor:
        action, good = self._last
        return self.cell.encode(rows, situations, seconds, new, [action] * len(rows), [good] * len(rows))

    def save(self, path: str | os.PathLike[str], **notes: Any) -> None:
        """Write everything about a user to one file: weights, state, history, optimiser, keys and notes.

        Raises:
            ModelFileError: a key or a note is nothing that a file can hold: names and numbers are.
            OSError: the file cannot be written.
        """
        decoder = {"rows": self._rows.state_dict(), "random": self._random.getstate(), "last": list(self._last)}
        self.online.save(path, decoder=decoder, notes=notes)

    def restore(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Resume what `save` wrote; an action without its outcome is forgotten.

        Returns:
            The notes.

        Raises:
            ModelFileError: the file is damaged, or holds something else.
            OSError: it cannot be read.
        """
        parts = self.online.restore(path)
        try:
            decoder = parts["decoder"]
            self._rows.load_state_dict(decoder["rows"])
            self._random.setstate(decoder["random"])
            self._pending, self._last = None, tuple(decoder["last"])
            return parts["notes"]
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise ModelFileError(f"{path} does not hold a key decoder: its content does not fit ({error})") from None


def load_network(path: str | os.PathLike[str] | None = None) -> Recurrent:
    """A trained network, from a file of ``treadle decode --learn``, or the bundled one.

    Raises:
        ModelFileError: the file is damaged, or holds another network.
        OSError: it cannot be read.
    """
    path = OWN if path is None else path
    network = model_file.load(path, cells=[EvidenceCell])
    model_file.require_finite(path, network)
    cell = getattr(network, "cell", None)
    if not isinstance(network, Recurrent) or not isinstance(cell, EvidenceCell):
        raise ModelFileError(
            f"{path} does not hold a network that decodes keys: make one with 'treadle decode --learn'"
        )
    if (cell.situations, cell.actions) != (SITUATIONS, COMMANDS + 1):
        raise ModelFileError(
            f"{path} knows {cell.situations} situations and {cell.actions} actions, but there are {SITUATIONS} and"
            f" {COMMANDS + 1}: make another with 'treadle decode --learn'"
        )
    return network


def information(first_keys: list[list[float]], table: list[list[int]]) -> float:
    """The mutual information between keys and what they are decoded to, given the situation, in bits.

    As each key is decoded to one command, it is the entropy of the commands that come out, on average over situations,
    in each of which ``first_keys`` says how often each key is pressed, and ``table`` what it is decoded to.

    Example:
        >>> from treadle.recipes.decode.decoder import information
        >>> information([[0.5, 0.25, 0.25]], [[7, 2, 3]]), information([[0.5, 0.25, 0.25]], [[7, 7, 7]])
        (1.5, 0.0)
    """
    total = 0.0
    for shares, decoded in zip(first_keys, table, strict=True):
        commands: dict[int, float] = collections.defaultdict(float)
        for share, command in zip(shares, decoded, strict=True):
            commands[command] += share
        total -= sum(share * math.log2(share) for share in commands.values() if 0 < share < 1)
    return total / len(table)
