"""Lines of a kernel's source, with their indentation, and new names."""

import contextlib
import dataclasses
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True)
class Tile:
    """A run of features that is computed at once.

    Args:
        features: the name of their numbers.
        mask: the name of which of them there are.
        width: how many.
        is_only: whether there is no other tile.
        is_one: whether a program has no other tile.
    """

    features: str
    mask: str
    width: int
    is_only: bool
    is_one: bool


class Page:
    """The body of a kernel while it is written."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 1
        self._names = 0

    def line(self, text: str) -> None:
        """A line."""
        self.lines.append("    " * self.depth + text)

    def name(self, prefix: str) -> str:
        """A name that nothing else has."""
        self._names += 1
        return f"{prefix}_{self._names}"

    def new(self, text: str, prefix: str = "x") -> str:
        """A variable that is set to something: its name."""
        name = self.name(prefix)
        self.line(f"{name} = {text}")
        return name

    @contextlib.contextmanager
    def under(self, head: str) -> Iterator[None]:
        """Lines that are indented below another one, if that says something."""
        if head:
            self.line(head)
            self.depth += 1
        try:
            yield
        finally:
            if head:
                self.depth -= 1

    @contextlib.contextmanager
    def tiles(self, total: int, width: int, parts: int = 1) -> Iterator[Tile]:
        """What follows is written for a tile of so many features; a loop, unless a program has one tile.

        Of several ``parts``, each takes its share of the tiles.
        """
        is_one = total <= width * parts
        head, start = "", "" if parts == 1 else f"part * {width}"
        if not is_one:
            begin = self.name("tile")
            head, start = f"for {begin} in range({start or 0}, {total}, {parts * width}):", begin
        with self.under(head):
            features = self.new(f"{start} + tl.arange(0, {width})" if start else f"tl.arange(0, {width})", "f")
            yield Tile(features, self.new(f"{features} < {total}", "in"), width, is_one and parts == 1, is_one)
