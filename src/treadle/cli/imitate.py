"""`treadle imitate`: train a network to act as a Turing machine, from the machine's traces alone."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from treadle.cli import options
from treadle.cli.training_options import (
    CheckpointEvery,
    CheckpointFile,
    Resume,
    Seed,
    TensorBoard,
    keeping,
    refuse_of_new,
    say_that_it_was_over,
)

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
    hidden_size: Annotated[int | None, typer.Option(min=1, max=4096, help="Hidden size.", show_default="48")] = None,
    noise: Annotated[
        float | None,
        typer.Option(
            min=0, max=10, help="Standard deviation of noise on the hidden state in training.", show_default="0.1"
        ),
    ] = None,
    dropout: Annotated[
        float | None,
        typer.Option(min=0, max=0.99, help="Dropout on the hidden state in training.", show_default="0.1"),
    ] = None,
    resume: Resume = None,
    budget: Annotated[str, typer.Option(help="Length of training: 90s, 2m, 300steps, 50epochs.")] = "1500steps",
    learning_rate: Annotated[float, typer.Option(min=0, help="Peak learning rate.")] = 0.01,
    rows: Annotated[int, typer.Option(min=1, help="Batch size, in traces.")] = 32,
    seed: Seed = 0,
    checkpoint: CheckpointFile = None,
    checkpoint_every: CheckpointEvery = "60s",
    tensorboard: TensorBoard = None,
    tests: Annotated[int, typer.Option(min=0, help="Number of random test tapes, run in closed loop.")] = 100,
    test_cells: Annotated[int, typer.Option(min=1, max=100_000, help="Maximum length of test tapes, in cells.")] = 256,
    run_steps: Annotated[int, typer.Option(min=1, help="Maximum number of steps of a closed-loop run.")] = 1_000_000,
) -> None:
    """Train a network on a Turing machine's readings and actions; then run it in closed loop and compare."""
    start = options.start_of_process()
    of_new = {"--hidden-size": hidden_size, "--noise": noise, "--dropout": dropout}
    refuse_of_new(resume, of_new)
    if model is not None:
        ways = {"--resume": resume, "--checkpoint": checkpoint, "--tensorboard": tensorboard}
        for option, value in (of_new | ways).items():
            if value is not None:
                raise typer.BadParameter(f"{option} is for training, but --model runs a trained network: leave one out")

    from treadle.cli.fitting import check_tensorboard, watching
    from treadle.files import model_file
    from treadle.recipes.imitate import (
        MACHINES,
        Learning,
        RandomTapes,
        Settings,
        Tape,
        check_imitates,
        demonstrations,
        find_machine,
        imitator,
        judge,
    )
    from treadle.training.budget import ShareDone
    from treadle.training.fit_run import contents
    from treadle.training.training_loop import refuse_checkpoint

    options.check_outputs({"--output": output, "--checkpoint": checkpoint}, [Path(machine), model, resume])
    check_tensorboard(tensorboard)
    length = options.parse_length("--budget", budget)
    often = options.parse_length("--checkpoint-every", checkpoint_every)
    options.use_one_thread()
    box = find_machine(machine)
    letters = box.letters if letters is None else letters
    free = Tape(box, tape, run_steps) if tape is not None else None
    exam = RandomTapes(box, letters, test_cells, run_steps, seed + 1)
    settings = Settings(letters, cells, traces, trace_steps, rows=rows, learning_rate=learning_rate, seed=seed)
    shape = {"hidden_size": hidden_size, "noise": noise, "dropout": dropout}
    settings = settings._replace(**{name: value for name, value in shape.items() if value is not None})
    err, known = options.console(sys.stderr), resume or model
    if known is None:
        loop = imitator(box, settings)
    else:
        loop = check_imitates(model_file.load(known), box, str(known))
        model_file.require_finite(known, loop)
    interrupted = False
    if model is None:
        seen = demonstrations(box, settings)
        learning = Learning(loop, seen, settings)
        about = settings._asdict() | {"steps": None, "machine": box.name if box.name in MACHINES else None}
        files = {"the machine": None if box.name in MACHINES else machine, "the file of --resume": resume}
        about |= contents(files)
        if checkpoint is not None:
            refuse_checkpoint(checkpoint, learning.model, about)
        count = sum(len(trace.readings) for trace in seen)
        err.print(
            f"{box.name} has {len(box.symbols)} symbols and {len(box.actions)} actions;"
            f" training on {len(seen)} traces ({count:,} steps)"
            f" of tapes of up to {cells} cells of {' '.join(letters)}"
        )
        with watching(err, "readings", tensorboard) as watch:
            epoch_steps = len(learning.batches)
            share_done = ShareDone(**length.of(epoch_steps), start=start, stop=watch.interrupted)
            for step in learning.steps(share_done, about=about, **keeping(checkpoint, often, epoch_steps)):
                watch.follow(step)
        interrupted = watch.interrupted()
        if not watch.steps and not interrupted:
            say_that_it_was_over(checkpoint)
    loop.eval()
    if output is not None:
        model_file.save(output, loop, notes={"machine": box.name})
    saved = f"; the network trained so far is in {output}" if output else ""
    options.exit_if(interrupted, f"treadle: interrupted{saved}")
    with options.noticing_interrupts() as stopped:
        if tests:
            verdict = judge(loop, box, watched(exam.tapes(tests), tests), stopped)
            print(
                f"correct on {verdict.right} of {verdict.tapes} tapes of up to {test_cells} cells"
                f" ({verdict.steps:,} steps); {verdict.halted} of them until the machine halts"
            )
            if verdict.first_wrong is not None:
                print(f"first error on {verdict.first_wrong or 'the empty tape'!r}")
        if free is not None and not stopped():
            run_free(loop, box, free)
    options.exit_if(stopped(), f"treadle: interrupted{saved}")


def watched(tapes: Any, count: int) -> Any:
    """The tapes, under a progress bar."""
    with options.bar("running in closed loop", count) as (progress, task):
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
    what = "halted" if run.halted else "not halted (--run-steps allows more)"
    counts = ", ".join(f"{tape.count(s):,} of {s}" for s in machine.symbols[1:] if tape.count(s))
    print(
        f"{what} after {run.steps:,} steps, all of them correct, in {seconds:.1f} s"
        f" ({seconds / max(run.steps, 1) * 1e6:.1f} µs per step); the tape is {short(tape)} ({counts or 'blank'})"
    )


def short(tape: "Tape") -> str:
    """What is on a tape, if that fits a line."""
    text = str(tape)
    return text if len(text) <= 80 else f"{text[:40]}…{text[-39:]}"
