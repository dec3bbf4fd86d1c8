"""`treadle decode`: infer what a user's keys mean from the outcomes of guesses. A game, and a study."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from treadle.atomic import all_or_none
from treadle.cli.options import bar, check_outputs, console, exit_if, noticing_interrupts, use_one_thread


def decode(
    study: Annotated[
        bool, typer.Option("--study", help="Simulate users instead of playing, and print the accuracy of all decoders.")
    ] = False,
    learn: Annotated[
        Path | None, typer.Option(help="Train a network on simulated users, and write it to this file.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Network made with --learn; --learn resumes training from it.", show_default="the bundled one"
        ),
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
    learning_rate: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Learning rate of the weights while in use; at 0, only the state adapts to the user."
        ),
    ] = 0.0,
    rounds: Annotated[
        int, typer.Option(min=1, max=10**6, help="Number of training rounds, of 48 users each (with --learn).")
    ] = 250,
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
    check_outputs({"--output": output, "--plot": plot, "--learn": learn, "--save": save}, [model])
    use_one_thread()
    if learn is not None:
        learn_network(learn, model, rounds, seed, compiled)
    elif study:
        follow_users(users, presses, model, learning_rate, processes, output, plot)
    else:
        play(model, save, learning_rate, seed)


def learn_network(path: Path, model: Path | None, rounds: int, seed: int, compiled: bool) -> None:
    """Train on simulated users; the network so far is saved if interrupted."""
    from treadle.files import model_file
    from treadle.recipes.decode import load_network
    from treadle.recipes.decode.decoder_training import learn_users, new_network

    network = new_network(seed=seed) if model is None else load_network(model)
    with noticing_interrupts() as interrupted, bar("training", rounds) as (progress, task):
        number, right = 0, 0.0
        for done in learn_users(network, rounds, seed=seed, compiled=compiled):
            number, right = done.number, done.right
            progress.update(task, advance=1, description=f"training, accuracy {right:.2f}")
            if interrupted():
                break
    model_file.save(path, network, notes={"rounds": number, "seed": seed})
    print(f"{path}: after {number} rounds, {right:.0%} of the last round's presses were decoded correctly")
    exit_if(interrupted())


def follow_users(
    users: int,
    presses: int,
    model: Path | None,
    learning_rate: float,
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
    with noticing_interrupts() as interrupted, bar("simulating users", users) as (progress, task):
        for number, decoders in followed(users, presses, model, learning_rate, processes):
            found[number] = decoders
            progress.advance(task)
            if interrupted():
                break
    found = dict(sorted(found.items()))
    out = console(sys.stdout)
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
    exit_if(interrupted(), f"treadle: interrupted after {len(found)} of {users} users")


def play(model: Path | None, save: Path | None, learning_rate: float, seed: int) -> None:
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
    game = Game(seed, KeyDecoder(load_network(model), learning_rate, seed=seed))
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
