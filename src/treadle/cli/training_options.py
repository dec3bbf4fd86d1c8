"""The options that training commands share, and what they keep of a run, so that it can be resumed."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from treadle.cli import options
from treadle.errors import TreadleError

Seed = Annotated[int, typer.Option(min=0, max=options.MAX_SEED, help="Random seed.")]
CheckpointFile = Annotated[
    Path | None, typer.Option(help="Checkpoint file: written during training, resumed from if it exists.")
]
CheckpointEvery = Annotated[str, typer.Option(help="Interval between checkpoints: 60s, 100steps.")]
TensorBoard = Annotated[Path | None, typer.Option(help="Folder for TensorBoard logs.")]
Resume = Annotated[
    Path | None, typer.Option(help="Saved network to train further (fine-tuning), instead of a new one.")
]
Patience = Annotated[
    int | None, typer.Option(min=1, help="Early stopping after this many validations without a new best.")
]


def refuse_of_new(resume: Path | None, of_new: dict[str, Any]) -> None:
    """Refuse options of a new network, by name, where one is trained further."""
    for option, value in of_new.items():
        if resume is not None and value is not None:
            raise typer.BadParameter(f"{option}: the network of --resume {resume} has its own already; leave it out")


def keeping(checkpoint: Path | None, often: options.Length, epoch_steps: int) -> dict[str, Any]:
    """What `treadle.training.train` has to know of a checkpoint."""
    from treadle.training.budget import every

    return {"checkpoint": checkpoint, "checkpoint_at": every(**often.of(epoch_steps))}


def check_folder(checkpoint: Path | None) -> None:
    """Refuse what cannot be a folder of checkpoints."""
    if checkpoint is None:
        return
    if checkpoint.exists() and not checkpoint.is_dir():
        raise typer.BadParameter(
            f"--checkpoint: {checkpoint} is a file, but a comparison keeps a folder of them: name another"
        )
    options.check_outputs({"--checkpoint": checkpoint / "comparison.json" if checkpoint.exists() else checkpoint})


def say_that_it_was_over(checkpoint: Path | None) -> None:
    """What there is to say of a run that had nothing left to train."""
    print(
        f"treadle: {checkpoint} holds this run, which is complete: nothing was left to train. To train longer, pass a"
        " longer --budget (or a larger --patience); to start over, another --checkpoint",
        file=sys.stderr,
    )


def check_on(on: str | None) -> None:
    """Refuse a cluster that is not known, or for which something is not installed, before any data is read."""
    if on is None:
        return
    from treadle.training.ray_cluster import check_installed

    options.choice("--on", on, ("ray",))
    try:
        check_installed()
    except TreadleError as error:
        raise typer.BadParameter(f"--on {on}: {error}") from None
