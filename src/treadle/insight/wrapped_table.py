"""Rows of text under each other, the last column wrapped to the width of a page."""

import textwrap
from collections.abc import Collection, Iterator, Sequence

NO_BREAK = "\N{NO-BREAK SPACE}"
"""A space at which no line is broken."""
_WIDTH, _LEAST_ROOM = 120, 40


def wrapped_table(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> Iterator[str]:
    """The lines of a table, with columns as wide as what stands in them; those of ``right`` end in one line."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        start = "  ".join([*cells, ""])
        room = max(_WIDTH - len(start), _LEAST_ROOM)
        for line in textwrap.wrap(row[-1], room, break_long_words=False, break_on_hyphens=False) or [""]:
            yield (start + line.replace(NO_BREAK, " ")).rstrip()
            start = " " * len(start)
