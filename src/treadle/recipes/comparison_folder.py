"""A comparison that can be killed: a folder with a checkpoint for each network, and what all of them have in common."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from treadle.atomic import write_whole
from treadle.errors import ModelFileError
from treadle.files.checkpoint import check_same
from treadle.files.lock import locked

NAME = "comparison.json"
KIND = "treadle comparison"


class ComparisonFolder:
    """The folder of a comparison. The number of steps is decided once, so that a resumed comparison has the same.

    Args:
        path: the folder; it is made, if it is not there.
        about: what all networks of the comparison have in common, as numbers and words.

    Raises:
        ModelFileError: it is the folder of another comparison, or another one is using it.
        OSError: it cannot be written to.

    Example:
        >>> from treadle.recipes.comparison_folder import ComparisonFolder
        >>> for budget in (300, 200):
        ...     with ComparisonFolder("comparison", {"data": "tides.csv"}).held() as folder:
        ...         print(folder.steps(lambda: budget))
        300
        300
    """

    def __init__(self, path: str | os.PathLike[str], about: Mapping[str, Any]):
        self.path, self._about = Path(path), dict(about)

    @contextlib.contextmanager
    def held(self) -> Iterator["ComparisonFolder"]:
        """Keep other comparisons from it."""
        self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path / NAME):
            there = self._read()
            if there is not None:
                check_same(self.path, there["about"], self._about)
            yield self

    def steps(self, decide: Callable[[], int]) -> int:
        """How many steps each network has: what was decided when the comparison began."""
        there = self._read()
        if there is not None:
            return there["steps"]
        steps = decide()
        data = {"format": KIND, "about": self._about, "steps": steps}
        write_whole(self.path / NAME, (json.dumps(data, indent=1) + "\n").encode())
        return steps

    def _read(self) -> dict[str, Any] | None:
        file = self.path / NAME
        try:
            found = json.loads(file.read_bytes())
            if found["format"] != KIND or type(found["steps"]) is not int or found["steps"] < 1:
                raise ValueError
            return {"about": found["about"], "steps": found["steps"]}
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError):
            raise ModelFileError(f"{file} is damaged, or of something else: name another folder") from None
