"""Run in a process of its own: `treadle fit --words` and the same training written by hand over `td.LSTM`, in turns.

python -m benchmarks.words '{"words": 929000, "vocabulary": 10000, "steps": 10, "rounds": 9, "threads": 2}' prints JSON.
"""

import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.long_sequence import most_memory

EXPONENT, PER_LINE = 1.05, 20


def write(path: Path, words: int, vocabulary: int) -> None:
    """A text of so many words, frequent and rare as in prose (Zipf's law), of more kinds than the vocabulary holds."""
    kinds = 2 * vocabulary
    shares = 1 / np.arange(1, kinds + 1) ** EXPONENT
    drawn = np.random.default_rng(0).choice(kinds, words - words // (PER_LINE + 1), p=shares / shares.sum())
    with open(path, "w") as file:
        for start in range(0, len(drawn), PER_LINE):
            file.write(" ".join(f"w{number}" for number in drawn[start : start + PER_LINE]) + "\n")


def main(words: int, vocabulary: int, steps: int, rounds: int, threads: int, engine: str = "cpu") -> dict[str, Any]:
    """Words per second of both sides in every round, how far their losses are apart, and the most memory ever held."""
    import torch

    from treadle.training.fit_run import Run, Settings

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "text")
        write(path, words, vocabulary)
        run = Run(Settings(str(path), words=True, vocabulary=vocabulary))
        tokens = np.concatenate([piece.x for piece in run.task.text.training.pieces()])
        hand = by_hand(run, torch.from_numpy(tokens))
        error = next(hand)
        sides = {"fit": (step.loss for step in run.steps(lambda step: step / 1e9)), "by hand": hand}
        for side in sides.values():
            list(itertools.islice(side, 3))  # the first ones compile
        speeds: dict[str, list[float]] = {name: [] for name in sides}
        read = steps * run.task.batches.rows * run.task.batches.steps
        for number in range(rounds):
            for name in sorted(sides, reverse=number % 2 == 1):
                begin = time.perf_counter()
                list(itertools.islice(sides[name], steps))
                speeds[name].append(read / (time.perf_counter() - begin))
    return {"error": error, "speeds": speeds, "peak": most_memory(), "vocabulary": len(run.task.text.vocabulary)}


def by_hand(run: Any, tokens: Any) -> Iterator[float]:
    """A training loop as people write it, over `td.LSTM` and PyTorch's head, on tokens that lie in memory.

    First comes the difference of its loss from that of the network of ``run``, without dropout; then each step's loss.
    """
    import torch
    from torch import nn
    from torch.nn import functional as F

    import treadle as td
    from treadle.training.word_model import losses

    theirs: Any = run.model.cell
    rows, window = run.task.batches.rows, run.task.batches.steps
    embedding: Any = nn.Embedding.from_pretrained(theirs.features.embedded.weight.detach().clone(), freeze=False)
    dropout = theirs.features.dropout.p
    lstm = td.LSTM(embedding.embedding_dim, embedding.embedding_dim, 2, batch_first=True, dropout=dropout)
    for layer, cell in enumerate(theirs.features.layers.cells):
        for name, weight in cell.named_parameters():
            getattr(lstm, f"{name}_l{layer}").data.copy_(weight.data)
    adaptive = hasattr(theirs.scores, "softmax")
    if adaptive:
        cutoffs, value = theirs.scores.softmax.cutoffs[:-1], theirs.scores.softmax.div_value
        head = nn.AdaptiveLogSoftmaxWithLoss(lstm.hidden_size, embedding.num_embeddings, cutoffs, value, True)
        head.load_state_dict(theirs.scores.softmax.state_dict())
    else:
        head = nn.Linear(lstm.hidden_size, embedding.num_embeddings)
        head.load_state_dict(theirs.scores.state_dict())
    model = nn.ModuleList([embedding, lstm, head])
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.003, betas=(0.9, 0.99), weight_decay=0)
    columns = tokens[: len(tokens) // rows * rows].view(rows, -1)

    def loss_of(x: Any, y: Any, hx: Any) -> tuple[Any, Any]:
        ys, hx = lstm(F.dropout(embedding(x), dropout, model.training), hx)
        ys = F.dropout(ys, dropout, model.training).flatten(0, 1)
        return (head(ys, y.flatten()).loss if adaptive else F.cross_entropy(head(ys), y.flatten())), hx

    model.eval()
    run.model.eval()
    x, y = columns[:, :window], columns[:, 1 : window + 1]
    with torch.no_grad():
        expected, found = losses(run.model, x, y)[0].mean(), loss_of(x, y, None)[0]
    yield abs(found.item() / expected.item() - 1)
    model.train()
    while True:
        hx = None
        for start in range(0, columns.shape[1] - window - 1, window):
            x, y = columns[:, start : start + window], columns[:, start + 1 : start + window + 1]
            hx = None if hx is None else tuple(part.detach() for part in hx)
            loss, hx = loss_of(x, y, hx)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            yield loss.item()


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))
