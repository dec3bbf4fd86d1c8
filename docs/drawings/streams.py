"""Streams, windows and the keeper of states: what lies where, and what is remembered meanwhile."""

from .canvas import Canvas

STREAMS = {"A": 4.0, "B": 1.6, "C": 2.4}
"""Streams by name, with their lengths in windows."""
KINDS = {"A": "state", "B": "handover", "C": "late"}
ROWS = [[("A", 0.0, 4.0)], [("B", 0.0, 1.6), ("C", 1.6, 2.4)]]
"""For each row of a batch: the streams that it reads, where they begin and how long they are, in windows."""
RULES = "".join(f".of-{kind} {{ fill: ${kind}; fill-opacity: 0.28; stroke: ${kind} }}\n" for kind in KINDS.values())
LEFT, WINDOW, BAR = 124, 138, 30


def streams() -> str:
    """The picture as SVG."""
    title = (
        "Streams of any length are laid over the rows of batches, a window of steps at a time; where a stream ends, the"
        " next begins in the same row, behind a reset; the keeper hands the state of each stream to its next window"
    )
    sheet = Canvas(720, 560, title, RULES)
    sheet.text(24, 40, "Streams", "title left")
    for i, (name, length) in enumerate(STREAMS.items()):
        sheet.text(96, 78 + 42 * i, name, "name")
        _bar(sheet, LEFT, 57 + 42 * i, length, KINDS[name])
    _windows(sheet)
    _keeper(sheet)
    return sheet.svg()


def _bar(sheet: Canvas, x: float, y: float, length: float, kind: str) -> None:
    """A part of a stream."""
    sheet.add(f'<rect class="of-{kind}" x="{x:g}" y="{y:g}" width="{length * WINDOW:g}" height="{BAR}" rx="4"/>')


def _windows(sheet: Canvas) -> None:
    sheet.text(24, 222, "Windows", "title left")
    sheet.text(LEFT + 8, 222, "batches of 2 rows, the same number of steps in each", "small faint left")
    for row, parts in enumerate(ROWS):
        y = 262 + 44 * row
        sheet.text(96, y + 21, f"row {row + 1}", "small right")
        for name, start, length in parts:
            _bar(sheet, LEFT + start * WINDOW, y, length, KINDS[name])
            for first in range(4):
                begin, end = max(start, first), min(start + length, first + 1)
                if end - begin > 0.2:
                    sheet.text(LEFT + (begin + end) / 2 * WINDOW, y + 21, name, "name small")
    for border in range(5):
        x = LEFT + border * WINDOW
        sheet.add(f'<path class="edge" stroke-dasharray="3 4" d="M {x} 250 L {x} 350"/>')
        if border < 4:
            sheet.text(x + WINDOW / 2, 246, f"batch {border + 1}", "small faint")
    reset = LEFT + ROWS[1][1][1] * WINDOW
    sheet.arrow([(reset, 366), (reset, 338)], "late")
    sheet.text(reset, 383, "reset", "small late")


def _keeper(sheet: Canvas) -> None:
    sheet.text(24, 432, "Keeper", "title left")
    sheet.add(f'<rect class="other" x="{LEFT}" y="462" width="{4 * WINDOW}" height="40" rx="8"/>')
    sheet.text(LEFT + 2 * WINDOW, 488, "the last state of each stream, by its name, detached", "small")
    for border in range(1, 4):
        x = LEFT + border * WINDOW
        sheet.arrow([(x - 12, 356), (x - 12, 460)], "state")
        sheet.arrow([(x + 12, 460), (x + 12, 356)], "state")
    x = LEFT + WINDOW
    sheet.text(x - 22, 412, "after", "small state right")
    sheet.text(x + 22, 448, "before", "small state left")
    sheet.text(LEFT, 532, "A stream that has ended is forgotten. Gradients stop between windows.", "small left")
