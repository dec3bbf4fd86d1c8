"""`treadle compare` on series and labelled sequences."""

import dataclasses
import math
import sys
import time
from pathlib import Path
from typing import Any

import typer

from treadle.atomic import all_or_none, write_whole
from treadle.cli import options


def compare_on_data(given: dict[str, Any], start: float) -> None:
    """Rank networks on what ``treadle fit`` would make of the data.

    Args:
        given: the options of the command.
        start: when the process began.
    """
    from treadle import WIRINGS
    from treadle.cli import with_options
    from treadle.recipes.compare import available_cores
    from treadle.recipes.compare_on_data import Race, common_size, contenders, rank
    from treadle.training import CELLS
    from treadle.training.fit_run import Run, Settings

    wirings = options.choices("--wiring", given["wiring"], WIRINGS)
    cells = options.choices("--cell", given["cell"], CELLS)
    budget, json_file = options.parse_budget(given["budget"]), given["json_file"]
    for name in ("on", "reduction_factor"):
        if given[name] is not None:
            raise typer.BadParameter(f"--{name.replace('_', '-')} is for comparisons on a text: leave it out")
    if given["plot"] is not None:
        raise typer.BadParameter("--plot draws the learning curves of a text: leave it out, or pass --json")
    options.check_outputs({"--save": given["save"], "--json": options.no_stdout(json_file)}, [given["file"]])
    out = options.console(sys.stderr if json_file == Path("-") else sys.stdout)
    options.use_one_thread()
    given |= {name: options.words(given[name]) for name in ("target", "inputs")} | {"file": str(given["file"])}
    fields = [name for name in Settings.__dataclass_fields__ if name in given and name not in ("wiring", "cell")]
    settings = Settings(**{name: given[name] for name in fields})
    data = Run(settings).task  # what is wrong with it is said before any process starts
    settings = dataclasses.replace(settings, parameters=common_size(data, settings, wirings, cells))
    names = {(one.wiring, one.cell): _name(one, len(cells)) for one in contenders(settings, wirings, cells, [0])}
    fits = contenders(settings, wirings, cells, range(given["seed"], given["seed"] + given["seeds"]))
    with options.noticing_interrupts() as interrupted, Race(fits, available_cores()) as race:
        steps = budget.steps or race.affordable_steps((budget.seconds or 0) - (time.monotonic() - start))
        split = with_options(data.split, ["compare"])
        out.print(
            f"Training {len(names)} networks x {given['seeds']} seeds for up to {steps} steps each on {data.name}"
            f" ({data.size}). {split}".rstrip()
        )
        found = []
        with options.bar("training", len(fits)) as (progress, task):
            for trained in race.run(steps, interrupted):
                found.append(trained)
                progress.advance(task)
    if len(found) < len(fits):
        print("treadle: interrupted before every network was trained: there is nothing to compare", file=sys.stderr)
        raise typer.Exit(130)
    found.sort(key=lambda one: one.settings.seed)
    by_name = {
        name: [one for one in found if names[one.settings.wiring, one.settings.cell] == name] for name in names.values()
    }
    ranking = rank({name: [one.score for one in some] for name, some in by_name.items()})
    best = min(by_name[ranking.rows[0].name], key=lambda one: one.score)
    print_table(out, ranking, by_name, settings.metric or "loss")
    if not math.isfinite(best.score):
        print("treadle: every network diverged, so there is no winner to save", file=sys.stderr)
        raise typer.Exit(2)
    with all_or_none():
        write_whole(given["save"], best.model)
        if json_file is not None:
            options.write_json(json_file, as_json(ranking, by_name, settings, steps, data.split))
    out.print(f"\n{ranking.rows[0].name} (seed {best.settings.seed}) is saved as {given['save']}: {best.sentence}")


def _name(settings: Any, kinds_of_cells: int) -> str:
    return f"{settings.wiring}/{settings.cell}" if kinds_of_cells > 1 else settings.wiring


def print_table(out: Any, ranking: Any, by_name: dict[str, list[Any]], metric: str) -> None:
    """The ranking, best first, and what it says."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    grid = Table(title=f"Validation {metric}, lower is better", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("network", "parameters", metric):
        grid.add_column(heading, justify="left" if heading == "network" else "right", no_wrap=True)
    grid.add_column("clearly better than")
    for row in ranking.rows:
        score = f"{row.mean:.4g}" if math.isfinite(row.mean) else "diverged"
        beaten = row.clearly_better_than
        words = "all others" if len(beaten) == len(ranking.rows) - 1 > 1 else ", ".join(beaten)
        grid.add_row(row.name, f"{by_name[row.name][0].parameters:,}", score, words)
    out.print()
    out.print(grid)
    out.print(ranking.sentence)


def as_json(ranking: Any, by_name: dict[str, list[Any]], settings: Any, steps: int, split: str) -> dict[str, Any]:
    """Everything as data for JSON."""
    return {
        "format": "treadle compare on data",
        "version": 1,
        "data": settings.file,
        "kind": settings.kind,
        "metric": settings.metric or "loss",
        "split": split or None,
        "steps": steps,
        "ratio_beyond_chance": ranking.ratio,
        "finding": ranking.sentence,
        "results": [
            {
                "network": row.name,
                "parameters": by_name[row.name][0].parameters,
                "seeds": [one.settings.seed for one in by_name[row.name]],
                "by_seed": [score if math.isfinite(score) else None for score in row.by_seed],
                "clearly_better_than": list(row.clearly_better_than),
                "test": [one.sentence for one in by_name[row.name]],
            }
            for row in ranking.rows
        ],
    }
