"""`treadle run`: let a trained network write, or say what it thinks of data."""

import codecs
import csv
import itertools
import sys
from pathlib import Path
from typing import Annotated

import typer

from treadle.cli.options import MAX_SEED, use_one_thread


def run(
    model: Annotated[Path, typer.Argument(help="A network that treadle fit or treadle compare saved.")],
    data: Annotated[
        Path | None, typer.Argument(help="For one of series or sequences: a file of these, to predict from.")
    ] = None,
    series_id: Annotated[str | None, typer.Option(help="Series: the column that tells them apart.")] = None,
    prompt: Annotated[str, typer.Option(help="What it continues.")] = "\n",
    count: Annotated[int, typer.Option("--bytes", min=0, help="How much to write.")] = 300,
    temperature: Annotated[
        float, typer.Option(help="Lower is more cautious; 0 always takes the likeliest byte.")
    ] = 0.8,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of the draws: the same seed writes the same.")] = 0,
) -> None:
    """Stream what a network writes, each byte as it is made; prompt first. Into a pipe go the bytes as they are.

    With DATA: what the network predicts from it, as CSV, in the units of the data.
    """
    from treadle.files import model_file
    from treadle.recipes.generate import generate, printable
    from treadle.training import Fitted, require_language_model
    from treadle.training.fitted import check_readable, predictions

    use_one_thread()
    if series_id is not None and data is None:
        raise typer.BadParameter("--series-id has a meaning with a file of series only: leave it out")
    if data is not None:
        fitted = Fitted.load(model)
        if series_id is not None and fitted.horizon is None:
            raise typer.BadParameter(f"--series-id: {model} reads sequences, not series: leave it out")
        check_readable(data, fitted)
        rows = list(predictions(fitted, data, series_id))  # all or none
        csv.writer(sys.stdout).writerows(rows)
        return
    network = require_language_model(model_file.load(model), str(model))
    # A terminal gets text: half a character would show as rubbish, and control characters can do harm.
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace") if sys.stdout.isatty() else None

    def write(data: bytes, last: bool = False) -> None:
        if decoder is None:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        else:
            sys.stdout.write(printable(decoder.decode(data, last)))
            sys.stdout.flush()

    start = prompt.encode("utf-8", errors="surrogateescape")
    written = generate(network, start, temperature=temperature, seed=seed)
    if start != b"\n":
        write(start)
    for one in itertools.islice(written, count):
        write(bytes([one.byte]))
    write(b"" if decoder is None else b"\n", last=True)
