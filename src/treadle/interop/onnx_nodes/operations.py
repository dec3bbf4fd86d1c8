"""The values of a program as nodes of ONNX: one row or many, the batch has any size."""

from collections.abc import Callable, Mapping

from treadle.compiler.program import BATCH, Program, Value
from treadle.compiler.walk import postorder
from treadle.errors import TraceError
from treadle.interop.exported_step import Numbers
from treadle.interop.onnx_nodes.writer import TYPES, Writer

_SAME = {
    "neg": "Neg", "abs": "Abs", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "sin": "Sin", "cos": "Cos", "tanh": "Tanh",
    "sigmoid": "Sigmoid", "erf": "Erf", "floor": "Floor", "ceil": "Ceil", "round": "Round", "sign": "Sign",
    "reciprocal": "Reciprocal", "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "pow": "Pow", "maximum": "Max",
    "minimum": "Min", "eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual",
    "and": "And", "or": "Or", "not": "Not", "where": "Where", "dot": "MatMul",
}  # fmt: skip
"""Operations that ONNX has under another name."""


class ProgramNodes:
    """Puts down a program.

    Args:
        writer: of the graph.
        program: what is put down.
        numbers: those of its constants.
        given: of values with rows, the name that each has in the graph.
        like: the name of a value in the graph whose first axis is the rows.
    """

    def __init__(self, writer: Writer, program: Program, numbers: Numbers, given: Mapping[Value, str], like: str):
        self.writer, self.program, self.numbers = writer, program, numbers
        self._names = dict(given)
        self._like, self._rows = like, ""

    def outputs(self) -> dict[str, str]:
        """The names of the program's outputs in the graph."""
        return {name: self.name(value) for name, value in self.program.outputs.items()}

    def name(self, value: Value) -> str:
        """The name of a value in the graph; it is put down if it is not there."""
        # What was overwritten is no operand of what overwrote it: only gradients differ.
        reads: Callable[[Value], tuple[Value, ...]] = lambda v: v.inputs[: 1 if v.op == "straight_through" else None]  # noqa: E731
        for one in postorder([value], lambda v: reads(v) if v.has_rows and v not in self._names else ()):
            self._put(one)
        return self._names[value]

    def _put(self, value: Value) -> None:
        if value in self._names:
            return
        if value.dtype not in TYPES:
            raise TraceError(f"{self._line(value)}: ONNX files of {value.dtype} are not written: pass network.float()")
        if not value.has_rows:
            self._names[value] = self.writer.constant(self.numbers(value))
            return
        operands = [self._names[operand] for operand in value.inputs if operand in self._names]
        self._names[value] = self._node(value, operands)

    def _line(self, value: Value) -> str:
        return self.program.lines.get(value) or "a step"

    def _node(self, value: Value, operands: list[str]) -> str:
        put, op = self.writer.node, value.op
        if op in _SAME:
            return put(_SAME[op], *operands)
        match op:
            case "detach" | "straight_through":
                return operands[0]
            case "cast":
                return put("Cast", operands[0], to=TYPES[value.dtype])
            case "full":
                return put("Expand", self._scalar(value, value.number), self._shape(value))
            case "ne":
                return put("Not", put("Equal", *operands))
            case "rsqrt":
                return put("Reciprocal", put("Sqrt", operands[0]))
            case "trunc":
                return put("Mul", put("Sign", operands[0]), put("Floor", put("Abs", operands[0])))
            case "expm1" | "log1p" | "logsigmoid":
                return {"expm1": self._expm1, "log1p": self._log1p, "logsigmoid": self._logsigmoid}[op](
                    value, operands[0]
                )
            case "reshape":
                return put("Reshape", operands[0], self._shape(value))
            case "permute":
                return put("Transpose", operands[0], perm=value.axes)
            case "expand":
                return self._expanded(value, operands[0])
            case "slice":
                return self._slice(value, operands[0])
            case "cat":
                return put("Concat", *operands, axis=value.axis)
            case "sum":
                return put("ReduceSum", operands[0], self.writer.indices(*value.axes), keepdims=1)
            case "amax":
                return put("ReduceMax", operands[0], self.writer.indices(*value.axes), keepdims=1)
            case "embedding":
                return put("Gather", *operands, axis=0)
            case "opaque":
                return self._opaque(value, operands)
        raise TraceError(f"{self._line(value)}: {op} cannot be said in ONNX")

    def _scalar(self, value: Value, number: float) -> str:
        return self.writer.constant(number, str(value.dtype).removeprefix("torch."))

    def _shape(self, value: Value) -> str:
        """The shape of a value, with as many rows as x has."""
        if not self._rows:
            self._rows = self.writer.node("Shape", self._like, start=0, end=1)
        before = list(value.shape[: value.batch_axis])
        after = list(value.shape[value.batch_axis + 1 :])
        parts = [*([self.writer.indices(*before)] if before else []), self._rows]
        parts += [self.writer.indices(*after)] if after else []
        return parts[0] if len(parts) == 1 else self.writer.node("Concat", *parts, axis=0)

    def _expanded(self, value: Value, operand: str) -> str:
        return self.writer.node("Expand", operand, self._shape(value))

    def _slice(self, value: Value, operand: str) -> str:
        axis, start, step = value.slice
        if value.shape[axis] is BATCH:
            raise TraceError(f"{self._line(value)}: a part of the batch cannot be said in ONNX")
        stop = start + step * (value.shape[axis] - 1) + 1 if value.shape[axis] else start
        return self.writer.node("Slice", operand, *(self.writer.indices(n) for n in (start, stop, axis, step)))

    def _expm1(self, value: Value, x: str) -> str:
        """exp(x) - 1, near 0 as 2 tanh(x/2) / (1 - tanh(x/2))."""
        put, one, two = self.writer.node, self._scalar(value, 1), self._scalar(value, 2)
        t = put("Tanh", put("Div", x, two))
        near = put("Div", put("Mul", two, t), put("Sub", one, t))
        is_near = put("Less", put("Abs", x), self._scalar(value, 0.5))
        return put("Where", is_near, near, put("Sub", put("Exp", x), one))

    def _log1p(self, value: Value, x: str) -> str:
        """log(u) x / (u - 1) of u = 1 + x; x itself where u is 1."""
        put, one = self.writer.node, self._scalar(value, 1)
        u = put("Add", x, one)
        lost = put("Equal", u, one)
        difference = put("Where", lost, one, put("Sub", u, one))
        whole = put("Equal", u, put("Add", u, one))  # so large that nothing is lost
        ratio = put("Where", whole, one, put("Div", x, difference))
        return put("Where", lost, x, put("Mul", put("Log", u), ratio))

    def _logsigmoid(self, value: Value, x: str) -> str:
        put = self.writer.node
        smaller = put("Min", x, self._scalar(value, 0))
        return put("Sub", smaller, self._log1p(value, put("Exp", put("Neg", put("Abs", x)))))

    def _opaque(self, value: Value, operands: list[str]) -> str:
        call = value.call
        name = str(call.function).removesuffix(".default")
        if name == "aten.embedding":
            return self.writer.node("Gather", *(operands[a.index] for a in call.arguments[:2]), axis=0)
        if name == "aten.convolution" and not call.arguments[6]:
            stride, padding, dilation, groups = (call.arguments[n] for n in (3, 4, 5, 8))
            parts = [operands[a.index] for a in call.arguments[:3] if a is not None]
            pads = [*padding, *padding]
            return self.writer.node(
                "Conv", *parts, strides=list(stride), pads=pads, dilations=list(dilation), group=groups
            )
        raise TraceError(f"{self._line(value)}: {name} cannot be said in ONNX")
