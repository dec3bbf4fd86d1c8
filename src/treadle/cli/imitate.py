"""`treadle imitate`: train a network to act as a Turing machine, from the machine's traces alone."""

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
        str,
        typer.Argument(help="Turing machine: a file of lines 'state read write move next', or a bundled one's name."),
    ],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File for the trained network.")] = None,
    model: Annotated[Path | None, typer.Option(help="Trained network to run, instead of training one.")] = None,
    tape: Annotated[
        str | None, typer.Option(help="Tape to run on in closed loop after training; _ is a blank, '' the empty tape.")
    ] = None,
    letters: Annotated[
        str | None, typer.Option(help="Symbols on random tapes.", show_default="from the machine's rules")
    ] = None,
    cells: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum length of training tapes, in cells.")] = 16,
    traces: Annotated[
        int, typer.Option(min=1, max=10**6, help="Number of training traces, one per run of the machine.")
    ] = 2048,
    trace_steps: Annotated[
        int, typer.Option(min=1, max=10**6, help="Maximum length of a training trace, in steps.")
    ] = 500,
    hidden: Annotated[int, typer.Option(min=1, max=4096, help="Hidden size.")] = 48,
    noise: Annotated[
        float, typer.Option(min=0, max=10, help="Standard deviation of noise on the hidden state in training.")
    ] = 0.1,
    dropout: Annotated[float, typer.Option(min=0, max=0.99, help="Dropout on the hidden state in training.")] = 0.1,
    steps: Annotated[int, typer.Option(min=1, help="Number of training steps.")] = 1500,
    tests: Annotated[int, typer.Option(min=0, help="Number of random test tapes, run in closed loop.")] = 100,
    test_cells: Annotated[int, typer.Option(min=1, max=100_000, help="Maximum length of test tapes, in cells.")] = 256,
    budget: Annotated[int, typer.Option(min=1, help="Maximum number of steps of a closed-loop run.")] = 1_000_000,
    seed: Annotated[int, typer.Option(min=0, max=2**62, help="Random seed of tapes, weights and noise.")] = 0,
) -> None:
    """Train a network on a Turing machine's readings and actions; then run it in closed loop and compare."""
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
                f"{box.name} has {len(box.symbols)} symbols and {len(box.actions)} actions;"
                f" training on {len(seen)} traces ({length:,} steps)"
                f" of tapes of up to {cells} cells of {' '.join(letters)}"
            )
            loop = imitator(box, settings)
            train(learn(loop, seen, settings, interrupted), steps)
        loop.eval()
        if output is not None:
            model_file.save(output, loop, notes={"machine": box.name})
        if tests and not interrupted():
            verdict = judge(loop, box, watched(exam.tapes(tests), tests), interrupted)
            print(
                f"correct on {verdict.right} of {verdict.tapes} tapes of up to {test_cells} cells"
                f" ({verdict.steps:,} steps); {verdict.halted} of them until the machine halts"
            )
            if verdict.first_wrong is not None:
                print(f"first error on {verdict.first_wrong or 'the empty tape'!r}")
        if free is not None and not interrupted():
            run_free(loop, box, free)
    exit_if(interrupted(), "treadle: interrupted" + (f"; the network trained so far is in {output}" if output else ""))


def train(steps: Any, count: int) -> None:
    """Take all steps under a progress bar on stderr."""
    with bar("training", count) as (progress, task):
        for step in steps:
            progress.update(task, advance=1, description=f"training, loss {step.loss:.4f}")


def watched(tapes: Any, count: int) -> Any:
    """The tapes, under a progress bar."""
    with bar("running in closed loop", count) as (progress, task):
        for tape in tapes:
            yield tape
            progress.advance(task)


def run_free(loop: Any, machine: "Machine", tape: "Tape") -> None:
    """Run it in closed loop on one tape, and print the result."""
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
        f"{what} after {run.steps:,} steps, all of them correct, in {seconds:.1f} s"
        f" ({seconds / max(run.steps, 1) * 1e6:.1f} µs per step); the tape is {short(tape)} ({counts or 'blank'})"
    )


def short(tape: "Tape") -> str:
    """What is on a tape, if that fits a line."""
    text = str(tape)
    return text if len(text) <= 80 else f"{text[:40]}…{text[-39:]}"
