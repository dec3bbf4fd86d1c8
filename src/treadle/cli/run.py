"""`treadle run`: generate text with a trained network, or predict from data."""

import codecs
import csv
import itertools
import sys
from pathlib import Path
from typing import Annotated

import typer

from treadle.cli.options import MAX_SEED, use_one_thread


def run(
    model: Annotated[Path, typer.Argument(help="Network saved by treadle fit or treadle compare.")],
    data: Annotated[
        Path | None, typer.Argument(help="Data file to predict from (networks trained on series or sequences).")
    ] = None,
    series_id: Annotated[str | None, typer.Option(help="Column that names the series of each row (series).")] = None,
    prompt: Annotated[str, typer.Option(help="Text to continue.")] = "\n",
    count: Annotated[int, typer.Option("--bytes", min=0, help="Number of bytes to generate.")] = 300,
    temperature: Annotated[
        float, typer.Option(help="Sampling temperature; 0 always takes the most likely byte.")
    ] = 0.8,
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="Random seed: the same seed generates the same text.")
    ] = 0,
) -> None:
    """Generate text with a language model, byte by byte; with DATA, print a network's predictions as CSV.

    Text starts with the prompt; a pipe gets the bytes as they are. Predictions are in the units of the data.
    """
    from treadle.files import model_file
    from treadle.recipes.generate import generate, printable
    from treadle.training import Fitted, require_language_model
    from treadle.training.fitted import check_readable, predictions

    use_one_thread()
    if series_id is not None and data is None:
        raise typer.BadParameter("--series-id needs a file of series: leave it out")
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
