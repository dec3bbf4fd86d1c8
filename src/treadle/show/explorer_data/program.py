"""A program as JSON, by which the page computes what would be if something were otherwise."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from treadle.compiler import program as p
from treadle.compiler.program import BATCH, Operand, Program, Value
from treadle.show.explorer_data.arrays import array, number

_OF_THE_PAGE = ("aten.convolution.default", "aten.embedding.default")
"""PyTorch's operations that the page computes, too."""


def program_data(program: Program, names: Mapping[str, Value], parameters: Mapping[str, Tensor]) -> dict[str, Any]:
    """The values of a program in an order in which they can be computed; those that have names, by name."""
    order = p.ordered([*program.inputs.values(), *program.outputs.values(), *names.values()])
    places = {value: place for place, value in enumerate(order)}
    return {
        "values": [_value(value, places, program.lines.get(value)) for value in order],
        "inputs": {name: places[value] for name, value in program.inputs.items()},
        "outputs": {name: places[value] for name, value in program.outputs.items()},
        "names": {name: places[value] for name, value in names.items()},
        "parameters": {name: array(tensor) for name, tensor in parameters.items()},
        "random": [places[value] for value in order if value.draw is not None],
        "unsupported": _unsupported(order),
    }


def _value(value: Value, places: Mapping[Value, int], line: str | None) -> dict[str, Any]:
    return {
        "op": value.op,
        "inputs": [places[operand] for operand in value.inputs],
        "shape": ["B" if dim is BATCH else dim for dim in value.shape],
        "dtype": str(value.dtype).removeprefix("torch."),
        "attributes": _attributes(value),
        "line": line or None,
    }


def _attributes(value: Value) -> dict[str, Any]:
    match value.op:
        case "input":
            return {"name": value.name}
        case "full":
            return {"number": number(value.number)}
        case "cat":
            return {"axis": value.axis}
        case "permute" | "sum" | "amax":
            return {"axes": list(value.axes)}
        case "slice":
            return value.slice._asdict()
        case "opaque":
            call, index = value.attributes
            options = {name: _argument(given) for name, given in call.options}
            return {
                "function": str(call.function),
                "arguments": [_argument(given) for given in call.arguments],
                "options": options,
                "index": index,
            }
    return {}


def _argument(given: Any) -> Any:
    match given:
        case Operand():
            return {"operand": given.index}
        case tuple():
            return [_argument(part) for part in given]
        case None | bool() | int() | str():
            return given
        case float():
            return number(given)
    return "B" if given is BATCH else str(given)


def _unsupported(values: Iterable[Value]) -> str | None:
    """Why the page cannot compute a program by itself."""
    for value in values:
        if value.dtype in (torch.float16, torch.bfloat16):
            precision = str(value.dtype).removeprefix("torch.")
            return f"the network computes in {precision}: explore it in float32, after model.float()"
        if value.draw is not None:
            return "the network draws random numbers at every step: explore it in evaluation mode, after model.eval()"
        if value.op == "opaque" and str(value.call.function) not in _OF_THE_PAGE:
            name = str(value.call.function).removesuffix(".default")
            return f"the network computes with {name}, which runs in PyTorch alone"
    return None
