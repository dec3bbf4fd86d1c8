"""`treadle compare`: how should the layers of my network connect?"""

import dataclasses
import itertools
import json
import math
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer

from treadle.atomic import all_or_none
from treadle.cli import options
from treadle.cli.training_options import TensorBoard, check_folder, check_on

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from treadle.cli.fitting import CurveLogs
    from treadle.recipes.compare import Outcome, Plan, RayWorkers, Standing, Workers
    from treadle.training import Text

RESERVE = 5.0
"""Seconds of a budget that are kept for what comes after training."""

SAMPLE_BYTES = 300

OF_DATA = tuple("target inputs horizon series_id time split sequences classes missing metric".split())
"""Options without a meaning for a text."""


def compare(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="Data to train on: a text, series or sequences, as treadle fit reads them.",
            show_default="source code of Python's standard library",
        ),
    ] = None,
    target: Annotated[str | None, typer.Option(help="Columns to predict, separated by commas (tables).")] = None,
    inputs: Annotated[
        str | None, typer.Option(help="Columns to read, separated by commas (tables).", show_default="as treadle fit")
    ] = None,
    horizon: Annotated[int | None, typer.Option(min=0, help="Forecast horizon, in steps (series).")] = None,
    series_id: Annotated[str | None, typer.Option(help="Column that names the series of each row (tables).")] = None,
    time: Annotated[str | None, typer.Option(help="Column of timestamps (tables).")] = None,
    split: Annotated[str | None, typer.Option(help="Split of many series: time or series.")] = None,
    sequences: Annotated[
        bool, typer.Option("--sequences", help="Labelled sequences in a table with a row for each step.")
    ] = False,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Pairs of strings to translate: a file or a task of treadle translate.")
    ] = False,
    words: Annotated[
        str | None,
        typer.Option(
            help="Sides of pairs tokenised into words instead of characters: neither, source, target, both (with"
            " --pairs).",
            show_default="neither",
        ),
    ] = None,
    classes: Annotated[
        bool | None,
        typer.Option("--classes/--regression", help="Kind of whole-number answers: labels, or numbers to predict."),
    ] = None,
    missing: Annotated[
        str | None, typer.Option(help="Missing values: refuse them, or repeat the previous value (tables).")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="Score that networks are ranked by (tables).", show_default="loss")
    ] = None,
    wiring: Annotated[str, typer.Option(help="Wirings to compare: names separated by commas, or all.")] = "all",
    cell: Annotated[str, typer.Option(help="Cells to compare: names separated by commas, or all.")] = "lstm",
    layers: Annotated[int, typer.Option(min=1, max=options.MOST_LAYERS, help="Number of layers.")] = 2,
    parameters: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10**9,
            help="Number of parameters of each network, matched to within 2 %.",
            show_default="200000 for text, else fewer",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, max=1000, help="Number of random seeds: each network is trained once per seed.")
    ] = 3,
    seed: Annotated[
        int, typer.Option(min=0, max=2**62, help="Random seed of the first training; the others count up from it.")
    ] = 0,
    budget: Annotated[
        str, typer.Option(help="Time for the whole comparison (90s, 2m), or training steps per network (300steps).")
    ] = "2m",
    window: Annotated[
        int | None,
        typer.Option(min=1, help="Truncated BPTT: window length, in steps.", show_default="16 for text"),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Folder of checkpoints: written at each evaluation, resumed from if it exists."),
    ] = None,
    tensorboard: TensorBoard = None,
    save: Annotated[Path, typer.Option(help="File for the best network.")] = Path("treadle-winner.safetensors"),
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File for all results, as JSON; - is standard output.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Picture of the learning curves: .svg or .png.")] = None,
    on: Annotated[str | None, typer.Option(help="Cluster to train on: ray.", show_default="this machine")] = None,
    reduction_factor: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Reduction factor of ASHA, which stops networks early: one in so many trains on after each rung (with"
            " --on ray).",
            show_default="all train to the end",
        ),
    ] = None,
) -> None:
    """Compare wirings on a text or on data: train networks of equal size for equally many steps, and rank them."""
    given = dict(locals())
    start = options.start_of_process()
    from treadle.training.fit_run import kind_of

    if pairs and file is None:
        raise typer.BadParameter("--pairs needs a file of pairs, or a task: dates, reverse or sort")
    if words is not None and not pairs:
        raise typer.BadParameter("--words says which sides of pairs are words: pass it with --pairs, or leave it out")
    if pairs:
        refuse_of_data({name: given[name] for name in (*OF_DATA, "window")}, "pairs")
    if file is not None and (pairs or kind_of(file) != "text"):
        from treadle.cli.compare_on_data import compare_on_data

        compare_on_data(given, start)
        return
    refuse_of_data({name: given[name] for name in OF_DATA}, "a text")
    parameters, window = parameters or 200_000, window or 16
    from treadle import WIRINGS, __version__
    from treadle.cli.fitting import CurveLogs, check_tensorboard
    from treadle.files import model_file
    from treadle.recipes.compare import as_json, best, make_plan, standings
    from treadle.recipes.comparison_folder import ComparisonFolder
    from treadle.training import CELLS
    from treadle.training.language_model import ROWS

    wirings, cells = options.choices("--wiring", wiring, WIRINGS), options.choices("--cell", cell, CELLS)
    allowed = options.parse_budget(budget)
    check_on(on)
    if reduction_factor is not None and on is None:
        raise typer.BadParameter("--reduction-factor needs --on ray")
    check_tensorboard(tensorboard)
    check_folder(checkpoint)
    to_stdout = json_file == Path("-")
    options.check_outputs({"--save": save, "--json": None if to_stdout else json_file, "--plot": plot}, [file])
    out = options.console(sys.stderr if to_stdout else sys.stdout)
    options.use_one_thread()  # here, for the sample; the workers see to it themselves
    deadline = math.inf
    if allowed.seconds is not None:
        deadline = start + max(allowed.seconds - RESERVE, 0.7 * allowed.seconds)

    with options.noticing_interrupts() as interrupted:
        # The workers start meanwhile.
        with workers_of(on, reduction_factor, len(wirings) * len(cells) * seeds) as workers, ExitStack() as stack:
            text = read(file, everywhere=on is not None)
            text.check_length(ROWS, window)
            text.check_content()
            plan = make_plan(
                wirings,
                cells,
                layers=layers,
                parameters=parameters,
                seeds=range(seed, seed + seeds),
                budget=allowed,
                window=window,
                workers=workers.count,
            )
            if checkpoint is not None:
                about = {"budget": str(allowed), "window": window, "layers": layers, "parameters": parameters}
                about["the content of the text"] = text.fingerprint()[:16]
                folder = stack.enter_context(ComparisonFolder(checkpoint, about).held())
                plan = dataclasses.replace(plan, steps=folder.steps(lambda: plan.steps))
            announce(out, plan, text)
            logs = stack.enter_context(CurveLogs(tensorboard))
            events = workers.race(plan, text, lambda: interrupted() or monotonic() > deadline, checkpoint)
            outcome = follow(events, plan, logs)
        stopped = None if outcome.complete else "interrupted" if interrupted() else "deadline"
        if not outcome.points:
            reason = "interrupted" if stopped == "interrupted" else f"the budget of {allowed} ended"
            first = f"treadle: {reason} before every network had reached step {plan.evaluate_at[0]}"
            hint = "" if checkpoint is None else "; the same command resumes it"
            print(f"{first}, the first evaluation: there is nothing to compare{hint}", file=sys.stderr)
            raise typer.Exit(130 if stopped == "interrupted" else 2)

        table = standings(outcome)
        print_table(out, outcome, table, text, stopped)
        if not math.isfinite(table[0].mean):
            print("treadle: every network diverged, so there is no winner to save", file=sys.stderr)
            raise typer.Exit(2)
        winner, winning_seed = best(table, plan)
        model = outcome.model(winner, winning_seed)
        with all_or_none():
            model_file.save(save, model)
            sample, step_seconds = write_sample(model, winning_seed)
            name = label(table[0], len(cells))
            out.print(f"\n{name} (seed {winning_seed}) is saved as {save} and writes, one step at a time:\n")
            out.print(sample)
            out.print(f"\n{step_seconds * 1e6:.0f} µs per step (median of {SAMPLE_BYTES}, through a session)")
            if plot is not None:
                plot_curves(plot, outcome, table, text)
                out.print(f"The learning curves are in {plot}")
            if json_file is not None:
                settings = {"budget": str(allowed), "parameters": parameters, "stopped": stopped}
                data = as_json(outcome, text, version=__version__, saved=str(save), sample=sample, **settings)
                data["timing"] = {
                    "seconds": round(monotonic() - start, 2),
                    "processes": len(plan.shares),
                    "steps_per_second": {one.contender.name: round(one.steps_per_second, 3) for one in table},
                    "microseconds_per_session_step": round(step_seconds * 1e6, 1),
                }
                document = json.dumps(data, indent=2, allow_nan=False) + "\n"
                if to_stdout:
                    sys.stdout.write(document)
                else:
                    options.write_text(json_file, document)
    options.exit_if(interrupted())


