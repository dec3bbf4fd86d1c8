"""`treadle fit` on public data with nothing but its defaults, beside simpler models: ``python -m benchmarks.fits``.

Three random seeds each; names of `benchmarks.public_data` take some of the data sets. The bar: the network is best, or
as good as the best to within the spread over seeds, on at least half of them. Three have bars of their own, each within
three minutes: 96 % of JapaneseVowels, and less error than seasonal-naive on sunspots and carbon dioxide.
``docs/research/fits.md`` has the table.

``--kept FILE`` names a JSON file: what is in it is not measured again, and what is measured is added to it.
"""

import argparse
import contextlib
import io
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.public_data import ACCURACY, DATA_SETS, DataSet
from benchmarks.rivals import rivals
from treadle.cli import main as treadle_command

SEEDS = range(3)
OURS, NAIVE = "treadle", "seasonal-naive"
AT_LEAST = {"JapaneseVowels": 0.96}
"""What the mean over seeds has to reach."""
BETTER_THAN_NAIVE = ("sunspots", "carbon dioxide")
SECONDS = 180.0
"""For a fit of any of these."""


class Result(NamedTuple):
    """What was measured on one data set: the test scores of each model, by seed, and the seconds of a fit."""

    data: DataSet
    scores: dict[str, list[float]]
    seconds: float

    @property
    def best_of_the_others(self) -> str:
        """The simpler model with the best mean."""
        order = max if self.data.score == ACCURACY else min
        return order(set(self.scores) - {OURS}, key=lambda name: statistics.fmean(self.scores[name]))

    @property
    def good(self) -> bool:
        """Whether the network is best, or worse than the best by less than the spread of the difference over seeds."""
        ours, other = (self.scores[name] for name in (OURS, self.best_of_the_others))
        ahead = statistics.fmean(ours) - statistics.fmean(other)
        return (ahead if self.data.score == ACCURACY else -ahead) >= -math.hypot(_spread(ours), _spread(other))

    @property
    def missed(self) -> str:
        """Which bar of its own it misses; empty for none."""
        name, mean = self.data.name, statistics.fmean(self.scores[OURS])
        if name not in (*AT_LEAST, *BETTER_THAN_NAIVE):
            return ""
        if name in AT_LEAST and mean < AT_LEAST[name]:
            return f"{100 * mean:.1f} % are right, less than {100 * AT_LEAST[name]:g} %"
        if name in BETTER_THAN_NAIVE and mean >= self.scores[NAIVE][0]:
            return f"an error of {mean:.3g}, no less than that of {NAIVE}, {self.scores[NAIVE][0]:.3g}"
        return f"{self.seconds:.0f} s a fit, more than {SECONDS:g}" if self.seconds > SECONDS else ""

    def figure(self, name: str) -> str:
        """Mean and spread of a model, in words."""
        scores, unit = self.scores[name], 100 if self.data.score == ACCURACY else 1
        mean = f"{100 * statistics.fmean(scores):.1f}" if unit == 100 else f"{statistics.fmean(scores):.3g}"
        digits = 1 if unit == 100 else max(len(mean.partition(".")[2]), 0)
        return mean if len(scores) == 1 else f"{mean} ± {unit * _spread(scores):.{digits}f}"


def _spread(scores: Sequence[float]) -> float:
    return statistics.stdev(scores) if len(scores) > 1 else 0.0


class Kept:
    """What has been measured, by name, in a JSON file; without a file, nothing is kept."""

    def __init__(self, path: Path | None):
        self._path = path
        self._found: dict[str, Any] = json.loads(path.read_text()) if path is not None and path.exists() else {}

    def get(self, name: str, measure: Callable[[], Any]) -> Any:
        """What is kept under a name, or is measured now."""
        if name not in self._found:
            self._found[name] = measure()
            if self._path is not None:
                self._path.write_text(json.dumps(self._found, indent=1))
        return self._found[name]


def fit(data: DataSet, folder: Path, seed: int) -> dict[str, float]:
    """The scores of one fit, as a user of the command gets them, and its ``"seconds"``."""
    start = time.monotonic()
    outputs = ["-o", str(folder / "model.safetensors"), "--json", str(folder / "scores.json")]
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet), contextlib.suppress(SystemExit):
        treadle_command(["fit", *data.arguments(folder), "--seed", str(seed), *outputs])
    if not (folder / "scores.json").exists():
        sys.exit(f"benchmarks.fits: {data.name}: {quiet.getvalue()}")
    scores = json.loads((folder / "scores.json").read_text())["scores"]
    (folder / "scores.json").unlink()
    return scores | {"seconds": time.monotonic() - start}


def measure(data: DataSet, folder: Path, kept: Kept) -> Result:
    """Fit the network, and what stands beside it."""
    found = [kept.get(f"{data.name}, seed {seed}", lambda seed=seed: fit(data, folder, seed)) for seed in SEEDS]
    seconds = statistics.fmean(one["seconds"] for one in found)
    scores = {OURS: [one[data.score] for one in found]}
    if data.series:
        scores[NAIVE] = [found[0][f"{data.score}_of_seasonal_naive"]]
    others = kept.get(f"{data.name}, simpler models", lambda: rivals(data, folder, SEEDS))
    return Result(data, scores | others, seconds)


def rows(results: Sequence[Result]) -> list[str]:
    """A table in Markdown: a row for each data set, a column for each model."""
    names = list(dict.fromkeys(name for result in results for name in result.scores))
    lines = [f"| data | {' | '.join(names)} | seconds |", "| --- |" + " --- |" * (len(names) + 1)]
    for result in results:
        best = OURS if result.good else result.best_of_the_others
        cells = [result.figure(name) if name in result.scores else "" for name in names]
        cells = [f"**{cell}**" if name == best else cell for name, cell in zip(names, cells, strict=True)]
        lines.append(f"| {result.data.name} | {' | '.join(cells)} | {result.seconds:.0f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.fits")
    parser.add_argument("--kept", type=Path)
    parser.add_argument("names", nargs="*", default=list(DATA_SETS))
    given = parser.parse_args()
    names, kept = given.names, Kept(given.kept)
    if unknown := set(names) - set(DATA_SETS):
        sys.exit(f"benchmarks.fits: there is no {', '.join(sorted(unknown))}: name some of {', '.join(DATA_SETS)}")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            results.append(measure(DATA_SETS[name], Path(folder), kept))
            print(*rows(results[-1:]), sep="\n", flush=True)
    for series in (False, True):
        if some := [one for one in results if one.data.series == series]:
            print("", *rows(some), sep="\n")
    good = sum(one.good for one in results)
    print(f"\nbest, or within the spread: {good} of {len(results)}")
    missed = {one.data.name: one.missed for one in results if one.missed}
    print(*(f"{name}: {what}" for name, what in missed.items()), sep="\n")
    sys.exit(bool(missed) or good < len(results) / 2)


if __name__ == "__main__":
    main()
