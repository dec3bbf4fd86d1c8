"""How the defaults for labelled sequences were chosen: ``python -m benchmarks.habits``, half an hour on one core.

Only training parts are looked at. Each is split again and again, by seed, in three quarters and a quarter; ``treadle
fit`` learns from the three quarters, with a validation part of its own, and the quarter judges. One option after the
other gets the value with the most right answers of all that were judged, and keeps it while the next is chosen.
"""

import itertools
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.fits import folder_of
from treadle.training import Sequences, read_sequences
from treadle.training.budget import ShareDone
from treadle.training.fit_run import Run, Settings

SETS = ("JapaneseVowels", "BasicMotions", "ItalyPowerDemand")
SEEDS = range(5)
OPTIONS: dict[str, tuple[float, ...]] = {
    "noise": (0.0, 0.1, 0.3, 0.6, 1.0),
    "rows": (32, 16),
    "dropout": (0.0, 0.1, 0.3),
    "label_smoothing": (0.0, 0.1),
    "learning_rate": (0.003, 0.001, 0.01),
    "weight_decay": (0.0, 0.01, 0.1),
}
"""In the order in which they are chosen; each begins as the first of its values."""


def write(path: Path, part: Sequences) -> str:
    columns = {name: [xs[:, i].tolist() for xs in part.inputs] for i, name in enumerate(part.input_names)}
    pq.write_table(pa.table({**columns, "label": part.answers}), path)
    return str(path)


def answers(folder: Path, name: str, seed: int, chosen: dict[str, float]) -> tuple[float, int]:
    """How many answers are right in the quarter that judges, and of how many."""
    whole = read_sequences(folder_of("aeon") / "data" / name / f"{name}_TRAIN.ts")
    learned, judge = whole.split(0.25, seed)
    files = [write(folder / part, one) for part, one in (("learned.parquet", learned), ("judge.parquet", judge))]
    run = Run(Settings(files[0], test=files[1], target=("label",), seed=seed, **chosen))
    epochs = int(run.settings.habits.budget.removesuffix("epochs"))
    for _ in run.steps(ShareDone(steps=epochs * run.task.epoch_steps)):
        pass
    return run.task.judge(run.model).scores["accuracy"] * len(judge), len(judge)


def share(found: Iterable[tuple[float, int]]) -> float:
    right, judged = map(sum, zip(*found, strict=True))
    return right / judged


def main() -> None:
    torch.set_num_threads(1)
    chosen = {name: values[0] for name, values in OPTIONS.items()}
    known: dict[tuple[float, ...], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, values in OPTIONS.items():
            scores = {}
            for value in values:
                trial = chosen | {name: value}
                key = tuple(trial.values())
                if key not in known:
                    found = [[answers(Path(folder), one, seed, trial) for seed in SEEDS] for one in SETS]
                    *by_set, known[key] = (share(one) for one in (*found, itertools.chain(*found)))
                    print(trial, *(f"{100 * one:.1f}" for one in (*by_set, known[key])), flush=True)
                scores[value] = known[key]
            chosen[name] = max(values, key=scores.__getitem__)
            print(f"{name}: {chosen[name]}", flush=True)


if __name__ == "__main__":
    main()
