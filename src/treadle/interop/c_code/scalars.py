"""One operation on one number, as a C expression."""

import torch

from treadle.compiler.program import Value
from treadle.errors import TraceError
from treadle.interop.c_code.functions import LIBRARY, OWN, literal

TYPES = {torch.float32: "float", torch.float64: "double", torch.int64: "int64_t", torch.int32: "int32_t"}
TYPES |= {torch.bool: "unsigned char", torch.uint8: "uint8_t", torch.int8: "int8_t", torch.int16: "int16_t"}
"""What the numbers of a tensor are in C."""

_SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">"}
_SIGNS |= {"ge": ">=", "and": "&", "or": "|"}


def c_type(value: Value) -> str:
    """The type of a value's numbers.

    Raises:
        TraceError: C has no such type.
    """
    if value.dtype not in TYPES:
        raise TraceError(f"C has no {value.dtype}: export a network of float32 or float64, network.float()")
    return TYPES[value.dtype]


def expression(value: Value, operands: list[str], function: "object") -> str:
    """What an elementwise operation makes of its operands; ``function`` gives the name of a function by that of an operation.

    Raises:
        TraceError: it cannot be said in C.
    """  # noqa: E501
    op, type = value.op, c_type(value)
    one = literal(1, type)
    if op in _SIGNS:
        whole = not value.inputs[0].dtype.is_floating_point
        if op == "div" and whole:
            raise TraceError("whole numbers are divided, which C does otherwise: make them floats first, x.float()")
        return f"{operands[0]} {_SIGNS[op]} {operands[1]}"
    match op:
        case "neg":
            return f"-{operands[0]}"
        case "not":
            return f"!{operands[0]}"
        case "cast":
            return f"{operands[0]} != 0" if value.dtype == torch.bool else f"({type}){operands[0]}"
        case "reciprocal":
            return f"{one} / {operands[0]}"
        case "rsqrt":
            return f"{one} / {function('sqrt', type)}({operands[0]})"  # pyright: ignore[reportCallIssue]
        case "where":
            return f"{operands[0]} ? {operands[1]} : {operands[2]}"
        case "pow" if value.inputs[1].op == "full" and value.inputs[1].number == 2:
            return f"{operands[0]} * {operands[0]}"
    if not value.dtype.is_floating_point:
        if op in ("floor", "ceil", "trunc", "round"):
            return operands[0]
        if op == "abs":
            return f"({operands[0]} < 0 ? -{operands[0]} : {operands[0]})"
        if op in ("maximum", "minimum"):
            sign = ">" if op == "maximum" else "<"
            return f"{operands[0]} {sign} {operands[1]} ? {operands[0]} : {operands[1]}"
        if op == "sign":
            return f"({operands[0]} > 0) - ({operands[0]} < 0)"
    elif op in LIBRARY or op in OWN:
        return f"{function(op, type)}({', '.join(operands)})"  # pyright: ignore[reportCallIssue]
    raise TraceError(f"{op} of {value.dtype} cannot be said in C")
