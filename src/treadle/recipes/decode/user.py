"""Simulated users: what their keys mean, what they want when, and how often they hit the wrong key."""

from collections.abc import Iterator
from random import Random
from typing import NamedTuple

from treadle.errors import DataError
from treadle.recipes.decode.world import COMMANDS, SITUATIONS, WAIT

CAPRICE = 0.1
"""How often any command is wanted, whatever the habits."""
TASTE = 0.3
"""Of habits, which are Dirichlet: the smaller, the fewer commands are wanted in a situation."""

Way = tuple[int, ...]
"""The keys that mean a command, one after the other: one, or two."""


class Press(NamedTuple):
    """A key that was pressed."""

    situation: int
    key: int
    wanted: int
    """The intended command, or `WAIT` if another press follows. No decoder sees it."""
    begins: bool
    """Whether it is the first press of a command."""


class UserModel:
    """A simulated user; a decoder sees only situations and keys.

    Each time, the situation is drawn at random. The user wants a command, by their habits in this situation, and
    presses the keys of one of its ways. At each press they may hit another key without noticing. Outcomes do not
    influence the user.

    Args:
        ways: for each command that the user has, the keys that mean it: each way is one key or two, and no way is the
            beginning of another.
        habits: for each situation, how often which command is wanted, in the order of ``ways``.
        mistakes: probability of hitting another key.
        keys: how many keys there are.

    Raises:
        DataError: a way is not one or two keys that there are, or one is the beginning of another.

    Example:
        >>> from treadle.recipes.decode import UserModel
        >>> user = UserModel.random(seed=3)
        >>> presses = list(user.presses(5, seed=0))
        >>> all(0 <= press.key < user.keys for press in presses)
        True
    """

    def __init__(self, ways: dict[int, list[Way]], habits: list[list[float]], mistakes: float, keys: int):
        every = [way for some in ways.values() for way in some]
        for way in every:
            if len(way) not in (1, 2) or not all(0 <= key < keys for key in way):
                raise DataError(f"a way is one or two of the keys 0 to {keys - 1}, but {way!r:.40} was passed")
        if len(set(every)) < len(every) or any((first,) in every for first, *rest in every if rest):
            raise DataError("a way is the beginning of another, or the same: it would be ambiguous")
        self.ways, self.habits, self.mistakes, self.keys = ways, habits, mistakes, keys
        self.meaning = {way: command for command, some in ways.items() for way in some}
        """What each way means."""
        self.meaning |= {(way[0],): WAIT for way in every if len(way) == 2}

    @classmethod
    def random(cls, seed: int, keys: int | None = None) -> "UserModel":
        """A user at random: 5 to 12 keys, mistakes in 2 to 10 % of the presses.

        Every other user has a key that begins commands of two presses, two or three of them. Single keys mean different
        commands as long as these last, but for one in three users, two of whose keys mean the same. The same seed
        is the same user.
        """
        draw = Random(f"user {seed}")
        keys = draw.randint(5, 12) if keys is None else keys
        mistakes, pairs = draw.uniform(0.02, 0.10), draw.randint(2, 3) if draw.random() < 0.5 else 0
        wishes = draw.sample(range(COMMANDS), COMMANDS)
        if draw.random() < 1 / 3:
            wishes.insert(1, wishes[0])
        count = keys + pairs - (pairs > 0)
        wishes = (wishes + [draw.randrange(COMMANDS) for _ in range(count)])[:count]
        habits = []
        for _ in range(SITUATIONS):
            taste = [draw.gammavariate(TASTE, 1.0) for _ in set(wishes)]
            total = sum(taste)
            habits.append([CAPRICE / len(taste) + (1 - CAPRICE) * one / total for one in taste])
        return cls(_drawn(draw, keys, pairs, wishes), habits, mistakes, keys)

    def changed(self, seed: int) -> "UserModel":
        """The same user, after all keys have got new meanings: what is wanted when, and mistakes, are as before.

        Where there are so few commands, or so many keys for each, that some keep their meaning, few do.
        """
        draw = Random(f"change {seed}")
        wishes = [command for command, some in self.ways.items() for _ in some]
        pairs = sum(len(way) == 2 for some in self.ways.values() for way in some)
        best, least = self, len(self.meaning) + 1
        for _ in range(1000):
            ways = _drawn(draw, self.keys, pairs, draw.sample(wishes, len(wishes)))
            user = UserModel({command: ways[command] for command in self.ways}, self.habits, self.mistakes, self.keys)
            kept = len(user.meaning.items() & self.meaning.items())
            if kept < least:
                best, least = user, kept
            if not kept:
                break
        return best

    def presses(self, count: int, seed: int) -> Iterator[Press]:
        """What this user presses, at least ``count`` times; a command of two presses is not broken off."""
        draw = Random(f"presses {seed}")
        commands = list(self.ways)
        made = 0
        while made < count:
            situation = draw.randrange(SITUATIONS)
            command = draw.choices(commands, self.habits[situation])[0]
            way = draw.choice(self.ways[command])
            for i, key in enumerate(way):
                hit = key
                if draw.random() < self.mistakes:
                    hit = draw.choice([other for other in range(self.keys) if other != key])
                yield Press(situation, hit, WAIT if i + 1 < len(way) else command, i == 0)
            made += len(way)

    def first_keys(self, situation: int) -> list[float]:
        """How often which key is the first that is hit in a situation."""
        meant = [0.0] * self.keys
        for (_, ways), habit in zip(self.ways.items(), self.habits[situation], strict=True):
            for way in ways:
                meant[way[0]] += habit / len(ways)
        others = self.mistakes / (self.keys - 1)
        return [one * (1 - self.mistakes) + (1 - one) * others for one in meant]


def _drawn(draw: Random, keys: int, pairs: int, wishes: list[int]) -> dict[int, list[Way]]:
    """Ways at random: one key each, but for the last ones."""
    order = draw.sample(range(keys), keys)
    ways: list[Way] = [(key,) for key in order[pairs > 0 :]]
    ways += [(order[0], second) for second in draw.sample(range(keys), pairs)]
    meant: dict[int, list[Way]] = {}
    for way, command in zip(ways, wishes, strict=True):
        meant.setdefault(command, []).append(way)
    return meant
