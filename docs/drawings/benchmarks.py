"""Bars of the benchmarks, read from the tables of their page: nothing is typed twice."""

import math
import re
from pathlib import Path

from .canvas import Canvas, number

DOCS = Path(__file__).parents[1]
BARS = {
    "Training: forward and backward, two layers": [
        ("classic", "LSTM, times torch.nn", "LSTM over torch.nn"),
        ("classic", "GRU, times torch.nn", "GRU over torch.nn"),
        ("classic", "ragged LSTM, times PackedSequence", "ragged LSTM over PackedSequence"),
        ("custom", "times the eager loop", "own cells over a Python loop"),
        ("custom", "times jax.lax.scan", "own cells over jax.lax.scan"),
    ],
    "Live: one step, two LSTM layers, batch size 1": [
        ("step", "H=64, times torch.nn", "64 units over torch.nn"),
        ("step", "H=64, times ONNX Runtime", "64 units over ONNX Runtime"),
        ("step", "times ONNX Runtime", "32 to 512 units over ONNX Runtime"),
    ],
}
"""For each group: the suite, the name of its bar there, and the words of the picture."""
RULES = ".bar { fill: $state }\n"
LEFT, RIGHT, MOST = 300, 630, 100.0


def measured() -> dict[tuple[str, str], float]:
    """What each bar of each suite has reached, as the page about benchmarks says."""
    page = next(DOCS.rglob("benchmarks.md")).read_text()
    found, suite = {}, ""
    for line in page.splitlines():
        if heading := re.fullmatch(r"#+ (\w+)", line):
            suite = heading[1]
        elif row := re.fullmatch(r"\| ([^|]+) \| ([\d.]+) \| at (?:least|most) .*", line):
            found[suite, row[1]] = float(row[2])
    return found


def machine() -> str:
    """Where it was measured."""
    page = next(DOCS.rglob("benchmarks.md")).read_text()
    found = re.search(r"^Measured on (.*?) \(.*?\), (\w+), (\d+) of \d+ cores", page, re.MULTILINE)
    if not found:
        raise ValueError("the page about benchmarks does not say where they were measured: `make bench` writes it")
    name = found[1].replace("(R)", "").replace(" Processor", "")
    return f"{name} with {found[2]}, {found[3]} cores"


def benchmarks() -> str:
    """The picture as SVG."""
    values = measured()
    title = "treadle beside its peers: " + "; ".join(
        f"{words}: {values[suite, bar]:g} times as fast" for bars in BARS.values() for suite, bar, words in bars
    )
    sheet = Canvas(720, 452, title, RULES)
    top = 44
    for group, bars in BARS.items():
        sheet.text(24, top, group, "title left")
        for i, (suite, bar, words) in enumerate(bars):
            _bar(sheet, top + 18 + 30 * i, words, values[suite, bar])
        top += 30 * len(bars) + 56
    for times in (1, 10, 100):
        x = _x(times)
        sheet.text(x, top - 18, f"{times}×", "small faint")
    sheet.text(24, top + 12, "How many times as fast as the other; over sizes, the geometric mean.", "small left")
    sheet.text(24, top + 34, f"{machine()}; every side gave the same results first.", "small faint left")
    return sheet.svg()


def _bar(sheet: Canvas, y: float, words: str, times: float) -> None:
    for mark in (1, 10, 100):
        sheet.add(f'<path class="grid" d="M {number(_x(mark))} {y - 4:g} L {number(_x(mark))} {y + 26:g}"/>')
    sheet.text(LEFT - 12, y + 16, words, "small right")
    sheet.add(f'<rect class="bar" x="{LEFT}" y="{y:g}" width="{number(_x(times) - LEFT)}" height="22" rx="3"/>')
    sheet.text(_x(times) + 8, y + 16, f"{times:.1f}×", "name small left")


def _x(times: float) -> float:
    """Where a ratio lies."""
    return LEFT + (RIGHT - LEFT) * math.log(times) / math.log(MOST)
