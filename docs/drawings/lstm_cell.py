"""Inside an LSTM cell: the gates, the cell state along the top, the hidden state along the bottom."""

from .canvas import Canvas

GATES = {
    "forget": (190, "f = σ(…)"),
    "input": (304, "i = σ(…)"),
    "candidate": (418, "g = tanh(…)"),
    "output": (540, "o = σ(…)"),
}
TOP, MIDDLE, GATE, BUS = 96, 186, 250, 322  # heights: the cell state, products, gates, what they all read
SUM = 361  # where the new part is added to the cell state
FORK, TURN = 586, 622  # where h goes up, and on


def lstm_cell() -> str:
    """The picture as SVG."""
    title = (
        "Inside an LSTM cell: the forget gate scales c of the step before, the input gate scales the candidate, their"
        " sum is the new c; the output gate scales tanh of it, which is h, the output"
    )
    sheet = Canvas(740, 506, title)
    sheet.add('<rect class="plain" x="108" y="40" width="536" height="312" rx="16"/>')
    _cell_state(sheet)
    _gates(sheet)
    _hidden_state(sheet)
    lines = [
        "Each gate reads x(t) and h(t−1), with weights of its own. σ gives 0 to 1: the share that passes.",
        "c(t) = f · c(t−1) + i · g     keep a share of the old, add a share of the new",
        "h(t) = o · tanh(c(t))     show a share: to the next layer, and to the next step",
    ]
    for i, line in enumerate(lines):
        sheet.text(24, 440 + 25 * i, line, "small left")
    return sheet.svg()


def _cell_state(sheet: Canvas) -> None:
    forget = GATES["forget"][0]
    sheet.text(58, TOP - 12, "c(t−1)", "value state")
    sheet.arrow([(24, TOP), (forget - 15, TOP)], "state")
    sheet.arrow([(forget + 15, TOP), (SUM - 15, TOP)], "state")
    sheet.arrow([(SUM + 15, TOP), (716, TOP)], "state")
    sheet.text(684, TOP - 12, "c(t)", "value state")
    sheet.circle(forget, TOP, 15, "×")
    sheet.circle(SUM, TOP, 15, "+")


def _gates(sheet: Canvas) -> None:
    (forget, _), (input_gate, _), (candidate, _), _ = GATES.values()
    sheet.arrow([(forget, GATE - 26), (forget, TOP + 15)])
    sheet.arrow([(input_gate, GATE - 26), (input_gate, MIDDLE), (SUM - 15, MIDDLE)])
    sheet.arrow([(candidate, GATE - 26), (candidate, MIDDLE), (SUM + 15, MIDDLE)])
    sheet.arrow([(SUM, MIDDLE - 15), (SUM, TOP + 15)])
    sheet.circle(SUM, MIDDLE, 15, "×")
    sheet.text(58, BUS - 12, "h(t−1)", "value state")
    sheet.arrow([(24, BUS), (140, BUS)], "state", head=False)
    sheet.arrow([(140, 384), (140, BUS)], head=False)
    sheet.text(140, 404, "x(t)", "value")
    sheet.arrow([(140, BUS), (GATES["output"][0], BUS), (GATES["output"][0], GATE + 26)])
    for name, (x, formula) in GATES.items():
        if name != "output":
            sheet.arrow([(x, BUS), (x, GATE + 26)])
        sheet.box(x, GATE, 104, 52, name, formula)


def _hidden_state(sheet: Canvas) -> None:
    output = GATES["output"][0]
    sheet.arrow([(output, TOP), (output, 122)])
    sheet.arrow([(output, 152), (output, MIDDLE - 15)])
    sheet.box(output, 137, 64, 30, "tanh", kind="other")
    sheet.arrow([(output, GATE - 26), (output, MIDDLE + 15)])
    sheet.arrow([(output + 15, MIDDLE), (TURN, MIDDLE), (TURN, BUS), (716, BUS)], "state")
    sheet.arrow([(FORK, MIDDLE), (FORK, 18)])
    sheet.circle(output, MIDDLE, 15, "×")
    sheet.text(684, BUS - 12, "h(t)", "value state")
    sheet.text(FORK - 10, 28, "y(t) = h(t)", "value right")
