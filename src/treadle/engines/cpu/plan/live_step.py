"""One step a call: a whole network's step as one kernel, with weights packed once and the state in place.

What a call costs beyond the kernel is Python's: so the call goes straight from Python's interpreter to machine code, by
way of a built-in function made here, which looks at the NumPy array that it is given and runs the kernel on its memory.
Nothing is allocated and nothing is locked.
"""

import ctypes
import dataclasses
import functools
import sys
import sysconfig
from typing import Any, NamedTuple

import numpy as np
import torch
from llvmlite import ir
from torch import Tensor

from treadle.compiler import interpreter
from treadle.compiler import program as p
from treadle.compiler.fission import Kind, Section
from treadle.compiler.program import Value
from treadle.engines.cpu.machine import compilation, threads
from treadle.engines.cpu.machine.alignment import begin
from treadle.engines.cpu.machine.recipe import Recipe
from treadle.engines.cpu.plan.columns import ByColumns
from treadle.engines.cpu.plan.kernel import RUN
from treadle.engines.cpu.plan.section import CompiledSection, contiguous, why_not
from treadle.engines.layout import Layout
from treadle.engines.network import Network
from treadle.errors import ShapeError

__all__ = ["LiveStep", "reason_against"]

_WORTH_A_THREAD = 12_000
"""Vector operations of a step, of all rows, for each thread that it is worth calling: about seven microseconds."""
_FEW_ROWS = 4
"""Up to so many rows for each thread, a step is rather shared out by columns."""
_MOST_BLOCKS = 16
_X = 5
"""Which word of a kernel's table says where the input is."""


def whole_step(network: Network) -> Section:
    """A network's step as one section, in which every state is carried."""
    program = network.plan(False).program
    names = tuple(name for name in program.inputs if name.startswith("state/"))
    inputs = tuple(value for name, value in program.inputs.items() if name not in names)
    outputs = (program.outputs["y"], *(program.outputs[n] for n in names))
    # Live there is no derivative, which is what makes an embedding more than a look into a table.
    looks = {v: p.embedding(*v.inputs) for v in p.ordered(outputs) if _is_embedding(v)}
    built = p.rebuild(outputs, looks)
    y, *new = (built[v] for v in outputs)
    return Section(Kind.LOOP, inputs, (y,), names, tuple(program.inputs[n] for n in names), tuple(new))


def _is_embedding(value: Value) -> bool:
    return value.op == "opaque" and value.call.function is torch.ops.aten.embedding.default


def reason_against(network: Network) -> str | None:
    """Why a network's step cannot be one kernel; None if it can."""
    if network.plan(False).random:
        return "it draws random numbers"
    section = whole_step(network)
    if not section.old:
        return "it has no state"
    x = network.program.inputs["x"]
    values = section.values()
    if not x.dtype.is_floating_point and any(
        x in v.inputs and v.op != "embedding" for v in (*values, *map(_Reads, section.new))
    ):
        return "it reads whole numbers, and not for an embedding alone"
    return why_not(section)


@dataclasses.dataclass(frozen=True)
class _Reads:
    """A reader of a value."""

    value: Value
    op: str = "state"

    @property
    def inputs(self) -> tuple[Value, ...]:
        return (self.value,)


class Call(NamedTuple):
    """How a step is called: ``function(arguments, 0, rows, memory)``, and where the kernel's table is."""

    function: int
    arguments: int
    table: int
    memory: int


