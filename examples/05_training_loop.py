"""Many-to-one in a bare training loop: sequences of different lengths, one answer each.

Run: python examples/05_training_loop.py
"""

import torch
from torch.nn import functional as F

import treadle as td
from treadle.training import parameter_groups, sequence_model

torch.manual_seed(0)
torch.set_num_threads(1)


def batch(rows=32, steps=20):
    """Which came first, the bump up or the bump down? The answer lies many steps back."""
    lengths = torch.randint(12, steps + 1, (rows,))
    labels = torch.randint(2, (rows,))
    x = 0.1 * torch.randn(rows, steps, 1)
    x[:, 1, 0] += labels * 4 - 2
    x[:, 5, 0] -= labels * 4 - 2
    return x, labels, lengths


rnn = sequence_model(1, 2, "gru", layers=1, hidden_size=16)  # layers and a head, as one wiring
optimiser = torch.optim.AdamW(parameter_groups(rnn, weight_decay=0.01), lr=0.01)

for step in range(1, 61):
    x, labels, lengths = batch()
    scores, state = rnn(x, lengths=lengths)  # padding is never read
    last = scores[torch.arange(len(x)), lengths - 1]
    loss = F.cross_entropy(last, labels)
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(rnn.parameters(), 1.0)
    optimiser.step()
    if step % 20 == 0:
        print(f"step {step}: loss {loss:.3f}")

x, labels, lengths = batch(200)
with torch.no_grad():
    scores, state = rnn.eval()(x, lengths=lengths)
right = (scores[torch.arange(200), lengths - 1].argmax(1) == labels).double().mean()
print(f"{right:.0%} right")
assert right > 0.9

td.save("first.safetensors", rnn)  # network and wiring, in one file
print(type(td.load("first.safetensors")).__name__, "is back")
