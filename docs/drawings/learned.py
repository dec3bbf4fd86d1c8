"""Data behind pictures that took a training: kept beside the code, with a hash of the source that made them."""

import dataclasses
import dis
import hashlib
import inspect
import io
import json
import tokenize
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any

FOLDER = Path(__file__).parent / "learned"
ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Learned:
    """What a training gave.

    Args:
        name: of its file.
        learn: trains, and gives what JSON can hold. What it uses of its own file counts as its source, too.
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
        return _own_sources(self.learn) | {name: _hash((ROOT / name).read_text()) for name in self.reads}

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


def _own_sources(function: Callable[..., Any]) -> dict[str, str]:
    """Of a function, and of the functions and constants of its own file that it uses: hashes, and what they are."""
    found: dict[str, str] = {}
    waiting = [function]
    while waiting:
        one = inspect.unwrap(waiting.pop())
        found[one.__name__] = _hash(inspect.getsource(one))
        for name in _names(one.__code__):
            value = one.__globals__.get(name)
            if isinstance(value, (bool, int, float, str, tuple)):
                found[name] = repr(value)
            elif inspect.isfunction(value) and value.__module__ == one.__module__ and name not in found:
                waiting.append(value)
    return found


def _names(code: CodeType) -> set[str]:
    """The global names that a function reads, and those within it."""
    own = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    return own.union(*(_names(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


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
