"""`treadle compare` on series and labelled sequences."""

import dataclasses
import math
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import typer

from treadle.atomic import all_or_none, write_whole
from treadle.cli import options
from treadle.cli.training_options import check_folder, check_on


def compare_on_data(given: dict[str, Any], start: float) -> None:
    """Rank networks on what ``treadle fit`` would make of the data.

    Args:
        given: the options of the command.
        start: when the process began.
    """
    from treadle import WIRINGS
    from treadle.cli import with_options
    from treadle.cli.fitting import CurveLogs, check_tensorboard
    from treadle.recipes.compare import available_cores
    from treadle.recipes.compare_on_data import Race, common_size, contenders, rank
    from treadle.recipes.comparison_folder import ComparisonFolder
    from treadle.recipes.translate.pair_run import PairSettings
    from treadle.recipes.translate.translator import SIDES
    from treadle.training import CELLS
    from treadle.training.fit_run import Settings
    from treadle.training.on_ray import absolute

    wirings = options.choices("--wiring", given["wiring"], WIRINGS)
    cells = options.choices("--cell", given["cell"], CELLS)
    budget, json_file = options.parse_budget(given["budget"]), given["json_file"]
    if given["reduction_factor"] is not None:
        raise typer.BadParameter("--reduction-factor is for comparisons on a text: leave it out")
    plot, checkpoint = given["plot"], given["checkpoint"]
    check_tensorboard(given["tensorboard"])
    check_folder(checkpoint)
    check_on(given["on"])
    written = {"--save": given["save"], "--json": options.no_stdout(json_file), "--plot": plot}
    options.check_outputs(written, [given["file"]])
    out = options.console(sys.stderr if json_file == Path("-") else sys.stdout)
    options.use_one_thread()
    kind: Any = PairSettings if given["pairs"] else Settings
    words = options.choice("--words", given.pop("words") or "neither", SIDES)
    given |= {"words": words} if given["pairs"] else {}
    given |= {name: options.words(given[name]) for name in ("target", "inputs")} | {"file": str(given["file"])}
    fields = [name for name in kind.__dataclass_fields__ if name in given and name not in ("wiring", "cell")]
    settings, metric = kind(**{name: given[name] for name in fields}), given["metric"] or "loss"
    data = settings.started().task  # what is wrong with it is said before any process starts
    settings = dataclasses.replace(settings, parameters=common_size(data, settings, wirings, cells))
    names = {(one.wiring, one.cell): _name(one, len(cells)) for one in contenders(settings, wirings, cells, [0])}
    fits = contenders(settings, wirings, cells, range(given["seed"], given["seed"] + given["seeds"]))
    with options.noticing_interrupts() as interrupted, ExitStack() as stack:
        about = {"budget": str(budget), "parameters": settings.parameters}
        folder = None if checkpoint is None else stack.enter_context(ComparisonFolder(checkpoint, about).held())
        pool = pool_for(given["on"], min(available_cores(), len(fits)))
        if given["on"] is not None:
            fits, checkpoint = [absolute(one) for one in fits], checkpoint and checkpoint.absolute()
        race = stack.enter_context(Race(fits, pool, checkpoint))

        def decide() -> int:
            return budget.steps or race.affordable_steps((budget.seconds or 0) - (time.monotonic() - start))

        steps = decide() if folder is None else folder.steps(decide)
        logs = stack.enter_context(CurveLogs(given["tensorboard"]))
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
                one = trained.settings
                for step, score in trained.curve:
                    logs.add(f"{one.wiring}-{one.cell}-{one.seed}", step, {metric: score})
                if not progress.console.is_terminal:
                    said = f"{names[one.wiring, one.cell]}, seed {one.seed}: {metric} {trained.score:.4g}"
                    progress.console.print(f"{said} ({len(found)} of {len(fits)})")
    if len(found) < len(fits):
        hint = "" if checkpoint is None else "; the same command resumes it"
        first = "treadle: interrupted before every network was trained"
        print(f"{first}: there is nothing to compare{hint}", file=sys.stderr)
        raise typer.Exit(130)
    found.sort(key=lambda one: one.settings.seed)
    by_name = {
        name: [one for one in found if names[one.settings.wiring, one.settings.cell] == name] for name in names.values()
    }
    ranking = rank({name: [one.score for one in some] for name, some in by_name.items()})
    best = min(by_name[ranking.rows[0].name], key=lambda one: one.score)
    print_table(out, ranking, by_name, metric)
    if not math.isfinite(best.score):
        print("treadle: every network diverged, so there is no winner to save", file=sys.stderr)
        raise typer.Exit(2)
    with all_or_none():
        write_whole(given["save"], best.model)
        if json_file is not None:
            options.write_json(json_file, as_json(ranking, by_name, settings, steps, data.split))
        if plot is not None:
            draw_networks(plot, {row.name: by_name[row.name] for row in ranking.rows}, metric, data.score_of_constant)
    out.print(f"\n{ranking.rows[0].name} (seed {best.settings.seed}) is saved as {given['save']}: {best.sentence}")


def pool_for(on: str | None, processes: int) -> Any:
    """Where fits run: in processes of this machine, or on a cluster."""
    from treadle.recipes.compare_on_data import ProcessPool, RayPool

    return ProcessPool(processes) if on is None else RayPool()


def draw_networks(path: Path, by_name: dict[str, list[Any]], metric: str, constant: float) -> None:
    """Draw the validation score of each network by steps, as far as all its seeds were trained."""
    from treadle.recipes.compare.standings import spread_of
    from treadle.show.training import draw_curves

    curves, points = {}, list[int]()
    for name, fits in by_name.items():
        together = [*zip(*(fit.curve for fit in fits), strict=False)]
        scores = [[score for _, score in at] for at in together]
        curves[name] = [statistics.fmean(some) for some in scores], [spread_of(some) for some in scores]
        points = max(points, [at[0][0] for at in together], key=len)
    draw_curves(path, points, curves, {"constant": constant}, f"validation {metric}")


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
