"""What `treadle compare` claims where wirings differ, and where they cannot: ``python -m benchmarks.claims``.

Shuffled targets have nothing to be learned, so that every difference that is claimed is false: at most one may be, in
20 comparisons with other data and other random seeds. A chaotic map has: the command has to find out in its two
minutes that the residual wiring learns it sooner than a stack does.
"""

import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc

from treadle import WIRINGS
from treadle.recipes.compare_on_data import ProcessPool, Race, common_size, contenders, rank
from treadle.training.fit_run import Run, Settings

UNITS, ROWS = 12, 100
SHUFFLES = 20
SEEDS, STEPS = 3, 40
AS_SERIES = ("--series-id", "unit", "--target", "y")


def write(path: Path, values: np.ndarray) -> Path:
    """Series [units, rows] as a table that ``--series-id unit --target y`` reads."""
    units = np.repeat(np.arange(len(values)), values.shape[1])
    pc.write_csv(pa.table({"unit": units, "y": values.ravel()}), path)
    return path


def map_of(units: int, rows: int, seed: int) -> np.ndarray:
    """The logistic map, of which no linear model foresees anything: next = 4 y (1 - y), from a random start."""
    values = np.random.default_rng(seed).uniform(0.05, 0.95, (units, rows))
    for step in range(1, rows):
        values[:, step] = 4 * values[:, step - 1] * (1 - values[:, step - 1])
    return values


def shuffled(seed: int) -> np.ndarray:
    """The same values in a random order, all series together."""
    values = map_of(UNITS, ROWS, seed)
    return np.random.default_rng(seed).permutation(values.ravel()).reshape(values.shape)


def chaos_told(folder: Path) -> bool:
    """Whether the command, as a user types it, finds the residual wiring better than the stack on the map."""
    path = write(folder / "map.csv", map_of(UNITS, ROWS, 0))
    outputs = ["--json", str(folder / "map.json"), "--save", str(folder / "map.safetensors")]
    line = [sys.executable, "-m", "treadle", "compare", str(path), *AS_SERIES, "--cell", "gru", *outputs]
    subprocess.run(line, stdout=subprocess.DEVNULL, check=True)
    found = json.loads((folder / "map.json").read_text())
    print(f"logistic map, {found['steps']} steps: {found['finding']}", flush=True)
    return "stack" in {one["network"]: one["clearly_better_than"] for one in found["results"]}["residual"]


def false_claims(folder: Path) -> int:
    """How many comparisons of shuffled targets claim a difference, made as the command makes them, in one process."""
    fits, parameters, false = [], None, 0
    for shuffle in range(SHUFFLES):
        path = write(folder / f"shuffle{shuffle}.csv", shuffled(shuffle))
        settings = Settings(str(path), series_id="unit", target=("y",), parameters=parameters)
        if parameters is None:  # that of the first table suits them all
            parameters = common_size(Run(settings).task, settings, list(WIRINGS), ["lstm"])
            settings = dataclasses.replace(settings, parameters=parameters)
        fits += contenders(settings, list(WIRINGS), ["lstm"], range(1000 * shuffle, 1000 * shuffle + SEEDS))
    scores: dict[str, dict[str, list[float]]] = {}
    with Race(fits, ProcessPool(1)) as race:
        for one in race.run(STEPS):
            of_file = scores.setdefault(one.settings.file, {})
            of_file.setdefault(one.settings.wiring or "", []).append(one.score)
            if sum(map(len, of_file.values())) == SEEDS * len(WIRINGS):
                ranking = rank(of_file)
                false += any(row.clearly_better_than for row in ranking.rows)
                print(f"{Path(one.settings.file).stem}: {ranking.sentence}", flush=True)
    return false


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        told = chaos_told(Path(folder))
        false = false_claims(Path(folder))
    print(f"false claims: {false} of {SHUFFLES}")
    sys.exit(not told or false > 1)


if __name__ == "__main__":
    main()
