"""A drop-in for torch.nn.LSTM: change one import, and gain ragged batches, live steps and wirings.

Run: python examples/03_drop_in.py
"""

import torch

import treadle as td

torch.manual_seed(0)
theirs = torch.nn.LSTM(10, 20, num_layers=2, batch_first=True)
ours = td.LSTM(10, 20, num_layers=2, batch_first=True)
ours.load_state_dict(theirs.state_dict())

xs = torch.randn(4, 30, 10)
print("difference:", (ours(xs)[0] - theirs(xs)[0]).abs().max().item())

# Rows of unequal length need no packing: any order, zero included.
output, (h_n, c_n) = ours(xs, lengths=[30, 0, 12, 1])
print("steps with an output:", output.abs().sum(2).count_nonzero(1).tolist())

# The same weights, one step at a time.
session = ours.session()
for x in xs[0]:
    y = session.step(x)
print("live differs by", (y - ours(xs)[0][0, -1]).abs().max().item())

# Another wiring, another cell.
rewired = td.LSTM(10, 20, num_layers=2, batch_first=True, wiring="dense", cell=td.PeepholeLSTMCell)
print("rewired:", tuple(rewired(xs)[0].shape))
