"""A game: a ship acts on the captain's keys, whose meaning it has to infer."""

import os
from random import Random
from typing import NamedTuple

from treadle.errors import ModelFileError
from treadle.recipes.decode.decoder import KeyDecoder
from treadle.recipes.decode.world import COMMANDS, WAIT, World

PLACES = (
    *("in the harbour", "on the open sea", "in a storm", "off a reef"),
    *("becalmed", "in fog", "on a river", "by night"),
)
"""Name of each situation, for the player."""
NAMES = (
    *("to port", "to starboard", "sails up", "sails down", "drop anchor"),
    *("weigh anchor", "sound the horn", "light the lamp", "man the pumps", "fire a salute"),
)
"""Name of each command, for the player."""


class Turn(NamedTuple):
    """The result of a press."""

    command: int
    """What the ship did, or `WAIT`."""
    good: bool | None
    """Whether that turned out good; None while it waits."""
    right: bool | None
    """Whether it was what the captain wanted; None while it waits."""


class Game:
    """The rules of the game, without its screen.

    The captain sees a place and a wish, and presses any keys for it. The decoder, which sees the place and the key,
    chooses what the ship does; the world decides whether that turns out good. A wish stays until something good came of
    it. If the ship waits for a second key, the next key confirms that, and `that_was_all` denies it.

    The decoder is by default a `KeyDecoder` that knows nothing of this captain.

    Example:
        >>> from treadle.recipes.decode import Game, NAMES
        >>> game = Game(seed=1)
        >>> NAMES[game.wish] in NAMES
        True
        >>> turn = game.press("a")
    """

    def __init__(self, seed: int = 0, decoder: KeyDecoder | None = None):
        self.seed, self.decoder = seed, KeyDecoder(seed=seed) if decoder is None else decoder
        self.right: list[bool] = []
        """Of all presses so far that had an outcome."""
        self.known: list[str] = []
        """Keys that were pressed."""
        self._fulfilled = 0
        self.waits = False
        self._new_wish()

    def _new_wish(self) -> None:
        self.world = World(self.seed)
        draw = Random(f"wish {self.seed} {self._fulfilled}")
        taste = Random(f"captain {self.seed}")
        self.place = draw.randrange(len(PLACES))
        habits = [[0.5 / COMMANDS + taste.gammavariate(0.5, 0.1) for _ in NAMES] for _ in PLACES]
        self.wish = draw.choices(range(COMMANDS), habits[self.place])[0]

    def press(self, key: str) -> Turn:
        """Press a key."""
        if self.waits:
            self._concluded(True, True)
        command = self.decoder.press(self.place, key)
        if key not in self.known:
            self.known.append(key)
        self.waits = command == WAIT
        if self.waits:
            return Turn(command, None, None)
        luck = Random(f"outcome {self.seed} {len(self.right)}").random()  # the same in a game that is resumed
        good = luck < self.world.good(self.place, command, self.wish)
        turn = Turn(command, good, command == self.wish)
        self._concluded(good, command == self.wish)
        if good:
            self._fulfilled += 1
            self._new_wish()
        return turn

    def that_was_all(self) -> None:
        """There is no second key: it was wrong to wait for one."""
        if self.waits:
            self._concluded(False, False)

    def _concluded(self, good: bool, right: bool) -> None:
        self.decoder.learn(good)
        self.right.append(right)
        self.waits = False

    def believed(self) -> list[tuple[str, str, float]]:
        """For each key so far what it is taken to mean, and how surely."""
        found = []
        for key in self.known:
            meanings = self.decoder.meanings(key)
            best = max(range(len(meanings)), key=meanings.__getitem__)
            found.append((key, "the first of two" if best == WAIT else NAMES[best], meanings[best]))
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the game and its decoder to a file.

        Raises:
            OSError: the file cannot be written.
        """
        right = "".join("1" if one else "0" for one in self.right)
        self.decoder.save(path, seed=self.seed, fulfilled=self._fulfilled, right=right, known=self.known)

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Resume from what `save` wrote; a ship that was waiting no longer waits.

        Raises:
            ModelFileError: the file is damaged, or holds something else.
            OSError: it cannot be read.
        """
        notes = self.decoder.restore(path)
        try:
            seed, fulfilled = int(notes["seed"]), int(notes["fulfilled"])
            right, known = [one == "1" for one in notes["right"]], [str(key) for key in notes["known"]]
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(f"{path} does not hold a game: its content does not fit ({error})") from None
        self.seed, self._fulfilled, self.right, self.known = seed, fulfilled, right, known
        self.waits = False
        self._new_wish()
