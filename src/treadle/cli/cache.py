"""`treadle cache`: the compiled kernels on this machine's disk."""

from pathlib import Path
from typing import Annotated

import typer

from treadle.cli.options import choices


def cache(
    models: Annotated[list[Path] | None, typer.Argument(help="Saved networks (with --warm).")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Delete the kernels.")] = False,
    warm: Annotated[
        bool, typer.Option("--warm", help="Compile what the networks need, so that no later process has to.")
    ] = False,
    training: Annotated[bool, typer.Option("--training", help="Compile the backward pass, too (with --warm).")] = False,
    batch_size: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            max=1 << 16,
            help="Batch size to compile for (with --warm); may be repeated.",
            show_default="1 and 32",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Weights of sessions (with --warm), comma-separated: float32, bfloat16, int8, or all.",
            show_default="float32",
        ),
    ] = None,
) -> None:
    """Show the folder and size of the cache of compiled kernels, delete them, or compile ahead for a deployment.

    Deleted kernels are compiled again when they are needed. The environment variable TREADLE_CACHE sets another
    folder. With --warm, the kernels of each network's sequences and live sessions are compiled for this CPU, with
    as many threads as PyTorch has here and with one.
    """
    from treadle.engines.cpu.machine import disk_cache
    from treadle.running.snapshot import WEIGHTS

    if warm:
        if clear:
            raise typer.BadParameter("--clear deletes what --warm makes: pass one of them")
        if not models:
            raise typer.BadParameter("--warm needs the networks to compile: pass files saved by treadle")
        _warm(models, training, batch_size or [1, 32], choices("--weights", weights or "float32", WEIGHTS))
        return
    for option, value in {
        "MODELS": models,
        "--training": training,
        "--batch-size": batch_size,
        "--weights": weights,
    }.items():
        if value:
            raise typer.BadParameter(f"{option}: only --warm compiles: pass '--warm', too")
    kernels, size = disk_cache.clear() if clear else disk_cache.size()
    print(f"folder   {disk_cache.folder()}")
    print(f"{'deleted' if clear else 'kernels'}  {kernels}")
    print(f"{'freed' if clear else 'size'}{'':<{4 if clear else 5}}{size / 1e6:.2f} MB")


def _warm(models: list[Path], training: bool, batch_sizes: list[int], weights: list[str]) -> None:
    """Compile for each network; a line for each."""
    from treadle.cli.warming import Warming
    from treadle.engines.cpu.machine import disk_cache

    disk_cache.require_writable()
    # All files are read before time is spent on any.
    runs = [(path, Warming(path, training, batch_sizes, weights)) for path in dict.fromkeys(models)]
    for path, warming in runs:
        print(f"{path}: {warming.run()}", flush=True)