class LiveStep:
    """A network's step for a number of rows, and its state.

    Args:
        network: the program.
        batch_size: rows.
        bfloat16: whether right operands of products are kept in bfloat16.
    """

    def __init__(self, network: Network, batch_size: int, bfloat16: bool = False):
        self.network, self.batch = network, batch_size
        section = whole_step(network)
        self.compiled = CompiledSection(section, bfloat16, memory_bound=True)
        self.inputs = section.inputs
        self.names = [name.removeprefix("state/") for name in section.states]
        self.part = self.compiled.plain
        local = self.compiled.section
        self.x, self.y = local.inputs[self.inputs.index(network.program.inputs["x"])], local.outputs[0]
        self.dtype = self.compiled.dtype
        looks = [v for v in local.values() if v.op == "embedding"]
        self.sizes = [v.inputs[0].shape[0] for v in looks]
        self.state = [torch.zeros(batch_size, *v.row_shape, dtype=self.dtype) for v in section.old]
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the weights that the network has now."""
        constants = self.network.constants()
        local = self.compiled.section.inputs
        self.known: dict[Value, Tensor] = {
            inner: constants[outer].detach()
            for inner, outer in zip(local, self.inputs, strict=True)
            if outer in constants
        }
        known = dict(self.known)
        interpreter.evaluate((*self.part.shared, *self.part.matrices), known, 0)
        self.invariants = [contiguous(known[v], self.dtype) for v in self.part.shared]
        self.packed, self.packed_at = self._pack(known)
        self._recipes: dict[tuple[int, int], Recipe] = {}
        self._bind()

    def _pack(self, known: dict[Value, Tensor]) -> tuple[Tensor, list[int]]:
        """The right operands of all products as the kernel wants them: the memory, and where each is in it."""
        kernel, recipe = self.part.compiled, Recipe()
        recipe.scratch = recipe.kept  # it stays, for as long as the weights do
        packed = kernel.pack(recipe, [recipe.tensor(w) for w, _ in kernel.operands])
        recipe.barrier()
        packed = kernel.pair_up(recipe, packed)
        kept = recipe.follow({w: known[w] for w, _ in kernel.operands})
        first = 0 if kept is None else begin(kept)
        return torch.empty(0) if kept is None else kept, [first + place.plus for place in packed]  # pyright: ignore

    def _bind(self) -> None:
        """Lay out everything that a call needs, once."""
        kernel = self.part.compiled
        code = kernel.code
        self.x_type = self.dtype if self.x.dtype.is_floating_point else torch.int64
        self.x_buffer = torch.zeros(self.batch, *self.x.row_shape, dtype=self.x_type)
        self.y_buffer = torch.zeros(self.batch, *self.y.row_shape, dtype=self.dtype)
        self.layout = Layout(1, self.batch)
        size = code.fixed + self.batch * code.per_row + 64
        self.scratch = torch.empty(size, dtype=self.dtype)
        layout = self.layout
        table = [1, self.batch, layout.counts_address, layout.offsets_address, 0]
        self.reads_x = bool(self.part.streams)
        for _ in self.part.streams:
            table += (self.x_buffer.data_ptr(), max(self.x.row_numel, 1))
        y = len(table)
        table += (self.y_buffer.data_ptr(), self.y.row_numel)
        table += [tensor.data_ptr() for tensor in self.invariants]
        table += self.packed_at
        for tensor in self.state:
            table += (tensor.data_ptr(), tensor.data_ptr(), tensor.data_ptr())
        most = threads.count(int(kernel.row_cost * self.batch // _WORTH_A_THREAD))
        self.by_columns = most > 1
        if self.by_columns:
            columns = ByColumns(kernel, self.batch, most, table)
            self._memory: Any = columns
            self.call = Call(columns.address, columns.arguments, columns.table, columns.team)
        else:
            self._memory = words = np.array(table, dtype=np.int64)
            address = words.ctypes.data
            self.call = Call(kernel.address, address, address, -(-self.scratch.data_ptr() // 64) * 64)
        self._function = RUN(self.call.function)
        self._x, self._y = (ctypes.c_int64.from_address(self.call.table + 8 * place) for place in (_X, y))

    def step(self, x: Tensor) -> Tensor:
        """One step on [B, ...]; the answer is the same memory every time."""
        self._check(x)
        self.x_buffer.copy_(x)
        self._go(self.x_buffer.data_ptr())
        return self.y_buffer

    def _go(self, x: int) -> None:
        """A step on the input at that address."""
        if self.reads_x:
            self._x.value = x
        self._function(self.call.arguments, 0, self.batch, self.call.memory)

    def steps(self, xs: Tensor) -> Tensor:
        """A block of steps on [T, B, ...]."""
        if not xs.shape[0]:
            return self.y_buffer.new_empty(0, *self.y_buffer.shape)
        self._check(xs)
        layout = Layout(xs.shape[0], self.batch)
        rows = contiguous(layout.packed(xs), self.x_type)
        y = torch.empty(layout.rows, *self.y.row_shape, dtype=self.dtype)
        if self.by_columns and self.batch < _FEW_ROWS * threads.count(self.batch * _FEW_ROWS):
            self._one_by_one(rows, y, len(xs))
        else:
            recipe = self._recipe(layout)
            tensors: dict[Any, Tensor] = {"counts": layout.counts, "offsets": layout.offsets, "x": rows, "y": y}
            tensors.update(enumerate(self.state))
            recipe.follow(tensors)
        return layout.padded(y)

    def _one_by_one(self, xs: Tensor, ys: Tensor, steps: int) -> None:
        """A block of steps, each shared out by columns."""
        x, y = xs.data_ptr(), ys.data_ptr()
        x_bytes, y_bytes = (rows.numel() * rows.itemsize // steps for rows in (xs, ys))
        try:
            for t in range(steps):
                self._y.value = y + t * y_bytes
                self._go(x + t * x_bytes)
        finally:
            self._y.value = self.y_buffer.data_ptr()

    def _recipe(self, layout: Layout) -> Recipe:
        """How a block of steps is done."""
        key = layout.steps, torch.get_num_threads()
        found = self._recipes.get(key)
        if found is None:
            found = Recipe()
            streams = [(found.tensor("x")[0], max(self.x.row_numel, 1)) for _ in self.part.streams]
            invariants = [tensor.data_ptr() for tensor in self.invariants]
            outputs = [(found.tensor("y")[0], max(self.y.row_numel, 1))]
            # A row's state is read before the first step and written after the last one: it may be the same memory.
            addresses = [found.tensor(i)[0] for i in range(len(self.state))]
            carries = [(address, address, address) for address in addresses]
            self.part.compiled.write_down(found, layout, streams, invariants, self.packed_at, outputs, carries)
            if len(self._recipes) >= _MOST_BLOCKS:
                self._recipes.pop(next(iter(self._recipes)))
            self._recipes[key] = found
        return found

    def _check(self, x: Tensor) -> None:
        """Refuse what the kernel would misread.

        Raises:
            ShapeError: floats for tokens, or whole numbers for features.
            IndexError: a token that an embedding does not have.
        """
        if x.is_floating_point() != self.x.dtype.is_floating_point:
            if x.is_floating_point():
                raise ShapeError(
                    f"this network reads tokens, which are whole numbers, but x is {x.dtype}: pass x.long()"
                )
            raise ShapeError(
                f"this network reads features, which are floats, but x is {x.dtype}: pass x.float(), or embed tokens"
            )
        if self.sizes and x.numel():
            low, high = (int(n) for n in x.aminmax())
            if low < 0 or high >= min(self.sizes):
                token = low if low < 0 else high
                raise IndexError(f"token {token} is not one of the {min(self.sizes)} that are embedded")

    def entry(self) -> Any:
        """A built-in function that takes a NumPy array and answers with one; None if this Python or network has none.

        The function answers with None, and does nothing, if the array is not exactly what the kernel reads: float of
        the right precision, dense, [B, I] (or [I] for one row).
        """
        flat = len(self.x.row_shape) == 1 and len(self.y.row_shape) == 1 and self.x_type == self.dtype
        if not (flat and self.reads_x and _arrays_are_known()):
            return None
        answers = [self.y_buffer.numpy(), self.y_buffer[0].numpy()]
        dtype = np.dtype(np.float64 if self.dtype == torch.float64 else np.float32)
        context = np.array(
            [
                id(np.ndarray),
                id(dtype),
                self.batch,
                self.x.row_shape[0],
                self.call.arguments,
                self.call.memory,
                self.call.function,
                id(answers[0]),
                id(answers[1]),
                id(None),
                self.call.table + 8 * _X,
            ],
            dtype=np.int64,
        )
        function = _builtin(context)
        return function, (context, answers, dtype, self)

    def named(self) -> dict[str, Tensor]:
        """The state by name: the memory itself."""
        return dict(zip(self.names, self.state, strict=True))


class _Method(ctypes.Structure):
    """CPython's PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


