"""`treadle translate`: sequence to sequence: train an encoder-decoder on pairs of strings, and use it."""

import math
import sys
from pathlib import Path
from typing import Annotated

import typer

from treadle.atomic import all_or_none
from treadle.cli import options


def translate(
    pairs: Annotated[
        str,
        typer.Argument(
            help="Training pairs, a file of lines SOURCE<TAB>TARGET, or the name of a task: dates, reverse, sort."
            " With --model: a file of sources to translate, one per line; - is standard input."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File for the trained network, such as model.safetensors.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Trained network to translate with, instead of training one.")
    ] = None,
    beams: Annotated[int, typer.Option(min=1, max=1000, help="Beam width of beam search; 1 is greedy decoding.")] = 1,
    test: Annotated[
        Path | None, typer.Option(help="File of pairs for the test set.", show_default="the validation set")
    ] = None,
    words: Annotated[
        str, typer.Option(help="Sides tokenised into words instead of characters: neither, source, target, both.")
    ] = "neither",
    budget: Annotated[str, typer.Option(help="Length of training: 90s, 2m, 300steps, 50epochs.")] = "5m",
    cell: Annotated[str, typer.Option(help="Cell of every layer: lstm, gru, rnn …")] = "lstm",
    layers: Annotated[
        int, typer.Option(min=1, max=options.MOST_LAYERS, help="Number of layers of encoder and decoder.")
    ] = 1,
    hidden_size: Annotated[int, typer.Option(min=1, max=10_000, help="Hidden size of each layer.")] = 128,
    attention: Annotated[str, typer.Option(help="Attention: dot, additive or none.")] = "dot",
    dropout: Annotated[float, typer.Option(min=0, max=0.99, help="Dropout in training.")] = 0.1,
    forgetting: Annotated[
        float, typer.Option(min=0, max=1, help="Fraction of pairs whose state is reset at random steps in training.")
    ] = 0.3,
    label_smoothing: Annotated[float, typer.Option(min=0, max=0.99, help="Label smoothing.")] = 0.0,
    learning_rate: Annotated[float, typer.Option(min=0, help="Peak learning rate.")] = 0.003,
    rows: Annotated[int, typer.Option(min=1, help="Batch size, in pairs.")] = 64,
    validation: Annotated[
        float, typer.Option(min=0.001, max=0.9, help="Fraction of the pairs for the validation set.")
    ] = 0.1,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Early stopping after this many validations without a new best.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=options.MAX_SEED, help="Random seed.")] = 0,
    plot: Annotated[
        Path | None, typer.Option(help="Picture of the accuracy by length of the source: .svg or .png.")
    ] = None,
) -> None:
    """Train an encoder-decoder on pairs of strings; with --model, translate. Ctrl-C stops and saves it."""
    start = options.start_of_process()
    if (output is None) == (model is None):
        raise typer.BadParameter("pass '--output' MODEL to train on pairs, or '--model' MODEL to translate with it")

    from treadle.recipes.translate import TASKS, Learning, Translator, make_pairs, read_pairs, read_sources, split
    from treadle.recipes.translate.tasks import COUNTS

    options.use_one_thread()
    if model is not None:
        translator = Translator.load(model)
        sources, targets = read_sources(pairs)
        said = translator.translate(sources, beams, "standard input" if pairs == "-" else pairs)
        for text in said:
            print(text)
        if targets is not None:
            right = sum(a == translator.plain(b) for a, b in zip(said, targets, strict=True))
            share = 100 * right / len(said)
            print(f"treadle: exact match on {share:.1f} % of {len(said)} targets", file=sys.stderr)
        return

    import torch

    from treadle.cli.fitting import Watch
    from treadle.show.lengths import draw_accuracy_by_length
    from treadle.training import CELLS
    from treadle.training.budget import ShareDone

    assert output is not None
    made = pairs in TASKS and not Path(pairs).exists()
    options.check_outputs({"--output": output, "--plot": plot}, [None if made else Path(pairs), test])
    options.choice("--cell", cell, CELLS)
    options.choice("--attention", attention, ("dot", "additive", "none"))
    options.choice("--words", words, ("neither", "source", "target", "both"))
    length = options.parse_length("--budget", budget)
    found = make_pairs(pairs, COUNTS[pairs], seed) if made else read_pairs(pairs)
    training, held_out = split(found, validation, seed)
    judges = read_pairs(test) if test is not None else make_pairs(pairs, 2_000, seed, True) if made else held_out
    torch.manual_seed(seed)
    design = {"hidden_size": hidden_size, "cell": cell, "layers": layers, "attention": attention, "dropout": dropout}
    units = ["words" if words in (side, "both") else "characters" for side in ("source", "target")]
    translator = Translator.new(found, *units, **design)
    if test is not None:
        for i, pair in enumerate(judges, start=1):
            translator.reads(pair.source, f"{test}, line {i}: ")
    chosen = {"rows": rows, "learning_rate": learning_rate, "label_smoothing": label_smoothing}
    learning = Learning(translator, training, held_out, forgetting=forgetting, patience=patience, seed=seed, **chosen)
    size = sum(parameter.numel() for parameter in translator.model.parameters())
    err = options.console(sys.stderr)
    err.print(
        f"Training a network of {size:,} parameters on {pairs} ({len(training):,} pairs for training,"
        f" {len(held_out):,} for validation)."
    )
    with options.noticing_interrupts() as interrupted, Watch(err, "tokens", None) as watch:
        lasts = length.of(len(learning.batches))
        for step in learning.steps(ShareDone(**lasts, start=start, stop=interrupted)):
            watch.follow(step)
    with all_or_none():
        translator.save(output)
        right = translator.exact(judges, beams)
        if plot is not None:
            lengths = [len(translator.source.encode(pair.source)) for pair in judges]
            longest = max(len(translator.source.encode(pair.source)) for pair in training)
            draw_accuracy_by_length(plot, {pairs if made else Path(pairs).name: (lengths, right)}, longest)
    whose = "test" if test is not None or made else "validation"
    share = 100 * math.fsum(right) / len(right)
    print(f"{output}: exact match on {share:.1f} % of {len(right):,} {whose} pairs after {learning.done} steps")
    options.exit_if(interrupted(), "treadle: interrupted; the network trained so far is saved")
