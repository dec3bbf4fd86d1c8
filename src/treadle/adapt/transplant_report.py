"""What became of every tensor of a transplant."""

import dataclasses
from collections.abc import Iterator

from treadle.adapt.table import table


@dataclasses.dataclass(frozen=True)
class Transplanted:
    """What became of one tensor: a row of a `TransplantReport`.

    Args:
        name: the tensor, in the network.
        action: ``"copied"``, ``"widened"``, ``"cropped"``, ``"fresh"`` (a rule left it as it was), ``"missing"``
            (nothing was given for it, so it is as it was), ``"tied"`` (it is one with another tensor) or ``"unused"``
            (it is among the given weights alone).
        source: its name among the given weights.
        source_shape: the shape that was given.
        shape: the shape that it has in the network.
        detail: what else there is to say, in words.
    """

    name: str
    action: str
    source: str | None
    source_shape: tuple[int, ...] | None
    shape: tuple[int, ...] | None
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class TransplantReport:
    """What became of every tensor, in a network and among the weights that were given; it prints as a table.

    Args:
        rows: a `Transplanted` for each.
    """

    rows: tuple[Transplanted, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many tensors there are of each action."""
        found: dict[str, int] = {}
        for row in self.rows:
            found[row.action] = found.get(row.action, 0) + 1
        return found

    def names(self, action: str) -> list[str]:
        """The tensors with which this was done: ``report.names("missing")``."""
        return [row.name for row in self.rows if row.action == action]

    def __getitem__(self, name: str) -> Transplanted:
        for row in self.rows:
            if row.name == name and row.action != "unused":
                return row
        raise KeyError(name)

    def __iter__(self) -> Iterator[Transplanted]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        def shaped(shape: tuple[int, ...] | None) -> str:
            return "" if shape is None else str(list(shape))

        rows = [
            (
                row.name,
                row.action,
                "" if row.source in (None, row.name) else str(row.source),
                shaped(row.source_shape),
                shaped(row.shape),
                row.detail,
            )
            for row in self.rows
        ]
        counts = ", ".join(f"{count} {action}" for action, count in self.counts.items())
        return f"{table(('tensor', 'action', 'from', 'given', 'network', ''), rows)}\n{counts}"

    __repr__ = __str__
