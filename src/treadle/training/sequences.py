"""Sequences of unequal length with targets: labels or numbers, one per sequence or one per step."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from treadle.data.grouped_table import GroupedTable
from treadle.data.table_file import Rows, TableFile
from treadle.data.ts_file import read_ts
from treadle.errors import DataError
from treadle.training.answers import Answers, answers_of
from treadle.training.source import Source

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
        source: the columns beside these.
    """

    name: str
    inputs: list[Tensor]
    answers: list[Any]
    input_names: tuple[str, ...]
    target_names: tuple[str, ...]
    labels: tuple[str, ...]
    per_step: bool
    where: list[str]
    source: Source = dataclasses.field(default_factory=Source)

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


def read_sequences(
    path: str | os.PathLike[str],
    target: str | None = None,
    inputs: Sequence[str] = (),
    *,
    series_id: str | None = None,
    time: str | None = None,
    classes: bool | None = None,
) -> Sequences:
    """Read labelled sequences.

    Args:
        path: a ``.ts`` file, which declares its targets itself; a ``.parquet`` file with one sequence per row, whose
            columns are lists; or a flat table, ``.csv``, ``.tsv`` or ``.parquet``, with one step per row.
        target: the target column of a table: words and few whole numbers are labels, other numbers are numbers to
            predict. In lists, and where a flat table has several values for a sequence, every step has a target.
        inputs: input columns of a table; by default, all other columns.
        series_id: the column of a flat table that says to which sequence a row belongs. Rows of several sequences may
            alternate.
        time: the column of times of a flat table, which must grow within a sequence.
        classes: whether whole numbers are labels; needed if they have more than 20 values.

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
        if classes is not None:
            raise DataError(f"{path}: a .ts file says itself what its targets are: leave out `classes`")
        return _from_ts(path, target, inputs)
    if target is None:
        raise DataError(f"{path}: there is no target column: name it with `target`")
    file = TableFile(path)
    file.require([*inputs, target, *(name for name in (series_id, time) if name is not None)])
    inputs = inputs or [name for name in file.names if name not in (target, series_id, time)]
    for name in inputs:
        if name == target:
            raise DataError(f"{path}: column {target!r} is the target, so it cannot be an input as well")
    if not inputs:
        raise DataError(f"{path}: there is no column beside {target!r} to predict it from")
    if any(file.is_list(name) for name in inputs):
        xs, answers, where = _from_lists(file, inputs, target, classes)
    else:
        xs, answers, where = _from_rows(file, inputs, target, series_id, time, classes)
    source = Source(series_id, time, (target,), sequences=not any(file.is_list(name) for name in inputs))
    found = answers.each, tuple(inputs), (target,), answers.labels, answers.per_step
    return Sequences(str(path), xs, *found, where, source)


def _from_lists(
    file: TableFile, inputs: Sequence[str], target: str, classes: bool | None
) -> tuple[list[Tensor], Answers, list[str]]:
    """A sequence in each row."""
    for name in inputs:
        if not file.is_list(name):
            raise DataError(
                f"{file.path}: column {name!r} does not hold lists, so it holds no sequences: name the columns"
                " that do with `inputs`"
            )
    table = GroupedTable(file.path, inputs, [target])
    values = table.rows.values(target)
    answers = answers_of(table.rows, target, values, file.is_list(target), classes)
    xs = columns_of(table, inputs)
    for row, (x, answer) in enumerate(zip(xs, answers.each, strict=True)):
        if answers.per_step and len(answer) != len(x):
            raise table.rows.error(row, target, f"{len(answer)} targets for {len(x)} steps")
    return xs, answers, [file.place(row) for row in range(len(table.rows))]


def _from_rows(
    file: TableFile, inputs: Sequence[str], target: str, series_id: str | None, time: str | None, classes: bool | None
) -> tuple[list[Tensor], Answers, list[str]]:
    """A step in each row: a target that is one for all steps of every sequence is the sequence's, else every step's."""
    if series_id is None:
        raise DataError(
            f"{file.path} has one value in each row, not lists: name the column that says to which sequence a row"
            " belongs (`series_id`)"
        )
    table = GroupedTable(file.path, inputs, [target], series_id, time)
    values = table.values(target)
    of_each = [[values[place] for place in places.tolist()] for places in table.places]
    alone = [{value for value in some if value is not None and value == value} for some in of_each]
    per_step = any(len(distinct) > 1 for distinct in alone)
    firsts = [int(places[0]) for places in table.places]
    if per_step:
        answers = answers_of(table.rows, target, of_each, True, classes, table.places)
    else:
        one_each = [next(iter(distinct), None) for distinct in alone]
        answers = answers_of(table.rows, target, one_each, False, classes, firsts)
    return columns_of(table, inputs), answers, [f"{series_id} {id_!r}" for id_ in table.ids]


def columns_of(table: GroupedTable, names: Sequence[str]) -> list[Tensor]:
    """Of each series of a table, the columns that are named: [N, I]."""
    values = torch.from_numpy(np.stack([table.numbers(name) for name in names], 1))
    return [values[torch.from_numpy(places)] for places in table.places]


def sequences_of(rows: Rows, names: Sequence[str]) -> list[Tensor]:
    """The sequence [T, I] in each row of columns of lists.

    Raises:
        DataError: a row has none, or lists of several lengths.
    """
    lengths = rows.lengths_of_lists(names[0])
    for name in names[1:]:
        others = rows.lengths_of_lists(name)
        wrong = np.flatnonzero(others != lengths)
        if len(wrong):
            row = int(wrong[0])
            raise rows.error(row, name, f"{others[row]} steps, but {names[0]!r} has {lengths[row]}")
    values = torch.from_numpy(np.stack([rows.numbers_of_lists(name) for name in names], 1))
    return list(values.split(lengths.tolist()))


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
    source = Source(answers=("label",))
    return Sequences(str(path), inputs_, list(answers), names, ("label",), labels, False, where, source)
