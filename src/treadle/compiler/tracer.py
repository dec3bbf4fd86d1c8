"""Tensors that hold no numbers, and the mode in which every operation on them is noted as one of a program.

Below PyTorch's autograd, each operation of the step arrives at `Tracer`, which looks it up in the table of
``operations/``. The batch is a number that nothing else has, so that it can be told from features wherever it shows up.
"""

import functools
import sys
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from treadle.compiler import asked
from treadle.compiler import program as p
from treadle.compiler.operations import HANDLERS, RANDOM, ROWWISE, NotRowwise, Unknown, check_rowwise, has_rows
from treadle.compiler.program import BATCH, Call, Operand, Value
from treadle.compiler.source_lines import running_line
from treadle.errors import TraceError
from treadle.torch_internals import (
    OpOverload,
    TorchDispatchMode,
    can_be_decomposed,
    no_modes,
    schema_of,
    tensor_without_numbers,
)

_BATCH_SIZES = (9973, 9967, 9949, 9941, 9931, 9929)
_LIMIT = 50_000
_CPU = torch.device("cpu")


class Traced(Tensor):
    """A tensor without numbers, which stands for a `Value`."""

    value: Value
    alias: list[int]

    @staticmethod
    def __new__(cls, value: Value, rows: int, requires_grad: bool = False, alias: list[int] | None = None) -> "Traced":
        sizes = [rows if dim is BATCH else dim for dim in value.shape]
        made = tensor_without_numbers(cls, sizes, value.dtype, requires_grad)
        made.value, made.alias = value, alias if alias is not None else [0]
        made.alias[0] += 1  # how many tensors share this memory
        return made

    def __repr__(self, **_: Any) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"a tensor of {p.show_shape(self.value.shape)}, {self.value.dtype}, whose numbers are not known yet"

    @classmethod
    def __torch_dispatch__(cls, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise TraceError(
            f"{func} was called on a tensor of a step after the step was traced: keep such tensors in the state"
        )


class Tracer(TorchDispatchMode):
    """While it is entered, operations are noted instead of computed.

    ``names`` are what real tensors that turn up are called, by their identity; others are constants. The batch must not
    be mistaken for one of the sizes to ``avoid``. What asks where a tensor is, is told ``device``.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Otherwise PyTorch imports its compiler, which takes a second, to keep it out of a mode that it never enters.
        return False

    def __init__(self, names: Mapping[int, str] | None = None, avoid: Any = (), device: torch.device = _CPU):
        super().__init__()
        self.rows = next(size for size in _BATCH_SIZES if size not in set(avoid))
        self.names, self.device = dict(names or {}), device
        self.lifted: dict[str, Tensor] = {}
        self.numbers: list[tuple[Any, float]] = []
        self.lines: dict[Value, str] = {}
        self.keep_gradients = False
        self.count = 0
        self.drawn: list[Value] = []  # of each draw of random numbers, something that it gives
        self.failure: TraceError | None = None
        # Autograd would save what an operation gave with that operation: a circle that nobody frees.
        self._saving = torch.autograd.graph.saved_tensors_hooks(_saved, self._restored)

    def __enter__(self) -> "Tracer":
        self._saving.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._saving.__exit__(*error)

    def _restored(self, saved: Any) -> Tensor:
        return Traced(saved, self.rows) if isinstance(saved, Value) else saved

    def tensor(self, value: Value, requires_grad: bool = False) -> Traced:
        """A tensor that stands for a value, and whose memory somebody else has."""
        return Traced(value, self.rows, requires_grad and value.dtype.is_floating_point, [1])

    def __torch_dispatch__(self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            with p.noting(self.lines, functools.cache(running_line)):
                return self._note(func, args, kwargs or {})
        except TraceError as error:
            self.refused(error)
            raise

    def refused(self, error: TraceError) -> None:
        """Take note of why there is no program: the step may catch the error."""
        self.failure = self.failure or error

    def _note(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        name = schema_of(func).name.split("::")[1]
        self.count += 1
        if self.count > _LIMIT:
            raise self._refuse(func, "the step has too many operations, perhaps a loop over the rows of the batch")
        if name in ("_local_scalar_dense", "item", "is_nonzero", "equal", "allclose", "_is_all_true"):
            raise self._refuse(
                func, "what the step does depends on the numbers in a tensor: use torch.where, which takes both ways"
            )
        if name == "as_strided":
            raise self._refuse(func, "it depends on how a tensor lies in memory: use slices, reshape or unfold")
        if name in RANDOM:
            return self._random(func, name, args, kwargs)
        if name.endswith("_") and not name.endswith("__"):
            return self._in_place(func, name[:-1], args, kwargs)
        if any(
            argument.alias_info is not None and argument.alias_info.is_write for argument in schema_of(func).arguments
        ):
            raise self._refuse(func, "it writes into a tensor that it was given: use the form that returns a new one")
        if name not in HANDLERS and name not in ROWWISE and can_be_decomposed(func):
            with self:
                return func.decompose(*args, **kwargs)
        result = self._cut(self._value(func, name, args, kwargs))
        if all(returned.alias_info is None for returned in schema_of(func).returns):
            return self._tensors(result, None)
        base = next((a for a in args if isinstance(a, Traced)), None)
        return self._tensors(result, [1] if base is None else base.alias)

    def _value(self, func: OpOverload, name: str, args: Any, kwargs: Any) -> Any:
        known = HANDLERS.get(name)
        given, options = self._operands(args), self._operands(kwargs)
        try:
            if name == "detach":
                result: Any = given[0] if self.keep_gradients else p.detach(given[0])
            elif known is not None:
                if schema_of(func).name.startswith("aten::"):
                    options = {k: v for k, v in options.items() if k not in ("layout", "pin_memory", "memory_format")}
                    if self._is_here(options.get("device")):
                        del options["device"]
                result = known(*given, **options)
            elif not has_rows([given, options]):
                result = self._opaque(func, given, options)
            elif name in ROWWISE:
                check_rowwise(func, name, given, options)
                result = self._opaque(func, given, options)
            elif name == "arange":
                raise NotRowwise("it numbers them")
            else:
                raise self._refuse(
                    func,
                    "the compiler does not know this operation: write it with others, or run with engine='reference'",
                )
        except NotRowwise as error:
            raise self._refuse(func, f"rows of the batch must not meet, but {error}") from None
        except Unknown as error:
            raise self._refuse(func, f"the compiler knows this operation, but not {error}") from None
        except TraceError:
            raise
        except (ValueError, TypeError, IndexError, AttributeError, KeyError) as error:
            raise self._refuse(func, f"the compiler cannot take it in this form ({error})") from error
        return result

    def _is_here(self, device: Any) -> bool:
        """Whether a device that is named is that of the step."""
        if device is None:
            return False
        device = torch.device(device)
        return device.type == self.device.type and device.index in (None, self.device.index)

    def _cut(self, result: Any) -> Any:
        """What an operation gives: detached, where no derivative is recorded."""
        if self._is_recorded() or result is None:
            return result
        return p.detach(result) if isinstance(result, Value) else tuple(map(self._cut, result))

    def _is_recorded(self) -> bool:
        return self.keep_gradients or torch.is_grad_enabled()

    def _operands(self, tree: Any) -> Any:
        if isinstance(tree, Traced):
            return tree.value
        if isinstance(tree, Tensor):
            return self._lift(tree)
        if isinstance(tree, int) and not isinstance(tree, bool) and tree == self.rows:
            return BATCH
        if isinstance(tree, (list, tuple)):
            return [self._operands(part) for part in tree]
        if isinstance(tree, dict):
            return {name: self._operands(part) for name, part in tree.items()}
        return tree

    def _lift(self, tensor: Tensor) -> Value:
        """The input that a real tensor becomes: a parameter, a buffer, or a constant from outside."""
        name = self.names.get(id(tensor))
        if name is None:
            if tensor.ndim == 0 and not tensor.requires_grad and tensor.device.type == "cpu":
                # A number that Python made into a tensor on the way; read without going through this tracer again.
                number = tensor.numpy().item()
                self.numbers.append((weakref.ref(tensor), number))
                return p.full(number, (), tensor.dtype)
            name = self.names[id(tensor)] = f"constant/{len(self.lifted)}"
        self.lifted[name] = tensor
        return p.placeholder(name, tensor.shape, tensor.dtype)

    def _tensors(self, result: Any, alias: Any) -> Any:
        if isinstance(result, Value):
            return Traced(result, self.rows, alias=alias)  # pyright: ignore[reportCallIssue]
        if isinstance(result, (tuple, list)):
            # As many outputs of one tensor do not overlap, but may be written into; count them as sharing.
            return type(result)(self._tensors(part, alias) for part in result)
        return result

    def _opaque(self, func: OpOverload, given: Any, options: Any, draw: int | None = None) -> Any:
        """A call that the program keeps as it is; shapes come from PyTorch, by running it on no memory."""
        operands: list[Value] = []

        def pack(tree: Any) -> Any:
            if isinstance(tree, Value):
                operands.append(tree)
                return Operand(len(operands) - 1)
            if isinstance(tree, list):
                return tuple(pack(part) for part in tree)
            return tree

        call = Call(func, pack(given), tuple(sorted((name, pack(part)) for name, part in options.items())), draw)
        meta = [
            torch.empty([self.rows if d is BATCH else d for d in v.shape], dtype=v.dtype, device="meta")
            for v in operands
        ]
        with torch.no_grad(), no_modes():
            out = call(meta, self.rows, torch.device("meta"))
        if out is None:  # a check whose outcome is known only when there are numbers
            return None
        single = isinstance(out, Tensor)
        results = []
        for i, tensor in enumerate([out] if single else out):
            shape = [BATCH if size == self.rows else size for size in tensor.shape]
            results.append(p.make("opaque", operands, (call, i), shape, tensor.dtype))
        return results[0] if single else tuple(results)

    def _random(self, func: OpOverload, name: str, args: Any, kwargs: Any) -> Any:
        if name.endswith("_"):
            # Filling fresh memory with random numbers: as an operation that returns them.
            target = args[0]
            if not isinstance(target, Traced) or target.alias[0] > 1:
                raise self._refuse(func, "it draws random numbers into memory that is shared")
            fresh = p.full(0, target.value.shape, target.value.dtype)  # whatever was there is not asked for
            given = [fresh, *self._operands(args[1:])]
            return self._write(target, self._drawn(func, given, self._operands(kwargs)))
        given = self._operands(args)
        if name == "native_dropout":
            x, share = given[:2]
            if not given[2]:
                return self._tensors((self._cut(x), p.full(True, x.shape, torch.bool)), None)
            template = p.full(0, x.shape, x.dtype)
            drawn = self._drawn(func, [template, *given[1:]], self._operands(kwargs))
            kept = p.elementwise("mul", x, p.cast(drawn[1], x.dtype))
            scale = 0.0 if share == 1 else 1 / (1 - share)
            return self._tensors((self._cut(p.elementwise("mul", kept, p.full(scale, (), x.dtype))), drawn[1]), None)
        if name.endswith("_like") and isinstance(given[0], Value):
            given[0] = p.full(0, given[0].shape, given[0].dtype)  # of these, the shape alone is asked for
        return self._tensors(self._drawn(func, given, self._operands(kwargs)), None)

    def _drawn(self, func: OpOverload, given: Any, options: Any) -> Any:
        """A draw of random numbers."""
        result = self._opaque(func, given, options, len(self.drawn))
        self.drawn.append(result if isinstance(result, Value) else result[-1])
        return result

    def _in_place(self, func: OpOverload, name: str, args: Any, kwargs: Any) -> Any:
        target = args[0]
        if not isinstance(target, Traced):
            what = self.names.get(id(target), "a tensor from outside the step")
            raise self._refuse(func, f"the step changes {what} in place: what a step changes must be part of the state")
        if target.alias[0] > 1:
            if target.value.op == "input":
                name = target.value.name
                raise self._refuse(func, f"the step changes its input {name} in place: use the form without _")
            raise self._refuse(func, "it writes into part of a tensor: build the whole with torch.cat or torch.stack")
        if name == "zero":
            return self._write(target, p.full(0, target.value.shape, target.value.dtype))
        return self._write(target, self._operands(args[1]) if name == "copy" else self._value(func, name, args, kwargs))

    def _write(self, target: Traced, result: Value) -> Traced:
        """Overwrite a tensor. Where that is not recorded, its gradient is still that of what it was made of."""
        value = p.expand(p.cast(result, target.value.dtype), target.value.shape)
        target.value = value if self._is_recorded() else p.straight_through(value, target.value)
        return target

    def _refuse(self, func: OpOverload, why: str) -> TraceError:
        return TraceError(f"{running_line() or 'a step'}: {str(func).removesuffix('.default')}: {why}")


def _saved(tensor: Tensor) -> Value | Tensor:
    return tensor.value if isinstance(tensor, Traced) else tensor


class AboveAutograd(TorchFunctionMode):
    """Sees what a `Tracer` does not see, which stands below PyTorch's autograd.

    Products of more than two axes are taken apart, before PyTorch lays the batch and other axes into one for them.
    What changes a tensor and is no operation is noted, or refused; so is what is asked of one.
    """

    def __init__(self, tracer: Tracer):
        super().__init__()
        self._tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in asked.PLACES and len(args) == 1 and not kwargs and isinstance(args[0], Traced):
            return asked.place(func, args[0], self._tracer.device)
        if func in asked.ANSWERED:
            frame, rows, refused = sys._getframe(1), self._tracer.rows, self._tracer.refused
            return asked.answer(func, lambda: func(*args, **kwargs), rows, refused, frame)
        if func is Tensor.detach_ and isinstance(args[0], Traced):
            args[0].value = p.detach(args[0].value)
        if func == _SET_DATA:
            raise TraceError(
                f"{running_line() or 'a step'}: the step gives tensor.data other numbers: use tensor.copy_, if need be"
                " under torch.no_grad()"
            )
        if func is torch.nn.functional.linear and not kwargs and args[0].ndim > 2 and isinstance(args[0], Traced):
            with self:
                return _in_parts(args[0], lambda part: func(part, *args[1:]))
        if func in _MATMUL and not kwargs and {type(a) for a in args} & {Traced}:
            a, b = args[::-1] if func is Tensor.__rmatmul__ else args
            with self:
                if a.ndim > 2 and b.ndim == 2:
                    return _in_parts(a, lambda part: torch.matmul(part, b))
                if a.ndim == 2 and b.ndim > 2:
                    return torch.matmul(b.mT, a.mT).mT
        return func(*args, **kwargs)


def _in_parts(tensor: Tensor, product: Callable[[Tensor], Tensor]) -> Tensor:
    """A product of each part along the first axis that is not the batch."""
    axis = 1 if isinstance(tensor, Traced) and tensor.value.batch_axis == 0 else 0
    return torch.stack([product(part) for part in tensor.unbind(axis)], axis)


_SET_DATA = Tensor.data.__set__  # pyright: ignore
_MATMUL = (torch.matmul, Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__)
