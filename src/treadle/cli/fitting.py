"""What training shows: a progress bar in a terminal, a line per validation elsewhere, and logs for TensorBoard."""

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

from treadle.cli.options import noticing_interrupts
from treadle.errors import WorkerError
from treadle.training import Step

SILENCE = 60.0
"""Seconds after which a line is written where there is no terminal, even if nothing was validated."""
EVALUATING = "evaluating…"

MEANINGS: dict[str, Callable[[float], str]] = {
    "bytes": lambda loss: f"  {loss / math.log(2):.3f} bits/byte",
    "words": lambda loss: f"  perplexity {math.exp(min(loss, 700)):,.1f}",  # beyond 700, there is no such number
}
"""The loss in the usual unit for what is read."""


class Watch:
    """Follows a training, and says when it is to end; see `watching`. What is read is the unit, as bytes."""

    def __init__(self, console: Any, unit: str, tensorboard: Path | None, interrupted: Callable[[], bool]):
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns: list[Any] = [BarColumn(20), TextColumn("{task.fields[figures]}"), TimeRemainingColumn()]
        self._bar = Progress(*columns, TextColumn("left"), console=console)
        self._task = self._bar.add_task("training", total=1.0, figures="")
        self._console, self._unit, self._figures, self._score = console, unit, "", ""
        self._said_at = time.monotonic()
        self._folder, self._writer = tensorboard, None
        self.interrupted = interrupted
        """Whether Ctrl-C was pressed."""
        self.losses: list[tuple[int, float]] = []
        self.scores: list[tuple[int, float]] = []
        self.steps = 0

    def __enter__(self) -> "Watch":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def follow(self, step: Step, note: str = "") -> None:
        """Show a step, with a note; stop with an error once training has diverged."""
        self.steps = step.step
        speed = step.inputs / step.seconds
        if step.score is not None:
            self._score = f"  validation {step.score:.4g}"
        meaning = MEANINGS[self._unit](step.loss) if self._unit in MEANINGS else ""
        note = note and f"  {note}"
        loss = f"loss {step.loss:.3f}{meaning}"
        self._figures = f"step {step.step}  {loss}{self._score}{note}  {speed:,.0f} {self._unit}/s"
        self._bar.update(self._task, completed=min(step.share_done, 1), figures=self._figures)
        if not math.isfinite(step.loss):
            raise typer.BadParameter(f"training diverged in step {step.step}: pass a smaller --learning-rate")
        if step.score is not None or time.monotonic() - self._said_at > SILENCE:
            self._say(self._figures)
        self.losses.append((step.step, step.loss))
        if step.score is not None:
            self.scores.append((step.step, step.score))
        if self._folder is not None:
            if self._writer is None:
                # A run that was killed may have logged steps that it now takes once more.
                self._writer = summary_writer_class()(str(self._folder), purge_step=step.step)
            self._writer.add_scalar("loss/training", step.loss, step.step)
            self._writer.add_scalar("learning_rate", step.learning_rate, step.step)
            self._writer.add_scalar(f"{self._unit}_per_second", speed, step.step)
            if step.score is not None:
                self._writer.add_scalar("loss/validation", step.score, step.step)

    @contextlib.contextmanager
    def evaluating(self, say: bool = False) -> Iterator[None]:
        """Show that it evaluates, as long as it does; ``say``: also where there is no terminal."""
        self._bar.update(self._task, figures=f"{self._figures}  {EVALUATING}".lstrip())
        if say:
            self._say(EVALUATING)
        try:
            yield
        finally:
            self._bar.update(self._task, figures=self._figures)

    def judged(self, scores: dict[str, float]) -> None:
        """Log the scores of the trained network, also when all else is over."""
        if self._folder is not None:
            writer = self._writer or summary_writer_class()(str(self._folder))
            for name, value in scores.items():
                writer.add_scalar(f"test/{name}", value, self.steps)
            writer.close()

    def _say(self, line: str) -> None:
        """Write a line where no bar moves."""
        if not self._console.is_terminal:
            self._console.print(line)
        self._said_at = time.monotonic()


class CurveLogs:
    """Logs for TensorBoard of many networks, each in a folder within the one that is given; None for none."""

    def __init__(self, folder: Path | None):
        self._folder, self._writers = folder, dict[str, Any]()

    def __enter__(self) -> "CurveLogs":
        return self

    def __exit__(self, *error: object) -> None:
        for writer in self._writers.values():
            writer.close()

    def add(self, network: str, step: int, scores: dict[str, float]) -> None:
        """Log the scores of a network at a step."""
        if self._folder is None:
            return
        if network not in self._writers:
            self._writers[network] = summary_writer_class()(str(self._folder / network), purge_step=step)
        for name, value in scores.items():
            self._writers[network].add_scalar(f"validation/{name}", value, step)


@contextlib.contextmanager
def watching(console: Any, unit: str, tensorboard: Path | None = None) -> Iterator[Watch]:
    """Follow a training: Ctrl-C ends it after the step that it is at, SIGTERM at once and with a line that says so."""
    with noticing_interrupts() as interrupted, noticing_termination() as check:

        def stopped() -> bool:
            check()
            return interrupted()

        with Watch(console, unit, tensorboard, stopped) as watch:
            yield watch


class _Terminated(BaseException):
    """Not an `Exception`: who falls back where an attempt fails must not take this for a failed attempt."""


@contextlib.contextmanager
def noticing_termination() -> Iterator[Callable[[], None]]:
    """Let SIGTERM end a fit with a line that says why, and with nothing half written left behind.

    It ends at once, or, where Python ignores exceptions (as in a finalizer), when what is given is called next.
    """
    terminated = False

    def notice(signal_number: int, frame: object) -> None:
        nonlocal terminated
        terminated = True
        check()

    def check() -> None:
        if terminated:
            raise _Terminated

    before = signal.signal(signal.SIGTERM, notice)
    try:
        yield check
    except _Terminated:
        raise WorkerError(
            "ended by SIGTERM, which torchrun sends when another of its processes has died, and schedulers when a job's"
            " time is over: start it again; a run with --checkpoint resumes from its last checkpoint"
        ) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def check_tensorboard(folder: Path | None) -> None:
    """Refuse a folder for TensorBoard's logs, if one is wanted, in which nothing can be written."""
    if folder is None:
        return
    if folder.exists() and not folder.is_dir():
        raise typer.BadParameter(f"--tensorboard: {folder} is not a folder: name another")
    summary_writer_class()


def summary_writer_class() -> Any:
    """What writes logs for TensorBoard."""
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        raise typer.BadParameter(
            "--tensorboard: the package tensorboard is not installed: pip install tensorboard"
        ) from None
    return SummaryWriter
