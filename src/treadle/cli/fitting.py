"""What training shows: a progress bar in the terminal, and logs for TensorBoard."""

import contextlib
import math
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

from treadle.errors import WorkerError
from treadle.training import Step
from treadle.training.task import Verdict


class Watch:
    """Follows a fit: with a bar, and with logs in a folder of TensorBoard's. What is read is the unit, as bytes."""

    def __init__(self, console: Any, unit: str, tensorboard: Path | None):
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns: list[Any] = [BarColumn(20), TextColumn("{task.fields[figures]}"), TimeRemainingColumn()]
        self._bar = Progress(*columns, TextColumn("left"), console=console)
        self._task = self._bar.add_task("training", total=1.0, figures="")
        self._unit, self._score = unit, ""
        self._writer = None if tensorboard is None else summary_writer(tensorboard)
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

    def follow(self, step: Step) -> None:
        """Show a step; stop with an error once training has diverged."""
        self.steps = step.step
        speed = step.inputs / step.seconds
        if step.score is not None:
            self._score = f"  validation {step.score:.4g}"
        bits = f"  {step.loss / math.log(2):.3f} bits/byte" if self._unit == "bytes" else ""
        figures = f"step {step.step}  loss {step.loss:.3f}{bits}{self._score}  {speed:,.0f} {self._unit}/s"
        self._bar.update(self._task, completed=min(step.share_done, 1), figures=figures)
        if not math.isfinite(step.loss):
            raise typer.BadParameter(f"training diverged in step {step.step}: pass a smaller --learning-rate")
        self.losses.append((step.step, step.loss))
        if step.score is not None:
            self.scores.append((step.step, step.score))
        if self._writer is not None:
            self._writer.add_scalar("loss/training", step.loss, step.step)
            self._writer.add_scalar("learning_rate", step.learning_rate, step.step)
            self._writer.add_scalar(f"{self._unit}_per_second", speed, step.step)
            if step.score is not None:
                self._writer.add_scalar("loss/validation", step.score, step.step)

    def judged(self, verdict: Verdict) -> None:
        """Log the scores of the trained network."""
        if self._writer is None:
            return
        for name, value in verdict.scores.items():
            self._writer.add_scalar(f"test/{name}", value, self.steps)


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
            "ended by SIGTERM, which torchrun sends when another of its processes has died: start it again; a run with"
            " --checkpoint resumes from its last checkpoint"
        ) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def summary_writer(folder: Path) -> Any:
    """What writes logs for TensorBoard."""
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        raise typer.BadParameter(
            "--tensorboard: the package tensorboard is not installed: pip install tensorboard"
        ) from None
    return SummaryWriter(str(folder))
