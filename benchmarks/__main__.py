"""`python -m benchmarks` lists the suites, `python -m benchmarks NAME` runs one, `... docs FILE...` makes the page."""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import track

from benchmarks import machine, page, report
from benchmarks.apart import run_apart
from benchmarks.registry import SUITES, Options, Suite, load

console = Console()


def main(arguments: list[str] | None = None) -> int:
    """0 if all gates are green (with ``--strict``, if all bars are reached as well), else 1."""
    given = parser().parse_args(arguments)
    if given.name is None:
        for name in SUITES:
            console.print(f"{name:10}{load(name).about}", markup=False)
        return 0
    if given.name == "docs":
        page.write([json.loads(path.read_text()) for path in given.files])
        return 0
    return run_suite(load(given.name), given)


def run_suite(suite: Suite, given: argparse.Namespace) -> int:
    """Run the cases of a suite, show and write what came of them."""
    machine.confine(given.threads)
    options = Options(given.engine, given.threads, given.quick)
    numbers = [i for i, case in enumerate(suite.cases(options)) if given.only in case.name]
    if not numbers:
        console.print(f"no case of {suite.name} has {given.only!r} in its name", style="red")
        return 1
    progress = track(numbers, suite.name, console=console, transient=True)
    results = [run_apart(suite.name, number, options) for number in progress]
    content = report.report(suite, options, results)
    report.show(content, console)
    if given.json:
        report.write(given.json, content)
    green = all(result.is_green for result in results)
    reached = all(bar["ok"] for bar in content["bars"])
    return 0 if green and (reached or not given.strict) else 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser("python -m benchmarks", description="Time treadle against its peers.")
    made.set_defaults(name=None)
    names = made.add_subparsers(dest="name", metavar="NAME")
    for name in SUITES:
        suite = names.add_parser(name, help="run this suite")
        suite.add_argument("--json", type=Path, metavar="FILE", help="write the results")
        suite.add_argument("--quick", action="store_true", help="fewer repeats, without what takes long")
        suite.add_argument("--only", default="", metavar="SUBSTRING", help="cases with this in their name")
        suite.add_argument(
            "--threads", type=int, default=Options.threads, metavar="N", help="cores to use (%(default)s)"
        )
        suite.add_argument("--engine", default=Options.engine, help="treadle's engine (%(default)s)")
        suite.add_argument("--strict", action="store_true", help="a bar that is missed is a failure")
    docs = names.add_parser("docs", help="make docs/research/benchmarks.md from results")
    docs.add_argument("files", type=Path, nargs="+", metavar="FILE")
    return made


if __name__ == "__main__":
    sys.exit(main())