def refuse_of_data(given: dict[str, Any], kind: str) -> None:
    """Refuse options that have no meaning for a kind of data."""
    for name, value in given.items():
        if value is not None and (value is not False or name == "classes"):
            raise typer.BadParameter(f"--{name.replace('_', '-')} has no meaning for {kind}: leave it out")


def workers_of(on: str | None, reduction_factor: int | None, runs: int) -> "Workers | RayWorkers":
    """Those who train: processes of this machine, or trials on a cluster."""
    from treadle.recipes.compare import RayWorkers, Workers, available_cores

    if on is None:
        return Workers(min(available_cores(), runs))
    return RayWorkers(reduction_factor)


def read(file: Path | None, everywhere: bool) -> "Text":
    """The text to train on; ``everywhere``: also where the working directory is another."""
    from treadle.training import read_text, standard_library

    if file is None:
        return standard_library()
    return dataclasses.replace(read_text(file.absolute()), name=str(file)) if everywhere else read_text(file)


def announce(out: "Console", plan: "Plan", text: "Text") -> None:
    """Say what is about to happen."""
    from treadle.training.language_model import ROWS

    kinds, seeds = len(plan.contenders), len(plan.seeds)
    seen = plan.steps * plan.window * ROWS
    out.print(
        f"Training {kinds} networks x {seeds} seed{'s' * (seeds > 1)} for {plan.steps} steps each ({seen:,} bytes read)"
        f" on {text.name} ({text.training_bytes:,} bytes for training, {text.held_out_bytes:,} held out)."
    )


