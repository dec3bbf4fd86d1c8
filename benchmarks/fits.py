"""`treadle fit` on public data, as its users run it: how good, and how long. ``python -m benchmarks.fits``.

The bars: 96 % of the test set of JapaneseVowels within three minutes; on sunspots and carbon dioxide better than the
seasonal-naive forecast, within three minutes each.
"""

import importlib.util
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECONDS = 180


def folder_of(package: str) -> Path:
    """Where a package lies, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"benchmarks.fits: {package} is not installed: make .venv/.dev")
    return Path(spec.submodule_search_locations[0], "datasets")


def commands() -> dict[str, tuple[list[str], str, float]]:
    """Arguments of ``treadle fit``, what ends the number in its answer, and what that must reach."""
    vowels, series = folder_of("aeon") / "data/JapaneseVowels", folder_of("statsmodels")
    ahead = ["--target", "SUNACTIVITY", "--time", "YEAR", "--horizon", "5"]
    weekly = ["--target", "co2", "--time", "date", "--missing", "previous", "--horizon", "12"]
    return {
        "JapaneseVowels": (
            [f"{vowels}/JapaneseVowels_TRAIN.ts", "--test", f"{vowels}/JapaneseVowels_TEST.ts"],
            " % of 370 sequences",
            96.0,
        ),
        "sunspots": ([f"{series}/sunspots/sunspots.csv", *ahead], " % better", 0.0),
        "carbon dioxide": ([f"{series}/co2/co2.csv", *weekly], " % better", 0.0),
    }


def main() -> None:
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for name, (arguments, ending, bar) in commands().items():
            start = time.monotonic()
            line = [sys.executable, "-m", "treadle", "fit", *arguments, "-o", f"{folder}/m.safetensors"]
            done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
            seconds = time.monotonic() - start
            number = float(done.stdout.split(ending)[0].split()[-1]) if ending in done.stdout else float("-inf")
            good = number > bar if bar == 0 else number >= bar
            failed |= not good or seconds > SECONDS
            print(f"{name}: {done.stdout.strip().split(': ', 1)[1]}, {seconds:.0f} s")
    sys.exit(failed)


if __name__ == "__main__":
    main()
