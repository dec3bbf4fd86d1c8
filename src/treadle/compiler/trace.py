"""From Python to a program: a step is run once, on tensors that hold no numbers, and every operation is noted.

Below PyTorch's autograd, each operation of the step arrives at `_Tracer`, which looks it up in the table of
``operations.py``. The batch is a number that nothing else has, so that it can be told from features wherever it shows
up. A step is run twice, with another such number: what then comes out otherwise depends on what no program can hold.
"""

import contextlib
import functools
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from treadle.compiler import program as p
from treadle.compiler.operations import HANDLERS, RANDOM, ROWWISE, NotRowwise, Unknown
from treadle.compiler.program import BATCH, Program, Value
from treadle.compiler.walk import preorder
from treadle.errors import TraceError

__all__ = ["Traced", "Tracer", "trace_step"]

_BATCH_SIZES = (9973, 9967, 9949, 9941, 9931, 9929)
_LIMIT = 50_000
_OWN = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


class Traced(Tensor):
    """A tensor without numbers, which stands for a `Value`."""

    value: Value
    alias: list[int]

    @staticmethod
    def __new__(cls, value: Value, rows: int, requires_grad: bool = False, alias: list[int] | None = None) -> "Traced":
        sizes = [rows if dim is BATCH else dim for dim in value.shape]
        made = Tensor._make_wrapper_subclass(cls, sizes, dtype=value.dtype, requires_grad=requires_grad)  # pyright: ignore
        made.value, made.alias = value, alias if alias is not None else [0]
        made.alias[0] += 1  # how many tensors share this memory
        return made

    def __repr__(self, **_: Any) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"a tensor of {p.show_shape(self.value.shape)}, {self.value.dtype}, whose numbers are not known yet"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise TraceError(
            f"{func} was called on a tensor of a step after the step was traced: keep such tensors in the state"
        )


