"""The world: situations in which commands turn out good or bad for the user."""

import random

COMMANDS = 10
"""Number of commands that a user may want."""
WAIT = COMMANDS
"""One more possible action after a press: wait, because the press is the first of two."""
SITUATIONS = 8
"""Number of situations that the world can be in."""


class World:
    """Decides whether a command turned out good for the user, by these rules alone:

    - What the user wanted turns out good with a probability of 0.95.
    - In each situation there are two commands that usually turn out good, wanted or not: one with a probability of 0.8
      to 0.95, one with 0.3 to 0.6. A decoder that always does the former ignores the user.
    - Anything else that was not wanted turns out good with a probability of 0.05: by chance.
    - To wait turns out good if there is a second press to come (0.95), and seldom else (0.05).

    So an outcome is evidence of what was wanted, but no proof.

    Args:
        seed: random seed of which commands are usually good where.

    Attributes:
        luck: for each situation, how probable it is that a command which was not wanted turns out good, `WAIT` last.

    Example:
        >>> from treadle.recipes.decode import World
        >>> world = World(seed=0)
        >>> sorted(world.luck[0])[:9]
        [0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05]
    """

    wanted = 0.95
    """How probable it is that what was wanted turns out good."""
    chance = 0.05
    """The same, of what was not wanted, and is not usually good."""

    def __init__(self, seed: int):
        draw = random.Random(f"world {seed}")
        self.luck: list[list[float]] = []
        for _ in range(SITUATIONS):
            usual, sometimes = draw.sample(range(COMMANDS), 2)
            row = [self.chance] * (COMMANDS + 1)
            row[usual], row[sometimes] = draw.uniform(0.8, 0.95), draw.uniform(0.3, 0.6)
            self.luck.append(row)

    def good(self, situation: int, command: int, wanted: int) -> float:
        """How probable it is that a command turns out good for a user who wanted one."""
        return self.wanted if command == wanted else self.luck[situation][command]
