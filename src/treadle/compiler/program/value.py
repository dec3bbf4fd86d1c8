"""What one operation gives: a node of the graph, immutable, and one object for all that are computed alike."""

import contextlib
import contextvars
import dataclasses
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from treadle.caches import kept_property
from treadle.compiler.program.shapes import BATCH, Dim, Shape, numel, show_shape
from treadle.compiler.walk import postorder
from treadle.locks import fork_safe_lock
from treadle.torch_internals import OpOverload, schema_of

UNARY = frozenset(
    "neg abs exp expm1 log log1p sqrt rsqrt sin cos tanh sigmoid logsigmoid erf floor ceil round trunc sign reciprocal"
    " not cast".split()
)
BINARY = frozenset("add sub mul div pow maximum minimum eq ne lt le gt ge and or".split())
ELEMENTWISE = UNARY | BINARY | {"where"}
COMPARISONS = frozenset("eq ne lt le gt ge and or not".split())
EXPENSIVE = frozenset("exp expm1 log log1p sqrt rsqrt sin cos tanh sigmoid logsigmoid erf pow div reciprocal".split())
"""What takes many times as long as a sum or a product, so that it is worth not computing twice."""
GRADIENT_PATHS = frozenset("detach straight_through".split())
"""What changes no number, only which way gradients take."""
VIEWS = frozenset("reshape permute slice expand".split()) | GRADIENT_PATHS
REDUCTIONS = frozenset("sum amax".split())
# Over the rows: only the derivative has them, for what all rows share.
CONTRACTIONS = frozenset("rowsum outer".split())


class Slice(NamedTuple):
    """Which part of which axis a ``slice`` takes."""

    axis: int
    start: int
    step: int


@dataclasses.dataclass(frozen=True)
class Operand:
    """The place of an operand among the arguments of a call."""

    index: int

    def __repr__(self) -> str:
        return f"#{self.index}"


@dataclasses.dataclass(frozen=True)
class Call:
    """One of PyTorch's operations with its arguments: an `Operand` for each tensor, `BATCH` for the number of rows.

    ``draw`` says which of the step's draws of random numbers it is, None if it draws none: no two draws are one call.
    """

    function: OpOverload
    arguments: tuple[Any, ...]
    options: tuple[tuple[str, Any], ...] = ()
    draw: int | None = None

    def __str__(self) -> str:
        given = [*map(str, self.arguments), *(f"{name}={part}" for name, part in self.options)]
        return f"{self.function}({', '.join(given)})"

    def __call__(self, operands: Sequence[Tensor], rows: int, device: torch.device | None = None) -> Any:
        """What it gives for these operands."""

        def unpack(tree: Any) -> Any:
            if isinstance(tree, Operand):
                return operands[tree.index]
            if isinstance(tree, tuple):
                return [unpack(part) for part in tree]
            return rows if tree is BATCH else tree

        options = {name: unpack(part) for name, part in self.options}
        if device is not None and self._takes_device:
            options["device"] = device
        return self.function(*unpack(self.arguments), **options)

    @kept_property
    def fills(self) -> bool:
        """Whether it writes into an operand."""
        return schema_of(self.function).is_mutable

    @kept_property
    def _takes_device(self) -> bool:
        return any(argument.name == "device" for argument in schema_of(self.function).arguments)


