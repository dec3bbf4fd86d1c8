"""Learning from pairs: batches of them, with the true target a step late as what the decoder reads."""

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from treadle.adapt.groups import parameter_groups
from treadle.recipes.translate.pairs import Pair
from treadle.recipes.translate.tokens import END, START
from treadle.recipes.translate.translator import Translator
from treadle.training.batches import Epochs, buckets
from treadle.training.budget import EarlyStopping
from treadle.training.evaluate import total_loss
from treadle.training.sequences import IGNORED
from treadle.training.training_loop import Step, train

MOST_VALIDATED = 2_000
"""Pairs that are looked at after each epoch."""
MOST_STEPS = 200
"""Steps after which they are looked at, if an epoch takes longer."""


class PairBatch(NamedTuple):
    """A batch: what one step of training reads."""

    x: Tensor
    """Sources [B, S]."""
    read: Tensor
    """What the decoder reads [B, U]: a start, and then the target."""
    y: Tensor
    """What it is to say [B, U]: the target, and then the end; -100 behind that."""
    lengths: Tensor
    """Of sources [B]."""
    target_lengths: Tensor
    """Of what is read and said [B]."""


def pair_batch(examples: Sequence[tuple[Tensor, Tensor]]) -> PairBatch:
    """Pairs of sources and targets, padded."""
    sources, targets = zip(*examples, strict=True)
    ends, starts = torch.tensor([END]), torch.tensor([START])
    y = pad_sequence([torch.cat([t, ends]) for t in targets], batch_first=True, padding_value=IGNORED)
    read = pad_sequence([torch.cat([starts, t]) for t in targets], batch_first=True)
    lengths, target_lengths = (torch.tensor([len(one) for one in side]) for side in (sources, targets))
    return PairBatch(pad_sequence(list(sources), batch_first=True), read, y, lengths, target_lengths + 1)


def run_pairs(model: Any, batch: PairBatch, forgetting: float = 0.0) -> Tensor:
    """What the network says to a batch when it is told the truth until then (teacher forcing).

    A share of rows, ``forgetting``, forgets now and then, each at a rate of its own.
    """
    resets = [forgetful(side, forgetting) if forgetting else None for side in (batch.x, batch.read)]
    return model(batch.x, batch.read, batch.lengths, batch.target_lengths, *resets)[0]


def forgetful(x: Tensor, share: float) -> Tensor:
    """Where rows of x [B, T] begin anew, at random: a share of them do, at hardly any or nearly all of their steps."""
    rates = torch.rand(len(x), 1) * (torch.rand(len(x), 1) < share)
    return torch.rand(x.shape) < rates


class Learning:
    """A translator that learns.

    Args:
        translator: what learns, in place.
        training: the training set.
        validation: pairs that say which weights are the best.
        rows: of a batch.
        learning_rate: its peak.
        weight_decay: of matrices.
        forgetting: the share of rows, of sources and of targets, that forget what was before at random steps: against
            relying on what is counted, which holds for no length that is not in the training set.
        label_smoothing: how much of each token's weight goes to all tokens alike.
        patience: validations without a new best, to stop after; None never stops before the time is over.
        seed: of the order.
    """

    def __init__(
        self,
        translator: Translator,
        training: Sequence[Pair],
        validation: Sequence[Pair],
        *,
        rows: int = 64,
        learning_rate: float = 0.003,
        weight_decay: float = 0.01,
        forgetting: float = 0.3,
        label_smoothing: float = 0.0,
        patience: int | None = None,
        seed: int = 0,
    ):
        self.translator, self.learning_rate = translator, learning_rate
        self.label_smoothing, self.forgetting = label_smoothing, forgetting
        examples = [self._example(pair) for pair in training]
        self._validation = [self._example(pair) for pair in validation[:MOST_VALIDATED]]
        sizes = [len(source) * 1_000 + len(target) for source, target in examples]
        self.batches = Epochs(
            lambda epoch: buckets(sizes, rows, seed, epoch), examples.__getitem__, batch_of=pair_batch
        )
        self.stopping = EarlyStopping(patience)
        self.evaluate_every = min(len(self.batches), MOST_STEPS)
        self.optimiser = torch.optim.AdamW(
            parameter_groups(translator.model, weight_decay), lr=learning_rate, betas=(0.9, 0.99)
        )
        self.done = 0
        """Steps done when it is over."""

    def _example(self, pair: Pair) -> tuple[Tensor, Tensor]:
        return self.translator.reads(pair.source), self.translator.target.encode(pair.target)

    @torch.no_grad()
    def validate(self, model: Any) -> float:
        """The share of the validation pairs that are not exactly right; between equal shares, the loss decides.

        Where the truth until then is told and every likeliest token is right, there it is what is said greedily. Loss
        alone would stop too soon: it rises where a network grows too sure of mistakes, while it makes fewer of them.
        """
        model.eval()
        wrong = total = count = 0.0
        for first in range(0, len(self._validation), 64):
            batch = pair_batch(self._validation[first : first + 64])
            ys = run_pairs(model, batch)
            loss, terms = total_loss(ys, batch.y)
            total, count = total + loss.item(), count + terms.item()
            wrong += ((ys.argmax(-1) != batch.y) & (batch.y != IGNORED)).any(1).sum().item()
        loss = total / count
        return (wrong + loss / (1 + loss)) / len(self._validation)

    def steps(self, share_done: Callable[[int], float]) -> Generator[Step, None, None]:
        """Train, a step each time that the iterator is asked; the best weights are there at the end."""
        self.done = yield from train(
            self.translator.model,
            self.batches,
            self.optimiser,
            share_done,
            learning_rate=self.learning_rate,
            label_smoothing=self.label_smoothing,
            run=lambda model, batch, x, state: (run_pairs(model, batch, self.forgetting), None),
            validate=self.validate,
            evaluate_at=lambda step: step % self.evaluate_every == 0,
            stopping=self.stopping,
        )
        self.translator.model.eval()
