"""The gates, the cell state and the hidden state of one unit while a trained LSTM reads a text."""

import math
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

import treadle as td

from .canvas import Canvas, number
from .chart import Axes
from .learned import Learned

SYMBOLS = ' ",abcdefghijklmnopqrstuvwxyz'
QUOTE = SYMBOLS.index('"')
TEXT = 'she said "wait here", then "come", and left'
UNITS = 4
GATE_CURVES = {"f": ("state", "forget gate f"), "i": ("handover", "input gate i"), "o": ("late", "output gate o")}
STATE_CURVES = {"c": ("ink", "cell state c"), "h": ("gradient", "hidden state h")}
LEFT, LETTER = 84, 14.4
RULES = """.letter { font: 15px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace }
.inside { fill: $cell }
"""


def encoded(text: str) -> torch.Tensor:
    """The numbers of symbols."""
    return torch.tensor([SYMBOLS.index(symbol) for symbol in text])


def inside(symbols: torch.Tensor) -> torch.Tensor:
    """Whether each symbol lies between quotation marks; the opening one does, the closing one does not."""
    return (symbols == QUOTE).cumsum(-1) % 2 == 1


def random_text(chance: random.Random, length: int) -> str:
    """Words of random letters, some of them quoted."""
    text = ""
    while len(text) < length:
        text += "".join(chance.choice(SYMBOLS[3:]) for _ in range(chance.randint(1, 6)))
        text += chance.choice([" ", " ", ", ", ' "', '" ', '"'])
    return text[:length]


def learn_gates() -> dict[str, Any]:
    """An LSTM learns to say whether it is inside a quotation; what one unit does over `TEXT`."""
    torch.manual_seed(0)
    chance = random.Random(0)
    embedding = nn.Embedding(len(SYMBOLS), 8)
    rnn = td.Recurrent(td.LSTMCell(8, UNITS, forget_bias=1.0))
    head = nn.Linear(UNITS, 1)
    optimiser = torch.optim.Adam([*embedding.parameters(), *rnn.parameters(), *head.parameters()], 1e-2)
    for _ in range(600):
        xs = torch.stack([encoded(random_text(chance, 60)) for _ in range(16)])
        scores = head(rnn(embedding(xs))[0])[..., 0]
        loss = nn.functional.binary_cross_entropy_with_logits(scores, inside(xs).float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return read(embedding, rnn, head)


@torch.no_grad()
def read(embedding: nn.Embedding, rnn: td.Recurrent, head: nn.Linear) -> dict[str, Any]:
    """Whether the network is right all over `TEXT`, and the unit whose gates tell quotation marks best from letters."""
    x = encoded(TEXT)
    xs = embedding(x)[None]
    record = td.record(rnn, xs)
    names = {"f": "forget", "i": "input_gate", "o": "output_gate", "c": "c", "h": "h"}
    values = {letter: record[name][0] for letter, name in names.items()}
    opened = values["i"] - values["f"]
    unit = int((opened[x == QUOTE].mean(0) - opened[x != QUOTE].mean(0)).argmax())
    shown = {name: [round(v, 3) for v in value[:, unit].tolist()] for name, value in values.items()}
    return {"right": bool(((head(rnn(xs)[0])[0, :, 0] > 0) == inside(x)).all()), "values": shown}


def gates() -> str:
    """The picture as SVG."""
    values = GATES.data()["values"]
    title = (
        "One unit of a trained LSTM over a text: its forget gate closes and its input gate opens at quotation marks, so"
        " its cell state stays the same between them; the hidden state is what the output gate lets through"
    )
    sheet = Canvas(720, 566, title, RULES)
    sheet.text(24, 40, "One unit of a trained LSTM", "title left")
    sheet.text(24, 64, "The network has learned to say whether it is inside a quotation.", "small faint left")
    quoted = inside(encoded(TEXT)).tolist()
    for step, (symbol, within) in enumerate(zip(TEXT, quoted, strict=True)):
        x = LEFT + LETTER * step
        if within:
            sheet.add(f'<rect class="inside" x="{number(x)}" y="82" width="{number(LETTER + 0.3)}" height="440"/>')
        if symbol != " ":
            sheet.text(x + LETTER / 2, 102, symbol, "letter")
    states = [value for name in "ch" for value in values[name]]
    low, high = math.floor(min(states)), math.ceil(max(states))
    _panel(sheet, 148, [0, 0.5, 1], GATE_CURVES, values)
    _panel(sheet, 352, [low, 0, high], STATE_CURVES, values)
    note = "At a quotation mark f closes and i opens: c is written. Until the next one, f keeps it."
    sheet.text(24, 546, note, "small left")
    return sheet.svg()


def _panel(
    sheet: Canvas,
    top: float,
    ticks: Sequence[float],
    curves: dict[str, tuple[str, str]],
    values: dict[str, list[float]],
) -> None:
    """Curves over the letters, with their names above."""
    axes = Axes(sheet, (LEFT, top, LEFT + LETTER * len(TEXT), top + 150), (0, len(TEXT)), (ticks[0], ticks[-1]))
    axes.levels(ticks)
    axes.names(list(curves.values()), 200)
    for name, (kind, _) in curves.items():
        axes.curve([(step + 0.5, value) for step, value in enumerate(values[name])], kind)


GATES = Learned("gates", learn_gates, same=lambda old, new: old["right"] == new["right"])
