"""Change a trained network to five input channels: it found discs, now it finds the disc that was clicked.

Run: python examples/13_five_channels.py
"""

import torch
from torch import nn
from torch.nn import functional as F

import treadle as td

torch.manual_seed(0)
torch.set_num_threads(1)

SIZE = 24
Y, X = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")


def scenes(rows):
    """Two discs of any colour on noisy ground: images, masks of both, and a click on the first."""
    at = torch.stack([torch.randint(4, 9, (rows, 2)), torch.randint(15, 20, (rows, 2))], 1)  # [rows, disc, (y, x)]
    at = torch.where(torch.rand(rows, 1, 1) < 0.5, at, at.flip(1))
    distance = (
        (Y - at[..., 0, None, None]) ** 2 + (X - at[..., 1, None, None]) ** 2
    ).sqrt()  # [rows, disc, SIZE, SIZE]
    masks = distance < 4
    colours = torch.rand(rows, 3, 1, 1) + 0.5
    images = 0.3 * torch.randn(rows, 3, SIZE, SIZE) + colours * masks.any(1, keepdim=True)
    return images, masks, distance[:, 0]


def network(channels):
    layers = [nn.Conv2d(channels, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(12, 2, 1))


def train(model, batch, steps):
    optimiser = torch.optim.AdamW(td.adapt.parameter_groups(model), lr=0.01)
    for _ in range(steps):
        x, labels = batch(32)
        loss = F.cross_entropy(model(x), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model


@torch.no_grad()
def overlap(model, batch):
    """Intersection over union on new scenes."""
    x, labels = batch(200)
    found, true = model(x).argmax(1) == 1, labels == 1
    return ((found & true).sum() / (found | true).sum()).item()


def any_disc(rows):
    images, masks, _ = scenes(rows)
    return images, masks.any(1).long()


def clicked_disc(rows):
    images, masks, to_click = scenes(rows)
    to_border = torch.minimum(Y.minimum(SIZE - 1 - Y), X.minimum(SIZE - 1 - X)).expand(rows, -1, -1)
    maps = torch.stack([to_click, to_border], 1) / SIZE
    return torch.cat([images, maps], 1), masks[:, 0].long()


# Three channels: red, green, blue. Which of the two discs is meant, nobody can see.
trained = train(network(3), any_disc, 60)
print(f"three channels, any disc: {overlap(trained, any_disc):.0%} overlap")

# Five channels: two maps of distances behind the three. All that was learned is kept.
model, report = td.adapt.transplant(network(5), trained.state_dict(), {"0.weight": td.adapt.Widen(axis=1)})
print(report)
x, _ = clicked_disc(8)
print("right after the change, the output differs by", (model(x) - trained(x[:, :3])).abs().max().item())
before = overlap(model, clicked_disc)

# Will the first layer learn anything if the rest is frozen? Gradients go through what is frozen.
first = td.adapt.freeze(model, except_="0")
print(td.adapt.gradient_report(first, clicked_disc(8), loss=F.cross_entropy))
train(first, clicked_disc, 60)
print("what training changed:", td.adapt.diff(model, first).changed)

every = train(model, clicked_disc, 60)
after = overlap(first, clicked_disc), overlap(every, clicked_disc)
print(
    f"the clicked disc: {before:.0%} before, {after[0]:.0%} with the first layer alone, {after[1]:.0%} with all of them"
)
assert min(after) > before + 0.1
