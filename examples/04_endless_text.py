"""Stateful training on a long text: windows over many places of a file, the state carried on, stopped and resumed.

Run: python examples/04_endless_text.py
"""

import argparse
import copy
import itertools
import math

import torch
from torch.nn import functional as F

import treadle as td
from treadle import streams

torch.manual_seed(0)
ROWS, STEPS = 16, 32

# Any file, of any size: only what is being read is in memory. Cut into parts, it keeps all rows busy.
text = streams.TextFile(argparse.__file__)
windows = streams.Windows(streams.split(text, ROWS), ROWS, STEPS, epochs=None)

g = td.Graph(())
embedded = g.add("embedded", torch.nn.Embedding(256, 32), reads=g.x)
layer = g.add("layer", td.LSTMCell(32, 64, forget_bias=1.0), reads=embedded)
rnn = td.Recurrent(g.outputs(g.add("scores", torch.nn.Linear(64, 256), reads=layer)))
keeper = streams.StateKeeper(rnn)
optimiser = torch.optim.Adam(rnn.parameters(), lr=0.01)


def train(batches: int) -> list[float]:
    """Go on for some batches; gives bits per byte of each."""
    bits = []
    for batch in itertools.islice(windows, batches):
        ys, state = rnn(batch.x, keeper.before(batch), lengths=batch.lengths, resets=batch.resets)
        keeper.after(batch, state)
        loss = F.cross_entropy(ys[batch.mask], batch.y[batch.mask])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        bits.append(loss.item() / math.log(2))
    return bits


bits = train(100)
print(f"{text.length} bytes; bits per byte: {bits[0]:.2f} at first, {bits[-1]:.2f} after {len(bits)} batches")

# All that there is to a run: where it reads, what is remembered of each stream, the weights, the optimiser.
parts = {"windows": windows, "keeper": keeper, "rnn": rnn, "optimiser": optimiser}
kept = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
first = train(10)
for name, part in parts.items():
    part.load_state_dict(kept[name])
again = train(10)
print("resumed, the run differs by", max(abs(a - b) for a, b in zip(first, again, strict=True)))
