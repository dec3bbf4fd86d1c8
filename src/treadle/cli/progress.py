"""How far long work is."""

import sys
from typing import Any

from treadle.cli.options import console


class bar:
    """A progress bar on stderr, and its one task."""

    def __init__(self, what: str, count: int):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
        self._progress = Progress(*columns, console=console(sys.stderr))
        self._task = self._progress.add_task(what, total=count)

    def __enter__(self) -> Any:
        self._progress.start()
        return self._progress, self._task

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
