"""`treadle fit`: train one network on a text."""

import math
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from treadle.cli.options import (
    check_outputs,
    choice,
    console,
    noticing_interrupts,
    parse_budget,
    start_of_process,
    use_one_thread,
)


def fit(
    file: Annotated[Path, typer.Argument(help="The text to learn.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the network goes, such as model.safetensors.")],
    cell: Annotated[str | None, typer.Option(help="The cell.", show_default="lstm")] = None,
    wiring: Annotated[str | None, typer.Option(help="How layers connect.", show_default="stack")] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Layers.", show_default="2")] = None,
    parameters: Annotated[
        int | None, typer.Option(min=1, max=10**9, help="Parameters, to within 2 %.", show_default="200000")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on from this network instead of a new one.")] = None,
    budget: Annotated[str, typer.Option(help="How long to train (90s, 2m), or how many steps (300steps).")] = "2m",
    window: Annotated[int, typer.Option(min=1, help="Bytes over which gradients reach back.")] = 64,
    learning_rate: Annotated[float, typer.Option(min=0, help="The highest.")] = 0.01,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of the start.")] = 0,
) -> None:
    """Train one byte-level language model on a text; Ctrl-C keeps what is learned so far."""
    start = start_of_process()
    import torch
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from treadle import WIRINGS, modelfile
    from treadle import training as t
    from treadle.training.fit import ROWS, start_from_frequencies
    from treadle.training.language_model import parameter_count

    allowed = parse_budget(budget)
    check_outputs({"--output": output}, [file])
    given = {"--cell": cell, "--wiring": wiring, "--layers": layers, "--parameters": parameters}
    text = t.read_text(file)
    text.check_length(ROWS, window)
    if resume is not None:
        extra = [option for option, value in given.items() if value is not None]
        if extra:
            raise typer.BadParameter(f"{extra[0]}: what --resume goes on from has that already; leave it out")
        model = t.require_language_model(modelfile.load(resume), str(resume))
    else:
        cell, wiring = choice("--cell", cell or "lstm", t.CELLS), choice("--wiring", wiring or "stack", WIRINGS)
        hidden_size, _ = t.match_hidden_size(cell, wiring, layers or 2, parameters or 200_000)
        torch.manual_seed(seed)
        model = t.language_model(cell, wiring, layers or 2, hidden_size)
        start_from_frequencies(model, text)
    use_one_thread()
    err = console(sys.stderr)
    err.print(
        f"A network of {parameter_count(model):,} parameters learns from {text.name} ({len(text.training):,} bytes)."
    )

    columns: list[Any] = [BarColumn(20), TextColumn("{task.fields[figures]}"), TimeRemainingColumn()]
    with noticing_interrupts() as interrupted, Progress(*columns, TextColumn("left"), console=err) as bar:
        task = bar.add_task("training", total=1.0, figures="")
        steps = 0

        def done(step: int) -> float:
            """How much of the budget is used; a first step there is always."""
            if allowed.seconds is None:
                return step / (allowed.steps or 1)
            return (time.monotonic() - start) / allowed.seconds if step else 0

        for progress in t.fit(model, text, share_done=done, window=window, learning_rate=learning_rate, seed=seed):
            steps = progress.step
            bits, speed = progress.training_bits, ROWS * window / progress.seconds
            figures = f"step {progress.step}  loss {bits * math.log(2):.3f}  {bits:.3f} bits/byte  {speed:,.0f} bytes/s"
            bar.update(task, completed=min(done(progress.step), 1), figures=figures)
            if not math.isfinite(bits):
                raise typer.BadParameter(f"training diverged in step {steps}: give a smaller --learning-rate")
            if interrupted():
                break
        modelfile.save(output, model.eval())
    bits = t.bits_per_byte(model, text.scored_rows())
    print(f"{output}: {bits:.3f} bits per byte of held-out text after {steps} steps")
    if interrupted():
        print("treadle: interrupted; what was learned so far is saved", file=sys.stderr)
        raise typer.Exit(130)
