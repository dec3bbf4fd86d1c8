"""`treadle fit`: train a network on a text, on time series or on labelled sequences."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from treadle.atomic import all_or_none
from treadle.cli import options
from treadle.cli.training_options import (
    CheckpointEvery,
    CheckpointFile,
    Resume,
    Seed,
    TensorBoard,
    check_on,
    keeping,
    say_that_it_was_over,
)


def fit(
    file: Annotated[
        Path,
        typer.Argument(
            help="Training data: .csv, .tsv or .parquet (series), .ts or .parquet with lists (sequences), or text."
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="File for the trained network, such as model.safetensors.")
    ],
    target: Annotated[str | None, typer.Option(help="Columns to predict, separated by commas.")] = None,
    inputs: Annotated[
        str | None,
        typer.Option(help="Columns to read as input features, separated by commas.", show_default="the targets"),
    ] = None,
    horizon: Annotated[
        int | None, typer.Option(min=0, help="Forecast horizon, in steps (series).", show_default="1")
    ] = None,
    series_id: Annotated[str | None, typer.Option(help="Column that names the series of each row (tables).")] = None,
    time: Annotated[str | None, typer.Option(help="Column of timestamps (tables).")] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Split of many series: time (cuts each) or series (keeps each whole).", show_default="by their ends"
        ),
    ] = None,
    sequences: Annotated[
        bool, typer.Option("--sequences", help="Labelled sequences in a table with a row for each step.")
    ] = False,
    classes: Annotated[
        bool | None,
        typer.Option(
            "--classes/--regression",
            help="Kind of whole-number answers: labels, or numbers to predict (sequences).",
            show_default="labels, if they are few",
        ),
    ] = None,
    words: Annotated[
        bool, typer.Option("--words", help="Text as words, separated by white space, instead of bytes (text).")
    ] = False,
    vocabulary: Annotated[
        int | None,
        typer.Option(
            min=2,
            max=10**7,
            help="Number of words to tell apart: the most frequent (with --words).",
            show_default="10000",
        ),
    ] = None,
    season: Annotated[
        int | None, typer.Option(min=1, help="Seasonal period, in steps (series).", show_default="estimated")
    ] = None,
    difference: Annotated[
        bool | None,
        typer.Option(help="Differencing: read changes instead of values (series).", show_default="if there is a trend"),
    ] = None,
    predict: Annotated[
        str | None,
        typer.Option(
            help="Steps that predict: last (many-to-one) or every (many-to-many).", show_default="by kind of data"
        ),
    ] = None,
    missing: Annotated[
        str | None,
        typer.Option(help="Missing values: refuse them, or repeat the previous value.", show_default="refuse"),
    ] = None,
    validation: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=0.9,
            help="Fraction of the data for the validation set, which decides when to stop.",
            show_default="0.15",
        ),
    ] = None,
    test: Annotated[Path | None, typer.Option(help="File of the test set (series, sequences).")] = None,
    cell: Annotated[str | None, typer.Option(help="Cell of every layer: lstm, gru, rnn …", show_default="lstm")] = None,
    wiring: Annotated[str | None, typer.Option(help="Wiring: how layers connect.", show_default="stack")] = None,
    layers: Annotated[
        int | None, typer.Option(min=1, max=options.MOST_LAYERS, help="Number of layers.", show_default="2")
    ] = None,
    parameters: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10**9,
            help="Number of parameters, matched to within 2 %.",
            show_default="by kind of data; of words, those of a hidden size of 200",
        ),
    ] = None,
    resume: Resume = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Length of training: 90s, 2m, 300steps, 50epochs.",
            show_default="2m for text, else 100epochs; sequences: at least 1000steps",
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            min=1, help="Truncated BPTT: window length, in steps (text, series).", show_default="by kind of data"
        ),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="Peak learning rate.", show_default="by kind of data")
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Batch size.", show_default="by kind of data")] = None,
    dropout: Annotated[
        float | None,
        typer.Option(
            min=0, max=0.99, help="Dropout between layers (words, series, sequences).", show_default="by kind of data"
        ),
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Standard deviation of noise on inputs in training (series, sequences).",
            show_default="by kind of data",
        ),
    ] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(min=0, max=0.99, help="Label smoothing (sequences).", show_default="0.1")
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(min=0, help="Weight decay (matrices only).", show_default="by kind of data")
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            min=1, help="Early stopping after this many validations without a new best.", show_default="by kind of data"
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="Score that early stopping watches: loss, mae, rmse, last-mae, last-rmse (of last steps) or accuracy.",
            show_default="loss",
        ),
    ] = None,
    precision: Annotated[str, typer.Option(help="Precision of matrix products: float32 or bfloat16.")] = "float32",
    seed: Seed = 0,
    checkpoint: CheckpointFile = None,
    checkpoint_every: CheckpointEvery = "60s",
    on: Annotated[str | None, typer.Option(help="Cluster to train on: ray.", show_default="this machine")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of Ray workers (with --on ray).", show_default="2")
    ] = None,
    tensorboard: TensorBoard = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File for all scores, as JSON; - is standard output.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Picture of the losses, and of predictions against targets: .svg or .png.")
    ] = None,
) -> None:
    """Train a network on a text, on time series or on labelled sequences. Ctrl-C stops and saves it."""
    given = dict(locals())
    start = options.start_of_process()

    from treadle import WIRINGS
    from treadle.cli import with_options
    from treadle.cli.fitting import check_tensorboard, watching
    from treadle.show.training import draw_confusion, draw_fit, draw_forecasts, draw_predictions
    from treadle.training import CELLS, on_ray, processes
    from treadle.training.budget import ShareDone
    from treadle.training.fit_run import Run, Settings
    from treadle.training.scores import METRICS
    from treadle.training.task import Confusion, Forecasts, Predictions

    outputs = {"--output": output, "--checkpoint": checkpoint, "--plot": plot, "--json": options.no_stdout(json_file)}
    options.check_outputs(outputs, [file, test])
    check_tensorboard(tensorboard)
    for name, known in {
        "cell": CELLS,
        "wiring": WIRINGS,
        "predict": ("last", "every"),
        "missing": ("refuse", "previous"),
        "split": ("time", "series"),
        "metric": METRICS,
        "precision": ("float32", "bfloat16"),
    }.items():
        if given[name] is not None:
            options.choice(f"--{name}", given[name], known)
    given |= {name: options.words(given[name]) for name in ("target", "inputs")}
    given |= {name: given[name] and str(given[name]) for name in ("file", "test", "resume")}
    settings = Settings(**{field: given[field] for field in Settings.__dataclass_fields__})
    if workers is not None and on is None:
        raise typer.BadParameter(
            "--workers needs --on ray; for processes on this machine, use torchrun --nproc-per-node"
        )
    check_on(on)
    options.parse_length("--budget", budget or settings.habits.budget)  # what is wrong with it is said at once
    often = options.parse_length("--checkpoint-every", checkpoint_every)

    processes.join()
    first = processes.rank_and_ranks()[0] == 0  # the others learn, this one also shows and writes
    run = Run(settings)
    settings = run.settings
    length = options.parse_length("--budget", budget or settings.habits.budget)
    if settings.habits.one_thread:
        options.use_one_thread()
    if checkpoint is not None and first:
        run.refuse_checkpoint(checkpoint)
    err = options.console(sys.stderr, quiet=not first)
    unit = {"text": "bytes", "words": "words"}.get(settings.kind, "inputs")
    err.print(with_options(str(run), ["fit"]))
    with watching(err, unit, tensorboard if first else None) as watch:
        if budget is None and length.epochs:
            length = length._replace(epochs=settings.habits.scaled(length.epochs, run.task.epoch_steps))
        lasts, validated = length.of(run.task.epoch_steps), plot is not None or tensorboard is not None
        if on is None:
            # Counting the words of a large text takes minutes, which are not training.
            begun = None if settings.kind == "words" else start
            share_done = ShareDone(**lasts, start=begun, stop=watch.interrupted)
            kept = keeping(checkpoint, often, run.task.epoch_steps)
            steps = run.steps(share_done, validated=validated, evaluating=watch.evaluating, **kept)
        else:
            kept = {"checkpoint": checkpoint, "often": often.of(run.task.epoch_steps), "validated": validated}
            steps = on_ray.steps_on_ray(run, workers or 2, length=lasts, stop=watch.interrupted, **kept)
        for step in steps:
            watch.follow(step)
        run.model.eval()
        answer = ""
        if first:
            with watch.evaluating(say=True):
                verdict = run.task.judge(run.model)
            watch.judged(verdict.scores)
            with all_or_none():
                run.task.save(output, run.model)
                if plot is not None:
                    truth = run.task.truth(run.model)
                    draw: Any = {Forecasts: draw_forecasts, Predictions: draw_predictions, Confusion: draw_confusion}
                    below = None if truth is None else lambda axes: draw[type(truth)](axes, *truth)
                    draw_fit(plot, watch.losses, watch.scores, below)
                if json_file is not None:
                    options.write_json(json_file, run.as_json(verdict, watch.scores))
            answer = f"{output}: {verdict.sentence}, after {run.done} steps"
    if answer:
        print(answer, file=sys.stderr if json_file == Path("-") else sys.stdout)
        if not watch.steps and not watch.interrupted():
            say_that_it_was_over(checkpoint)
    options.exit_if(watch.interrupted(), "treadle: interrupted; the network trained so far is saved")
