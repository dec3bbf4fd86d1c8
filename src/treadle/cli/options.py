"""What the subcommands share: reading option values, and refusing what cannot work before any time is spent on it."""

import contextlib
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import typer

from treadle.atomic import destination, write_whole

if TYPE_CHECKING:
    from rich.console import Console

    from treadle.recipes.compare import Budget


MAX_SEED = 2**63 - 1
MOST_LAYERS = 100
"""Of a network that is trained: far more than learn anything."""


def choices(option: str, text: str, known: Collection[str]) -> list[str]:
    """The names of a list such as ``skip,dense``; ``all`` is all that are known."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    if names == ["all"]:
        return list(known)
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"{option}: there is no {name!r}; choose from {', '.join(known)}, or all")
    return names


def choice(option: str, name: str, known: Collection[str]) -> str:
    """A name that is known."""
    if name not in known:
        raise typer.BadParameter(f"{option}: there is no {name!r}; choose one of {', '.join(known)}")
    return name


def parse_budget(text: str) -> "Budget":
    """The value of ``--budget``."""
    from treadle.recipes.compare import Budget

    try:
        return Budget.parse(text)
    except ValueError as error:
        raise typer.BadParameter(f"--budget: {error}") from None


class Length(NamedTuple):
    """How long something takes: one of the three."""

    seconds: float | None = None
    steps: int | None = None
    epochs: int | None = None

    def of(self, epoch_steps: int) -> dict[str, Any]:
        """In steps or in seconds, where an epoch has so many steps."""
        if self.epochs is not None:
            return {"steps": self.epochs * epoch_steps}
        return {"steps": self.steps} if self.steps is not None else {"seconds": self.seconds}


def parse_length(option: str, text: str) -> Length:
    """The value of an option that says how long: as ``--budget``, and ``50epochs``."""
    from treadle.recipes.compare import Budget

    epochs = re.fullmatch(r"(\d{1,9}) ?epochs?", text.strip(), re.ASCII)
    if epochs and int(epochs[1]):
        return Length(epochs=int(epochs[1]))
    try:
        budget = Budget.parse(text)
    except ValueError as error:
        raise typer.BadParameter(f"{option}: {error}, or of epochs such as 50epochs") from None
    return Length(budget.seconds, budget.steps)


def words(text: str | None) -> tuple[str, ...]:
    """The names of a list with commas."""
    return tuple(dict.fromkeys(word.strip() for word in (text or "").split(",") if word.strip()))


def check_outputs(outputs: dict[str, Path | None], inputs: Collection[Path | None] = ()) -> None:
    """Refuse files that cannot be written, by their options, or would be written twice or over inputs; None is no file.

    What is drawn, the file of ``--plot``, has to be a picture.
    """
    taken = {Path(os.path.realpath(path)): "the input" for path in inputs if path is not None}
    for option, path in outputs.items():
        if path is None:
            continue
        try:
            place = destination(path)
        except OSError as error:
            raise OSError(f"{option}: {error.strerror or error}") from None
        try:
            tempfile.TemporaryFile(dir=place.parent).close()
        except OSError as error:
            raise OSError(f"{option}: cannot write to the folder {path.parent}: {error.strerror}") from None
        if place in taken:
            raise typer.BadParameter(f"{option}: {path} is {taken[place]} already: name another file")
        taken[place] = f"the file of {option}"
    check_picture("--plot", outputs.get("--plot"))


def check_picture(option: str, path: Path | None) -> None:
    """Refuse a picture, if one is wanted, of a kind that cannot be drawn."""
    from treadle.insight.picture import SUFFIXES

    if path is not None and path.suffix.lower() not in SUFFIXES:
        raise typer.BadParameter(
            f"{option}: {path} must end in {' or '.join(SUFFIXES)}, the kinds of picture that can be drawn"
        )


def no_stdout(path: Path | None) -> Path | None:
    """A file to be written; None for ``-``, which is standard output."""
    return None if path == Path("-") else path


def write_json(path: Path, data: Any) -> None:
    """Write data as JSON to a file, all of it or nothing, or to standard output."""
    document = json.dumps(data, indent=2, allow_nan=False) + "\n"
    if path == Path("-"):
        sys.stdout.write(document)
    else:
        write_text(path, document)


def write_text(path: Path, text: str) -> None:
    """Write a text file, all of it or nothing."""
    write_whole(path, text.encode())


@contextlib.contextmanager
def noticing_interrupts() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C end training after the step it is at; a second one ends all. What is given says if there was one."""
    interrupted = False

    def notice(signal_number: int, frame: object) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True

    before = signal.signal(signal.SIGINT, notice)
    try:
        yield lambda: interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def console(stream: TextIO, quiet: bool = False) -> "Console":
    """Where to print for people; nowhere if ``quiet``. What is printed is taken literally: names may look like markup.

    A pipe has no width of its own, and a narrow table is a bad one.
    """
    from rich.console import Console

    return Console(
        file=stream, quiet=quiet, highlight=False, markup=False, soft_wrap=True, width=None if stream.isatty() else 120
    )


def exit_if(interrupted: bool, message: str = "") -> None:
    """End with the status of Ctrl-C if there was one, with a message on stderr."""
    if interrupted:
        if message:
            print(message, file=sys.stderr)
        raise typer.Exit(130)


@contextlib.contextmanager
def bar(what: str, count: int, *columns: Any) -> Iterator[tuple[Any, Any]]:
    """A progress bar on stderr and its one task; the last columns, if they are not the time that is left."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    first = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    progress = Progress(*first, *(columns or [TimeRemainingColumn()]), console=console(sys.stderr))
    task = progress.add_task(what, total=count)
    with progress:
        yield progress, task


def start_of_process() -> float:
    """About when this process began, on the clock of `time.monotonic`: importing PyTorch costs seconds of a budget."""
    return time.monotonic() - time.process_time()


def use_one_thread() -> None:
    """Keep PyTorch on one core: in products as small as these, threads wait for each other longer than they work."""
    import torch

    torch.set_num_threads(1)
