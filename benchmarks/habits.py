"""How far the defaults of `treadle fit` are from the best of a small search: ``python -m benchmarks.habits``.

Only training sets are looked at. Of sequences, three quarters are learned from, and a quarter, drawn by seed, judges.
Of series, the last rows before the test set judge; with each further seed earlier ones. ``treadle fit`` takes its own
validation set from what is learned from. One option at a time is changed. The argument ``sequences`` or ``series``
takes half of the data sets.
"""

import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import torch

from benchmarks.public_data import ACCURACY, DATA_SETS, DataSet
from treadle.training import Sequences, read_sequences, read_series
from treadle.training.budget import ShareDone
from treadle.training.fit_run import Run, Settings

SEEDS = range(2)
QUARTER = 0.25
EARLIER = 0.85
"""With each seed, series end after so much of what they had with the seed before."""

CHANGES: dict[str, list[dict[str, Any]]] = {
    "sequences": [
        {"noise": 0.0},
        {"noise": 0.3},
        {"noise": 1.0},
        {"dropout": 0.2},
        {"label_smoothing": 0.0},
        {"weight_decay": 0.1},
        {"learning_rate": 0.001},
        {"learning_rate": 0.01},
        {"rows": 16},
        {"parameters": 20_000},
        {"layers": 1},
        {"cell": "gru"},
    ],
    "series": [
        {"noise": 0.0},
        {"noise": 0.5},
        {"dropout": 0.0},
        {"weight_decay": 0.0},
        {"learning_rate": 0.0003},
        {"learning_rate": 0.003},
        {"rows": 4},
        {"patience": 60},
        {"parameters": 5_000},
        {"layers": 1},
        {"cell": "gru"},
    ],
}
NAMES = {"--target": "target", "--time": "time", "--missing": "missing", "--horizon": "horizon"}


def training_part(data: DataSet, folder: Path, seed: int) -> dict[str, str]:
    """Files of a training set, cut in two: what is learned from, and what judges. The test set is left out."""
    file = data.files(folder).data
    if not data.series:
        whole = read_sequences(file, data.option("--target"))
        learned, judge = whole.split(QUARTER, seed)
        return {"file": _write(folder / "learned.parquet", learned), "test": _write(folder / "judge.parquet", judge)}
    series = read_series(file, [data.option("--target") or ""], missing="previous")
    rows = round(series.cuts[0][1] * EARLIER**seed)
    pc.write_csv(pc.read_csv(file).slice(0, rows), path := folder / "series.csv")
    return {"file": str(path)}


def _write(path: Path, part: Sequences) -> str:
    columns: dict[str, Any] = {
        name: [xs[:, i].tolist() for xs in part.inputs] for i, name in enumerate(part.input_names)
    }
    answers = part.answers if part.labels else [answer.item() for answer in part.answers]
    pq.write_table(pa.table({**columns, "answer": answers}), path)
    return str(path)


def errors(data: DataSet, folder: Path, seed: int, change: Mapping[str, Any]) -> float:
    """How wrong a fit is with one option changed: the share of wrong labels, or the error of numbers."""
    options = dict(zip(data.options[::2], data.options[1::2], strict=True))
    named: dict[str, Any] = {NAMES[name]: value for name, value in options.items()}
    if data.series:
        named |= {"target": (named["target"],), "horizon": int(named["horizon"])}
    else:
        named |= {"target": ("answer",)} | ({} if data.score == ACCURACY else {"classes": False})
    run = Run(Settings(**training_part(data, folder, seed), **named, seed=seed, **change))
    habits = run.settings.habits
    epochs = habits.scaled(int(habits.budget.removesuffix("epochs")), run.task.epoch_steps)
    for _ in run.steps(ShareDone(steps=epochs * run.task.epoch_steps)):
        pass
    score = run.task.judge(run.model).scores[data.score]
    return 1 - score if data.score == ACCURACY else score


def words(change: Mapping[str, Any]) -> str:
    """A change, as an option of the command."""
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in change.items()) or "defaults"


def ratio(data: DataSet, error: float, usual: float) -> float:
    """How many times the usual error another one is; where hardly a label is wrong, half a percent more of both."""
    spare = 0.005 if data.score == ACCURACY else 0.0
    return (error + spare) / (usual + spare)


def search(data: Sequence[DataSet], changes: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Print the errors of each change on each data set, and how far the defaults are from the best on each."""
    table: dict[str, list[float]] = {}
    print("|", " | ".join(["option", *(one.name for one in data), "times the defaults' error"]), "|")
    print("|", " | ".join(["---"] * (len(data) + 2)), "|")
    for change in [{}, *changes]:
        found = [statistics.fmean(errors(one, folder, seed, change) for seed in SEEDS) for one in data]
        table[words(change)] = found
        cells = [
            f"{100 * it:.1f} %" if one.score == ACCURACY else f"{it:.4g}" for one, it in zip(data, found, strict=True)
        ]
        ratios = map(ratio, data, found, table[words({})])
        print("|", " | ".join([words(change), *cells, f"{statistics.geometric_mean(ratios):.3f}"]), "|", flush=True)
    for i, one in enumerate(data):
        best = min(table, key=lambda name: table[name][i])
        share = ratio(one, table[best][i], table[words({})][i])
        print(f"{one.name}: best with {best}, {share:.3f} times the defaults' error")


def main() -> None:
    torch.set_num_threads(1)
    for kind in sys.argv[1:] or CHANGES:
        some = [one for one in DATA_SETS.values() if one.series == (kind == "series")]
        with tempfile.TemporaryDirectory() as folder:
            search(some, CHANGES[kind], Path(folder))


if __name__ == "__main__":
    main()
