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
    """

    features: str
    mask: str
    width: int
    is_only: bool


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
        """What follows is written for a tile of so many features; a loop, unless there is one tile.

        Of several ``parts``, each takes its share of the tiles.
        """
        is_only = total <= width and parts == 1
        head, first = "", f"tl.arange(0, {width})"
        if not is_only:
            begin = self.name("tile")
            start, step = ("0", width) if parts == 1 else (f"part * {width}", parts * width)
            head, first = f"for {begin} in range({start}, {total}, {step}):", f"{begin} + tl.arange(0, {width})"
        with self.under(head):
            features = self.new(first, "f")
            yield Tile(features, self.new(f"{features} < {total}", "in"), width, is_only)
