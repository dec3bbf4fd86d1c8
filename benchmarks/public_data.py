"""Public data sets that installed packages ship, as files that ``treadle fit`` reads, and figures published for them.

The list was drawn up before a single network had seen a test set: sequences from short to long, from one channel to
twelve, labels and numbers; series by year, month and week. None was taken out afterwards.
"""

import csv
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

ACCURACY, RMSE, MAE = "accuracy", "root_mean_squared_error", "mean_absolute_error"


class Files(NamedTuple):
    """What ``treadle fit`` reads."""

    data: Path
    test: Path | None = None
    """None for series, whose last rows are the test set."""


class DataSet(NamedTuple):
    """A data set, and how it is fitted.

    Attributes:
        files: where they are; what is not in a form that treadle reads is written to the folder that is given.
        score: of the test set, by its name in ``treadle fit --json``.
        options: of ``treadle fit``: what the columns mean, and nothing that could be tuned.
        published: what others report for the same test set, and where.
    """

    name: str
    files: Callable[[Path], Files]
    score: str
    options: tuple[str, ...] = ()
    published: str = ""

    @property
    def series(self) -> bool:
        """Whether it is a series to forecast."""
        return self.score == MAE

    def option(self, name: str) -> str | None:
        """The value of an option."""
        return self.options[self.options.index(name) + 1] if name in self.options else None

    def arguments(self, folder: Path) -> list[str]:
        """Those of ``treadle fit``."""
        files = self.files(folder)
        return [str(files.data), *(("--test", str(files.test)) if files.test else ()), *self.options]


def folder_of(package: str) -> Path:
    """Where the data of a package lies; the package is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"benchmarks.public_data: {package} is not installed: make .venv/.dev")
    return Path(spec.submodule_search_locations[0], "datasets")


def archived(name: str) -> Callable[[Path], Files]:
    """A data set of the UEA, UCR and TSER archives that aeon ships, with the archive's own split."""

    def files(folder: Path) -> Files:
        place = folder_of("aeon") / "data" / name
        return Files(place / f"{name}_TRAIN.ts", place / f"{name}_TEST.ts")

    return files


def table(package: str, name: str) -> Callable[[Path], Files]:
    """A table that is read as it is."""
    return lambda folder: Files(folder_of(package) / name)


def monthly_elnino(folder: Path) -> Files:
    """Temperatures of the sea, a row a month: the file has a row a year."""
    with open(folder_of("statsmodels") / "elnino/elnino.csv", newline="") as file:
        _, *years = csv.reader(file)
    values = [float(value) for _, *months in years for value in months]
    pc.write_csv(pa.table({"temperature": values}), path := folder / "elnino.csv")
    return Files(path)


def digits(folder: Path) -> Files:
    """Handwritten digits, read row by row: 8 steps of 8 pixels. The first half is the training set, as in
    scikit-learn's own example."""
    values = np.loadtxt(folder_of("sklearn") / "data/digits.csv.gz", delimiter=",")
    half, paths = len(values) // 2, []
    for part, rows in (("train", values[:half]), ("test", values[half:])):
        images = rows[:, :-1].reshape(-1, 8, 8)
        columns = {f"x{i}": images[:, :, i].tolist() for i in range(8)}
        pq.write_table(pa.table({**columns, "digit": rows[:, -1].astype(int)}), path := folder / f"{part}.parquet")
        paths.append(path)
    return Files(*paths)


UCR, UEA = "(UCR archive, 2018)", "(UEA archive, 2018)"
REVIEW = "(Fawaz et al., 2019)"
DATA_SETS = {
    one.name: one
    for one in (
        DataSet(
            "JapaneseVowels",
            archived("JapaneseVowels"),
            ACCURACY,
            published=f"1-NN with DTW 94.9 {UEA}; echo state network 96.5, MLP 97.6, ResNet 99.2 {REVIEW}",
        ),
        DataSet("BasicMotions", archived("BasicMotions"), ACCURACY, published=f"1-NN with DTW 97.5 {UEA}"),
        DataSet(
            "ItalyPowerDemand",
            archived("ItalyPowerDemand"),
            ACCURACY,
            published=f"1-NN with DTW 95.5 {UCR}; echo state network 88.0, MLP 95.4, ResNet 96.3 {REVIEW}",
        ),
        DataSet(
            "GunPoint",
            archived("GunPoint"),
            ACCURACY,
            published=f"1-NN with DTW 91.3 {UCR}; echo state network 96.1, MLP 92.7, ResNet 99.1 {REVIEW}",
        ),
        DataSet(
            "OSULeaf",
            archived("OSULeaf"),
            ACCURACY,
            published=f"1-NN with DTW 61.2 {UCR}; echo state network 59.5, MLP 55.7, ResNet 97.9 {REVIEW}",
        ),
        DataSet(
            "digits",
            digits,
            ACCURACY,
            ("--target", "digit"),
            "support vectors 97 (scikit-learn, *Recognizing hand-written digits*)",
        ),
        DataSet(
            "Covid3Month",
            archived("Covid3Month"),
            RMSE,
            published="random forest 0.0425, ROCKET 0.0389 (Guijo-Rubio et al., 2024)",
        ),
        DataSet(
            "sunspots",
            table("statsmodels", "sunspots/sunspots.csv"),
            MAE,
            ("--target", "SUNACTIVITY", "--time", "YEAR", "--horizon", "5"),
        ),
        DataSet(
            "carbon dioxide",
            table("statsmodels", "co2/co2.csv"),
            MAE,
            ("--target", "co2", "--time", "date", "--missing", "previous", "--horizon", "12"),
        ),
        DataSet("El Niño", monthly_elnino, MAE, ("--target", "temperature", "--horizon", "12")),
        DataSet(
            "electrical equipment",
            table("statsmodels", "elec_equip/elec_equip.csv"),
            MAE,
            ("--target", "STS.M.I7.W.TOVT.NS0016.4.000", "--horizon", "12"),
        ),
        DataSet(
            "air passengers",
            table("aeon", "data/Airline/Airline.csv"),
            MAE,
            ("--target", "Passengers", "--horizon", "12"),
        ),
    )
}
