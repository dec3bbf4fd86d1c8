"""The cells of a network: their own source, and which values belong beside its lines."""

import dataclasses
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import CodeType
from typing import Any

from torch import nn

from treadle.compiler.program import Program, Value
from treadle.compiler.watch import Watch
from treadle.insight.recorded_names import Named, component, is_kept_output


@dataclasses.dataclass(frozen=True)
class Source:
    """A function of a cell."""

    function: str
    file: str
    first_line: int
    lines: tuple[str, ...]

    def has(self, line: str) -> bool:
        """Whether a line such as ``lstm.py:57`` is one of its own."""
        file, _, place = line.rpartition(":")
        return file == self.file and self.first_line <= int(place or 0) < self.first_line + len(self.lines)


def cell_data(
    box: str, path: str, module: nn.Module, program: Program, watch: Watch, names: Mapping[str, Named]
) -> Any:
    """A cell as the page shows it."""
    states = [name.removeprefix("state/") for name in program.outputs if name.startswith("state/")]
    own = [name for name in states if name.startswith(f"{path.replace('.', '/')}/" if path else "")]
    own = [name for name in own if not is_kept_output(name)]
    after = {program.outputs[f"state/{name}"] for name in own}
    sources = _sources(path, watch, names.values(), after)
    values = _values(path, names, sources, after)
    first = sources[0] if sources else Source("", "", 1, ())
    return {
        "box": box,
        "class": type(module).__name__,
        "path": path,
        "source": list(first.lines),
        "first_line": first.first_line,
        "file": first.file,
        "sources": [dataclasses.asdict(one) | {"lines": list(one.lines)} for one in sources],
        "states": [component(name).removeprefix(f"{path}.") for name in own],
        "values": values,
    }


def _sources(path: str, watch: Watch, named: Iterable[Named], states: set[Value]) -> list[Source]:
    """The functions of a cell that assign values, in the order in which they began to run: its ``forward`` first."""
    within = (one for one in named if _is_within(one.path, path))
    lines = {one.line for one in within if one.rank is not None or one.value in states}
    codes = [code for of, ran in watch.functions.items() if _is_within(of, path) for code in ran]
    found = [source for code in codes if (source := _source(code)) is not None]
    wanted = [source for source in found if any(source.has(line) for line in lines)]
    return list(dict.fromkeys(wanted))


def _is_within(inner: str, path: str) -> bool:
    return not path or inner == path or inner.startswith(f"{path}.")


def _source(code: CodeType) -> Source | None:
    try:
        lines, first = inspect.getsourcelines(code)
    except (OSError, TypeError):
        return None  # typed in at a prompt
    return Source(code.co_name, Path(code.co_filename).name, first, tuple(line.rstrip("\n") for line in lines))


def _values(path: str, names: Mapping[str, Named], sources: list[Source], states: set[Value]) -> list[dict[str, Any]]:
    """The values of a cell in the order in which they are computed; of several names of one value, a variable's."""
    chosen: dict[Value, str] = {}
    within = [(name, one) for name, one in names.items() if _is_within(one.path, path) and one.line]
    ranks = sorted({one.rank for _, one in within if one.rank is not None})
    for rank in (*ranks, None):  # plain variables first; at last states that no variable holds
        for name, one in within:
            if one.rank == rank and (rank is not None or one.value in states):
                chosen.setdefault(one.value, name)
    order = {name: place for place, name in enumerate(names)}
    chosen = dict(sorted(chosen.items(), key=lambda item: order[item[1]]))
    found = []
    for value, name in chosen.items():
        line = names[name].line
        source = next((place for place, one in enumerate(sources) if one.has(line)), None)
        shown = {
            "name": name.removeprefix(f"{path}.") if path else name,
            "line": int(line.rpartition(":")[2]) if line else None,
            "source": source,
            "record": name,
            "width": value.row_numel,
            "kind": _kind(value, states),
        }
        found.append(shown)
    return found


def _kind(value: Value, states: set[Value]) -> str:
    if value in states:
        return "state"
    while value.op in ("slice", "reshape", "cast", "permute", "detach"):
        value = value.inputs[0]
    return "gate" if value.op == "sigmoid" else "other"
