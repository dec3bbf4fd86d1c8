"""`treadle decode`: infer what a user's keys mean from the outcomes of guesses. A game, and a study."""

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
    TensorBoard,
    keeping,
    say_that_it_was_over,
)


def decode(
    study: Annotated[
        bool, typer.Option("--study", help="Simulate users instead of playing, and print the accuracy of all decoders.")
    ] = False,
    learn: Annotated[
        Path | None, typer.Option(help="Train a network on simulated users, and write it to this file.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Network made with --learn, to decode with.", show_default="the bundled one")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="File of the game: written at the end, resumed from if it exists.")
    ] = None,
    users: Annotated[int, typer.Option(min=1, max=10_000, help="Number of simulated users (with --study).")] = 100,
    presses: Annotated[
        int,
        typer.Option(
            min=25, max=100_000, help="Key presses per user before all keys change their meaning, and again after it."
        ),
    ] = 300,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File for the results of --study, as JSON.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Picture of the results of --study: .svg or .png.")] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1, max=1024, help="Number of users simulated in parallel (with --study).", show_default="one per core"
        ),
    ] = None,
    online_rate: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Learning rate of the weights while in use; at 0, only the state adapts to the user."
        ),
    ] = 0.0,
    budget: Annotated[
        str,
        typer.Option(
            help="Length of training: 90s, 2m, 300steps, 50epochs; an epoch is a round of 48 users (with --learn)."
        ),
    ] = "250epochs",
    learning_rate: Annotated[float, typer.Option(min=0, help="Peak learning rate (with --learn).")] = 0.004,
    resume: Resume = None,
    checkpoint: CheckpointFile = None,
    checkpoint_every: CheckpointEvery = "60s",
    tensorboard: TensorBoard = None,
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Compile before training: takes minutes, then trains faster (with --learn)."),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, max=10**6, help="Random seed of the game, or of --learn.")] = 0,
) -> None:
    """Play a game in which a network learns what your keys mean, only from the outcomes of its guesses."""
    if study and learn is not None:
        raise typer.BadParameter("--study and --learn are two commands: first --learn FILE, then --study --model FILE")
    for option, given in (("--output", output), ("--plot", plot)):
        if given is not None and not study:
            raise typer.BadParameter(f"{option} needs --study: only a study has results to write")
    if save is not None and (study or learn is not None):
        raise typer.BadParameter("--save is the file of a game: leave it out with --study and --learn")
    for_training = {"--resume": resume, "--checkpoint": checkpoint, "--tensorboard": tensorboard}
    for option, given in for_training.items():
        if given is not None and learn is None:
            raise typer.BadParameter(f"{option} needs --learn: only that trains")
    if learn is not None and model is not None:
        raise typer.BadParameter("--model is a network to decode with: to train it further, pass it as --resume")
    written = {"--output": output, "--plot": plot, "--learn": learn, "--save": save, "--checkpoint": checkpoint}
    options.check_outputs(written, [model, resume])
    options.use_one_thread()
    if learn is not None:
        lengths = options.parse_length("--budget", budget), options.parse_length("--checkpoint-every", checkpoint_every)
        learn_network(learn, resume, *lengths, checkpoint, tensorboard, seed, learning_rate, compiled)
    elif study:
        follow_users(users, presses, model, online_rate, processes, output, plot)
    else:
        play(model, save, online_rate, seed)


