"""`treadle translate`: sequence to sequence: train an encoder-decoder on pairs of strings, and use it."""

import math
import sys
from pathlib import Path
from typing import Annotated

import typer

from treadle.atomic import all_or_none
from treadle.cli import options
from treadle.cli.training_options import (
    CheckpointEvery,
    CheckpointFile,
    Patience,
    Resume,
    Seed,
    TensorBoard,
    keeping,
    refuse_of_new,
    say_that_it_was_over,
)


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
        str | None,
        typer.Option(
            help="Sides tokenised into words instead of characters: neither, source, target, both.",
            show_default="neither",
        ),
    ] = None,
    budget: Annotated[str, typer.Option(help="Length of training: 90s, 2m, 300steps, 50epochs.")] = "5m",
    cell: Annotated[str | None, typer.Option(help="Cell of every layer: lstm, gru, rnn …", show_default="lstm")] = None,
    layers: Annotated[
        int | None,
        typer.Option(min=1, max=options.MOST_LAYERS, help="Number of layers of encoder and decoder.", show_default="1"),
    ] = None,
    hidden_size: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Hidden size of each layer.", show_default="128")
    ] = None,
    attention: Annotated[str | None, typer.Option(help="Attention: dot, additive or none.", show_default="dot")] = None,
    dropout: Annotated[
        float | None, typer.Option(min=0, max=0.99, help="Dropout in training.", show_default="0.1")
    ] = None,
    resume: Resume = None,
    forgetting: Annotated[
        float, typer.Option(min=0, max=1, help="Fraction of pairs whose state is reset at random steps in training.")
    ] = 0.3,
    label_smoothing: Annotated[float, typer.Option(min=0, max=0.99, help="Label smoothing.")] = 0.0,
    learning_rate: Annotated[float, typer.Option(min=0, help="Peak learning rate.")] = 0.003,
    weight_decay: Annotated[float, typer.Option(min=0, help="Weight decay (matrices only).")] = 0.01,
    rows: Annotated[int, typer.Option(min=1, help="Batch size, in pairs.")] = 64,
    validation: Annotated[
        float | None,
        typer.Option(min=0.001, max=0.9, help="Fraction of the pairs for the validation set.", show_default="0.1"),
    ] = None,
    patience: Patience = None,
    seed: Seed = 0,
    checkpoint: CheckpointFile = None,
    checkpoint_every: CheckpointEvery = "60s",
    tensorboard: TensorBoard = None,
    plot: Annotated[
        Path | None, typer.Option(help="Picture of the accuracy by length of the source: .svg or .png.")
    ] = None,
) -> None:
    """Train an encoder-decoder on pairs of strings; with --model, translate. Ctrl-C stops and saves it."""
    start = options.start_of_process()
    if (output is None) == (model is None):
        raise typer.BadParameter("pass '--output' MODEL to train on pairs, or '--model' MODEL to translate with it")

    from treadle.recipes.translate import Learning, Translator, make_pairs, read_pairs, read_sources, split
    from treadle.recipes.translate.pairs import VALIDATION, words_of
    from treadle.recipes.translate.tasks import COUNTS, is_task
    from treadle.recipes.translate.translator import SIDES, units_of

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

    from treadle.cli.fitting import check_tensorboard, watching
    from treadle.show.lengths import draw_accuracy_by_length
    from treadle.training import CELLS
    from treadle.training.budget import ShareDone
    from treadle.training.fit_run import contents
    from treadle.training.training_loop import refuse_checkpoint

    assert output is not None
    made = is_task(pairs)
    inputs = [None if made else Path(pairs), test, resume]
    options.check_outputs({"--output": output, "--plot": plot, "--checkpoint": checkpoint}, inputs)
    check_tensorboard(tensorboard)
    of_new = {"hidden_size": hidden_size, "cell": cell, "layers": layers, "attention": attention, "dropout": dropout}
    refuse_of_new(resume, {f"--{name.replace('_', '-')}": value for name, value in {"words": words, **of_new}.items()})
    design = {name: value for name, value in of_new.items() if value is not None}
    options.choice("--cell", cell or "lstm", CELLS)
    options.choice("--attention", attention or "dot", ("dot", "additive", "none"))
    words = options.choice("--words", words or "neither", SIDES)
    length = options.parse_length("--budget", budget)
    often = options.parse_length("--checkpoint-every", checkpoint_every)
    found = make_pairs(pairs, COUNTS[pairs], seed) if made else read_pairs(pairs)
    if resume is None and words == "neither" and not made and (count := words_of(found)):
        print(
            f"treadle: both sides look like words ({count[0]:,} and {count[1]:,} different ones): --words both reads"
            " and writes whole words",
            file=sys.stderr,
        )
    validation = VALIDATION if validation is None else validation
    training, held_out = split(found, validation, seed)
    judges = read_pairs(test) if test is not None else make_pairs(pairs, 2_000, seed, True) if made else held_out
    torch.manual_seed(seed)
    if resume is None:
        translator = Translator.new(found, *units_of(words), **design)
    else:
        translator = Translator.load(resume).learning_from(found, pairs)
    if test is not None:
        for i, pair in enumerate(judges, start=1):
            translator.reads(pair.source, f"{test}, line {i}: ")
    chosen = {"rows": rows, "learning_rate": learning_rate, "weight_decay": weight_decay, "forgetting": forgetting}
    chosen |= {"label_smoothing": label_smoothing, "patience": patience, "seed": seed}
    learning = Learning(translator, training, held_out, **chosen)
    about = {"task": pairs if made else None, "validation": validation, "words": words, **design, **chosen}
    about |= contents({"the data": None if made else pairs, "the file of --resume": resume})
    if checkpoint is not None:
        refuse_checkpoint(checkpoint, translator.model, about)
    size = sum(parameter.numel() for parameter in translator.model.parameters())
    err = options.console(sys.stderr)
    err.print(
        f"Training a network of {size:,} parameters on {pairs} ({len(training):,} pairs for training,"
        f" {len(held_out):,} for validation)."
    )
    with watching(err, "tokens", tensorboard) as watch:
        epoch_steps = len(learning.batches)
        share_done = ShareDone(**length.of(epoch_steps), start=start, stop=watch.interrupted)
        kept = keeping(checkpoint, often, epoch_steps)
        for step in learning.steps(share_done, about=about, evaluating=watch.evaluating, **kept):
            watch.follow(step)
        with all_or_none():
            translator.save(output)
            with watch.evaluating(say=True):
                right = translator.exact(judges, beams)
            share = math.fsum(right) / len(right)
            watch.judged({"exact_match": share})
            if plot is not None:
                lengths = [len(translator.source.encode(pair.source)) for pair in judges]
                longest = max(len(translator.source.encode(pair.source)) for pair in training)
                draw_accuracy_by_length(plot, {pairs if made else Path(pairs).name: (lengths, right)}, longest)
    whose = "test" if test is not None or made else "validation"
    print(f"{output}: exact match on {100 * share:.1f} % of {len(right):,} {whose} pairs after {learning.done} steps")
    if not watch.steps and not watch.interrupted():
        say_that_it_was_over(checkpoint)
    options.exit_if(watch.interrupted(), "treadle: interrupted; the network trained so far is saved")
