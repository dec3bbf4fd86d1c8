"""Training on pairs with teacher forcing."""

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
    """A batch for one training step."""

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
    """Outputs for a batch with teacher forcing; a share of rows, ``forgetting``, is reset at random steps."""
    resets = [forgetful(side, forgetting) if forgetting else None for side in (batch.x, batch.read)]
    return model(batch.x, batch.read, batch.lengths, batch.target_lengths, *resets)[0]


def forgetful(x: Tensor, share: float) -> Tensor:
    """Random resets for x [B, T]: a share of the rows has them, each at its own rate between 0 and 1."""
    rates = torch.rand(len(x), 1) * (torch.rand(len(x), 1) < share)
    return torch.rand(x.shape) < rates


class Learning:
    """Training of a translator.

    Args:
        translator: the translator; it is trained in place.
        training: the training set.
        validation: the validation set, which decides which weights are best.
        rows: batch size.
        learning_rate: the peak learning rate.
        weight_decay: weight decay (matrices only).
        forgetting: fraction of rows, of sources and of targets, whose state is reset at random steps, against
            counting in the state, which does not generalise to longer sequences.
        label_smoothing: fraction of each token's weight that is spread over all tokens.
        patience: early stopping after this many validations without a new best; None never stops early.
        by_loss: whether validation gives the loss alone, rather than what `validate` says.
        seed: random seed of the order.
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
        by_loss: bool = False,
        seed: int = 0,
    ):
        self.translator, self.learning_rate = translator, learning_rate
        self.label_smoothing, self.forgetting, self._by_loss = label_smoothing, forgetting, by_loss
        self._training = examples = [self._example(pair) for pair in training]
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
        """The fraction of validation pairs without an exact match; between equal fractions, the loss decides.

        With teacher forcing, all most likely tokens are correct exactly where greedy decoding is. The loss alone would
        stop too early: it rises where a network gets more certain of mistakes while it makes fewer of them.
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
        if self._by_loss:
            return loss
        return (wrong + loss / (1 + loss)) / len(self._validation)

    def unigram_loss(self) -> float:
        """The validation loss of a model that knows how frequent each token of a target is, and nothing else."""
        counts = torch.ones(len(self.translator.target))
        for _, target in self._training:
            counts += torch.bincount(target, minlength=len(counts))
        counts[END] += len(self._training)
        losses = -(counts / counts.sum()).log()
        said = torch.cat([torch.cat([target, torch.tensor([END])]) for _, target in self._validation])
        return losses[said].mean().item()

    def steps(self, share_done: Callable[[int], float], **options: Any) -> Generator[Step, None, None]:
        """Train, one step per iteration; the network has the best weights at the end.

        Args:
            share_done: from the number of steps done to the fraction of training that is over.
            **options: ``checkpoint``, ``checkpoint_at``, ``about`` and ``evaluating``, as of `treadle.training.train`.
        """
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
            **options,
        )
        self.translator.model.eval()