def learn_network(
    path: Path,
    resume: Path | None,
    length: options.Length,
    often: options.Length,
    checkpoint: Path | None,
    tensorboard: Path | None,
    seed: int,
    learning_rate: float,
    compiled: bool,
) -> None:
    """Train on simulated users; the network so far is saved if interrupted."""
    from treadle.cli.fitting import check_tensorboard, watching
    from treadle.files import model_file
    from treadle.recipes.decode import load_network
    from treadle.recipes.decode.decoder_training import Learning, new_network
    from treadle.training.budget import ShareDone
    from treadle.training.fit_run import contents
    from treadle.training.training_loop import refuse_checkpoint

    start = options.start_of_process()
    check_tensorboard(tensorboard)
    network = new_network(seed=seed) if resume is None else load_network(resume)
    learning = Learning(network, seed=seed, learning_rate=learning_rate, compiled=compiled)
    about = {"seed": seed, "learning_rate": learning_rate, "compiled": compiled} | contents(
        {"the file of --resume": resume}
    )
    if checkpoint is not None:
        refuse_checkpoint(checkpoint, network, about)
    with watching(options.console(sys.stderr), "presses", tensorboard) as watch:
        share_done = ShareDone(**length.of(learning.epoch_steps), start=start, stop=watch.interrupted)
        for step in learning.steps(share_done, about=about, **keeping(checkpoint, often, learning.epoch_steps)):
            watch.follow(step, f"accuracy {learning.right:.2f}")
    rounds = learning.windows.round
    model_file.save(path, network, notes={"rounds": rounds, "seed": seed})
    if watch.steps:
        print(f"{path}: after {rounds} rounds, {learning.right:.0%} of the last round's presses were decoded correctly")
    elif not watch.interrupted():
        say_that_it_was_over(checkpoint)
    options.exit_if(watch.interrupted())


def follow_users(
    users: int,
    presses: int,
    model: Path | None,
    online_rate: float,
    processes: int | None,
    output: Path | None,
    plot: Path | None,
) -> None:
    """All decoders with simulated users; tables of the results."""
    from rich.table import Table

    from treadle.recipes.decode import load_network
    from treadle.recipes.decode import study as followed
    from treadle.recipes.decode.report import draw_study, moments, rows, summarise, write_study

    load_network(model)  # refused here, rather than in another process
    found: dict[int, Any] = {}
    with options.noticing_interrupts() as interrupted, options.bar("simulating users", users) as (progress, task):
        for number, decoders in followed(users, presses, model, online_rate, processes):
            found[number] = decoders
            progress.advance(task)
            if interrupted():
                break
    found = dict(sorted(found.items()))
    out = options.console(sys.stdout)
    head, *body = rows(found)
    table = Table(
        *head, title=f"{len(found)} users: accuracy relative to the best attainable on the same 50 presses; and bits"
    )
    for row in body:
        table.add_row(*row)
    out.print(table)
    columns = ("", "presses", "mean", "standard error", "minimum", "10th percentile", "median", "users at 0.95")
    spread = Table(*columns, title="relative accuracy over users")
    points = moments(2 * presses)
    for name in next(iter(found.values())):
        for at in (points[3], points[6], points[7]):
            one = summarise(found, name, at)
            numbers = (f"{value:.3f}" for value in (one.share, one.error, one.lowest, one.tenth, one.middle))
            spread.add_row(name, f"to {at}", *numbers, f"{one.reached:.0%}")
    out.print(spread)
    with all_or_none():
        if output is not None:
            write_study(output, found)
        if plot is not None:
            draw_study(plot, found)
    options.exit_if(interrupted(), f"treadle: interrupted after {len(found)} of {users} users")


def play(model: Path | None, save: Path | None, online_rate: float, seed: int) -> None:
    """The game, in the terminal."""
    from treadle.recipes.decode import Game, KeyDecoder, load_network

    try:
        from treadle.recipes.decode.app import GameApp
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("textual"):
            raise
        raise typer.BadParameter(
            "the game needs Textual, which is not installed: pip install textual; --study does not need it"
        ) from None
    game = Game(seed, KeyDecoder(load_network(model), online_rate, seed=seed))
    if save is not None and save.exists():
        game.restore(save)
    if not sys.stdin.isatty():
        raise typer.BadParameter("the game needs a terminal to be played in; --study does not")
    GameApp(game, save).run()
    print(
        f"{sum(game.right[-20:])} of the last {len(game.right[-20:])} presses were decoded correctly"
        f" ({len(game.right)} in all)"
    )
    if save is not None:
        print(f"Resume with: treadle decode --save {save}")
