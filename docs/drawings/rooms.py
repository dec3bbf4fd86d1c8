"""The picture of the rooms in ARCHITECTURE.md, made from the contracts about imports in pyproject.toml.

Its words are what the folders' docstrings say.
"""

import ast
import dataclasses
import tomllib
from html import escape
from pathlib import Path
from textwrap import wrap

from .colors import FONT, style

ROOT = Path(__file__).parents[2]

WIDTH, MARGIN, GAP = 1040, 20, 6
LINE, PADDING, BESIDE = 17, 9, 130
LETTER = 7.7
"""The width of a letter of the small text, about."""
BOLD_LETTER = 8.8

RULES = f"""text {{ font: 13px {FONT}; fill: $ink }}
.name {{ font-weight: 600 }}
.card {{ fill: $card }}
.room {{ fill: $other; stroke: $edge }}
.inner {{ fill: $card; stroke: $edge }}
.arrow {{ stroke: $faint; fill: none; stroke-width: 1.5 }}"""


def layers(contract: str) -> list[list[str]]:
    """The rooms of a contract, from the one that knows all others down; those of a row do not know each other."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    found = next(one for one in settings["contracts"] if one["id"] == contract)
    return [[name.strip() for name in layer.split("|")] for layer in found["layers"]]


def purpose(module: str) -> str:
    """The first sentence of a module's docstring."""
    path = ROOT / "src" / Path(*module.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = " ".join((ast.get_docstring(ast.parse(source.read_text())) or "").replace("`", "").split())
    end = text.find(". ")
    return text if end < 0 else text[: end + 1]


@dataclasses.dataclass(frozen=True)
class Box:
    """A room as it is drawn: its name, and what it is for below that or, where there is room, beside it."""

    name: str
    lines: list[str]
    width: float
    beside: float = 0

    @property
    def height(self) -> float:
        """Of the box."""
        return 2 * PADDING + LINE * (len(self.lines) + (not self.beside))

    def draw(self, x: float, y: float, height: float, kind: str) -> list[str]:
        """The box and its texts."""
        at = y + PADDING + 12
        right, down = (self.beside, 0) if self.beside else (0, LINE)
        texts = [text(x + PADDING + right, at + down + LINE * i, line) for i, line in enumerate(self.lines)]
        return [rectangle(x, y, self.width, height, kind), text(x + PADDING, at, self.name, "name"), *texts]


def box(module: str, width: float) -> Box:
    """The box of a module."""
    is_folder = (ROOT / "src" / Path(*module.split("."))).is_dir()
    name = module.rpartition(".")[2] + ("/" if is_folder else ".py")
    beside = BESIDE if width > WIDTH / 2 else 0
    return Box(name, wrap(purpose(module), int((width - beside - 2 * PADDING) / LETTER)), width, beside)


def rectangle(x: float, y: float, width: float, height: float, kind: str) -> str:
    """A box with round corners."""
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5"/>'


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """A line of text."""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(words)}</text>'


def shares(row: list[str], width: float) -> list[float]:
    """The widths of the rooms of a row: equal ones, unless a name needs more."""
    needed = [BOLD_LETTER * len(f"{name}.py") + 2 * PADDING for name in row]
    equal = width / len(row)
    spare = (width - sum(needed)) / len(row)
    return [equal] * len(row) if max(needed) <= equal else [need + spare for need in needed]


def rows(package: str, contract: str, x: float, y: float, width: float, kind: str) -> tuple[list[str], float]:
    """The layers of a contract below each other, and where they end."""
    parts: list[str] = []
    for row in layers(contract):
        widths = shares(row, width - GAP * (len(row) - 1))
        boxes = [box(f"{package}.{name}", share) for name, share in zip(row, widths, strict=True)]
        height = max(one.height for one in boxes)
        if row == ["engines"]:
            inside, end = rows("treadle.engines.cpu", "cpu", x + 60, y + height, width - 60 - PADDING, "inner")
            parts += boxes[0].draw(x, y, end - y, kind)
            parts += [text(x + PADDING, y + height + PADDING + 12, "cpu/", "name"), *inside]
            height = end - y
        else:
            left = x
            for one in boxes:
                parts += one.draw(left, y, height, kind)
                left += one.width + GAP
        y += height + GAP
    return parts, y


def rooms() -> str:
    """The picture as SVG."""
    left, top = MARGIN + 24, MARGIN + 24
    parts, end = rows("treadle", "rooms", left, top, WIDTH - MARGIN - left, "room")
    x, bottom, height = MARGIN + 8, end - GAP - 4, end + MARGIN - GAP
    tip = f"M {x - 5} {bottom - 8:g} L {x} {bottom:g} L {x + 5} {bottom - 8:g}"
    size = f'width="{WIDTH}" height="{height:g}" viewBox="0 0 {WIDTH} {height:g}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="The rooms of treadle">',
            f"<style>\n{style(RULES)}\n</style>",
            f'<rect class="card" width="{WIDTH}" height="{height:g}" rx="10"/>',
            text(MARGIN, MARGIN + 10, "A room imports from rooms below it only; rooms beside each other do not meet."),
            f'<path class="arrow" d="M {x} {top + 4} V {bottom:g} {tip}"/>',
            *parts,
            "</svg>",
            "",
        ]
    )
