"""`treadle run`: generate text with a trained network, or predict from data."""

import codecs
import csv
import itertools
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from treadle.atomic import all_or_none, replacing
from treadle.cli.options import MAX_SEED, check_outputs, no_stdout, use_one_thread, write_json

if TYPE_CHECKING:
    from treadle.training import WordModel


def run(
    model: Annotated[Path, typer.Argument(help="Network saved by treadle fit or treadle compare.")],
    data: Annotated[
        Path | None,
        typer.Argument(help="Data file to predict from (series, sequences), or text to score (networks of words)."),
    ] = None,
    series_id: Annotated[str | None, typer.Option(help="Column that names the series of each row (series).")] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File for the predictions, as CSV.", show_default="standard output"),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File for the scores of the predictions, as JSON; needs true values.")
    ] = None,
    prompt: Annotated[str, typer.Option(help="Text to continue.")] = "\n",
    count: Annotated[
        int | None, typer.Option("--bytes", min=0, help="Number of bytes to generate.", show_default="300")
    ] = None,
    words: Annotated[
        int | None,
        typer.Option(min=0, help="Number of words to generate (networks of words).", show_default="100"),
    ] = None,
    temperature: Annotated[
        float, typer.Option(help="Sampling temperature; 0 always takes the most likely byte or word.")
    ] = 0.8,
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="Random seed: the same seed generates the same text.")
    ] = 0,
) -> None:
    """Generate text with a language model, byte by byte or word by word; with DATA, print predictions or scores.

    Text starts with the prompt; a pipe gets the bytes as they are. Predictions are in the units of the data, a row
    for each of its rows, with its series, time and true values. Where there are true values, scores are printed.
    """
    from treadle.files import model_file
    from treadle.recipes.generate import generate, generate_words, printable
    from treadle.training import WordModel, require_language_model
    from treadle.training.word_model import has_vocabulary

    reads_words = has_vocabulary(model_file.read_notes(model))
    if data is not None and reads_words:
        if series_id is not None or output is not None:
            raise typer.BadParameter("--series-id and --output need a network of series or sequences: leave them out")
        score(WordModel.load(model), data, json_file)
        return
    use_one_thread()
    if data is not None:
        predict(model, data, series_id, output, json_file)
        return
    for name, value in {"--series-id": series_id, "--output": output, "--json": json_file}.items():
        if value is not None:
            raise typer.BadParameter(f"{name} needs a file of data: leave it out")
    if (count if reads_words else words) is not None:
        unit, option = ("words", "--words") if reads_words else ("bytes", "--bytes")
        raise typer.BadParameter(f"{model} writes {unit}: say how many with {option}")
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
    written: Iterator[bytes]
    if reads_words:
        read = start.decode(errors="replace")
        found = generate_words(WordModel.load(model), read, temperature=temperature, seed=seed)
        written = (word.encode() for word in itertools.islice(found, 100 if words is None else words))
    else:
        network = require_language_model(model_file.load(model), str(model))
        sampled = generate(network, start, temperature=temperature, seed=seed)
        written = (bytes([one.byte]) for one in itertools.islice(sampled, 300 if count is None else count))
    if start != b"\n":
        write(start)
    for part in written:
        write(part)
    write(b"" if decoder is None else b"\n", last=True)


def score(words: "WordModel", data: Path, json_file: Path | None) -> None:
    """Print how well a word-level language model predicts a text."""
    from treadle.streams import WordFile
    from treadle.training.word_scores import score_words

    check_outputs({"--json": no_stdout(json_file)}, [data])
    found = score_words(words.model, WordFile(data, words.vocabulary))
    verdict = found.verdict(f"{data}'s {found.words:,} words")
    if json_file is not None:
        write_json(json_file, {"format": "treadle run", "version": 1, "data": str(data), "scores": verdict.scores})
    print(verdict.sentence, file=sys.stderr if json_file == Path("-") else sys.stdout)


def predict(model: Path, data: Path, series_id: str | None, output: Path | None, json_file: Path | None) -> None:
    """Write predictions for a file, all of them or none, and their scores."""
    from treadle.training import Fitted
    from treadle.training.predictions import Predictions

    check_outputs({"--output": output, "--json": json_file}, [model, data])
    fitted = Fitted.load(model)
    if series_id is not None and Path(data).suffix.lower() == ".ts":
        raise typer.BadParameter(f"--series-id: {data} has no columns to choose from: leave it out")
    predictions = Predictions(fitted, data, series_id)
    with all_or_none(), tempfile.TemporaryFile("w+", newline="", encoding="utf-8") as kept:
        if output is not None:
            with replacing(output) as beside, open(beside, "w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(predictions)
        else:
            csv.writer(kept).writerows(predictions)
        tally = predictions.tally
        if json_file is not None:
            if not tally.scores:
                raise typer.BadParameter(f"--json: {data} has no true values to compare predictions with: leave it out")
            write_json(json_file, {"format": "treadle run", "version": 1, "data": str(data), "scores": tally.scores})
        kept.seek(0)
        shutil.copyfileobj(kept, sys.stdout)
    if tally.sentence:
        print(tally.sentence, file=sys.stderr)