class Tracer(TorchDispatchMode):
    """While it is entered, operations are noted instead of computed.

    Args:
        names: what real tensors that turn up are called, by their identity; others are constants.
        avoid: sizes that the batch must not be mistaken for.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Otherwise PyTorch imports its compiler, which takes a second, to keep it out of a mode that it never enters.
        return False

    def __init__(self, names: Mapping[int, str] | None = None, avoid: Any = ()):
        super().__init__()
        self.rows = next(size for size in _BATCH_SIZES if size not in set(avoid))
        self.names = dict(names or {})
        self.lifted: dict[str, Tensor] = {}
        self.keep_gradients = False
        self.count = 0
        self.draws = itertools.count()
        self.failure: TraceError | None = None

    def tensor(self, value: Value, requires_grad: bool = False) -> Traced:
        """A tensor that stands for a value."""
        return Traced(value, self.rows, requires_grad and value.dtype.is_floating_point)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            with p.made_at(_where):
                return self._note(func, args, kwargs or {})
        except TraceError as error:
            self.failure = self.failure or error
            raise

    def _note(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = func._schema.name.split("::")[1]
        self.count += 1
        if self.count > _LIMIT:
            raise self._refuse(func, "the step has too many operations, perhaps a loop over the rows of the batch")
        if name in ("_local_scalar_dense", "item", "is_nonzero", "equal", "allclose", "_is_all_true"):
            raise self._refuse(
                func, "what the step does depends on the numbers in a tensor: use torch.where, which takes both ways"
            )
        if name in RANDOM:
            return self._random(func, name, args, kwargs)
        if name.endswith("_") and not name.endswith("__"):
            return self._in_place(func, name[:-1], args, kwargs)
        if any(argument.alias_info is not None and argument.alias_info.is_write for argument in func._schema.arguments):
            raise self._refuse(func, "it writes into a tensor that it was given: use the form that returns a new one")
        if name not in HANDLERS and name not in ROWWISE and func._can_decompose():
            with self:
                return func.decompose(*args, **kwargs)
        value = self._value(func, name, args, kwargs)
        views = func._schema.returns and any(r.alias_info is not None for r in func._schema.returns)
        base = next((a for a in args if isinstance(a, Traced)), None) if views else None
        return self._tensors(value, base.alias if base is not None else None)

    def _value(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        known = HANDLERS.get(name)
        given, options = self._operands(args), self._operands(kwargs)
        try:
            if name == "detach":
                result: Any = given[0]
                if not self.keep_gradients:
                    result = p.make("detach", (result,), (), result.shape, result.dtype)
            elif known is not None:
                if func._schema.name.startswith("aten::"):
                    options = {k: v for k, v in options.items() if k not in ("layout", "pin_memory", "memory_format")}
                result = known(*given, **options)
            elif not self._has_rows([given, options]):
                result = self._opaque(func, given, options)
            elif name in ROWWISE:
                self._check_rowwise(func, name, given, options)
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
        if not self.keep_gradients and not torch.is_grad_enabled():
            cut = [p.make("detach", (v,), (), v.shape, v.dtype) for v in _listed(result)]
            result = cut[0] if isinstance(result, Value) else tuple(cut) if cut else result
        return result

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
                return p.full(tensor.numpy().item(), (), tensor.dtype)
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

    def _has_rows(self, tree: Any) -> bool:
        if isinstance(tree, Value):
            return tree.has_rows
        if isinstance(tree, dict):
            return any(map(self._has_rows, tree.values()))
        return any(map(self._has_rows, tree)) if isinstance(tree, (list, tuple)) else tree is BATCH

    def _check_rowwise(self, func: Any, name: str, given: Any, options: Any) -> None:
        value = given[0]
        kind = ROWWISE[name]
        if kind == "first" and not (isinstance(value, Value) and value.batch_axis == 0):
            raise NotRowwise("it takes another axis than the first for the batch")
        if kind == "dim":
            dims = options.get("dim", options.get("dims"))
            if dims is None:
                place = next(i for i, a in enumerate(func._schema.arguments) if a.name in ("dim", "dims"))
                dims = given[place] if place < len(given) else -1
            for dim in dims if isinstance(dims, list) else [dims]:
                if value.shape[dim % len(value.shape)] is BATCH:
                    raise NotRowwise("it goes over the batch axis")
            if any(isinstance(v, Value) and v.has_rows and v.batch_axis != value.batch_axis for v in given):
                raise NotRowwise("it pairs rows with features")
        if kind == "any" and any(isinstance(v, Value) and v.has_rows and v is given[0] for v in given):
            raise NotRowwise("it looks rows up in a table of rows")

    def _opaque(self, func: Any, given: Any, options: Any, unique: Any = None) -> Any:
        """A call that the program keeps as it is; shapes come from PyTorch, by running it on no memory."""
        operands: list[Value] = []

        def pack(tree: Any) -> Any:
            if isinstance(tree, Value):
                operands.append(tree)
                return Operand(len(operands) - 1)
            if isinstance(tree, list):
                return tuple(pack(part) for part in tree)
            return tree

        packed = pack(given), tuple(sorted((name, pack(part)) for name, part in options.items()))
        meta = [
            torch.empty([self.rows if d is BATCH else d for d in v.shape], dtype=v.dtype, device="meta")
            for v in operands
        ]
        with torch.no_grad(), _outside(self):
            out = call(func, *packed, meta, self.rows, device="meta")
        if out is None:  # a check whose outcome is known only when there are numbers
            return None
        single = isinstance(out, Tensor)
        results = []
        for i, tensor in enumerate([out] if single else out):
            shape = [BATCH if size == self.rows else size for size in tensor.shape]
            results.append(p.make("opaque", operands, (func, packed, i, unique), shape, tensor.dtype))
        return results[0] if single else tuple(results)

    def _random(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        if name.endswith("_"):
            # Filling fresh memory with random numbers: as an operation that returns them.
            target = args[0]
            if not isinstance(target, Traced) or target.alias[0] > 1:
                raise self._refuse(func, "it draws random numbers into memory that is shared")
            value = self._opaque(func, self._operands(args), self._operands(kwargs), next(self.draws))
            target.value = value
            return target
        given = self._operands(args)
        if name == "native_dropout":
            x, share = given[:2]
            if not given[2]:
                return self._tensors((x, p.full(True, x.shape, torch.bool)), None)
            template = p.full(0, x.shape, x.dtype)
            drawn = self._opaque(func, [template, *given[1:]], self._operands(kwargs), next(self.draws))
            kept = p.elementwise("mul", x, p.cast(drawn[1], x.dtype))
            scale = 0.0 if share == 1 else 1 / (1 - share)
            return self._tensors((p.elementwise("mul", kept, p.full(scale, (), x.dtype)), drawn[1]), None)
        if name.endswith("_like") and isinstance(given[0], Value):
            given[0] = p.full(0, given[0].shape, given[0].dtype)  # of these, the shape alone is asked for
        return self._tensors(self._opaque(func, given, self._operands(kwargs), next(self.draws)), None)

    def _in_place(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        target = args[0]
        if not isinstance(target, Traced):
            what = self.names.get(id(target), "a tensor from outside the step")
            raise self._refuse(func, f"the step changes {what} in place: what a step changes must be part of the state")
        if target.value.op == "input":
            raise self._refuse(func, f"the step changes its input {target.value.name} in place: use the form without _")
        if target.alias[0] > 1:
            raise self._refuse(func, "it writes into part of a tensor: build the whole with torch.cat or torch.stack")
        if name == "copy":
            source = self._operands(args[1])
            target.value = p.expand(p.cast(source, target.value.dtype), target.value.shape)
        elif name == "zero":
            target.value = p.full(0, target.value.shape, target.value.dtype)
        else:
            result = self._value(func, name, args, kwargs)
            target.value = p.expand(p.cast(result, target.value.dtype), target.value.shape)
        return target

    def _refuse(self, func: Any, why: str) -> TraceError:
        return TraceError(f"{_where() or 'a step'}: {str(func).removesuffix('.default')}: {why}")


class _Products(TorchFunctionMode):
    """Takes products of more than two axes apart, before PyTorch lays the batch and other axes into one for them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.linear and not kwargs and args[0].ndim > 2 and isinstance(args[0], Traced):
            with self:
                return torch.stack([func(part, *args[1:]) for part in args[0].unbind(1)], 1)
        if func in _MATMUL and not kwargs and {type(a) for a in args} & {Traced}:
            a, b = args[::-1] if func is Tensor.__rmatmul__ else args
            with self:
                if a.ndim > 2 and b.ndim == 2:
                    return torch.stack([torch.matmul(part, b) for part in a.unbind(1)], 1)
                if a.ndim == 2 and b.ndim > 2:
                    return torch.matmul(b.mT, a.mT).mT
        return func(*args, **kwargs)


