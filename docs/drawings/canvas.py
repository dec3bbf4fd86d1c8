"""A sheet to draw diagrams on: boxes, arrows and words become one SVG, the same on every machine.

Words stay words, in the reader's own font; so their width is not known here, and the tests measure it in a browser.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import TypeAlias

from .colors import FONT, style

Point: TypeAlias = tuple[float, float]

ARROWHEAD = 9.0
CORNER = 12.0
LINES = {"ink": "1.8", "state": "2.4", "handover": "2.4", "late": "2.2", "gradient": "2.4", "edge": "1.2"}
"""The widths of lines by their colour."""

RULES = f"""text {{ font: 17px {FONT}; fill: $ink; text-anchor: middle; white-space: pre }}
.card {{ fill: $card }}
.cell {{ fill: $cell; stroke: $state; stroke-width: 1.2 }}
.other {{ fill: $other; stroke: $edge; stroke-width: 1.2 }}
.plain {{ fill: $card; stroke: $edge; stroke-width: 1.2 }}
.name {{ font-weight: 600 }}
.title {{ font-size: 18px; font-weight: 600 }}
.value {{ font-style: italic }}
.small {{ font-size: 15px }}
.sign {{ font-size: 21px }}
.left {{ text-anchor: start }}
.right {{ text-anchor: end }}
.faint {{ fill: $faint }}
.grid {{ stroke: $grid; fill: none }}
""" + "".join(
    f".{name} {{ stroke: ${name}; stroke-width: {width}; fill: none }}\n"
    f".head-{name} {{ fill: ${name} }}\ntext.{name} {{ fill: ${name}; stroke: none }}\n"
    for name, width in LINES.items()
)


class Canvas:
    """A picture under way.

    Args:
        width: in units of the picture; 17 of them are the height of a letter.
        height: likewise.
        title: what the picture says, for those who cannot see it.
        rules: more of its style sheet.
    """

    def __init__(self, width: float, height: float, title: str, rules: str = ""):
        self.width, self.height, self.title, self.rules = width, height, title, rules
        self.parts: list[str] = []

    def add(self, element: str) -> None:
        """Lay an element over what is there."""
        self.parts.append(element)

    def box(
        self, x: float, y: float, width: float, height: float, words: str = "", below: str = "", kind: str = "cell"
    ) -> None:
        """A box around its middle (x, y), with a name and a small line below it."""
        corner = f'x="{number(x - width / 2)}" y="{number(y - height / 2)}"'
        self.add(f'<rect class="{kind}" {corner} width="{number(width)}" height="{number(height)}" rx="8"/>')
        if words:
            self.text(x, y + (-3 if below else 5), words, "name")
        if below:
            self.text(x, y + 18, below, "small faint")

    def circle(self, x: float, y: float, radius: float, words: str = "", kind: str = "plain") -> None:
        """A circle with a sign in it."""
        self.add(f'<circle class="{kind}" cx="{number(x)}" cy="{number(y)}" r="{number(radius)}"/>')
        if words:
            self.text(x, y + 6, words, "sign")

    def text(self, x: float, y: float, words: str, kind: str = "") -> None:
        """A line of text whose base line is at y."""
        self.add(f'<text class="{kind}" x="{number(x)}" y="{number(y)}">{escape(words, quote=False)}</text>')

    def arrow(self, points: Sequence[Point], kind: str = "ink", dashed: bool = False, head: bool = True) -> None:
        """A line with round bends through points, with a head at the last one."""
        end = _towards(points[-1], points[-2], ARROWHEAD - 2) if head else points[-1]
        dashes = ' stroke-dasharray="6 4"' if dashed else ""
        self.add(f'<path class="{kind}"{dashes} d="{_rounded([*points[:-1], end])}"/>')
        if head:
            half = ARROWHEAD / 2
            tip = [points[-1], *(_towards(points[-1], points[-2], ARROWHEAD, across) for across in (-half, half))]
            corners = " ".join(f"{number(x)},{number(y)}" for x, y in tip)
            self.add(f'<polygon class="head-{kind}" points="{corners}"/>')

    def legend(self, x: float, y: float, entries: Sequence[tuple[str, bool, str]]) -> None:
        """What lines mean, one below the other: the kind, whether it is dashed, and the words."""
        for i, (kind, dashed, words) in enumerate(entries):
            self.arrow([(x, y + 24 * i), (x + 38, y + 24 * i)], kind, dashed)
            self.text(x + 48, y + 24 * i + 5, words, "small left")

    def svg(self) -> str:
        """The picture."""
        width, height = number(self.width), number(self.height)
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
                f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(self.title)}">',
                f"<title>{escape(self.title, quote=False)}</title>",
                f"<style>\n{style(RULES + self.rules)}\n</style>",
                f'<rect class="card" width="{width}" height="{height}" rx="10"/>',
                *self.parts,
                "</svg>",
                "",
            ]
        )


def number(value: float) -> str:
    """A coordinate as short text."""
    return f"{round(value, 2) + 0.0:g}"


def _towards(start: Point, end: Point, distance: float, across: float = 0.0) -> Point:
    """So far from the start towards the end, and so far to the left of that line."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dy) or 1.0
    return start[0] + (dx * distance - dy * across) / length, start[1] + (dy * distance + dx * across) / length


def _rounded(points: Sequence[Point]) -> str:
    """The line through points, with round corners, as a path."""
    parts = [f"M {number(points[0][0])} {number(points[0][1])}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        radius = min(CORNER, math.dist(before, corner) / 2, math.dist(corner, after) / 2)
        (x, y), (u, v) = _towards(corner, before, radius), _towards(corner, after, radius)
        parts.append(f"L {number(x)} {number(y)} Q {number(corner[0])} {number(corner[1])} {number(u)} {number(v)}")
    return " ".join([*parts, f"L {number(points[-1][0])} {number(points[-1][1])}"])