@dataclasses.dataclass(eq=False, frozen=True, slots=True, weakref_slot=True)
class Value:
    """What one operation gives.

    ``op`` is a primitive (`ELEMENTWISE`, views, ``cat``, ``sum``, ``amax``, ``dot``, ``full``), ``"input"``, or
    ``"opaque"``: an ATen operation that the compiler knows to treat rows alike, and nothing else about. What else an
    operation is given, ``attributes``, has a name for each: `number`, `axis`, `axes`, `slice`, `call`.
    """

    op: str
    inputs: tuple["Value", ...]
    attributes: tuple[Any, ...]
    shape: Shape
    dtype: torch.dtype
    has_rows: bool = dataclasses.field(init=False)
    """Whether one of the axes is the batch."""
    row_shape: tuple[int, ...] = dataclasses.field(init=False)
    """The shape of one row."""
    row_numel: int = dataclasses.field(init=False)
    """How many numbers one row has."""
    batch_axis: int = dataclasses.field(init=False)
    """Which axis is the batch; -1 if none is."""

    def __post_init__(self) -> None:
        row_shape = tuple(dim for dim in self.shape if dim is not BATCH)
        axis = next((i for i, dim in enumerate(self.shape) if dim is BATCH), -1)
        for name, found in (("row_shape", row_shape), ("batch_axis", axis), ("has_rows", axis >= 0)):
            object.__setattr__(self, name, found)
        object.__setattr__(self, "row_numel", numel(row_shape))

    @property
    def name(self) -> str:
        """The name of an input."""
        return self.attributes[0] if self.op == "input" else ""

    @property
    def number(self) -> Any:
        """The number that a ``full`` is everywhere."""
        return self.attributes[0]

    @property
    def axis(self) -> int:
        """The axis along which a ``cat`` lays its parts."""
        return self.attributes[0]

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of its operand that a ``permute`` puts in this order, or that a ``sum`` or ``amax`` goes over."""
        return self.attributes[0]

    @property
    def slice(self) -> Slice:
        """What a ``slice`` takes."""
        return Slice(*self.attributes)

    @property
    def call(self) -> Call:
        """What an ``opaque`` value calls."""
        return self.attributes[0]

    @property
    def draw(self) -> int | None:
        """Which of the step's draws of random numbers this is; None if it is none."""
        return self.call.draw if self.op == "opaque" else None

    def __repr__(self) -> str:
        return f"<{self.op} {show_shape(self.shape)}>"


_values: "weakref.WeakValueDictionary[Any, Value]" = weakref.WeakValueDictionary()
_guard = fork_safe_lock()
Lines: TypeAlias = dict[Value, str]
"""Of values, the line of the user's own file that they come from: they are the same objects wherever they are made."""
_noted: contextvars.ContextVar[tuple[Lines, Callable[[], str]] | None] = contextvars.ContextVar("noted", default=None)


@contextlib.contextmanager
def noting(lines: Lines, where: Callable[[], str]) -> Iterator[None]:
    """While the context lasts, values that are made are noted with the line that ``where`` says, the first time."""
    token = _noted.set((lines, where))
    try:
        yield
    finally:
        _noted.reset(token)


def make(op: str, inputs: Sequence[Value], attributes: tuple[Any, ...], shape: Iterable[Dim], dtype: Any) -> Value:
    """The value of an operation; the same object if it was made before."""
    shape = tuple(shape)
    key = (op, tuple(map(id, inputs)), _hashable(attributes), shape, dtype)
    found = _values.get(key)
    if found is None:
        with _guard:  # or two threads would make two of one value
            found = _values.get(key)
            if found is None:
                found = _values[key] = Value(op, tuple(inputs), attributes, shape, dtype)
    noted = _noted.get()
    if noted is not None and found not in noted[0]:
        noted[0][found] = noted[1]()
    return found


def _hashable(attributes: tuple[Any, ...]) -> Any:
    try:
        hash(attributes)
        # 0.0 == -0.0 == False and 1 == 1.0 == True: equal, and yet not the same constant.
        return tuple((type(a), repr(a)) if isinstance(a, (int, float, bool)) else a for a in attributes)
    except TypeError:
        return repr(attributes)


def ordered(roots: Iterable[Value]) -> list[Value]:
    """Everything that ``roots`` are made of, operands first."""
    return postorder(roots, lambda value: value.inputs)


def between(given: Iterable[Value], wanted: Iterable[Value]) -> list[Value]:
    """What is to be computed to get from ``given`` to ``wanted``, the latter included: operands first.

    Of an operation's operands the last is computed first. Random numbers are drawn and gradients added up in this
    order, so another one would be other numbers.
    """
    return postorder(wanted, lambda value: value.inputs[::-1], given)
