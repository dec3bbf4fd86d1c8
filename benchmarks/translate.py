"""`treadle translate` in full: dates, reversing and sorting, as its users run it. ``python -m benchmarks.translate``.

The bars: 99 % of dates that it did not learn from are exactly right, and 95 % of the sequences to reverse and to sort
that are more than one and a half times as long as any that it learned from; ``lengths.svg`` is the picture. Others than
the defaults:
``python -m benchmarks.translate reverse sort --seeds 3 --attention none``.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from treadle.recipes.translate import TASKS, Translator, make_pairs
from treadle.recipes.translate.tasks import LONGEST
from treadle.show.lengths import accuracy_by_length, draw_accuracy_by_length

BARS = {"dates": 0.99, "reverse": 0.95, "sort": 0.95}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.translate", description=__doc__)
    parser.add_argument("tasks", nargs="*", default=list(TASKS), help=f"of {', '.join(TASKS)}")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--budget", default="5m")
    parser.add_argument("--output", type=Path, default=Path("lengths.svg"))
    options, others = parser.parse_known_args()
    failed, curves = False, {}
    for task in options.tasks:
        found = []
        for seed in range(options.seeds):
            right, lengths, seconds = learned(task, seed, options.budget, others)
            share = sum(right) / len(right)
            found.append(share)
            judged = [
                one for length, one in zip(lengths, right, strict=True) if task == "dates" or length > 1.5 * LONGEST
            ]
            failed |= sum(judged) < BARS[task] * len(judged)
            print(f"{task}, seed {seed}: {share:.2%} of {len(right)} exactly right, {seconds:.0f} s", flush=True)
            if task != "dates":
                curves[f"{task}, seed {seed}"] = (lengths, right)
                by_length = accuracy_by_length(lengths, right)
                print("  " + "  ".join(f"{length}: {share:.0%}" for length, share in by_length), flush=True)
        if len(found) > 1:
            print(f"{task}: {statistics.mean(found):.2%}, from {min(found):.2%} to {max(found):.2%}")
    if curves:
        print(draw_accuracy_by_length(options.output, curves, LONGEST))
    sys.exit(failed)


def learned(task: str, seed: int, budget: str, others: list[str]) -> tuple[list[bool], list[int], float]:
    """What a network that the command has made gets right, by pairs; their lengths; and how long it took to make it."""
    with tempfile.TemporaryDirectory() as folder:
        model, start = f"{folder}/m.safetensors", time.monotonic()
        line = [sys.executable, "-m", "treadle", "translate", task, "-o", model, "--seed", str(seed), *others]
        subprocess.run([*line, "--budget", budget], stdout=subprocess.DEVNULL, check=True)
        pairs = make_pairs(task, 2_000, seed + 1_000, test=True)
        right = Translator.load(model).exact(pairs)
    return right, [len(pair.source) for pair in pairs], time.monotonic() - start


if __name__ == "__main__":
    main()
