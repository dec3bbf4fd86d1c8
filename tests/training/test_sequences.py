import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.tolerances import assert_close
from treadle.errors import DataError
from treadle.running.recurrent import Recurrent
from treadle.training import SequenceTask, read_sequences
from treadle.training.sequences import IGNORED
from treadle.training.task import Design

COLUMNS = {"x": [[1.0, 2.0], [3.0], [4.0, 5.0, 6.0]], "z": [[0, 1], [2], [3, 4, 5]], "label": ["b", "a", "b"]}


@pytest.fixture
def parquet(tmp_path):
    def write(**columns):
        path = tmp_path / "x.parquet"
        pq.write_table(pa.table(COLUMNS | columns), path)
        return path

    return write


def test_lists_are_sequences_and_their_columns_channels(parquet):
    found = read_sequences(parquet(), "label")
    assert found.inputs[2].tolist() == [[4, 3], [5, 4], [6, 5]]
    assert (found.answers, found.labels, found.per_step) == (["b", "a", "b"], ("a", "b"), False)
    assert found.where == ["row 1", "row 2", "row 3"]
    assert read_sequences(parquet(), "label", ["z"]).inputs[1].tolist() == [[2]]


def test_what_the_answers_are_is_seen_from_their_values(parquet):
    whole = read_sequences(parquet(label=[10, 9, 10]), "label")
    assert (whole.answers, whole.labels) == (["10", "9", "10"], ("9", "10"))
    numbers = read_sequences(parquet(label=[0.5, 1.5, 2.5]), "label")
    assert numbers.answers[1].tolist() == [1.5]
    assert numbers.labels == ()
    steps = read_sequences(parquet(label=[["a", "b"], ["a"], ["b", "b", "c"]]), "label")
    assert (steps.answers[0], steps.labels, steps.per_step) == (["a", "b"], ("a", "b", "c"), True)
    every = read_sequences(parquet(label=[[1.0, 2.0], [3.0], [4.0, 5.0, 6.0]]), "label")
    assert every.answers[2].tolist() == [[4], [5], [6]]


