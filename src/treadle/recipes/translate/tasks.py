"""Tasks with generated pairs: normalising dates; reversing and sorting sequences."""

import datetime
import random
from collections.abc import Callable
from pathlib import Path

from treadle.recipes.translate.pairs import Pair

MONTHS = "January February March April May June July August September October November December".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
YEARS = (1900, 2099)
"""The first and the last year of the dates."""
LETTERS = "abcdefghijklmnopqrstuvwxyz"
LONGEST = 12
"""Letters of the longest sequence in the training set; those of the test set have up to twice as many."""


def ordinal(day: int) -> str:
    """``1st``, ``22nd``, ``13th``."""
    ending = "th" if 10 < day % 100 < 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"


FORMATS: dict[str, Callable[[datetime.date], str]] = {
    "3rd of March 1998": lambda d: f"{ordinal(d.day)} of {MONTHS[d.month - 1]} {d.year}",
    "3rd March 1998": lambda d: f"{ordinal(d.day)} {MONTHS[d.month - 1]} {d.year}",
    "3 March 1998": lambda d: f"{d.day} {MONTHS[d.month - 1]} {d.year}",
    "3 Mar 1998": lambda d: f"{d.day} {MONTHS[d.month - 1][:3]} {d.year}",
    "3-Mar-98": lambda d: f"{d.day}-{MONTHS[d.month - 1][:3]}-{d.year % 100:02}",
    "March 3, 1998": lambda d: f"{MONTHS[d.month - 1]} {d.day}, {d.year}",
    "March 3rd, 1998": lambda d: f"{MONTHS[d.month - 1]} {ordinal(d.day)}, {d.year}",
    "Mar 3, 1998": lambda d: f"{MONTHS[d.month - 1][:3]} {d.day}, {d.year}",
    "Tuesday, 3 March 1998": lambda d: f"{DAYS[d.weekday()]}, {d.day} {MONTHS[d.month - 1]} {d.year}",
    "Tue, 3 Mar 1998": lambda d: f"{DAYS[d.weekday()][:3]}, {d.day} {MONTHS[d.month - 1][:3]} {d.year}",
    "Tuesday, March 3, 1998": lambda d: f"{DAYS[d.weekday()]}, {MONTHS[d.month - 1]} {d.day}, {d.year}",
    "the 3rd of March, 1998": lambda d: f"the {ordinal(d.day)} of {MONTHS[d.month - 1]}, {d.year}",
    "1998 March 3": lambda d: f"{d.year} {MONTHS[d.month - 1]} {d.day}",
    "3.3.1998": lambda d: f"{d.day}.{d.month}.{d.year}",
    "03.03.1998": lambda d: f"{d.day:02}.{d.month:02}.{d.year}",
    "3/3/1998 (month first)": lambda d: f"{d.month}/{d.day}/{d.year}",
    "1998/03/03": lambda d: f"{d.year}/{d.month:02}/{d.day:02}",
    "19980303": lambda d: f"{d.year}{d.month:02}{d.day:02}",
}
"""Every way in which `dates` writes one, by an example of it. Of two digits of a year the century is the 20th, if they
are 50 or more, else the 21st."""


def dates(random: random.Random, test: bool) -> Pair:
    """A date in one of `FORMATS`, and as ISO 8601 has it. Days of the test set are not in the training set."""
    while True:
        first, last = (datetime.date(year, 1, 1).toordinal() for year in (YEARS[0], YEARS[1] + 1))
        date = datetime.date.fromordinal(random.randrange(first, last))
        form = random.choice(list(FORMATS))
        if form == "3-Mar-98" and not 1950 <= date.year < 2050:
            continue
        if (date.toordinal() % 10 == 0) == test:
            return Pair(FORMATS[form](date), date.isoformat())


def letters(random: random.Random, test: bool) -> str:
    """Random letters: up to `LONGEST` in the training set, up to twice as many in the test set."""
    return "".join(random.choices(LETTERS[:10], k=random.randint(1, LONGEST * (1 + test))))


def reverse(random: random.Random, test: bool) -> Pair:
    """Letters, and the same backwards."""
    text = letters(random, test)
    return Pair(text, text[::-1])


def sort(random: random.Random, test: bool) -> Pair:
    """Letters, and the same in order."""
    text = letters(random, test)
    return Pair(text, "".join(sorted(text)))


TASKS: dict[str, Callable[[random.Random, bool], Pair]] = {"dates": dates, "reverse": reverse, "sort": sort}
"""The tasks by name."""
COUNTS = {"dates": 20_000, "reverse": 50_000, "sort": 50_000}
"""How many pairs of each the training set has."""


def is_task(pairs: str) -> bool:
    """Whether what a command was given is the name of a task, rather than a file, which may be called the same."""
    return pairs in TASKS and not Path(pairs).exists()


def make_pairs(task: str, count: int, seed: int = 0, test: bool = False) -> list[Pair]:
    """Pairs of a task in `TASKS`; for the test set other dates than in the training set, and longer sequences.

    Example:
        >>> from treadle.recipes.translate import make_pairs
        >>> make_pairs("sort", 1)[0].target == "".join(sorted(make_pairs("sort", 1)[0].source))
        True
    """
    generator = random.Random(f"{task} {seed} {test}")
    return [TASKS[task](generator, test) for _ in range(count)]
