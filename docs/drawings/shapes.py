"""How many steps go in, and how many come out: many-to-many, many-to-one, encoder–decoder."""

import itertools
from collections.abc import Sequence

from .canvas import Canvas

SIZE = 52


def shapes() -> str:
    """The picture as SVG."""
    title = (
        "Three shapes. Many-to-many: an output at every step, ys. Many-to-one: the output of the last step alone."
        " Encoder–decoder: the decoder begins in the state in which the encoder ended, and reads what it said last"
    )
    sheet = Canvas(720, 560, title)
    _panel(sheet, 24, 20, 328, "Many-to-many", "a label or forecast at every step", [0, 1, 2])
    sheet.text(188, 244, "ys, in Keras return_sequences=True", "small faint")
    _panel(sheet, 368, 20, 328, "Many-to-one", "one answer for the whole sequence", [2])
    sheet.text(532, 244, "the last y = h_n, in Keras the default", "small faint")
    _encoder_decoder(sheet, 278)
    return sheet.svg()


def _panel(sheet: Canvas, x: float, y: float, width: float, title: str, below: str, outputs: Sequence[int]) -> None:
    """A network over three steps, with outputs at some of them."""
    _frame(sheet, x, y, width, 240, title, below)
    columns = [x + width / 2 + 92 * (step - 1) for step in range(3)]
    middle = y + 136
    for step, column in enumerate(columns):
        _cell(sheet, column, middle, f"x({step + 1})")
        if step in outputs:
            _output(sheet, column, middle, f"y({step + 1})")
        if step:
            sheet.arrow([(columns[step - 1] + SIZE / 2, middle), (column - SIZE / 2, middle)], "state")


def _encoder_decoder(sheet: Canvas, y: float) -> None:
    _frame(
        sheet,
        24,
        y,
        672,
        262,
        "Encoder–decoder",
        "sequence to sequence; in training the decoder reads the target: teacher forcing",
    )
    middle, columns = y + 150, [96, 176, 256, 372, 472, 572]
    reads, says = ["x(1)", "x(2)", "x(3)", "start", "", ""], ["", "", "", "y(1)", "y(2)", "end"]
    for step, (column, read, said) in enumerate(zip(columns, reads, says, strict=True)):
        _cell(sheet, column, middle, read, "cell" if step < 3 else "decoder")
        if said:
            _output(sheet, column, middle, said)
        if step:
            kind = "handover" if step == 3 else "state"
            sheet.arrow([(columns[step - 1] + SIZE / 2, middle), (column - SIZE / 2, middle)], kind)
    for before, after in itertools.pairwise(columns[3:]):
        way = [(before + 16, middle - 62), (before + 50, middle - 62), (before + 50, middle + 52), (after, middle + 52)]
        sheet.arrow([*way, (after, middle + SIZE / 2)], "late", dashed=True)
    sheet.text(176, y + 236, "encoder", "name small")
    sheet.text(472, y + 236, "decoder", "name small")
    sheet.text(314, middle + 44, "final state", "small handover")
    sheet.text(630, middle + 57, "its last y", "small late")


def _frame(sheet: Canvas, x: float, y: float, width: float, height: float, title: str, below: str) -> None:
    sheet.add(f'<rect class="grid" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="10"/>')
    sheet.text(x + 16, y + 28, title, "title left")
    sheet.text(x + 16, y + 50, below, "small faint left")


def _cell(sheet: Canvas, x: float, y: float, read: str, kind: str = "cell") -> None:
    sheet.box(x, y, SIZE, SIZE, kind="other" if kind == "decoder" else kind)
    if read:
        sheet.arrow([(x, y + 46), (x, y + SIZE / 2)])
        sheet.text(x, y + 62, read, "value small")


def _output(sheet: Canvas, x: float, y: float, said: str) -> None:
    sheet.arrow([(x, y - SIZE / 2), (x, y - 50)])
    sheet.text(x, y - 56, said, "value small")