_TAKES_ONE = 8  # METH_O
# Where CPython and NumPy keep what the entry reads, in bytes: fixed by their binary interfaces, checked below.
_TYPE, _DATA, _AXES, _SIZES, _DTYPE, _FLAGS = 8, 16, 24, 32, 56, 64
_DENSE = 0x101  # NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED


@functools.cache
def _arrays_are_known() -> bool:
    """Whether arrays lie in memory as the entry thinks."""
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED") or sys.byteorder != "little":
        return False
    if hasattr(sys, "gettotalrefcount") or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False
    for array in (np.zeros((2, 3), np.float32), np.zeros((4,), np.float64), np.zeros((2, 3))[:, 1:]):
        address = id(array)

        def read(offset: int, kind: Any = ctypes.c_int64, address: int = address) -> int:
            return kind.from_address(address + offset).value

        sizes = [ctypes.c_int64.from_address(read(_SIZES) + 8 * axis).value for axis in range(array.ndim)]
        dense = array.flags.c_contiguous and array.flags.aligned
        same = (
            read(_TYPE) == id(np.ndarray)
            and read(_DATA) == array.ctypes.data
            and read(_AXES, ctypes.c_int32) == array.ndim
            and tuple(sizes) == array.shape
            and read(_DTYPE) == id(array.dtype)
            and ((read(_FLAGS, ctypes.c_int32) & _DENSE) == _DENSE) == dense
        )
        if not same:
            return False
    return True


