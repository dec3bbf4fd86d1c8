"""Data behind pictures that took a training: kept beside the code, with a hash of the source that made them."""

import dataclasses
import hashlib
import inspect
import io
import json
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "learned"
ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Learned:
    """What a training gave.

    Args:
        name: of its file.
        learn: trains, and gives what JSON can hold.
        reads: files from which it also takes code, relative to the repository.
        same: whether a second training says the same; pictures show conclusions, not digits.
    """

    name: str
    learn: Callable[[], Any]
    reads: tuple[str, ...] = ()
    same: Callable[[Any, Any], bool] = lambda old, new: old == new

    @property
    def path(self) -> Path:
        """The file."""
        return FOLDER / f"{self.name}.json"

    def data(self) -> Any:
        """What was learned, as it was kept."""
        return json.loads(self.path.read_text())["data"]

    def made_from(self) -> dict[str, str]:
        """A hash of each source of the training, as it is today."""
        own = inspect.getsource(self.learn)
        return {self.learn.__name__: _hash(own)} | {name: _hash((ROOT / name).read_text()) for name in self.reads}

    def changed(self) -> str:
        """The sources that are not those of the kept data."""
        kept = json.loads(self.path.read_text())["made_from"] if self.path.exists() else {}
        return ", ".join(name for name, value in self.made_from().items() if kept.get(name) != value)

    def is_current(self) -> bool:
        """Whether the kept data were made by today's source."""
        return not self.changed()

    def write(self) -> None:
        """Train, and keep what came out."""
        content = {"made_from": self.made_from(), "data": self.learn()}
        FOLDER.mkdir(exist_ok=True)
        self.path.write_text(json.dumps(content, separators=(",", ":")) + "\n")


def _hash(source: str) -> str:
    """Of what Python does with a source: comments, docstrings and the width of lines do not count."""
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENCODING)
    marks = {tokenize.INDENT: "{", tokenize.DEDENT: "}"}
    parts, statement = [], True
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.STRING and statement:
            continue  # a docstring
        statement = token.type in (*skipped, *marks)
        if token.type not in skipped:
            parts.append(marks.get(token.type, token.string))
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]
