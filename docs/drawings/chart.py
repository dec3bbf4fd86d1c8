"""Axes and curves on a sheet."""

import dataclasses
from collections.abc import Sequence

from .canvas import Canvas, Point, number


@dataclasses.dataclass(frozen=True)
class Axes:
    """A rectangle of a sheet in which numbers lie.

    Args:
        sheet: where.
        box: left, top, right and bottom of the rectangle.
        across: the least and the greatest number from left to right.
        up: the same from below.
    """

    sheet: Canvas
    box: tuple[float, float, float, float]
    across: tuple[float, float]
    up: tuple[float, float]

    def at(self, x: float, y: float) -> Point:
        """Where a pair of numbers lies."""
        left, top, right, bottom = self.box
        (first, last), (low, high) = self.across, self.up
        return left + (right - left) * (x - first) / (last - first), bottom - (bottom - top) * (y - low) / (high - low)

    def levels(self, ticks: Sequence[float]) -> None:
        """Lines across, with their numbers at the left."""
        left, _, right, _ = self.box
        for tick in ticks:
            y = self.at(self.across[0], tick)[1]
            self.sheet.add(f'<path class="grid" d="M {number(left)} {number(y)} L {number(right)} {number(y)}"/>')
            self.sheet.text(left - 10, y + 5, f"{tick:g}".replace("-", "−"), "small faint right")

    def marks(self, ticks: Sequence[float]) -> None:
        """Numbers below."""
        for tick in ticks:
            x, y = self.at(tick, self.up[0])
            self.sheet.text(x, y + 22, f"{tick:g}", "small faint")

    def curve(self, points: Sequence[Point], kind: str, dashed: bool = False) -> None:
        """A line through points."""
        dashes = ' stroke-dasharray="6 4"' if dashed else ""
        path = " L ".join(f"{number(x)} {number(y)}" for x, y in (self.at(*point) for point in points))
        self.sheet.add(f'<path class="{kind}"{dashes} d="M {path}"/>')

    def names(self, entries: Sequence[tuple[str, str]], apart: float) -> None:
        """The names of curves beside each other, above the rectangle: kinds and words."""
        left, top, _, _ = self.box
        for i, (kind, words) in enumerate(entries):
            x = left + 6 + apart * i
            self.sheet.arrow([(x, top - 18), (x + 26, top - 18)], kind, head=False)
            self.sheet.text(x + 34, top - 13, words, f"small left {kind}")
