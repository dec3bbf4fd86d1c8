"""Truncated backpropagation through time: states pass the border of a window, gradients stop there."""

from .canvas import Canvas

STEPS, WINDOW = 8, 4
FIRST, APART, BORDER = 84, 72, 30  # the border between windows is so much wider
MIDDLE, SIZE = 202, 46


def truncated_bptt() -> str:
    """The picture as SVG."""
    title = (
        "Truncated BPTT with windows of four steps: the state goes from the last step of a window to the first of the"
        " next; the gradient goes back from each loss to the start of its window and stops there"
    )
    sheet = Canvas(720, 422, title)
    for step in range(STEPS):
        _step(sheet, step)
    for step in range(STEPS + 1):
        _between(sheet, step)
    for window in range(STEPS // WINDOW):
        left, right = _x(window * WINDOW) - SIZE / 2 - 10, _x(window * WINDOW + WINDOW - 1) + SIZE / 2 + 10
        sheet.add(f'<path class="edge" d="M {left:g} 78 L {left:g} 68 L {right:g} 68 L {right:g} 78"/>')
        sheet.text((left + right) / 2, 34, f"window {window + 1}", "name")
        sheet.text((left + right) / 2, 56, "forward, backward, update", "small faint")
    border = (_x(WINDOW - 1) + _x(WINDOW)) / 2
    sheet.add(f'<path class="edge" stroke-dasharray="3 5" d="M {border:g} 92 L {border:g} 298"/>')
    sheet.text(border, 316, "detach", "name small")
    sheet.legend(
        24,
        350,
        [
            ("state", False, "state, forwards: passes the border, so the network remembers"),
            ("gradient", True, "gradient, backwards: stops at the start of its window"),
        ],
    )
    sheet.text(72, 403, "The memory is that of one window, however long the stream is.", "small left")
    return sheet.svg()


def _x(step: int) -> float:
    return FIRST + APART * step + BORDER * (step // WINDOW)


def _step(sheet: Canvas, step: int) -> None:
    x = _x(step)
    sheet.box(x, MIDDLE, SIZE, SIZE, str(step + 1))
    sheet.arrow([(x, 264), (x, MIDDLE + SIZE / 2)])
    sheet.text(x, 284, f"x({step + 1})", "value small")
    sheet.arrow([(x, MIDDLE - SIZE / 2), (x, 120)])
    sheet.text(x, 110, "loss", "small")


def _between(sheet: Canvas, step: int) -> None:
    """What passes from the step before this one, and back."""
    left = 16 if step == 0 else _x(step - 1) + SIZE / 2
    right = 704 if step == STEPS else _x(step) - SIZE / 2
    sheet.arrow([(left, MIDDLE - 10), (right, MIDDLE - 10)], "state")
    if step % WINDOW:
        sheet.arrow([(right, MIDDLE + 12), (left, MIDDLE + 12)], "gradient", dashed=True)
    elif step < STEPS:
        end = (right + left) / 2 if step else left + 20
        sheet.arrow([(right, MIDDLE + 12), (end + 8, MIDDLE + 12)], "gradient", dashed=True, head=False)
        sheet.add(f'<path class="gradient" d="M {end + 6:g} {MIDDLE + 3} L {end + 6:g} {MIDDLE + 21}"/>')
