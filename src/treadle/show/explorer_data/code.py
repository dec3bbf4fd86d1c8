"""The lines of Python that make a network, to be copied."""

from typing import Any

from torch import nn

from treadle.errors import ModelFileError
from treadle.files.description import arguments_of
from treadle.running.recurrent import Recurrent
from treadle.wiring import Graph, Stack
from treadle.wiring.graph import Delayed, Read, StateField, Sum

_WIDE = 60
"""Cells that take more letters than this have a line each."""


def code_of(rnn: Recurrent) -> str:
    """A program that makes a network like this one, with fresh weights."""
    lines = ["import torch", "import treadle as td", ""]
    cell = rnn.cell
    if type(cell) is Graph:
        made, name = _graph(cell, "g"), "g"
        lines += [*made, ""]
    else:
        name = _expression(cell)
    options = "" if repr(rnn.gradient) == "FullBPTT()" else f", gradient=td.{rnn.gradient!r}"
    return "\n".join([*lines, f"rnn = td.Recurrent({name}{options})"]) + "\n"


def _expression(value: Any) -> str:
    if isinstance(value, Stack):
        cells = [_expression(cell) for cell in value.cells]
        options = "" if value.wiring == "stack" else f', wiring="{value.wiring}"'
        options += f", dropout={value.dropout}" if value.dropout else ""
        if sum(map(len, cells)) > _WIDE:
            return "td.Stack(\n    [\n" + "".join(f"        {cell},\n" for cell in cells) + f"    ]{options},\n)"
        return f"td.Stack([{', '.join(cells)}]{options})"
    if isinstance(value, nn.Module):
        return _constructed(value)
    if isinstance(value, (list, tuple)):
        inner = ", ".join(map(_expression, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
    return repr(value)


def _constructed(module: nn.Module) -> str:
    kind = type(module)
    home = (
        "td."
        if kind.__module__.startswith("treadle.")
        else "torch.nn."
        if kind.__module__.startswith("torch.nn.")
        else ""
    )
    if isinstance(module, nn.Sequential):
        return f"{home}{kind.__name__}({', '.join(map(_expression, module))})"
    try:
        arguments = arguments_of(module)
    except ModelFileError:
        return f"{home}{kind.__name__}(…)"
    return f"{home}{kind.__name__}({', '.join(_arguments(kind, arguments))})"


def _arguments(kind: type, arguments: dict[str, Any]) -> list[str]:
    """Those that are not the usual ones; the first without their names."""
    import inspect

    written, positional = [], True
    for name, parameter in inspect.signature(kind).parameters.items():
        if name not in arguments:
            continue
        if parameter.default is not inspect.Parameter.empty and _alike(parameter.default, arguments[name]):
            positional = False
            continue
        positional = positional and parameter.kind is not inspect.Parameter.KEYWORD_ONLY
        text = _expression(arguments[name])
        written.append(text if positional else f"{name}={text}")
    return written


def _alike(a: Any, b: Any) -> bool:
    return type(a) is type(b) and not isinstance(a, nn.Module) and a == b


def _graph(graph: Graph, name: str) -> list[str]:
    lines, known = [f"{name} = td.Graph({graph.input_size!r})"], {"x"}
    modules: dict[int, str] = {}

    def read(one: Read) -> str:
        match one:
            case Sum():
                return f"td.sum_of({', '.join(map(read, one.parts))})"
            case StateField():
                return f'{one.name}.state("{one.field}")'
        node = (
            "g.x"
            if one.name == "x"
            else one.name
            if one.name in known
            else f'{name}.later("{one.name}", {_size(graph, one.name)})'
        )
        return f"{node}.delayed({one.k if one.k > 1 else ''})" if isinstance(one, Delayed) else node

    for node, connection in graph.connections.items():
        module = graph.get_submodule(node)
        shared = modules.setdefault(id(module), node)
        made = _expression(module) if shared == node else f'g.get_submodule("{shared}")'
        reads = ", ".join(map(read, connection.reads))
        previous = ", ".join(f'"{field}": {read(one)}' for field, one in connection.previous)
        handed = f", previous={{{previous}}}" if previous else ""
        lines.append(f'{node} = {name}.add("{node}", {made}, reads=[{reads}]{handed})')
        known.add(node)
    return [*lines, f"{name}.outputs({', '.join(map(read, graph.output_reads))})"]


def _size(graph: Graph, node: str) -> Any:
    size = graph.nodes[node].size or ()
    return size[0] if len(size) == 1 else size
