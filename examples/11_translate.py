"""Sequence to sequence: dates as people write them into one format, by an encoder–decoder with attention.

Run: python examples/11_translate.py
"""

import datetime
import random

import torch
from torch import nn
from torch.nn import functional as F

import treadle as td

torch.manual_seed(0)
torch.set_num_threads(1)
random.seed(0)

START, END, H = 0, 1, 48
CHARACTERS = "0123456789-. " + "".join(sorted(set("JanFebMarAprMayJunJulAugSepOctNovDec")))


def tokens(text):
    return torch.tensor([CHARACTERS.index(c) + 2 for c in text])


def date():
    day = datetime.date(2000, 1, 1) + datetime.timedelta(random.randrange(3650))
    return random.choice([f"{day.day}.{day.month}.{day.year}", day.strftime("%d %b %Y")]), day.isoformat()


def padded(rows):
    return nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])


def reader():
    g = td.Graph(())  # a row of the input is one token
    embedded = g.add("embedded", nn.Embedding(len(CHARACTERS) + 2, 24), reads=g.x)
    return g.outputs(g.add("layers", td.LSTMCell(24, H), reads=embedded))


# The encoder reads in both directions; a bridge makes of its two final states the decoder's first. Attention that knows
# places finds what to say next.
head = nn.Sequential(nn.Linear(H + 2 * H, H), nn.Tanh(), nn.Linear(H, len(CHARACTERS) + 2))
encoder, attention = td.Bidirectional(reader(), reader()), td.Attention(H, 2 * H, "dot", reach=8)
model = td.EncoderDecoder(encoder, reader(), head, attention=attention)
optimiser = torch.optim.AdamW(model.parameters(), lr=0.005)

for step in range(1, 301):
    pairs = [date() for _ in range(64)]
    source, source_lengths = padded([tokens(text) for text, _ in pairs])
    said, lengths = padded([torch.cat([tokens(text), torch.tensor([END])]) for _, text in pairs])
    read = torch.cat([torch.full((64, 1), START), said[:, :-1]], 1)  # the truth, a step late: teacher forcing
    scores, _ = model(source, read, source_lengths, lengths)
    loss = F.cross_entropy(scores.flatten(0, 1), said.flatten())
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    if step % 100 == 0:
        print(f"step {step}: loss {loss:.4f}")

pairs = [date() for _ in range(200)]
source, source_lengths = padded([tokens(text) for text, _ in pairs])
found = model.generate(source, source_lengths, start=START, end=END, steps=20, beams=2)
texts = ["".join(CHARACTERS[token - 2] for token in row) for row in found.tokens]
right = sum(text == true for text, (_, true) in zip(texts, pairs, strict=True)) / 200
print(f"{pairs[0][0]!r} becomes {texts[0]!r}; {right:.0%} of 200 are exactly right")
assert right > 0.8
