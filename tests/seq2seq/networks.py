"""Encoders and decoders for the tests, and their equations written out, row by row and step by step."""

import torch
from torch import nn

import treadle as td

TOKENS = 6


def reads_tokens(cell, tokens=TOKENS, size=3):
    g = td.Graph(())
    embedded = g.add("embedded", nn.Embedding(tokens, size, dtype=torch.float64), reads=g.x)
    return g.outputs(g.add("layers", cell, reads=embedded))


def lstms(input_size, *sizes):
    reads = [input_size, *sizes]
    return td.Stack([td.LSTMCell(i, h, dtype=torch.float64) for i, h in zip(reads, sizes, strict=False)])


def model(kind="dot", directions=2, head="linear", decoder=(4, 5), engine="auto", **looks):
    torch.manual_seed(3)
    encoder = td.Recurrent(reads_tokens(lstms(3, 4, 5)), engine=engine)
    if directions == 2:
        encoder = td.Bidirectional(encoder, td.Recurrent(reads_tokens(lstms(3, 3, 2)), engine=engine))
    memory = 7 if directions == 2 else 5
    attention = kind and td.Attention(decoder[-1], memory, kind, hidden_size=3, **looks)
    size = decoder[-1] + (memory if kind else 0)
    heads = {
        "linear": lambda: nn.Linear(size, TOKENS),
        "cell": lambda: td.Recurrent(with_scores(td.LSTMCell(size, 4)), engine=engine),
        "none": lambda: None,
    }
    network = td.EncoderDecoder(
        encoder,
        td.Recurrent(reads_tokens(lstms(3, *decoder)), engine=engine),
        heads[head](),
        attention=attention,
    ).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return network


def with_scores(cell):
    g = td.Graph(cell.input_size)
    return g.outputs(g.add("scores", nn.Linear(cell.hidden_size, TOKENS), reads=g.add("layer", cell, reads=g.x)))


def lstm(cell, xs, h, c):
    """One row [T, I], from h and c."""
    ys = []
    for x in xs:
        gates = cell.weight_ih @ x + cell.bias_ih + cell.weight_hh @ h + cell.bias_hh
        i, f, g, o = gates.chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        ys.append(h)
    return (torch.stack(ys) if ys else xs.new_zeros(0, len(h))), h, c


def reader(graph, tokens, starts=None):
    """Embedding and two LSTMs over one row; the final (h, c) of each."""
    ys, ends = graph.embedded.weight[tokens], []
    for k, cell in enumerate(graph.layers.cells):
        zeros = ys.new_zeros(cell.hidden_size)
        ys, *end = lstm(cell, ys, *(starts[k] if starts else (zeros, zeros)))
        ends.append(end)
    return ys, ends


def by_hand(network, source, target):
    """What the network gives for one row of tokens, as the docstrings' equations say."""
    if isinstance(network.encoder, td.Bidirectional):
        ahead, end = reader(network.encoder.ahead.cell, source)
        back, start = reader(network.encoder.back.cell, source.flip(0))
        memory, ends = torch.cat([ahead, back.flip(0)], 1), [end, start]
    else:
        memory, end = reader(network.encoder.cell, source)
        ends = [end]
    cells, starts = network.decoder.cell.layers.cells, []
    for layer, cell in enumerate(cells):
        starts.append([])
        for k, field in enumerate("hc"):
            name = f"to layers/layer{layer}/{field}"
            given = torch.cat([end[layer][k] for end in ends])
            maps = network.bridge.maps
            starts[-1].append(maps[name].weight @ given + maps[name].bias if name in maps else given)
        assert starts[-1][0].shape == (cell.hidden_size,)
    ys, _ = reader(network.decoder.cell, target, starts)
    if network.attention is not None:
        found, looked = ys.new_zeros(0, memory.shape[1]), []
        for y in ys:
            looked.append(look(network.attention, y, memory, looked))
            found = torch.cat([found, (looked[-1] @ memory)[None]])
        ys = torch.cat([ys, found], 1)
    if isinstance(network.head, nn.Linear):
        ys = ys @ network.head.weight.T + network.head.bias
    elif network.head is not None:
        zeros = ys.new_zeros(4)
        ys, _, _ = lstm(network.head.cell.layer, ys, zeros, zeros)
        ys = ys @ network.head.cell.scores.weight.T + network.head.cell.scores.bias
    return ys


def look(attention, q, memory, looked):
    """The weights of one query at one memory, and those of the queries before it."""
    t, scores = len(looked), []
    for s, m in enumerate(memory):
        if attention.score == "dot":
            score = q @ (attention.key.weight @ m) / len(q) ** 0.5
        else:
            asked = attention.query.weight @ q + attention.key.weight @ m + attention.key.bias
            score = attention.weigh.weight[0] @ asked.tanh()
        if attention.priority:
            score = score + attention.prior.weight[0] @ m
        if attention.reach:
            R = attention.reach
            score = score + 10 * attention.from_start[min(max(t - s, -R), R) + R]
            score = score + 10 * attention.from_end[min(max(t - (len(memory) - 1 - s), -R), R) + R]
        if attention.window and looked:
            K = attention.window
            for other in range(max(s - K, 0), min(s + K, len(memory) - 1) + 1):
                score = score + 10 * looked[-1][other] * attention.from_last[s - other + K]
        scores.append(score)
    if not scores:
        return memory.new_zeros(0)
    scores = torch.stack(scores)
    if not attention.fertility:
        return scores.exp() / scores.exp().sum()
    left = torch.stack([attention.fertility * (attention.fertile.weight[0] @ m).exp() for m in memory])
    return capped(scores, left - sum(looked))


def capped(scores, left):
    """What is capped is found one by one: whoever would get more than is left of it gets that, until nobody would."""
    weights, caps = scores.exp() / scores.exp().sum(), torch.zeros_like(scores, dtype=torch.bool)
    while (over := ~caps & (weights > left)).any():
        caps = caps | over
        shares = torch.where(caps, 0, scores.exp())
        rest = (1 - left[caps].sum()) / shares.sum() if not caps.all() else 0
        weights = torch.where(caps, left, shares * rest)
    return weights