_MATMUL = (torch.matmul, Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__)


class Operand:
    """The place of an operand among the arguments of an opaque call."""

    def __init__(self, index: int):
        self.index = index

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Operand) and other.index == self.index

    def __hash__(self) -> int:
        return hash(("Operand", self.index))

    def __repr__(self) -> str:
        return f"#{self.index}"


def call(func: Any, packed: Any, options: Any, operands: list[Tensor], rows: int, device: Any = None) -> Any:
    """Make an opaque call, with ``rows`` for the batch."""

    def unpack(tree: Any) -> Any:
        if isinstance(tree, Operand):
            return operands[tree.index]
        if isinstance(tree, tuple):
            return [unpack(part) for part in tree]
        return rows if tree is BATCH else tree

    given = {name: unpack(part) for name, part in options}
    if device is not None and any(argument.name == "device" for argument in func._schema.arguments):
        given["device"] = device
    return func(*unpack(packed), **given)


@contextlib.contextmanager
def _outside(tracer: Tracer) -> Iterator[None]:
    """Operations in here are PyTorch's own."""
    with torch.utils._python_dispatch._disable_current_modes():  # pyright: ignore[reportAttributeAccessIssue]
        yield


def _listed(result: Any) -> list[Value]:
    return [result] if isinstance(result, Value) else [v for v in result or () if isinstance(v, Value)]


def _where() -> str:
    """The line of the step, in the user's own file, that is running."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_OWN) and not name.startswith("<") and "torch_dispatch" not in frame.f_code.co_name:
            return f"{Path(name).name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Every tensor that a module holds, by path: parameters, buffers, and plain attributes."""
    found: dict[str, Tensor] = {}
    for path, part in module.named_modules():
        prefix = f"{path}." if path else ""
        for group in (part._parameters, part._buffers, vars(part)):
            for name, tensor in group.items():
                if isinstance(tensor, Tensor):
                    found[prefix + name] = tensor
    return found


def trace_step(
    cell: nn.Module, inputs: Mapping[str, Value], step: Callable[[dict[str, Tensor]], Mapping[str, Tensor]]
) -> tuple[Program, dict[str, Tensor]]:
    """Run a step once, and return its program.

    Args:
        cell: the module whose tensors become inputs, ``"parameter/PATH"``.
        inputs: what else the step reads.
        step: takes a tensor for each of ``inputs``, returns outputs by name.

    Returns:
        The program, and the real tensors that it reads besides ``inputs``, by name.

    Raises:
        TraceError: with the user's line, the operation and what to write instead.
    """
    program, lifted, rows = _trace_once(cell, inputs, step, set())
    again, others, _ = _trace_once(cell, inputs, step, {rows})
    for value, other in zip(program.values(), again.values(), strict=False):
        if value is not other:
            raise TraceError(
                f"{value.source or other.source or 'a step'}: the step is another with another batch size, or whenever"
                " it is called: a step may compute neither with the number of rows nor with numbers from outside, such"
                " as Python's random numbers or a counter; what changes belongs into the state"
            )
    for name, tensor in lifted.items():
        if tensor is not others[name] and not torch.equal(tensor, others[name]):
            line = program.inputs[name].source or "a step"
            raise TraceError(
                f"{line}: a tensor that is made from numbers from outside is another whenever it is called"
            )
    return program, lifted


