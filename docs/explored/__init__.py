"""The explorer of this site: small networks of the seven wirings, trained once on the built-in text.

``python -m explored`` (within docs/) trains them again; the build makes the page of what is here.
"""

from pathlib import Path
from typing import Any

import torch

import treadle as td
from treadle.recipes.explore import Design, built_in_text, small_network, train_small
from treadle.show.explorer_data import explorer_data
from treadle.show.explorer_page import page

FOLDER = Path(__file__).parent
ADDRESS = "explorer/page.html"
DESIGN, STEPS, SHOWN = Design("lstm", 3, 12), 1000, 60


def train() -> None:
    """Train all networks, and write their files."""
    text = built_in_text()
    for wiring in td.WIRINGS:
        torch.manual_seed(0)
        rnn = small_network(text, wiring, DESIGN)
        losses = list(train_small(rnn, text, STEPS))
        td.save(FOLDER / f"{wiring}.safetensors", rnn.eval())
        print(f"{wiring}: {losses[-1]:.3f} nats per letter")


def networks() -> dict[str, Any]:
    """The trained networks by wiring."""
    return {wiring: td.load(FOLDER / f"{wiring}.safetensors").eval() for wiring in td.WIRINGS}


def explorer_page() -> str:
    """The page, as HTML."""
    xs, labels = built_in_text().shown(SHOWN)
    found = networks()
    words = dict.fromkeys(found, (labels, None))
    data = explorer_data(found, dict.fromkeys(found, xs), words, "How do the layers of an LSTM connect?", tour=True)
    return page(data)
