"""`treadle imitate`: a network does what a Turing machine does, from its traces alone."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from treadle.cli.options import bar, check_outputs, console, exit_if, noticing_interrupts, use_one_thread

if TYPE_CHECKING:
    from treadle.recipes.imitate import Machine, Tape


def imitate(
    machine: Annotated[
        str, typer.Argument(help="A machine, 'state read write move next' on each line; or one of the bundled ones.")
    ],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where the network goes.")] = None,
    model: Annotated[Path | None, typer.Option(help="Run this network, instead of training one.")] = None,
    tape: Annotated[
        str | None, typer.Option(help="Then let it run free on this tape, _ for a blank; '' is the empty one.")
    ] = None,
    letters: Annotated[
        str | None, typer.Option(help="What random tapes are written in.", show_default="by the machine's rules")
    ] = None,
    cells: Annotated[int, typer.Option(min=1, max=10_000, help="The longest tape of the training set.")] = 16,
    traces: Annotated[int, typer.Option(min=1, max=10**6, help="How many runs of the machine are seen.")] = 2048,
    trace_steps: Annotated[int, typer.Option(min=1, max=10**6, help="How much of each, at most.")] = 500,
    hidden: Annotated[int, typer.Option(min=1, max=4096, help="Units of the network.")] = 48,
    noise: Annotated[float, typer.Option(min=0, max=10, help="On the network's state while it learns.")] = 0.1,
    dropout: Annotated[float, typer.Option(min=0, max=0.99, help="The share of its state that is lost then.")] = 0.1,
    steps: Annotated[int, typer.Option(min=1, help="Of training.")] = 1500,
    tests: Annotated[int, typer.Option(min=0, help="Random tapes to run it free on.")] = 100,
    test_cells: Annotated[int, typer.Option(min=1, max=100_000, help="The longest of them.")] = 256,
    budget: Annotated[int, typer.Option(min=1, help="Steps after which a run is over, halted or not.")] = 1_000_000,
    seed: Annotated[int, typer.Option(min=0, max=2**62, help="Of tapes, start and noise.")] = 0,
) -> None:
    """Learn a machine from traces of readings and actions, never its state; then run free, beside the machine."""
    from treadle.files import model_file
    from treadle.recipes.imitate import (
        RandomTapes,
        Settings,
        Tape,
        check_imitates,
        demonstrations,
        find_machine,
        imitator,
        judge,
        learn,
    )

    check_outputs({"--output": output}, [Path(machine), model])
    use_one_thread()
    box = find_machine(machine)
    letters = box.letters if letters is None else letters
    free = Tape(box, tape, budget) if tape is not None else None
    exam = RandomTapes(box, letters, test_cells, budget, seed + 1)
    settings = Settings(letters, cells, traces, trace_steps, hidden, noise, dropout, steps, seed=seed)
    err = console(sys.stderr)
    with noticing_interrupts() as interrupted:
        if model is not None:
            loop = check_imitates(model_file.load(model), box, str(model))
            model_file.require_finite(model, loop)
        else:
            seen = demonstrations(box, settings)
            length = sum(len(trace.readings) for trace in seen)
            err.print(
                f"{box.name} reads {len(box.symbols)} symbols and does {len(box.actions)} things;"
                f" {len(seen)} traces of {length:,} steps, from tapes of up to {cells} cells of {' '.join(letters)}"
            )
            loop = imitator(box, settings)
            train(learn(loop, seen, settings, interrupted), steps)
        loop.eval()
        if output is not None:
            model_file.save(output, loop, notes={"machine": box.name})
        if tests and not interrupted():
            verdict = judge(loop, box, watched(exam.tapes(tests), tests), interrupted)
            print(
                f"right on {verdict.right} of {verdict.tapes} tapes of up to {test_cells} cells,"
                f" {verdict.steps:,} steps; {verdict.halted} of them to the halt"
            )
            if verdict.first_wrong is not None:
                print(f"wrong first on {verdict.first_wrong or 'the empty tape'!r}")
        if free is not None and not interrupted():
            run_free(loop, box, free)
    exit_if(interrupted(), "treadle: interrupted" + (f"; what was learned is in {output}" if output else ""))


def train(steps: Any, count: int) -> None:
    """Take all steps under a progress bar on stderr."""
    with bar("learning", count) as (progress, task):
        for step in steps:
            progress.update(task, advance=1, description=f"learning, loss {step.loss:.4f}")


def watched(tapes: Any, count: int) -> Any:
    """The tapes, under a progress bar."""
    with bar("running free", count) as (progress, task):
        for tape in tapes:
            yield tape
            progress.advance(task)


def run_free(loop: Any, machine: "Machine", tape: "Tape") -> None:
    """Let it run on one tape, and say what came of it."""
    from treadle.recipes.imitate import same_run

    start = time.perf_counter()
    run = same_run(loop.session(), machine, tape)
    seconds = time.perf_counter() - start
    if not run.right:
        print(f"the action after {run.steps:,} steps is wrong; the tape is then {short(tape)}")
        return
    what = "halted" if run.halted else "not halted (--budget allows more)"
    counts = ", ".join(f"{tape.count(s):,} of {s}" for s in machine.symbols[1:] if tape.count(s))
    print(
        f"{what} after {run.steps:,} steps, all of them right, in {seconds:.1f} s"
        f" ({seconds / max(run.steps, 1) * 1e6:.1f} µs a step); the tape is {short(tape)} ({counts or 'blank'})"
    )


def short(tape: "Tape") -> str:
    """What is on a tape, if that fits a line."""
    text = str(tape)
    return text if len(text) <= 80 else f"{text[:40]}…{text[-39:]}"