def _trace_once(
    cell: nn.Module, inputs: Mapping[str, Value], step: Any, avoid: set[Any]
) -> tuple[Program, dict[str, Tensor], int]:
    held = tensors_of(cell)
    names = {id(tensor): f"parameter/{path}" for path, tensor in reversed(held.items())}
    sizes = {size for tensor in held.values() for size in tensor.shape}
    tracer = Tracer(names, avoid | sizes | {dim for v in inputs.values() for dim in v.shape if dim is not BATCH})
    kept = _Kept(cell)
    try:
        with tracer, _Products(), torch.enable_grad(), torch.autocast("cpu", enabled=False):
            given = {name: tracer.tensor(value, requires_grad=True) for name, value in inputs.items()}
            results = step(given)
        kept.check()
        _refuse_own_derivatives(results)
    except TraceError:
        raise
    except Exception as error:
        if tracer.failure is not None:
            raise tracer.failure from None
        raise TraceError(
            f"{_line_of(error)}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from error
    finally:
        kept.restore()
    outputs = {}
    for name, tensor in results.items():
        if isinstance(tensor, Traced):
            outputs[name] = tensor.value
        else:
            with p.made_at(lambda: ""):
                outputs[name] = tracer._lift(tensor)
    for value in p.ordered(outputs.values()):
        if value.op in p.CONTRACTIONS:
            what = "a sum" if value.op == "rowsum" else "a product"
            raise TraceError(
                f"{value.source or 'a step'}: rows of the batch must not meet, but {what} goes over the batch axis"
            )
        if value.op == "opaque" and value.attributes[3] is not None:
            if any(operand.op not in ("full", "input") or operand.name in inputs for operand in value.inputs):
                raise TraceError(
                    f"{value.source}: random numbers are drawn from a distribution that depends on the input: draw from"
                    " one that does not, and compute with what was drawn"
                )
            if not value.has_rows:
                raise TraceError(
                    f"{value.source}: random numbers are drawn that all rows share: draw some for each row"
                )
    used = {value.name for value in p.ordered(outputs.values()) if value.op == "input"}
    placeholders = dict(inputs)
    lifted = {name: tensor for name, tensor in tracer.lifted.items() if name in used}
    placeholders |= {name: p.placeholder(name, tensor.shape, tensor.dtype) for name, tensor in lifted.items()}
    return Program(placeholders, outputs), lifted, tracer.rows


class _Kept:
    """What a module's parts hold, lists and dicts among it, to see whether a step changes that, and to undo it."""

    def __init__(self, cell: nn.Module):
        self.copies: list[tuple[nn.Module, str, Any, Any]] = []
        for part in cell.modules():
            held = vars(part)
            self.copies.append((part, "", held, dict(held)))
            self.copies += [
                (part, name, value, value.copy())
                for name, value in held.items()
                if isinstance(value, (list, dict, set))
            ]

    def check(self) -> None:
        """Refuse a step that remembers something in the module."""
        for part, name, container, before in self.copies:
            for inner in self._changed(container, before):
                cached = isinstance(getattr(type(part), str(inner), None), functools.cached_property)
                if not name and cached and not _holds_traced(container.get(inner)):
                    continue
                code = getattr(type(part).forward, "__code__", None)
                line = f"{Path(code.co_filename).name}:{code.co_firstlineno}" if code else "a step"
                attribute = inner if not name or name.startswith("_") else name
                raise TraceError(
                    f"{line}: {type(part).__name__} keeps something in self.{attribute}: a step remembers in its"
                    " state alone"
                )

    def restore(self) -> None:
        """Put everything back."""
        for _, _, container, before in self.copies:
            if self._changed(container, before):
                container.clear()
                container.extend(before) if isinstance(container, list) else container.update(before)

    @staticmethod
    def _changed(container: Any, before: Any) -> list[Any]:
        if isinstance(container, dict):
            nothing = object()
            return [k for k in {**before, **container} if container.get(k, nothing) is not before.get(k, nothing)]
        if isinstance(container, list):
            same = len(container) == len(before) and all(a is b for a, b in zip(container, before, strict=True))
            return [] if same else [""]
        return list(container ^ before)


def _holds_traced(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_holds_traced, value))
    return any(map(_holds_traced, value.values())) if isinstance(value, dict) else isinstance(value, Traced)


def _line_of(error: BaseException) -> str:
    line, trace = "a step", error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if not name.startswith(_OWN) and not name.startswith("<"):
            line = f"{Path(name).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return line


def _refuse_own_derivatives(results: Mapping[str, Tensor]) -> None:
    """A custom autograd.Function has a derivative that a trace of the forward pass cannot know."""
    roots = [t.grad_fn for t in results.values() if isinstance(t, Tensor) and t.grad_fn is not None]
    for node in preorder(roots, lambda node: [after for after, _ in node.next_functions if after is not None]):
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            function = type(node)._forward_cls  # pyright: ignore[reportAttributeAccessIssue]
            code = function.forward.__code__
            raise TraceError(
                f"{Path(code.co_filename).name}:{code.co_firstlineno}: {function.__name__} is a function with a"
                " derivative of its own, which the compiler does not look into: write its forward in the step"
            )
