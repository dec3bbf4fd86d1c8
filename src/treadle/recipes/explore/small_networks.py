"""Small networks, trained in seconds: enough to have gates that do something."""

import dataclasses
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from treadle.recipes.explore.material import Letters, Numbers
from treadle.running.recurrent import Recurrent
from treadle.training.budget import warm_up_and_cosine
from treadle.training.layered_networks import layers_of
from treadle.wiring import Graph

EMBEDDING_SIZE, ROWS, WINDOW = 8, 32, 48
LEARNING_RATE, WEIGHT_DECAY = 0.01, 0.1  # gates that are not all open or shut can be read


@dataclasses.dataclass(frozen=True)
class Design:
    """What a small network is made of: a cell of `treadle.training.CELLS`, layers, and their hidden size."""

    cell: str = "lstm"
    layers: int = 3
    hidden_size: int = 16


def small_network(material: Letters | Numbers, wiring: str, design: Design = Design()) -> Recurrent:
    """A network that reads the material and predicts its next step: layers under a named wiring, then a linear head.

    Example:
        >>> from treadle.recipes.explore import built_in_text, small_network
        >>> rnn = small_network(built_in_text(), "relay")
        >>> [name for name, _ in rnn.cell.named_children()]
        ['embedded', 'layers', 'scores']
    """
    tokens = isinstance(material, Letters)
    width = EMBEDDING_SIZE if tokens else material.output_size
    graph = Graph(() if tokens else width)
    reads = graph.add("embedded", nn.Embedding(material.output_size, width), reads=graph.x) if tokens else graph.x
    layers = layers_of(design.cell, wiring, design.layers, width, design.hidden_size)
    node = graph.add("layers", layers, reads=reads)
    head = nn.Linear(design.hidden_size, material.output_size)
    return Recurrent(graph.outputs(graph.add("scores" if tokens else "forecast", head, reads=node)))


def train_small(rnn: Recurrent, material: Letters | Numbers, steps: int, seed: int = 0) -> Iterator[float]:
    """Train on windows from random places of the material, each from the initial state; the loss of each step."""
    xs, answers = material.inputs()
    window, random = min(WINDOW, len(xs)), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(rnn.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for step in range(1, steps + 1):
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * warm_up_and_cosine(step, (step - 1) / steps)
        starts = torch.randint(len(xs) - window + 1, (ROWS,), generator=random)
        places = starts[:, None] + torch.arange(window)
        loss = material.loss(rnn(xs[places])[0], answers[places])
        optimiser.zero_grad()
        loss.backward()
        clip_grad_norm_(rnn.parameters(), 1.0)
        optimiser.step()
        yield loss.item()
