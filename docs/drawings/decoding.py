"""What the key decoder reaches, drawn from the tables of its page: nothing is typed twice."""

from pathlib import Path

from .canvas import Canvas
from .chart import Axes

DOCS = Path(__file__).parents[1]
HEAD = "| presses | 50 |"
CHANGE = 300
"""The press after which keys mean something else."""
CURVES = {"knows the keys": "ink", "Bayes": "late", "perceptron": "gradient", "decoder": "state"}
"""Words in the names of rows, the first that is there counts, and colours."""


def tables() -> list[dict[str, list[float]]]:
    """The tables by presses, in their order: shares of right presses, and bits."""
    page = next(page for page in sorted(DOCS.rglob("*.md")) if HEAD in page.read_text())
    found: list[dict[str, list[float]]] = []
    for line in page.read_text().splitlines():
        name, *cells = (cell.strip(" *") for cell in line.strip("|").split("|"))
        if line.startswith(HEAD):
            found.append({"presses": [float(cell) for cell in cells]})
        elif found and "perceptron" not in found[-1]:
            known = next((words for words in CURVES if words in name), None)
            if known:
                found[-1][known] = [float(cell) for cell in cells]
    return found


def decoding() -> str:
    """The picture as SVG."""
    shares, bits = tables()
    if len(bits) != 1 + len(CURVES) or len(shares) != len(CURVES):
        raise ValueError(f"the tables of presses have other rows than {', '.join(CURVES)}: name theirs in CURVES")
    title = (
        "Right presses, and bits that decoded keys say, against presses: the decoder comes close to Bayes' rule, which"
        " is told how the world works, also after the change of meanings; a perceptron stays low"
    )
    sheet = Canvas(720, 576, title)
    upper = Axes(sheet, (84, 84, 692, 284), (0, 600), (0, 1))
    sheet.text(24, 36, "Right presses, as a share of those that are attainable", "title left")
    upper.levels([0, 0.5, 1])
    upper.names([("state", "decoder"), ("late", "Bayes' rule"), ("gradient", "perceptron")], 150)
    lower = Axes(sheet, (84, 372, 692, 502), (0, 600), (0, 2.2))
    sheet.text(24, 336, "Mutual information of key and command, in bits", "title left")
    lower.levels([0, 1, 2])
    lower.names([("ink", "a decoder that knows the keys")], 150)
    lower.marks([0, 100, 200, 300, 400, 500, 600])
    for axes, table in ((upper, shares), (lower, bits)):
        axes.curve([(CHANGE, axes.up[0]), (CHANGE, axes.up[1])], "edge", dashed=True)
        for name, kind in CURVES.items():
            if name in table:
                axes.curve(list(zip(table["presses"], table[name], strict=True)), kind)
    sheet.text(upper.at(CHANGE, 0)[0] + 8, upper.at(0, 0.36)[1], "keys change their meanings", "small faint left")
    sheet.text(388, 556, "presses", "small")
    return sheet.svg()
