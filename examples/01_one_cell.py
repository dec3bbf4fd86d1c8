"""One cell, four ways: one step, a sequence, a sequence in chunks, live.

Run: python examples/01_one_cell.py
"""

import torch

import treadle as td

torch.manual_seed(0)
cell = td.LSTMCell(3, 5)
xs = torch.randn(2, 7, 3)  # [B, T, I]

# One step. A state is a named tuple; None is the initial one.
y, state = cell(xs[:, 0], None)
print("one step:", tuple(y.shape), "state:", state._fields)

# A sequence, whole.
rnn = td.Recurrent(cell)
ys, end = rnn(xs)
print("whole:", tuple(ys.shape))

# In chunks: the state that comes out of one goes into the next.
first, state = rnn(xs[:, :3])
second, state = rnn(xs[:, 3:], state)
print("chunks differ by", (torch.cat([first, second], 1) - ys).abs().max().item())

# Live: the session keeps the state.
session = rnn.session(batch_size=2)
live = torch.stack([session.step(x).clone() for x in xs.unbind(1)], 1)
print("live differs by", (live - ys).abs().max().item())