BAD = {
    "another column": ({}, {"target": "lable"}, "no column 'lable': it has x, z, label; did you mean 'label'"),
    "no target": ({}, {"target": None}, "name it with `target`"),
    "no list": ({"z": [1, 2, 3]}, {}, "column 'z' does not hold lists"),
    "empty": ({"x": [[1.0, 2.0], [], [1.0, 2.0, 3.0]]}, {}, "row 2, column 'x': the sequence is empty"),
    "nothing": ({"x": [[1.0, 2.0], None, [1.0, 2.0, 3.0]]}, {}, "row 2, column 'x': there is no sequence"),
    "lengths": ({"z": [[0, 1], [2, 3], [3, 4, 5]]}, {}, "row 2, column 'z': 2 steps, but 'x' has 1"),
    "words": ({"z": [["0", "1"], ["2"], ["3", "x", "5"]]}, {}, "row 1, column 'z': step 1: '0' is not a finite number"),
    "infinite": ({"x": [[1.0, 2.0], [math.inf], [1.0] * 3]}, {}, "row 2, column 'x': step 1: inf is not a finite"),
    "no answer": ({"label": ["a", None, "b"]}, {}, "row 2, column 'label': there is no target"),
    "nan": ({"label": [1.0, math.nan, 2.0]}, {}, "row 2, column 'label': the target is not a finite number"),
    "answers": ({"label": [["a"], ["a"], ["a"]]}, {}, "row 1, column 'label': 1 targets for 2 steps"),
    "itself": ({}, {"inputs": ["x", "label"]}, "column 'label' is the target, so it cannot be an input as well"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_refused_with_its_place(parquet, name):
    columns, arguments, message = BAD[name]
    with pytest.raises(DataError, match=message):
        read_sequences(parquet(**columns), **({"target": "label"} | arguments))


def many(parquet, count=40):
    xs = [[float(i)] * (1 + i % 7) for i in range(count)]
    return read_sequences(parquet(x=xs, z=xs, label=["ab"[i % 2] for i in range(count)]), "label")


def test_a_split_takes_from_every_label_and_loses_nothing(parquet):
    whole = many(parquet)
    learned, judge = whole.split(0.2, seed=3)
    assert (len(learned), len(judge)) == (32, 8)
    assert judge.answers.count("a") == judge.answers.count("b") == 4
    assert sorted(learned.where + judge.where) == sorted(whole.where)
    assert whole.split(0.2, seed=3)[1].where == judge.where
    assert whole.split(0.2, seed=4)[1].where != judge.where


def test_a_label_is_never_taken_away_from_what_is_learned(parquet):
    found = read_sequences(parquet(), "label")  # one "a", two "b"
    learned, judge = found.split(0.5, seed=0)
    assert learned.occurring_labels() == ("a", "b")
    assert judge.answers == ["b"]


def test_an_empty_part_is_refused(parquet):
    with pytest.raises(DataError, match="has 3 sequences: 1% of them leave none for the validation set"):
        read_sequences(parquet(), "label").split(0.01, seed=0)


def test_a_label_that_was_not_learned_is_refused_with_its_row(parquet):
    whole = many(parquet)
    other = read_sequences(parquet(label=["a", "c", "b"]), "label")
    with pytest.raises(DataError, match=r"x\.parquet, row 2: label 'c' does not occur in the training set"):
        SequenceTask(whole, whole, other)


def test_gaps_are_refused_or_filled_from_before(parquet):
    gaps = [[None, 2.0], [3.0], [4.0, None, 6.0]]
    found = read_sequences(parquet(x=gaps), "label")
    with pytest.raises(DataError, match="row 1, step 1, column 'x': the value is missing"):
        SequenceTask(found, found)
    task = SequenceTask(found, found, missing="previous")
    x, _ = task._examples(found)[2]
    assert x[1, 0] == x[0, 0]
    first, _ = task._examples(found)[0]
    assert first[0, 0] == 0  # the mean of what is learned from


def test_scaling_knows_only_what_is_learned_from(parquet):
    whole = many(parquet)
    learned, judge = whole.split(0.3, seed=0)
    values = torch.cat(learned.inputs)
    task = SequenceTask(learned, judge)
    assert_close(task.inputs.means, values.double().mean(0))
    assert_close(task.inputs.deviations, values.double().std(0, correction=0))


@pytest.mark.parametrize("predict", ["last", "every"])
def test_which_steps_have_an_answer(parquet, predict):
    whole = many(parquet)
    task = SequenceTask(whole, whole, predict=predict)
    batch = next(task.batches)
    lengths = batch.lengths if batch.lengths is not None else torch.full((len(batch.x),), batch.x.shape[1])
    for y, length in zip(batch.y.tolist(), lengths.tolist(), strict=True):
        answer = y[length - 1]
        assert answer in (0, 1)
        wanted = [answer if predict == "every" or step == length - 1 else IGNORED for step in range(length)]
        assert y == wanted + [IGNORED] * (len(y) - length)


def test_a_head_that_answers_once_reads_the_mean_of_all_steps_beside_the_last(parquet):
    whole, design = many(parquet), Design(layers=1, parameters=2_000)
    cell = SequenceTask(whole, whole).build(design).cell
    xs = torch.randn(2, 5, 2)
    below, _ = Recurrent(cell.layers)(xs)
    wanted = cell.head(torch.cat([below[:, -1], below.mean(1)], 1))
    assert_close(Recurrent(cell)(xs)[0][:, -1], wanted)
    every = SequenceTask(whole, whole, predict="every").build(design).cell
    assert every.head.in_features == every.layers.output_size


def test_columns_of_the_parts_must_be_the_same(parquet):
    whole = many(parquet)
    other = read_sequences(parquet(), "label", ["x"])
    with pytest.raises(DataError, match=r"has 1 columns \(x\), but .* has 2 \(x, z\)"):
        SequenceTask(whole, whole, other)


def test_answers_for_every_step_are_not_learned_from_the_last(parquet):
    found = read_sequences(parquet(label=[["a", "b"], ["a"], ["b", "b", "c"]]), "label")
    with pytest.raises(DataError, match="`predict='every'`"):
        SequenceTask(found, found, predict="last")
    assert SequenceTask(found, found).predict == "every"
