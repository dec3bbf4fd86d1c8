"""Labelled sequences: training and evaluation."""

import os

import torch
from torch import Tensor

from treadle.errors import DataError
from treadle.running.recurrent import Recurrent
from treadle.training.batches import Epochs, buckets
from treadle.training.evaluate import mean_loss, outputs_of
from treadle.training.fitted import Fitted
from treadle.training.layered_networks import sequence_model
from treadle.training.scaling import Scaling, fill_previous
from treadle.training.sequences import IGNORED, Sequences
from treadle.training.task import MOST_STEPS, Confusion, Design, Habits, Predictions, Verdict


class SequenceTask:
    """Classification or regression of sequences: a target per sequence, or per step.

    Args:
        training: the training set.
        validation: the validation set, which says when to stop.
        test: the test set; the validation set if there is none.
        start: the network to train further, whose scaling, labels and ``predict`` hold; a new network if it is None.
        predict: ``"last"``: the output after the last step counts (many-to-one); ``"every"``: all outputs do.
        missing: ``"refuse"`` gaps, or read the ``"previous"`` value in their place.
        rows: ``B``, batch size.
        seed: random seed of the order.
        share: ``(rank, ranks)`` of the process.

    Raises:
        DataError: gaps; a label that does not occur in the training set; sets with different columns; what
            ``start`` was not made for.
    """

    carry_state = False
    habits = Habits("100epochs", 50_000, 0.003, 32, 50, noise=0.6, label_smoothing=0.1)  # see benchmarks/habits.py

    def __init__(
        self,
        training: Sequences,
        validation: Sequences,
        test: Sequences | None = None,
        *,
        start: Fitted | None = None,
        predict: str | None = None,
        missing: str = "refuse",
        rows: int = 32,
        seed: int = 0,
        share: tuple[int, int] = (0, 1),
    ):
        for part in (training, validation, test) if test else (training, validation):
            if missing == "refuse":
                part.refuse_missing()
            if part.input_names != training.input_names:
                raise DataError(
                    f"{part.name} has {len(part.input_names)} columns ({', '.join(part.input_names)}), but"
                    f" {training.name} has {len(training.input_names)} ({', '.join(training.input_names)})"
                )
            if bool(part.labels) != bool(training.labels) or part.per_step != training.per_step:
                raise DataError(f"{part.name} has targets of another kind than {training.name}")
        if start is not None:
            start.refuse_other(training.name, training.input_names, None if training.labels else training.target_names)
            start.refuse_option("predict", predict)
            predict = start.predict
        predict = predict or "last"
        if training.per_step and predict == "last":
            raise DataError(
                f"{training.name} has a target for every step: pass `predict='every'` to train on all of them"
            )
        self.name, self.size = training.name, f"{len(training)} sequences"
        self.predict, self._test = predict, test or validation
        self.labels = training.occurring_labels() if start is None else start.labels
        self.evaluated_on = "test" if test else "validation"
        self._whose = "the training set" if start is None else "the training set of the resumed network"
        if start is not None:
            self.inputs, self.targets = start.inputs, start.targets
        else:
            self.inputs = Scaling.fit(training.input_names, training.inputs)
            answers = [answer.reshape(-1, answer.shape[-1]) for answer in training.answers if not training.labels]
            self.targets = None if training.labels else Scaling.fit(training.target_names, answers)
        self._training, self._validation = self._examples(training), self._examples(validation)
        self._judge = self._examples(self._test)
        lengths = [len(x) for x, _ in self._training]
        self.batches = Epochs(lambda epoch: buckets(lengths, rows, seed, epoch), self._training.__getitem__, share)
        self.epoch_steps = len(self.batches)
        self.evaluate_every = min(self.epoch_steps, MOST_STEPS)

    def _examples(self, sequences: Sequences) -> list[tuple[Tensor, Tensor]]:
        xs = [fill_previous(self.inputs.apply(x)) for x in sequences.inputs]
        if self.targets is None:
            answers = sequences.encode(self.labels, self._whose)
        else:
            answers = [self.targets.apply(answer) for answer in sequences.answers]
        if sequences.per_step:
            return list(zip(xs, answers, strict=True))
        nothing = IGNORED if self.targets is None else float("nan")
        targets = []
        for x, answer in zip(xs, answers, strict=True):
            y = answer.expand(len(x), *answer.shape).clone()
            if self.predict == "last":
                y[:-1] = nothing
            targets.append(y)
        return list(zip(xs, targets, strict=True))

    def build(self, design: Design) -> Recurrent:
        sizes = len(self.inputs.names), len(self.labels) if self.targets is None else len(self.targets.names)
        return design.built(sequence_model, *sizes)

    def validate(self, model: Recurrent) -> float:
        xs, ys = zip(*self._validation, strict=True)
        return mean_loss(outputs_of(model, xs), ys)

    def fitted(self, model: Recurrent) -> Fitted:
        return Fitted(model, self.inputs, self.targets, self.labels, self.predict)

    def save(self, path: str | os.PathLike[str], model: Recurrent) -> None:
        self.fitted(model).save(path)

    def judge(self, model: Recurrent) -> Verdict:
        said, true = self._answers(model)
        if self.targets is None:
            right = (said == true).double().mean().item()
            what = "steps" if self._test.per_step else "sequences"
            return Verdict(
                f"{100 * right:.1f} % of {len(true)} {what} of the {self.evaluated_on} set are correct",
                {"accuracy": right},
            )
        error = (said - true).abs().mean().item()
        mean = (self.targets.means - true).abs().mean().item()
        return Verdict(
            f"mean absolute error {error:.4g} over {len(true)} targets of the {self.evaluated_on} set; always"
            f" predicting the training set's mean: {mean:.4g}",
            {"mean_absolute_error": error, "mean_absolute_error_of_the_mean": mean},
        )

    def _answers(self, model: Recurrent) -> tuple[Tensor, Tensor]:
        """What the network says and what is true: of every step that has an answer of its own, else of the last."""
        xs, ys = zip(*self._judge, strict=True)
        outputs = outputs_of(model, xs)
        if not self._test.per_step:
            outputs, ys = [one[-1:] for one in outputs], [one[-1:] for one in ys]
        said = torch.cat(outputs)
        if not said.isfinite().all():
            raise DataError(f"{self.name}: the network's outputs are not finite: train with a smaller `learning_rate`")
        if self.targets is None:
            return said.argmax(-1), torch.cat(list(ys))
        return self.targets.undo(said), torch.cat([answer.reshape(-1, said.shape[1]) for answer in self._test.answers])

    def truth(self, model: Recurrent) -> Confusion | Predictions:
        said, true = self._answers(model)
        if self.targets is None:
            counts = torch.zeros(len(self.labels), len(self.labels), dtype=torch.long)
            counts.index_put_((true, said), torch.ones_like(true), accumulate=True)
            return Confusion(list(self.labels), counts.tolist())
        return Predictions(self.targets.names[0], true[:, 0].tolist(), said[:, 0].tolist())