def follow(events: "Iterable[Any]", plan: "Plan", logs: "CurveLogs") -> "Outcome":
    """Follow the race with a progress bar on stderr, or a line for each evaluation point where that is no terminal."""
    from rich.progress import TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from treadle.recipes.compare import Evaluated, Outcome, Stepped, standings

    outcome, points = Outcome(plan), 0
    cells = len({contender.cell for contender in plan.contenders})
    times = TextColumn("steps,"), TimeRemainingColumn(), TextColumn("left,"), TimeElapsedColumn(), TextColumn("elapsed")
    with options.bar("training", plan.steps * len(plan.runs), *times) as (progress, task):
        for event in events:
            if isinstance(event, Stepped):
                progress.advance(task, event.steps)
                continue
            outcome.add(event)
            if isinstance(event, Evaluated):
                contender, seed = plan.runs[event.run]
                logs.add(f"{contender.wiring}-{contender.cell}-{seed}", event.step, {"bits_per_byte": event.bits})
            if outcome.points > points and not progress.console.is_terminal:
                found = ", ".join(f"{label(one, cells)} {figure(one)}" for one in standings(outcome))
                progress.console.print(f"step {outcome.step} of {plan.steps}: {found}")
            points = outcome.points
    return outcome


def label(one: "Standing", kinds_of_cells: int) -> str:
    """The name of a contender, with its cell where there are several."""
    return one.contender.name if kinds_of_cells > 1 else one.contender.wiring


