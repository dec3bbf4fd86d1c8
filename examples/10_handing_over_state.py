"""Hand over a state: the final state of one network is the initial state of the next.

The first network reads to the end before the second begins: so the second knows, from its first step on, what is still
to come. Here every step has to say by how much its number differs from the one that the sequence will end with.

Run: python examples/10_handing_over_state.py
"""

import torch

import treadle as td

torch.manual_seed(0)
torch.set_num_threads(1)

# Two networks of equal layers: the state of each layer is handed over as it is, with nothing to learn in between.
first = td.Stack([td.LSTMCell(1, 16), td.LSTMCell(16, 16)])
second = td.Stack([td.LSTMCell(1, 16), td.LSTMCell(16, 16)])
model = td.EncoderDecoder(first, second, head=torch.nn.Linear(16, 1))
print("parameters of the bridge:", sum(p.numel() for p in model.bridge.parameters()))

# It is the same as doing it by hand.
xs, lengths = torch.rand(3, 9, 1), [9, 4, 6]
ys, _ = model(xs, xs, lengths, lengths)
_, end = td.Recurrent(first)(xs, lengths=lengths)
by_hand, _ = td.Recurrent(second)(xs, end, lengths=lengths)
inside = (torch.arange(9) < torch.tensor(lengths)[:, None])[..., None]
print("by hand differs by", (ys - model.head(by_hand) * inside).abs().max().item())


def loss_of(model, rows=64, steps=12):
    x = torch.rand(rows, steps, 1)
    y, _ = model(x, x)
    return (y - (x[:, -1:] - x)).square().mean()


def trained(model, steps=150):
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(steps):
        loss = loss_of(model)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    return loss_of(model, 512).item()


class Alone(torch.nn.Module):
    """The second network without the first: at every step it knows what was, and not what comes."""

    def __init__(self):
        super().__init__()
        self.recurrent = td.Recurrent(td.Stack([td.LSTMCell(1, 16), td.LSTMCell(16, 16)]))
        self.head = torch.nn.Linear(16, 1)

    def forward(self, x, _):
        y, state = self.recurrent(x)
        return self.head(y), state


handed_over, alone = trained(model), trained(Alone())
print(f"squared error: {handed_over:.4f} with the state of the first, {alone:.4f} without")
assert handed_over < alone / 2  # who cannot know says the mean, which is off by 1/12