def _builtin(context: np.ndarray) -> Any:
    """A built-in function around the entry, whose ``self`` is the context."""
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype = ctypes.py_object
    make.argtypes = (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
    return make(ctypes.addressof(_method()), context, None)


@functools.cache
def _method() -> _Method:
    return _Method(b"step", compilation.compile(_entry_code()).address("entry"), _TAKES_ONE, b"One step of a session.")


def _entry_code() -> str:
    """``PyObject *entry(PyObject *context, PyObject *x)``."""
    pointer, word, half = ir.PointerType(), ir.IntType(64), ir.IntType(32)
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(pointer, [pointer, pointer]), "entry")
    context, x = function.args
    b: Any = ir.IRBuilder(function.append_basic_block("entry"))
    refuse = function.append_basic_block("refuse")

    def field(base: ir.Value, offset: int, kind: ir.Type) -> ir.Value:
        return b.load(b.gep(base, [ir.Constant(word, offset)], source_etype=ir.IntType(8)), typ=kind)

    table = field(context, _DATA, pointer)

    def known(index: int, kind: ir.Type = word) -> ir.Value:
        return field(table, 8 * index, kind)

    def require(condition: ir.Value) -> None:
        following = function.append_basic_block("next")
        b.cbranch(condition, following, refuse)
        b.position_at_end(following)

    require(b.icmp_signed("==", field(x, _TYPE, word), known(0)))
    require(b.icmp_signed("==", field(x, _DTYPE, word), known(1)))
    flags = b.and_(field(x, _FLAGS, half), ir.Constant(half, _DENSE))
    require(b.icmp_signed("==", flags, ir.Constant(half, _DENSE)))
    axes, sizes = field(x, _AXES, half), field(x, _SIZES, pointer)
    bare = b.icmp_signed("==", axes, ir.Constant(half, 1))
    require(b.or_(bare, b.icmp_signed("==", axes, ir.Constant(half, 2))))
    # The first size is there in both cases; the last is the first if there is one alone.
    last = b.load(b.gep(sizes, [b.zext(b.sub(axes, ir.Constant(half, 1)), word)], source_etype=word), typ=word)
    require(b.icmp_signed("==", last, known(3)))
    rows = b.select(bare, ir.Constant(word, 1), b.load(sizes, typ=word))
    require(b.icmp_signed("==", rows, known(2)))
    b.store(field(x, _DATA, word), known(10, pointer))
    kind = ir.FunctionType(ir.VoidType(), [pointer, word, word, pointer])
    b.call(b.inttoptr(known(6), kind.as_pointer()), [known(4, pointer), ir.Constant(word, 0), rows, known(5, pointer)])
    answer = b.select(bare, known(8, pointer), known(7, pointer))
    _return(b, answer, word)
    b.position_at_end(refuse)
    _return(b, known(9, pointer), word)
    return str(module)


def _return(b: Any, thing: ir.Value, word: ir.Type) -> None:
    """A new reference."""
    b.store(b.add(b.load(thing, typ=word), ir.Constant(word, 1)), thing)
    b.ret(thing)
