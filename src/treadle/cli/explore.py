"""`treadle explore`: make a page on which a person sees which value of a network goes where."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from treadle.cli import options

if TYPE_CHECKING:
    from treadle.recipes.explore import Design, Letters, Numbers

LONGEST = 2000


def explore(
    networks: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL|WIRING]...",
            help="Saved networks, or names of wirings (small networks, trained on the data), or all.",
            show_default="stack relay",
        ),
    ] = None,
    text: Annotated[Path | None, typer.Option(help="Text file to read.", show_default="a small built-in text")] = None,
    series: Annotated[
        Path | None, typer.Option(help="Table of numbers to read, one row per step: .csv, .tsv or .parquet.")
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="File for the page.")] = Path("treadle-explorer.html"),
    length: Annotated[int, typer.Option(min=2, max=LONGEST, help="Number of time steps shown.")] = 80,
    steps: Annotated[
        int, typer.Option(min=0, max=10**6, help="Training steps of each small network; 0 leaves it untrained.")
    ] = 600,
    cell: Annotated[str, typer.Option(help="Cell of the small networks.")] = "lstm",
    layers: Annotated[int, typer.Option(min=1, max=20, help="Number of layers of the small networks.")] = 3,
    hidden: Annotated[int, typer.Option(min=1, max=512, help="Hidden size of the small networks.")] = 16,
    seed: Annotated[int, typer.Option(min=0, max=options.MAX_SEED, help="Random seed.")] = 0,
) -> None:
    """Make one HTML page that shows how a network works: wiring, gates, states, gradients and what if, step by step."""
    from treadle.recipes.explore import Design
    from treadle.training import CELLS

    names = chosen(networks or ["stack", "relay"])
    options.choice("--cell", cell, CELLS)
    if text is not None and series is not None:
        raise typer.BadParameter("pass '--text' or '--series', not both: a page shows one kind of data")
    options.check_outputs({"--output": output}, [text, series, *(Path(name) for name in names.values())])
    options.use_one_thread()
    page = make_page(names, text, series, length, steps, Design(cell, layers, hidden), seed)
    page.save(output)
    print(f"The page is {output.resolve()}: open it in a browser")


def chosen(words: list[str]) -> dict[str, str]:
    """What each network is called on the page, and the wiring or file that it is."""
    from treadle import WIRINGS

    words = [name for word in words for name in (WIRINGS if word == "all" else [word])]
    found: dict[str, str] = {}
    for word in words:
        if word not in WIRINGS and not Path(word).exists():
            raise typer.BadParameter(
                f"there is neither a file nor a wiring {word!r}; the wirings are {', '.join(WIRINGS)}"
            )
        name = word if word in WIRINGS else Path(word).stem
        if name in found:
            raise typer.BadParameter(f"two networks are called {name!r}: name each once, or rename a file")
        found[name] = word
    return found


def make_page(
    names: dict[str, str], text: Path | None, series: Path | None, length: int, steps: int, design: "Design", seed: int
) -> Any:
    """The page of all networks."""
    from treadle import WIRINGS
    from treadle.files import model_file
    from treadle.recipes.explore import built_in_text, read_letters, read_numbers, shown_to
    from treadle.show.explorer_data import explorer_data
    from treadle.show.exploring import Explorer

    letters = read_letters(text) if text is not None else None
    material = read_numbers(series) if series is not None else letters or built_in_text()
    models, xs, words = {}, {}, {}
    for name, word in names.items():
        if word in WIRINGS:
            models[name] = trained(material, name, design, steps, seed)
            xs[name], labels = material.shown(length)
            words[name] = labels, material.features
        else:
            models[name] = model_file.load(word)
            xs[name], *words[name] = shown_to(models[name], word, letters, series, length)
    try:
        return Explorer(explorer_data(models, xs, words, title=f"treadle: {', '.join(names)}"))
    except TypeError as error:
        raise typer.BadParameter(f"a network cannot be explored: {error}") from error


def trained(material: "Letters | Numbers", wiring: str, design: "Design", steps: int, seed: int) -> Any:
    """A small network that has learned the material."""
    import torch

    from treadle.recipes.explore import small_network, train_small

    torch.manual_seed(seed)
    rnn = small_network(material, wiring, design)
    if steps:
        loss = 0.0
        with options.bar(f"training {wiring}", steps) as (progress, task):
            for loss in train_small(rnn, material, steps, seed):
                progress.update(task, advance=1, description=f"training {wiring}, loss {loss:.2f}")
        print(f"{wiring}: loss {loss:.3f} after {steps} training steps", file=sys.stderr)
    return rnn.eval()
