"""What the examples print, for the gallery on the site: `make gallery` runs them all and keeps it in docs/outputs/.

Together they take minutes, so the build shows what was kept. tests/test_examples.py runs each of them anyway, and fails
where it prints something else than that, numbers apart.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
OUTPUTS = ROOT / "docs" / "outputs"
NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?")


def kept(example: Path) -> Path:
    """The file with what an example prints."""
    return OUTPUTS / f"{example.stem}.txt"


def without_numbers(printed: str) -> list[str]:
    """The words of each line: processors round differently, and trainings differ by chance."""
    return [" ".join(NUMBER.sub("#", line).split()) for line in printed.strip().splitlines()]


def run(example: Path) -> str:
    """What an example prints in a process and a folder of its own."""
    with TemporaryDirectory() as folder:
        settings = os.environ | {"MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
        ran = subprocess.run(
            [sys.executable, str(example)], cwd=folder, env=settings, check=True, stdout=subprocess.PIPE, text=True
        )
    return ran.stdout


if __name__ == "__main__":
    OUTPUTS.mkdir(exist_ok=True)
    for example in EXAMPLES:
        kept(example).write_text(run(example))
