"""`treadle fit`: train one network on a text, on series or on labelled sequences."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from treadle.atomic import all_or_none
from treadle.cli import options
from treadle.errors import TreadleError


def fit(
    file: Annotated[
        Path,
        typer.Argument(help="Data: .csv, .tsv or .parquet (series), .ts or .parquet with lists (sequences), or text."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the network goes, such as model.safetensors.")],
    target: Annotated[str | None, typer.Option(help="Columns to predict, with commas between them.")] = None,
    inputs: Annotated[str | None, typer.Option(help="Columns to read.", show_default="the targets")] = None,
    horizon: Annotated[
        int | None, typer.Option(min=0, help="Series: forecast horizon, in steps.", show_default="1")
    ] = None,
    series_id: Annotated[str | None, typer.Option(help="Series: the column that tells them apart.")] = None,
    time: Annotated[str | None, typer.Option(help="Series: the column of times.")] = None,
    season: Annotated[int | None, typer.Option(min=1, help="Series: steps of a season.", show_default="found")] = None,
    difference: Annotated[
        bool | None, typer.Option(help="Series: layers read changes, not values.", show_default="if there is a trend")
    ] = None,
    predict: Annotated[
        str | None, typer.Option(help="What answers: the last step, or every.", show_default="by kind of data")
    ] = None,
    missing: Annotated[
        str | None, typer.Option(help="Gaps: refuse them, or read the previous value.", show_default="refuse")
    ] = None,
    validation: Annotated[
        float | None,
        typer.Option(
            min=0.001, max=0.9, help="Share of the validation set, which says when to stop.", show_default="0.15"
        ),
    ] = None,
    test: Annotated[Path | None, typer.Option(help="Sequences: the file of the test set.")] = None,
    cell: Annotated[str | None, typer.Option(help="The cell.", show_default="lstm")] = None,
    wiring: Annotated[str | None, typer.Option(help="How layers connect.", show_default="stack")] = None,
    layers: Annotated[
        int | None, typer.Option(min=1, max=options.MOST_LAYERS, help="Layers.", show_default="2")
    ] = None,
    parameters: Annotated[
        int | None,
        typer.Option(min=1, max=10**9, help="Parameters, to within 2 %.", show_default="200000 for text, else fewer"),
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Resume from this network instead of a new one.")] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="How long: 90s, 2m, 300steps, 50epochs.", show_default="2m for text, else 100epochs"),
    ] = None,
    window: Annotated[
        int | None, typer.Option(min=1, help="Text and series: steps over which gradients reach back.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="Peak learning rate.", show_default="by kind of data")
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Batch size.", show_default="by kind of data")] = None,
    dropout: Annotated[
        float | None, typer.Option(min=0, max=0.99, help="Dropout between layers, except for text.")
    ] = None,
    noise: Annotated[float | None, typer.Option(min=0, help="Noise on inputs in training, except for text.")] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(min=0, max=0.99, help="Sequences: against overconfidence.")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(min=0, help="Weight decay (matrices only).")] = None,
    patience: Annotated[int | None, typer.Option(min=1, help="Validations without a new best, to stop after.")] = None,
    precision: Annotated[str, typer.Option(help="Precision of products: float32 or bfloat16.")] = "float32",
    seed: Annotated[int, typer.Option(min=0, max=options.MAX_SEED, help="Random seed.")] = 0,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Keep the run here, and resume the one that is kept here already.")
    ] = None,
    on: Annotated[
        str | None, typer.Option(help="Where: ray, on the workers of a Ray cluster.", show_default="here")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="With --on ray: how many.", show_default="2")] = None,
    checkpoint_every: Annotated[str, typer.Option(help="How often: 60s, 100steps.")] = "60s",
    tensorboard: Annotated[Path | None, typer.Option(help="Write logs for TensorBoard into this folder.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the losses, and predictions beside the truth: .svg or .png.")
    ] = None,
) -> None:
    """Train one network: on a text, on series, on labelled sequences. Ctrl-C keeps what is learned so far."""
    given = dict(locals())
    start = options.start_of_process()

    from treadle import WIRINGS
    from treadle.cli.fitting import Watch, noticing_termination
    from treadle.show.training import draw_confusion, draw_fit, draw_forecasts, draw_predictions
    from treadle.training import CELLS, on_ray, processes
    from treadle.training.budget import ShareDone, every
    from treadle.training.fit_run import Run, Settings
    from treadle.training.task import Confusion, Forecasts, Predictions

    options.check_outputs({"--output": output, "--checkpoint": checkpoint, "--plot": plot}, [file, test])
    if tensorboard is not None and tensorboard.exists() and not tensorboard.is_dir():
        raise typer.BadParameter(f"--tensorboard: {tensorboard} is not a folder: name another")
    for name, known in {
        "cell": CELLS,
        "wiring": WIRINGS,
        "predict": ("last", "every"),
        "missing": ("refuse", "previous"),
        "precision": ("float32", "bfloat16"),
        "on": ("ray",),
    }.items():
        if given[name] is not None:
            options.choice(f"--{name}", given[name], known)
    given |= {name: options.words(given[name]) for name in ("target", "inputs")}
    given |= {name: given[name] and str(given[name]) for name in ("file", "test", "resume")}
    settings = Settings(**{field: given[field] for field in Settings.__dataclass_fields__})
    if workers is not None and on is None:
        raise typer.BadParameter("--workers has a meaning with --on ray only; torchrun --nproc-per-node starts others")
    if on is not None:
        try:
            on_ray.check_installed()
        except TreadleError as error:
            raise typer.BadParameter(f"--on {on}: {error}") from None
    length = options.parse_length("--budget", budget or settings.habits.budget)
    often = options.parse_length("--checkpoint-every", checkpoint_every)

    processes.join()
    first = processes.rank_and_ranks()[0] == 0  # the others learn, this one also shows and writes
    run = Run(settings)
    options.use_one_thread()
    if checkpoint is not None and first:
        run.refuse_checkpoint(checkpoint)
    err = options.console(sys.stderr, quiet=not first)
    unit = "bytes" if settings.kind == "text" else "inputs"
    watching = Watch(err, unit, tensorboard if first else None)
    err.print(str(run))
    with options.noticing_interrupts() as interrupted, noticing_termination() as check, watching as watch:
        lasts, kept = length.of(run.task.epoch_steps), often.of(run.task.epoch_steps)
        kwargs = {"validated": plot is not None or tensorboard is not None, "checkpoint": checkpoint}
        if on is None:
            share_done = ShareDone(**lasts, start=start, stop=interrupted)
            steps = run.steps(share_done, checkpoint_at=every(**kept), **kwargs)
        else:
            steps = on_ray.steps_on_ray(run, workers or 2, length=lasts, often=kept, stop=interrupted, **kwargs)
        for step in steps:
            check()
            watch.follow(step)
        run.model.eval()
        answer = ""
        if first:
            verdict = run.task.judge(run.model)
            watch.judged(verdict)
            with all_or_none():
                run.task.save(output, run.model)
                if plot is not None:
                    truth = run.task.truth(run.model)
                    draw: Any = {Forecasts: draw_forecasts, Predictions: draw_predictions, Confusion: draw_confusion}
                    below = None if truth is None else lambda axes: draw[type(truth)](axes, *truth)
                    draw_fit(plot, watch.losses, watch.scores, below)
            answer = f"{output}: {verdict.sentence} after {run.done} steps"
    if answer:
        print(answer)
        if not watch.steps and not interrupted():
            print(
                f"treadle: {checkpoint} holds this run, which is over: no step was left to take; for more, give a"
                " longer --budget (or a larger --patience), to begin again, another --checkpoint",
                file=sys.stderr,
            )
    options.exit_if(interrupted(), "treadle: interrupted; what was learned so far is saved")
