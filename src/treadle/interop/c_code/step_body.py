"""The body of the C function that takes a step: loop nests over buffers and constants."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from treadle.compiler.program import VIEWS, Program, Value
from treadle.engines.passes.int8 import in_int8
from treadle.errors import TraceError
from treadle.interop.c_code.functions import LIBRARY, function_name, literal
from treadle.interop.c_code.nests import Nest, nests_of
from treadle.interop.c_code.places import (
    Affine,
    is_mere_shape,
    linear,
    loop_index,
    origin,
    sizes,
    squeezed,
    through_view,
    variable,
)  # fmt: skip
from treadle.interop.c_code.scalars import c_type, expression
from treadle.interop.exported_step import Numbers, as_array

_AT_ONCE = 4
"""How many rows of a matrix one pass over the sums multiplies: each sum is loaded and stored once for all of them."""


class StepBody:
    """What a step computes, as C statements.

    Args:
        program: the step.
        constants: the tensors that it reads besides x and the state.
        fields: of the state's components, by the name of the program's input, what they are called in C.
        prefix: what the names of the file's functions begin with.
        quantised: whether matrices whose columns are multiples of a factor each are kept as int8.

    Attributes:
        lines: the statements.
        arrays: name -> the numbers of each constant array, one by one and in the order in which they were met.
        functions: the elementary functions that are called, each with its type.
    """

    def __init__(
        self,
        program: Program,
        constants: Mapping[Value, Tensor],
        fields: Mapping[str, str],
        prefix: str,
        quantised: bool = False,
    ):
        self.program, self.prefix, self.quantised = program, prefix, quantised
        self.lines: list[str] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.functions: set[tuple[str, str]] = set()
        self._matrices: dict[Value, str] = {}
        self.fields = fields
        self._numbers = Numbers(constants)
        self._names: dict[Value, str] = {}
        self._memory = {program.inputs[name]: f"state->{field}" for name, field in fields.items()}
        self._memory[program.inputs["x"]] = "x"
        self._locals: dict[Value, str] = {}
        self._indent = 1
        self._write()

    # The whole

    def _write(self) -> None:
        nests = nests_of(self.program)
        for number, value in enumerate(v for v in self._in_order(nests.nests) if v in nests.stored):
            self._memory[value] = f"b{number}"
            self._say(f"{c_type(value)} b{number}[{max(1, value.row_numel)}];")
        for nest in nests.nests:
            self._nest(nest)
        self._outputs()

    def _in_order(self, nests: Sequence[Nest]) -> list[Value]:
        return [value for nest in nests for value in nest.values]

    def _outputs(self) -> None:
        outputs = dict(self.program.outputs)
        self._copy("y", outputs.pop("y"))
        old = {self.program.inputs[name] for name in outputs}
        late = []
        for name, value in outputs.items():
            if value is self.program.inputs[name]:
                continue
            # What was another part of the state is put aside before that is overwritten.
            if any(read in old for read in self._shown(value)):
                aside = f"s{len(late)}"
                self._say(f"{c_type(value)} {aside}[{max(1, value.row_numel)}];")
                self._copy(aside, value)
                late.append((name, aside))
        for name, value in outputs.items():
            if value is not self.program.inputs[name] and name not in dict(late):
                self._copy(f"state->{self.fields[name]}", value)
        for name, aside in late:
            self._say(f"memcpy(state->{self.fields[name]}, {aside}, sizeof {aside});")

    def _shown(self, value: Value) -> Iterator[Value]:
        while value.op in VIEWS and value not in self._memory:
            value = value.inputs[0]
        yield value

    def _copy(self, target: str, value: Value) -> None:
        shape = sizes(value)
        with self._loops(shape) as index:
            self._say(f"{target}[{linear(index, shape)}] = {self._read(value, index)};")

    # Statements

    def _say(self, line: str) -> None:
        self.lines.append("    " * self._indent + line)

    @contextlib.contextmanager
    def _loops(self, shape: Sequence[int], letter: str = "i") -> Iterator[list[Affine]]:
        """A loop over each axis that is longer than 1; gives the index of each axis."""
        long = squeezed(shape)
        names = [f"{letter}{n}" for n in range(len(long))]
        for name, size in zip(names, long, strict=True):
            self._say(f"for (int {name} = 0; {name} < {size}; {name}++) {{")
            self._indent += 1
        if not long:
            self._say("{")
            self._indent += 1
        yield loop_index(shape, names)
        for _ in long or (1,):
            self._indent -= 1
            self._say("}")

    # Nests

    def _nest(self, nest: Nest) -> None:
        value = nest.values[0]
        if nest.is_pointwise:
            return self._pointwise(nest.values)
        writers: dict[str, Callable[[Value], None]] = {
            "cat": self._cat, "sum": self._reduction, "amax": self._reduction, "dot": self._product,
            "embedding": lambda value: self._embedding(value, *value.inputs), "opaque": self._opaque,
        }  # fmt: skip
        if value.op not in writers:
            raise TraceError(f"{self._line(value)}: {value.op} cannot be said in C")
        return writers[value.op](value)

    def _line(self, value: Value) -> str:
        return self.program.lines.get(value) or "a step"

    def _pointwise(self, values: Sequence[Value]) -> None:
        with self._loops(squeezed(sizes(values[0]))) as loops:
            for value in values:
                shape, variables = sizes(value), iter(loops)
                index = [Affine() if size == 1 else next(variables) for size in shape]
                name = f"v{len(self._names)}"
                self._names[value] = name
                self._say(f"const {c_type(value)} {name} = {self._computed(value, index)};")
                if value in self._memory:
                    self._say(f"{self._memory[value]}[{linear(index, shape)}] = {name};")
                self._locals[value] = name
        self._locals.clear()

    def _computed(self, value: Value, index: list[Affine]) -> str:
        if value.op in VIEWS:  # a view that is copied
            return self._read(*through_view(value, index))
        operands = [self._read(operand, _broadcast(index, sizes(operand))) for operand in value.inputs]
        try:
            return expression(value, operands, self._function)
        except TraceError as error:
            raise TraceError(f"{self._line(value)}: {error}") from None

    def _cat(self, value: Value) -> None:
        shape, start = sizes(value), 0
        for part in value.inputs:
            size = sizes(part)
            with self._loops(size) as index:
                moved = [i + start if axis == value.axis else i for axis, i in enumerate(index)]
                self._say(f"{self._memory[value]}[{linear(moved, shape)}] = {self._read(part, index)};")
            start += size[value.axis]

    def _reduction(self, value: Value) -> None:
        source, type = value.inputs[0], c_type(value)
        shape, long = sizes(source), sizes(value)
        over = [size if axis in value.axes else 1 for axis, size in enumerate(shape)]
        with self._loops(long) as kept:
            if value.op == "sum":
                self._say(f"{type} total = {literal(0, type)};")
            else:
                first = [Affine() if axis in value.axes else i for axis, i in enumerate(kept)]
                self._say(f"{type} total = {self._read(source, first)};")
            with self._loops(over, "r") as along:
                index = [along[axis] if axis in value.axes else kept[axis] for axis in range(len(shape))]
                read = self._read(source, index)
                if value.op == "sum":
                    self._say(f"total += {read};")
                elif value.dtype.is_floating_point:
                    self._say(f"total = {self._function('maximum', type)}(total, {read});")
                else:
                    self._say(f"total = total > {read} ? total : {read};")
            self._say(f"{self._memory[value]}[{linear(kept, long)}] = total;")

    def _product(self, value: Value) -> None:
        left, right = value.inputs
        if right.has_rows:
            raise TraceError(f"{self._line(value)}: a product with a matrix that is no constant cannot be said in C")
        type, shape = c_type(value), sizes(value)
        rows, columns = sizes(right)
        matrix, scale = self._matrix(right)
        into = self._memory[value]
        with self._loops(shape[:-1]) as lead:
            place = linear([*lead, Affine()], shape)
            sums = f"{into} + {place}" if str(place) != "0" else into
            self._say(f"{type} *const sums = {sums};")
            with self._loops([columns], "j"):
                self._say(f"sums[{_j(columns)}] = {literal(0, type)};")
            whole = rows - rows % _AT_ONCE
            if whole:
                self._say(f"for (int k = 0; k < {whole}; k += {_AT_ONCE}) {{")
                self._indent += 1
                self._rows_of_product(left, lead, variable("k"), _AT_ONCE, matrix, columns, type, bool(scale))
                self._indent -= 1
                self._say("}")
            if rows - whole:
                self._say("{")
                self._indent += 1
                self._rows_of_product(left, lead, Affine(whole), rows - whole, matrix, columns, type, bool(scale))
                self._indent -= 1
                self._say("}")
            if scale:
                with self._loops([columns], "j"):
                    self._say(f"sums[{_j(columns)}] *= {scale}[{_j(columns)}];")

    def _rows_of_product(
        self,
        left: Value,
        lead: list[Affine],
        k: Affine,
        count: int,
        matrix: str,
        columns: int,
        type: str,
        quantised: bool,
    ) -> None:
        for n in range(count):
            self._say(f"const {type} a{n} = {self._read(left, [*lead, k + n])};")
        stored = "signed char" if quantised else type
        self._say(f"const {stored} *const w = {matrix} + {k * columns};")
        cast = f"({type})" if quantised else ""
        with self._loops([columns], "j"):
            j = _j(columns)
            places = [j if not n else f"{n * columns}" if j == "0" else f"{n * columns} + {j}" for n in range(count)]
            terms = " + ".join(f"a{n} * {cast}w[{place}]" for n, place in enumerate(places))
            self._say(f"sums[{j}] += {terms};")

    def _embedding(self, value: Value, table: Value, index: Value) -> None:
        if table.has_rows:
            raise TraceError(f"{self._line(value)}: an embedding whose table is no constant cannot be said in C")
        symbols, features = sizes(table)
        name, shape = self._constant(table), sizes(value)
        with self._loops(sizes(index)) as lead:
            self._say(f"int64_t symbol = {self._read(index, lead)};")
            self._say(f"symbol = symbol < 0 ? 0 : symbol > {symbols - 1} ? {symbols - 1} : symbol;")
            with self._loops([features], "j") as (j,):
                place = linear([*lead, j], shape)
                self._say(f"{self._memory[value]}[{place}] = {name}[symbol * {features} + {j}];")

    def _opaque(self, value: Value) -> None:
        call = value.call
        name = str(call.function).removesuffix(".default")
        if name == "aten.embedding":
            self._embedding(value, *(value.inputs[argument.index] for argument in call.arguments[:2]))
        elif name == "aten.convolution" and not call.arguments[6] and not any(v.has_rows for v in value.inputs[1:]):
            self._convolution(value)
        else:
            raise TraceError(f"{self._line(value)}: {name} cannot be said in C")

    def _convolution(self, value: Value) -> None:
        call = value.call
        source, weight = (value.inputs[call.arguments[n].index] for n in (0, 1))
        bias = None if call.arguments[2] is None else value.inputs[call.arguments[2].index]
        stride, padding, dilation = (tuple(call.arguments[n]) for n in (3, 4, 5))
        shape, read, kernel = sizes(value), sizes(source), sizes(weight)
        type, weights = c_type(value), self._constant(weight)
        per_group, own = shape[1] // call.arguments[8], kernel[1]
        with self._loops(shape) as index:
            start = literal(0, type) if bias is None else self._read(bias, [index[1]])
            self._say(f"{type} total = {start};")
            with self._loops(kernel[1:], "k") as (channel, *taps):
                first = f"({index[1]}) / {per_group} * {own}" if call.arguments[8] > 1 else "0"
                places = [
                    i * step + tap * wide + (-pad)
                    for i, tap, step, wide, pad in zip(index[2:], taps, stride, dilation, padding, strict=True)
                ]
                inside = " && ".join(
                    f"{place} >= 0 && {place} < {size}" for place, size in zip(places, read[2:], strict=True)
                )
                self._say(f"if ({inside}) {{")
                self._indent += 1
                channels = channel if first == "0" else variable("channel")
                if first != "0":
                    self._say(f"const int channel = {first} + {channel};")
                at = linear([index[1], channel, *taps], kernel)
                self._say(f"total += {weights}[{at}] * {self._read(source, [Affine(), channels, *places])};")
                self._indent -= 1
                self._say("}")
            self._say(f"{self._memory[value]}[{linear(index, shape)}] = total;")

    # What is read

    def _read(self, value: Value, index: list[Affine]) -> str:
        """A number of a value, as an expression that binds as closely as a name."""
        while True:
            if value in self._locals:
                return self._locals[value]
            if value in self._memory:
                return f"{self._memory[value]}[{linear(index, sizes(value))}]"
            if value.op == "full":
                return literal(value.number, c_type(value))
            if value.op not in VIEWS:
                return f"{self._constant(value)}[{linear(index, sizes(value))}]"
            if value.op == "reshape" and not is_mere_shape(value):
                if not value.has_rows:
                    return f"{self._constant(value)}[{linear(index, sizes(value))}]"
                place, value = linear(index, sizes(value)), origin(value)
                return literal(value.number, c_type(value)) if value.op == "full" else f"{self._memory[value]}[{place}]"
            value, index = through_view(value, index)

    def _constant(self, value: Value) -> str:
        """The array of a value that neither x nor the state has a part in."""
        if value not in self._names:
            c_type(value)
            self._names[value] = f"{self.prefix}_{len(self.arrays)}"
            self.arrays[self._names[value]] = self._numbers(value)
        return self._names[value]

    def _matrix(self, value: Value) -> tuple[str, str]:
        """A matrix as products read it, and the factors of its columns where it is quantised."""
        if self.quantised and value not in self._matrices:
            found = in_int8(torch.from_numpy(self._numbers(value)))
            name = f"{self.prefix}_{len(self.arrays)}"
            if found is not None:
                self.arrays[name] = as_array(found.numbers)
                self.arrays[f"{name}_scale"] = as_array(found.factors)
            self._matrices[value] = "" if found is None else name
        name = self._matrices.get(value)
        return (name, f"{name}_scale") if name else (self._constant(value), "")

    def _function(self, name: str, type: str) -> str:
        if name not in LIBRARY:
            self.functions.add((name, type))
        return function_name(name, type, self.prefix)


def _broadcast(index: Sequence[Affine], shape: Sequence[int]) -> list[Affine]:
    late = list(index)[len(index) - len(shape) :]
    return [Affine() if size == 1 else i for size, i in zip(shape, late, strict=True)]


def _j(columns: int) -> str:
    return "0" if columns == 1 else "j0"
