"""Sequences of unequal length with targets: labels or numbers, one per sequence or one per step."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from treadle.data.table_file import Rows, TableFile
from treadle.data.ts_file import read_ts
from treadle.errors import DataError

IGNORED = -100
"""The label of a step that has none: `torch.nn.functional.cross_entropy` leaves it out by itself."""


@dataclasses.dataclass(frozen=True)
class Sequences:
    """Sequences of a file, as it has them.

    Attributes:
        name: how messages call it.
        inputs: each [T, I], float64 in its own units, NaN where a value is missing.
        answers: the target of each: a label, or a list of T labels; or float64 [K], or [T, K], numbers to predict.
        input_names: of the I columns.
        target_names: of the K numbers, or of the one label.
        labels: all that may occur; empty where the targets are numbers.
        per_step: whether every step has a target.
        where: the place of each in the file.
    """

    name: str
    inputs: list[Tensor]
    answers: list[Any]
    input_names: tuple[str, ...]
    target_names: tuple[str, ...]
    labels: tuple[str, ...]
    per_step: bool
    where: list[str]

    def __len__(self) -> int:
        return len(self.inputs)

    def subset(self, indices: Sequence[int]) -> "Sequences":
        """Some of them, in the order given."""
        inputs, answers, where = ([part[i] for i in indices] for part in (self.inputs, self.answers, self.where))
        return dataclasses.replace(self, inputs=inputs, answers=answers, where=where)

    def occurring_labels(self) -> tuple[str, ...]:
        """The labels that do occur, in the order of ``labels``: all that can be learned."""
        found = {label for answer in self.answers for label in (answer if self.per_step else [answer])}
        return tuple(label for label in self.labels if label in found)

    def split(self, share: float, seed: int) -> tuple["Sequences", "Sequences"]:
        """Training and validation set, ``share`` of them: drawn by seed, from each label as from the others.

        Sequences that have a label each are drawn label by label; every label has at least one in the training set.

        Raises:
            DataError: one of the parts would be empty.
        """
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self), generator=generator).tolist()
        if self.labels and not self.per_step:
            strata = [[i for i in order if self.answers[i] == label] for label in self.occurring_labels()]
        else:
            strata = [order]
        taken = {i for stratum in strata for i in stratum[: min(round(share * len(stratum)), len(stratum) - 1)]}
        learned = [i for i in range(len(self)) if i not in taken]
        if not taken or not learned:
            raise DataError(
                f"{self.name} has {len(self)} sequences: {share:.0%} of them leave none for the validation set: pass"
                " more sequences, or a larger share"
            )
        return self.subset(learned), self.subset(sorted(taken))

    def encode(self, labels: Sequence[str], whose: str = "the training set") -> list[Tensor]:
        """The labels as whole numbers, places in ``labels``: [] for each sequence, or [T].

        Args:
            labels: all that there may be.
            whose: how the message calls where they are from.

        Raises:
            DataError: a label is not among them, with its place.
        """
        places = {label: place for place, label in enumerate(labels)}
        for answer, where in zip(self.answers, self.where, strict=True):
            for step, label in enumerate(answer if self.per_step else [answer], 1):
                if label not in places:
                    at = f", step {step}" if self.per_step else ""
                    known = ", ".join(labels[:20]) + (", …" if len(labels) > 20 else "")
                    raise DataError(
                        f"{self.name}, {where}{at}: label {label!r} does not occur in {whose}, which has {known}"
                    )
        return [
            torch.tensor([places[label] for label in answer] if self.per_step else places[answer])
            for answer in self.answers
        ]

    def refuse_missing(self) -> None:
        """Refuse gaps.

        Raises:
            DataError: with the place of the first.
        """
        for xs, where in zip(self.inputs, self.where, strict=True):
            gaps = xs.isnan().nonzero()
            if len(gaps):
                step, column = gaps[0].tolist()
                raise DataError(
                    f"{self.name}, {where}, step {step + 1}, column {self.input_names[column]!r}: the value is missing:"
                    " fill it, or repeat the one before it (`missing='previous'`)"
                )


def read_sequences(path: str | os.PathLike[str], target: str | None = None, inputs: Sequence[str] = ()) -> Sequences:
    """Read labelled sequences.

    Args:
        path: a ``.ts`` file, which declares its targets itself; or a ``.parquet`` file with one sequence per row, whose
            columns are lists.
        target: the target column of a Parquet file: words or whole numbers are labels, other numbers are numbers to
            predict; lists have a target for every step.
        inputs: input columns of a Parquet file, lists with one number per step; by default, all other columns.

    Raises:
        DataError: what is in the file does not fit, with row and column.
        OSError: it cannot be read.

    Example:
        >>> import pyarrow as pa, pyarrow.parquet as pq
        >>> from treadle.training.sequences import read_sequences
        >>> pq.write_table(pa.table({"x": [[1.0, 2.0, 3.0], [4.0]], "label": ["up", "down"]}), "tiny.parquet")
        >>> found = read_sequences("tiny.parquet", "label")
        >>> [tuple(xs.shape) for xs in found.inputs], found.labels
        ([(3, 1), (1, 1)], ('down', 'up'))
    """
    if Path(path).suffix.lower() == ".ts":
        return _from_ts(path, target, inputs)
    if target is None:
        raise DataError(f"{path}: there is no target column: name it with `target`")
    file = TableFile(path)
    file.require([*inputs, target])
    inputs = inputs or [name for name in file.names if name != target]
    for name in inputs:
        if name == target:
            raise DataError(f"{path}: column {target!r} is the target, so it cannot be an input as well")
    if not inputs:
        raise DataError(f"{path}: there is no column beside {target!r} to predict it from")
    xs, table = _columns(file, inputs, [target])
    where = [file.place(row) for row in range(len(table))]
    answers, labels, per_step = _answers(table, target)
    for row, (x, answer) in enumerate(zip(xs, answers, strict=True)):
        if per_step and len(answer) != len(x):
            raise table.error(row, target, f"{len(answer)} targets for {len(x)} steps")
    return Sequences(str(path), xs, answers, tuple(inputs), (target,), labels, per_step, where)


def read_inputs(path: str | os.PathLike[str], names: Sequence[str]) -> list[tuple[str, Tensor]]:
    """Sequences without their answers: the place of each in the file, and [T, I] of the columns that are named."""
    if Path(path).suffix.lower() == ".ts":
        file = read_ts(path)
        found = file.cases[0].shape[1]
        if found != len(names):
            raise DataError(f"{path} has {found} dimensions, but the network reads {len(names)}")
        return [(f"line {line}", torch.from_numpy(case)) for line, case in zip(file.lines, file.cases, strict=True)]
    file = TableFile(path)
    xs, _ = _columns(file, names)
    return [(file.place(row), x) for row, x in enumerate(xs)]


def _from_ts(path: str | os.PathLike[str], target: str | None, inputs: Sequence[str]) -> Sequences:
    if target is not None or inputs:
        raise DataError(f"{path}: a .ts file declares its targets itself: leave out `target` and `inputs`")
    file = read_ts(path)
    if file.answers is None:
        raise DataError(f"{path} has neither labels (@classLabel true) nor numbers to predict (@targetLabel true)")
    where = [f"line {line}" for line in file.lines]
    for case, place in zip(file.cases, where, strict=True):
        if not len(case):
            raise DataError(f"{path}, {place}: the sequence is empty: there is nothing to predict from")
    names = tuple(f"dimension {i}" for i in range(1, file.cases[0].shape[1] + 1))
    numbers = bool(file.answers) and isinstance(file.answers[0], float | np.floating)
    answers = [torch.tensor([answer], dtype=torch.float64) for answer in file.answers] if numbers else file.answers
    labels = () if numbers else file.labels or tuple(sorted({str(answer) for answer in file.answers}))
    inputs_ = [torch.from_numpy(case) for case in file.cases]
    return Sequences(str(path), inputs_, list(answers), names, ("label",), labels, False, where)


def _columns(file: TableFile, names: Sequence[str], others: Sequence[str] = ()) -> tuple[list[Tensor], Rows]:
    """Each row's sequence [T, I] of the columns that are named, and the table with these columns and others."""
    file.require([*names, *others])
    for name in names:
        if not file.is_list(name):
            raise DataError(
                f"{file.path}: column {name!r} does not hold lists, so it holds no sequences: name the columns"
                " that do with `inputs`"
            )
    table = file.read(others=[*names, *others])
    lengths: list[int] = []
    columns = []
    for name in names:
        lists = table.values(name)
        for row, values in enumerate(lists):
            if not values:
                raise table.error(row, name, "there is no sequence" if values is None else "the sequence is empty")
            if lengths and len(values) != lengths[row]:
                raise table.error(row, name, f"{len(values)} steps, but {names[0]!r} has {lengths[row]}")
        lengths = lengths or [len(values) for values in lists]
        numbers = table.numbers_of_lists(name)
        columns.append(torch.tensor(numbers))
    return list(torch.stack(columns, 1).split(lengths)), table


def _answers(table: Rows, target: str) -> tuple[list[Any], tuple[str, ...], bool]:
    values, per_step = table.values(target), table.file.is_list(target)
    for row, value in enumerate(values):
        if value is None or (per_step and any(one is None for one in value)):
            raise table.error(row, target, "there is no target")
    flat = [one for value in values for one in value] if per_step else values
    if all(isinstance(one, float) for one in flat):
        numbers = np.array(flat, dtype=np.float64)
        if not np.isfinite(numbers).all():
            row = next(i for i, value in enumerate(values) if not np.isfinite(np.array(value, np.float64)).all())
            raise table.error(row, target, "the target is not a finite number")
        shape = (-1, 1) if per_step else (1,)
        return [torch.tensor(value, dtype=torch.float64).reshape(shape) for value in values], (), per_step
    whole = all(isinstance(one, int) for one in flat)
    labels = tuple(str(one) for one in (sorted(set(flat)) if whole else sorted({str(one) for one in flat})))
    words = [[str(one) for one in value] if per_step else str(value) for value in values]
    return words, labels, per_step
