"""What `treadle compare` claims where wirings differ, and where they cannot: ``python -m benchmarks.claims``; with
``shocks`` or ``shuffles``, half of it.

Shuffled targets have nothing to be learned, so that every difference that is claimed is false: at most one may be, in
20 comparisons with other data and other random seeds. In series of shocks, each of which is followed by a rise, there
is what no linear model sees: the command has to find out in its two minutes that layers which all read the input
(``dense``, ``skip``, ``relay``) learn it sooner than a stack does.
"""

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc

from treadle import WIRINGS
from treadle.recipes.compare_on_data import ProcessPool, Race, common_size, contenders, rank
from treadle.training.fit_run import Run, Settings

UNITS, ROWS = 12, 100
SHOCKED_UNITS, SHOCKED_ROWS = 40, 150
SHUFFLES = 20
SEEDS, STEPS = 3, 40
READ_BY_ALL = "relay", "skip", "dense"
"""Wirings in which every layer reads the input."""
AS_SERIES = ("--series-id", "unit", "--target", "y")


def write(path: Path, values: np.ndarray) -> Path:
    """Series [units, rows] as a table that ``--series-id unit --target y`` reads."""
    units = np.repeat(np.arange(len(values)), values.shape[1])
    pc.write_csv(pa.table({"unit": units, "y": values.ravel()}), path)
    return path


def shocked(units: int, rows: int, seed: int) -> np.ndarray:
    """Shocks of one unit up or down, in one step of twenty, each followed by a rise of three; and some noise.

    As many go up as down, so what follows a shock does not correlate with it.
    """
    random = np.random.default_rng(seed)
    shocks = random.choice([-1.0, 0.0, 1.0], (units, rows), p=[0.025, 0.95, 0.025])
    values = shocks + 0.1 * random.normal(size=shocks.shape)
    values[:, 1:] += 3 * np.abs(shocks[:, :-1])
    return values


def shuffled(seed: int) -> np.ndarray:
    """The same values in a random order, all series together."""
    values = shocked(UNITS, ROWS, seed)
    return np.random.default_rng(seed).permutation(values.ravel()).reshape(values.shape)


def difference_told(folder: Path) -> bool:
    """Whether the command, as a user types it, finds a wiring whose layers all read x better than the stack."""
    path = write(folder / "shocks.csv", shocked(SHOCKED_UNITS, SHOCKED_ROWS, 0))
    outputs = ["--json", str(folder / "shocks.json"), "--save", str(folder / "shocks.safetensors")]
    line = [sys.executable, "-m", "treadle", "compare", str(path), *AS_SERIES, *outputs]
    start = time.monotonic()
    subprocess.run(line, stdout=subprocess.DEVNULL, check=True)
    found = json.loads((folder / "shocks.json").read_text())
    print(f"shocks, {found['steps']} steps, {time.monotonic() - start:.0f} s: {found['finding']}")
    for one in found["results"]:
        scores = ", ".join(f"{score:.3g}" for score in one["by_seed"])
        print(
            f"  {one['network']}: {scores}; better than {', '.join(one['clearly_better_than']) or 'none'}", flush=True
        )
    better = {one["network"]: one["clearly_better_than"] for one in found["results"]}
    return any("stack" in better[name] for name in READ_BY_ALL)


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
    halves, right = sys.argv[1:] or ["shocks", "shuffles"], True
    with tempfile.TemporaryDirectory() as folder:
        if "shocks" in halves:
            right = difference_told(Path(folder))
        if "shuffles" in halves:
            false = false_claims(Path(folder))
            print(f"false claims: {false} of {SHUFFLES}")
            right = right and false <= 1
    sys.exit(not right)


if __name__ == "__main__":
    main()
