"""`treadle decode`: find out what somebody's keys mean, from what comes of guesses. A game, and a study."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from treadle.atomic import all_or_none
from treadle.cli.options import bar, check_outputs, console, exit_if, noticing_interrupts, use_one_thread


def decode(
    study: Annotated[bool, typer.Option("--study", help="Follow simulated users instead of playing.")] = False,
    learn: Annotated[
        Path | None, typer.Option(help="Learn how users are from simulated ones, and write the network here.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Use this network, made with --learn, not the bundled one. With --learn: resume from it."),
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Keep the game here, and resume it next time.")] = None,
    users: Annotated[int, typer.Option(min=1, max=10_000, help="How many, with --study.")] = 100,
    presses: Annotated[
        int, typer.Option(min=25, max=100_000, help="Of each, before all keys change their meanings, and again after.")
    ] = 300,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write all that came of the study here, as JSON.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the study here, .svg or .png.")] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Users followed at the same time.", show_default="one a core")
    ] = None,
    learning_rate: Annotated[
        float, typer.Option(min=0, max=1, help="With which weights go on learning from one user, besides the memory.")
    ] = 0.0,
    rounds: Annotated[int, typer.Option(min=1, max=10**6, help="With --learn: of 48 users each.")] = 250,
    compiled: Annotated[
        bool, typer.Option("--compile", help="With --learn: compile first, which takes minutes, and learn faster.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, max=10**6, help="Of the game's world, or of --learn.")] = 0,
) -> None:
    """A network learns what your keys mean while you play, from nothing but what comes of its guesses."""
    if study and learn is not None:
        raise typer.BadParameter("--study and --learn are two commands: first --learn FILE, then --study --model FILE")
    for option, given in (("--output", output), ("--plot", plot)):
        if given is not None and not study:
            raise typer.BadParameter(f"{option}: there is something to write with --study only")
    if save is not None and (study or learn is not None):
        raise typer.BadParameter("--save keeps a game: leave it out with --study and --learn")
    check_outputs({"--output": output, "--plot": plot, "--learn": learn, "--save": save}, [model])
    use_one_thread()
    if learn is not None:
        learn_network(learn, model, rounds, seed, compiled)
    elif study:
        follow_users(users, presses, model, learning_rate, processes, output, plot)
    else:
        play(model, save, learning_rate, seed)


def learn_network(path: Path, model: Path | None, rounds: int, seed: int, compiled: bool) -> None:
    """Learn from simulated users; what was learned is kept if interrupted."""
    from treadle.files import model_file
    from treadle.recipes.decode import load_network
    from treadle.recipes.decode.decoder_training import learn_users, new_network

    network = new_network(seed=seed) if model is None else load_network(model)
    with noticing_interrupts() as interrupted, bar("learning", rounds) as (progress, task):
        number, right = 0, 0.0
        for done in learn_users(network, rounds, seed=seed, compiled=compiled):
            number, right = done.number, done.right
            progress.update(task, advance=1, description=f"learning, right {right:.2f}")
            if interrupted():
                break
    model_file.save(path, network, notes={"rounds": number, "seed": seed})
    print(f"{path}: after {number} rounds, {right:.0%} of all presses of the last one were decoded rightly")
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
    """All decoders with simulated users; tables of what came of it."""
    from rich.table import Table

    from treadle.recipes.decode import load_network
    from treadle.recipes.decode import study as followed
    from treadle.recipes.decode.report import draw_study, moments, rows, summarise, write_study

    load_network(model)  # refused here, rather than in another process
    found: dict[int, Any] = {}
    with noticing_interrupts() as interrupted, bar("following users", users) as (progress, task):
        for number, decoders in followed(users, presses, model, learning_rate, processes):
            found[number] = decoders
            progress.advance(task)
            if interrupted():
                break
    found = dict(sorted(found.items()))
    out = console(sys.stdout)
    head, *body = rows(found)
    table = Table(*head, title=f"{len(found)} users: right, of what is attainable on the same 50 presses; and bits")
    for row in body:
        table.add_row(*row)
    out.print(table)
    columns = ("", "presses", "all", "standard error", "least", "a tenth below", "half below", "users with 0.95")
    spread = Table(*columns, title="from user to user")
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
            "the game needs Textual, which is not installed: pip install textual; --study goes without"
        ) from None
    game = Game(seed, KeyDecoder(load_network(model), learning_rate, seed=seed))
    if save is not None and save.exists():
        game.restore(save)
    if not sys.stdin.isatty():
        raise typer.BadParameter("the game needs a terminal to be played in; --study goes without")
    GameApp(game, save).run()
    print(f"{sum(game.right[-20:])} of the last {len(game.right[-20:])} presses were right, of {len(game.right)}")
    if save is not None:
        print(f"treadle decode --save {save} goes on from here")