def print_table(out: "Console", outcome: "Outcome", table: "list[Standing]", text: "Text", stopped: str | None) -> None:
    """The results, best first, with unigram and gzip for scale, and their limits."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from treadle.recipes.compare import same_networks, sparkline

    plan = outcome.plan
    cells = len({one.contender.cell for one in table})
    title = f"Bits per byte of held-out text after {outcome.step} steps"
    grid = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("wiring", "cell", "hidden", "parameters", "bits per byte", "curve", "steps/s"):
        if heading != "cell" or cells > 1:
            words = heading in ("wiring", "cell", "curve")
            grid.add_column(heading, justify="left" if words else "right", no_wrap=True)
    grid.add_column("clearly better than")

    finite = [value for one in table for value in one.curve if math.isfinite(value)]
    low, high = min(finite, default=0), max(finite, default=8)
    names = {one.contender: label(one, cells) for one in table}
    lines: list[tuple[float, list[str], str]] = []
    for one in table:
        who = one.contender
        beaten = [names[other] for other in one.clearly_better_than]
        words = "all others" if len(beaten) == len(table) - 1 > 1 else ", ".join(beaten)
        row = [who.wiring, *([who.cell] if cells > 1 else []), str(who.hidden_size), f"{who.parameters:,}", figure(one)]
        row += [sparkline(one.curve, low, high), f"{one.steps_per_second:.1f}", words]
        lines.append((one.mean if math.isfinite(one.mean) else math.inf, row, ""))
    for name, bits in (("unigram", text.unigram_bits()), ("gzip -9", text.gzip_bits())):
        blanks = [""] * (3 if cells > 1 else 2)
        aligned = f"{bits:.3f}" + " " * len(" ± 0.000") * (len(plan.seeds) > 1)
        lines.append((bits, [name, *blanks, aligned, "", "", ""], "dim"))
    for _, row, style in sorted(lines, key=lambda line: line[0]):
        grid.add_row(*row, style=style)
    out.print()
    out.print(grid)

    early = [f"{names[one.contender]} ({plan.evaluate_at[len(one.curve) - 1]})" for one in table]
    early = [name for name, one in zip(early, table, strict=True) if len(one.curve) < outcome.points]
    if early:
        out.print(f"ASHA stopped early, at the step in brackets: {', '.join(early)}.")
    if stopped == "deadline":
        out.print(
            f"Time ran out before step {plan.steps}: results are from step {outcome.step}, the last that all networks"
            f" reached. For results that do not depend on the machine's load: --budget {plan.steps}steps"
        )
    elif stopped == "interrupted":
        out.print(
            f"Interrupted: results are from step {outcome.step} of {plan.steps}, the last that all networks reached."
        )
    if len(plan.seeds) == 1:
        out.print("With one seed there is no spread: any of these differences may be chance. Use --seeds 3.")
    else:
        out.print(
            f"± is the standard deviation over {len(plan.seeds)} seeds."
            " Clearly better: the means differ by more than √(s₁² + s₂²)."
        )
    for group in same_networks(plan):
        alike = " and ".join(names[one] for one in group)
        word = "layer" if group[0].layers == 1 else "layers"
        out.print(f"With {group[0].layers} {word}, {alike} are the same network: differences between them are chance.")
    out.print("Short training shows which network learns fastest, not which is best in the end.")


def figure(one: "Standing") -> str:
    """Mean and spread in words."""
    if not math.isfinite(one.mean):
        return "diverged"
    return f"{one.mean:.3f}" if one.spread is None else f"{one.mean:.3f} ± {one.spread:.3f}"


def plot_curves(path: Path, outcome: "Outcome", table: "list[Standing]", text: "Text") -> None:
    """Draw the learning curve of every network."""
    from treadle.show.training import draw_curves

    cells = len({one.contender.cell for one in table})
    curves = {label(one, cells): (one.curve, one.curve_spread) for one in table}
    steps = outcome.plan.evaluate_at[: max(len(one.curve) for one in table)]
    draw_curves(path, steps, curves, {"unigram": text.unigram_bits(), "gzip -9": text.gzip_bits()})


def write_sample(model: Any, seed: int) -> tuple[str, float]:
    """What a model writes after an empty line, safe to print, and the median time of a step in seconds."""
    from treadle.recipes.generate import generate, readable

    written = list(itertools.islice(generate(model, b"\n", seed=seed), SAMPLE_BYTES))
    return readable(bytes(one.byte for one in written)), statistics.median(one.seconds for one in written)
