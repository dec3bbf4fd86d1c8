"""Labelled sequences: training and evaluation."""

import functools
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from treadle.errors import DataError
from treadle.running.recurrent import Recurrent
from treadle.training.batches import Epochs, buckets
from treadle.training.evaluate import mean_loss, outputs_of
from treadle.training.fitted import Fitted
from treadle.training.layered_networks import sequence_model
from treadle.training.memory import require_memory
from treadle.training.scaling import Scaling, fill_previous
from treadle.training.scores import least_squares, linear_predictions, metric_of
from treadle.training.sequences import IGNORED, Sequences
from treadle.training.task import MOST_STEPS, Confusion, Design, Habits, Predictions, Verdict, require_finite
from treadle.training.verdict import LINEAR, THE_MEAN, Rival, verdict

FEWER = "name fewer `inputs`"


class SequenceTask:
    """Classification or regression of sequences: a target per sequence, or per step.

    Args:
        training: the training set.
        validation: the validation set, which says when to stop.
        test: the test set; the validation set if there is none.
        start: the network to train further, whose scaling, labels and ``predict`` hold; a new network if it is None.
        predict: ``"last"``: the output after the last step counts (many-to-one); ``"every"``: all outputs do. By
            default, as many as there are targets.
        metric: what validation watches: ``"loss"``; of labels ``"accuracy"``; of numbers the error in units, ``"mae"``
            or ``"rmse"``, and ``"last-mae"`` or ``"last-rmse"`` for that of last steps.
        missing: ``"refuse"`` gaps, or read the ``"previous"`` value in their place.
        rows: ``B``, batch size.
        seed: random seed of the order.
        share: ``(rank, ranks)`` of the process.

    Raises:
        DataError: gaps; a label that does not occur in the training set; sets with different columns; what
            ``start`` was not made for.
    """

    carry_state = False
    losses: Mapping[str, Any] = {}
    # See benchmarks/habits.py.
    habits = Habits("100epochs", 50_000, 0.003, 32, 50, noise=0.6, label_smoothing=0.1, shortest_epoch=10)

    def __init__(
        self,
        training: Sequences,
        validation: Sequences,
        test: Sequences | None = None,
        *,
        start: Fitted | None = None,
        predict: str | None = None,
        missing: str = "refuse",
        metric: str = "loss",
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
            if bool(part.labels) != bool(training.labels):
                raise DataError(
                    f"{part.name} has {_kind(part)}, but {training.name} has {_kind(training)}: say what they are with"
                    " `classes=False` or `classes=True`"
                )
            if part.per_step != training.per_step:
                raise DataError(
                    f"{part.name} has targets for every {'step' if part.per_step else 'sequence'}, but {training.name}"
                    f" for every {'step' if training.per_step else 'sequence'}"
                )
        if start is not None:
            start.refuse_other(training.name, training.input_names, None if training.labels else training.target_names)
            start.refuse_option("predict", predict)
            predict = start.predict
        predict = predict or ("every" if training.per_step else "last")
        if training.per_step and predict == "last":
            raise DataError(
                f"{training.name} has a target for every step: pass `predict='every'` to train on all of them"
            )
        if metric != "loss" and (metric == "accuracy") != bool(training.labels):
            raise DataError(f"{training.name} has {_kind(training)}: `metric={metric!r}` has no meaning for them")
        self.name, self.size, self._metric = training.name, f"{len(training)} sequences", metric
        self.split, self._learned = "", training
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
        return design.built(functools.partial(sequence_model, mean=self.predict == "last"), *sizes)

    def validate(self, model: Recurrent) -> float:
        xs, ys = zip(*self._validation, strict=True)
        outputs = outputs_of(model, xs)
        if self._metric == "loss":
            return mean_loss(outputs, ys)
        if self.targets is None:
            right, known = (torch.cat(parts) for parts in zip(*map(_hits, outputs, ys), strict=True))
            return 1 - right[known].double().mean().item()
        return metric_of(self._metric, *([self.targets.undo(one) for one in part] for part in (outputs, ys)))

    @property
    def score_of_constant(self) -> float:
        ys = [y for _, y in self._validation]
        if self.targets is not None:
            if self._metric == "loss":
                return mean_loss([torch.zeros_like(y) for y in ys], ys)
            true = [self.targets.undo(y) for y in ys]
            return metric_of(self._metric, [self.targets.means.expand_as(one) for one in true], true)
        labels = torch.cat([y for _, y in self._training])
        counts = torch.bincount(labels[labels != IGNORED], minlength=len(self.labels)).double()
        constant = (counts / counts.sum()).clamp(min=1e-12).log().float()
        if self._metric == "loss":
            return mean_loss([constant.expand(len(y), -1) for y in ys], ys)
        known = torch.cat(ys)[torch.cat(ys) != IGNORED]
        return 1 - (known == constant.argmax()).double().mean().item()

    def fitted(self, model: Recurrent) -> Fitted:
        meaning = self.inputs, self.targets, self.labels, self.predict
        return Fitted(model, *meaning, source=self._learned.source)

    def save(self, path: str | os.PathLike[str], model: Recurrent) -> None:
        self.fitted(model).save(path)

    def judge(self, model: Recurrent) -> Verdict:
        said, true = self._answers(model)
        if self.targets is None:
            return self._judge_labels([one.argmax(-1) for one in said], true)
        said = [self.targets.undo(one) for one in said]
        mean = [self.targets.means.expand_as(one) for one in true]
        rivals = [Rival("the_mean", THE_MEAN, mean), Rival("linear", LINEAR, self._linear())]
        each = "sequence" if self._test.per_step else ""
        return verdict(said, true, rivals, f"predictions of the {self.evaluated_on} set", last_of_each=each)

    def _judge_labels(self, said: list[Tensor], true: list[Tensor]) -> Verdict:
        right = torch.cat(said) == torch.cat(true)
        share, commonest = right.double().mean().item(), self._commonest()
        always = (torch.cat(true) == commonest).double().mean().item()
        what = "steps" if self._test.per_step else "sequences"
        scores = {"accuracy": share, "accuracy_of_the_commonest_label": always}
        sentence = f"{100 * share:.1f} % of {len(right)} {what} of the {self.evaluated_on} set are correct"
        if self._test.per_step:
            last = torch.cat([one[-1:] == y[-1:] for one, y in zip(said, true, strict=True)]).double().mean().item()
            scores["accuracy_at_last_step"] = last
            sentence += f", {100 * last:.1f} % of the last ones"
        label = self.labels[commonest]
        return Verdict(f"{sentence}; always saying {label!r:.40}, the commonest label: {100 * always:.1f} %", scores)

    def _commonest(self) -> int:
        counts = torch.bincount(
            torch.cat([y if self._test.per_step else y[-1:] for _, y in self._training]).clamp(min=IGNORED) - IGNORED
        )
        return int(counts[-IGNORED:].argmax())

    def _linear(self) -> list[Tensor]:
        """What a linear model says of the test set: of the last steps, or, for one target each, of step and mean."""
        delays = list(range(10)) if self._test.per_step else [0]

        def read(examples: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
            if self._test.per_step:
                return examples
            return [(torch.cat([x[-1:], x.mean(0, keepdim=True)], 1), y[-1:]) for x, y in examples]

        assert self.targets is not None
        needed = 8 * 3 * (len(delays) * 2 * len(self.inputs.names)) ** 2
        require_memory(needed, f"{self.name}: a linear model of {len(self.inputs.names):,} inputs", FEWER)
        solution = least_squares(read(self._training), delays)
        width = len(self.targets.names)
        return [self.targets.undo(linear_predictions(solution, x, delays, width)) for x, _ in read(self._judge)]

    def _answers(self, model: Recurrent) -> tuple[list[Tensor], list[Tensor]]:
        """The network's outputs and what is true: of every step that has a target of its own, else of the last."""
        xs, ys = zip(*self._judge, strict=True)
        outputs = outputs_of(model, xs)
        if not self._test.per_step:
            outputs, ys = [one[-1:] for one in outputs], [one[-1:] for one in ys]
        require_finite(f"{self.name}: the network's outputs", all(one.isfinite().all() for one in outputs))
        if self.targets is None:
            return outputs, list(ys)
        return outputs, [answer.reshape(-1, len(self.targets.names)) for answer in self._test.answers]

    def truth(self, model: Recurrent) -> Confusion | Predictions:
        said, true = (torch.cat(part) for part in self._answers(model))
        if self.targets is None:
            counts = torch.zeros(len(self.labels), len(self.labels), dtype=torch.long)
            counts.index_put_((true, said.argmax(-1)), torch.ones_like(true), accumulate=True)
            return Confusion(list(self.labels), counts.tolist())
        return Predictions(self.targets.names[0], true[:, 0].tolist(), self.targets.undo(said)[:, 0].tolist())


def _hits(ys: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Of scores [T, K] and labels [T]: where the label is the best, and where there is one."""
    return ys.argmax(-1) == y, y != IGNORED


def _kind(sequences: Sequences) -> str:
    """What the targets are, with the first of them."""
    first = sequences.answers[0]
    if sequences.labels:
        return f"labels (such as {(first[0] if sequences.per_step else first)!r:.40})"
    return f"numbers to predict (such as {first.flatten()[0].item():.6g})"
