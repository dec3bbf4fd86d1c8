"""An LSTM of two layers, unrolled over three steps: what goes from step to step, and what from layer to layer."""

from .canvas import Canvas

COLUMNS, ROWS = (196, 362, 528), (270, 138)  # of layer 0 and layer 1
WIDTH, HEIGHT = 100, 76
LEFT, RIGHT = 70, 660
H, C = 16, -16  # h and c pass below and above the middle of a cell


def unrolled() -> str:
    """The picture as SVG."""
    title = (
        "An LSTM of two layers over three steps: within a step h goes up from layer 0 to layer 1; from step to step"
        " h and c of each layer go to the same layer; output is h of the top layer, h_n and c_n are the last states"
    )
    sheet = Canvas(720, 482, title)
    for layer, y in enumerate(ROWS):
        _states(sheet, y)
        for step, x in enumerate(COLUMNS):
            sheet.box(x, y, WIDTH, HEIGHT, f"layer {layer}", f"step {step + 1}")
    for step, x in enumerate(COLUMNS):
        _up(sheet, x, step + 1)
    sheet.text(24, 44, "output", "name left")
    sheet.text(24, 364, "input", "name left")
    within = "within a step: h goes up, as the input of the layer above"
    onwards = "from step to step: h and c, the state, stay in their layer"
    sheet.legend(24, 402, [("ink", False, within), ("state", False, onwards)])
    sheet.text(72, 455, "A row is one layer, with the same weights at every step.", "small left")
    return sheet.svg()


def _states(sheet: Canvas, y: float) -> None:
    """The arrows from step to step of a layer, from its initial to its final state."""
    ends = [LEFT + 4, *(x + WIDTH / 2 for x in COLUMNS)]
    starts = [*(x - WIDTH / 2 for x in COLUMNS), RIGHT - 4]
    for name, offset in (("h", H), ("c", C)):
        sheet.text(LEFT - 14, y + offset + 6, f"{name}₀", "value state")
        for start, end in zip(ends, starts, strict=True):
            sheet.arrow([(start, y + offset), (end, y + offset)], "state")
            if start != ends[0] and end != starts[-1]:
                sheet.text((start + end) / 2, y + offset + (-8 if name == "c" else 21), name, "value state")
        sheet.text(RIGHT + 24, y + offset + 6, f"{name}_n", "value state")


def _up(sheet: Canvas, x: float, step: int) -> None:
    """What goes up within a step: the input, h between the layers, the output."""
    low, high = ROWS
    half = HEIGHT / 2
    sheet.text(x, 364, f"x({step})", "value")
    sheet.arrow([(x, 344), (x, low + half)])
    sheet.arrow([(x, low - half), (x, high + half)])
    sheet.text(x + 14, (low + high) / 2 + 5, "h", "value")
    sheet.arrow([(x, high - half), (x, 54)])
    sheet.text(x, 44, f"y({step})", "value")
