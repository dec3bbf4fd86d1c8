"""Conformance checks for cells: treadle's own and yours."""

import contextlib
import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError

from treadle import state as states
from treadle.engines import verification
from treadle.errors import CellError, EngineError
from treadle.protocol import is_lazy
from treadle.running.recurrent import Recurrent


def check_cell(cell: Any, input_size: int | tuple[int, ...] | None = None) -> tuple[str, ...]:
    """Check that a module is a correct cell. The module itself is not changed; copies are checked.

    The checks: both methods and what they return; the batch is the first axis of the state, whose form stays the same;
    rows are independent; nothing is hidden in the module, and no argument is changed in place; a sequence gives the
    same whole, in chunks and step by step; the compiled program equals the Python (a cell that cannot be compiled is
    slow, not wrong); gradients equal finite differences in float64; dtype and device follow the parameters; values are
    finite; the cell can be copied and pickled.

    Args:
        cell: the cell.
        input_size: the shape of one row of x (a number if flat); needed if the cell has no ``input_size``.

    Returns:
        The names of the checks, all passed.

    Raises:
        CellError: one or more failed; a line for each says what to correct.

    Example:
        >>> import torch, treadle as td
        >>> class Forgetful(torch.nn.Module):
        ...     input_size = 3
        ...     def initial_state(self, batch_size):
        ...         return (torch.zeros(batch_size, 3),)
        ...     def forward(self, x, state):
        ...         self.last = state[0] + x.mean(0)             # mixes the rows of the batch
        ...         return self.last, (self.last,)
        >>> td.check_cell(Forgetful())  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        treadle.errors.CellError: Forgetful breaks the contract of a cell:
        - rows: ...
        >>> "gradients" in td.check_cell(td.GRUCell(3, 4))
        True
    """
    name = type(cell).__name__
    _check_methods(cell, name)
    size = input_size if input_size is not None else getattr(cell, "input_size", None)
    if size is None:
        raise CellError(
            f"{name} does not say what it reads: set self.input_size in it, or pass check_cell(cell, input_size=...)"
        )
    failures = []
    with torch.random.fork_rng(devices=[]):
        subject = _Subject(cell, (size,) if isinstance(size, int) else tuple(size))
        for check in CHECKS:
            torch.manual_seed(0)
            try:
                check(subject)
            except Exception as error:
                text = str(error) if isinstance(error, CellError) else f"raised {type(error).__name__}: {error}"
                failures.append(f"- {check.__name__}: {text.splitlines()[0]}")
                if check in (contract, state_form):
                    break  # the others would only repeat it
    if failures:
        raise CellError("\n".join([f"{name} breaks the contract of a cell:", *failures]))
    return tuple(check.__name__ for check in CHECKS)


class _Subject:
    """A cell under test: fresh copies of it, and inputs and non-zero states that fit."""

    def __init__(self, cell: nn.Module, size: tuple[int, ...]):
        self.original, self.size = cell, size
        self.tokens = self._reads_tokens()

    def cell(self, dtype: torch.dtype | None = None) -> Any:
        copied = copy.deepcopy(self.original).cpu()
        return copied if dtype is None else copied.to(dtype)

    def x(self, rows: int, dtype: torch.dtype) -> Tensor:
        return torch.randint(2, (rows, *self.size)) if self.tokens else torch.randn(rows, *self.size).to(dtype)

    def xs(self, rows: int, steps: int, dtype: torch.dtype) -> Tensor:
        return torch.stack([self.x(rows, dtype) for _ in range(steps)], 1)

    def dtype(self, cell: Any) -> torch.dtype:
        return next((p.dtype for p in cell.parameters() if p.is_floating_point()), torch.get_default_dtype())

    def state(self, cell: Any, rows: int, seed: int = 1) -> Any:
        """A state as the cell reaches it after a few steps: non-zero, and possible."""
        state = self.initial(cell, rows)
        with torch.no_grad():
            for _ in range(3):
                _, state = cell(self.x(rows, self.dtype(cell)), state)
        return states.detach(state)

    def initial(self, cell: Any, rows: int) -> Any:
        return states.initial_state(cell, self.x(rows, self.dtype(cell)))

    def _reads_tokens(self) -> bool:
        cell = self.cell()
        for tokens in (False, True):
            x = torch.randint(2, (2, *self.size)) if tokens else torch.randn(2, *self.size, dtype=self.dtype(cell))
            with contextlib.suppress(Exception):
                cell(x, cell.initial_state(2))
                self.original = cell if is_lazy(self.original) else self.original
                return tokens
        return False


def _check_methods(cell: Any, name: str) -> None:
    if not isinstance(cell, nn.Module):
        raise CellError(
            f"a cell is an instance of torch.nn.Module, but {name} is not: derive the class from it, pass an instance"
        )
    if not callable(getattr(cell, "initial_state", None)):
        raise CellError(
            f"{name} has no initial_state: define initial_state(self, batch_size), which returns the state of new rows"
        )
    for method, arguments in (("initial_state", (2,)), ("forward", (None, None))):
        try:
            inspect.signature(getattr(cell, method)).bind(*arguments)
        except TypeError:
            wanted = "batch_size" if method == "initial_state" else "x, state"
            raise CellError(f"{name}.{method} must be callable as {method}({wanted})") from None


def _demand_equal(a: Any, b: Any, otherwise: str, tolerance: float = 1e-9) -> None:
    """Refuse a cell whose results differ, in words in which NAME stands for the first tensor that does."""
    for (name, left), (_, right) in zip(states.named_tensors(a), states.named_tensors(b), strict=True):
        left, right = left.double(), right.double()
        if left.shape != right.shape or not torch.allclose(left, right, tolerance, tolerance, equal_nan=True):
            raise CellError(otherwise.replace("NAME", name))


def _seeded(cell: Any, x: Tensor, state: Any) -> dict[str, Any]:
    """One step with fixed randomness, as one structure to be compared."""
    torch.manual_seed(3)
    y, state = cell(x, state)
    return {"y": y, "state": state}


def contract(subject: _Subject) -> None:
    """The cell takes a step at all, and returns what it must."""
    cell = subject.cell()
    if not list(states.named_tensors(cell.initial_state(2))):
        raise CellError(
            "initial_state returned no tensors: a module without memory needs no state, use it in a td.Graph"
        )
    result = cell(subject.x(2, subject.dtype(cell)), subject.initial(cell, 2))
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[0], Tensor):
        raise CellError(f"forward returned {type(result).__name__}: return the pair y, state, with y a tensor")


def state_form(subject: _Subject) -> None:
    """The batch is the first axis of everything, and a step keeps the form of the state."""
    cell = subject.cell()
    for rows in (3, 1, 0):
        before = subject.initial(cell, rows)
        y, after = cell(subject.x(rows, subject.dtype(cell)), before)
        old, new = dict(states.named_tensors(before)), dict(states.named_tensors(after))
        if type(before) is not type(after) or old.keys() != new.keys():
            raise CellError(
                f"initial_state returns {type(before).__name__} of {sorted(old)}, forward returns"
                f" {type(after).__name__} of {sorted(new)}: return the same kind of state from both"
            )
        for name, tensor in [("y", y), *old.items(), *new.items()]:
            if tensor.ndim == 0 or tensor.shape[0] != rows:
                raise CellError(f"{name} is {list(tensor.shape)} for {rows} rows: its first axis must be the batch")
        for name, tensor in new.items():
            if tensor.shape != old[name].shape or tensor.dtype != old[name].dtype:
                raise CellError(
                    f"state {name} goes in as {list(old[name].shape)} {old[name].dtype} and comes out as"
                    f" {list(tensor.shape)} {tensor.dtype}: keep shape and dtype, or start with the right"
                    " ones in initial_state"
                )


def rows(subject: _Subject) -> None:
    """No row depends on another."""
    cell = subject.cell(torch.float64).eval()
    x, state = subject.x(4, torch.float64), subject.state(cell, 4)
    together = _seeded(cell, x, state)
    for row in range(4):
        alone = _seeded(cell, x[row : row + 1], states.select(state, row))
        _demand_equal(
            states.select(together, row),
            alone,
            f"row {row} of NAME differs when the row is computed alone: the rows of a batch must not influence each"
            " other; look for a mean, a norm or a softmax over axis 0, BatchNorm, or a reshape that mixes rows",
        )


def nothing_hidden(subject: _Subject) -> None:
    """The same input and state give the same result, and neither is changed."""
    cell = subject.cell(torch.float64)
    x, state = subject.x(3, torch.float64), subject.state(cell, 3)
    x_before, state_before = x.clone(), states.map_state(Tensor.clone, state)
    first = _seeded(cell, x, state)
    if not torch.equal(x, x_before):
        raise CellError("the step changed its input x in place: use x = x + ... instead of x += ... or x.add_()")
    in_place = "the step changed the state that it was given, NAME, in place: return a new tensor instead"
    _demand_equal(state, state_before, in_place, tolerance=0)
    first = states.map_state(Tensor.clone, first)
    _seeded(cell, subject.x(3, torch.float64), subject.state(cell, 3))
    _demand_equal(
        first,
        _seeded(cell, x, state),
        "NAME differs when the same step is taken again: the module keeps something outside its state (an attribute or"
        " a buffer that forward writes, or a random generator other than torch's): put it into the state",
    )


def step_is_sequence(subject: _Subject) -> None:
    """Whole = in chunks = step by step."""
    cell = subject.cell(torch.float64).eval()
    recurrent = Recurrent(cell)
    xs = subject.xs(2, 7, torch.float64)
    state = subject.state(cell, 2)
    ys, end = recurrent(xs, state)
    first, middle = recurrent(xs[:, :3], state)
    second, chunked = recurrent(xs[:, 3:], middle)
    outputs = []
    for t in range(7):
        y, state = recurrent.step(xs[:, t], state)
        outputs.append(y)
    whole = {"y": ys, "state": end}
    for way, other in (
        ("in chunks", {"y": torch.cat([first, second], 1), "state": chunked}),
        ("step by step", {"y": torch.stack(outputs, 1), "state": state}),
    ):
        why = f"NAME differs between a sequence passed whole and {way}: "
        _demand_equal(whole, other, why + "everything that one step passes to the next must be in the state")


def program(subject: _Subject) -> None:
    """What the compiler makes of the step does what the step's Python does, in values and gradients."""
    cell = subject.cell(torch.float64).eval()
    xs = subject.xs(3, 4, torch.float64)
    state = subject.state(cell, 3)
    found = []
    for engine in ("interpreter", "reference"):
        torch.manual_seed(3)
        parts = [t.clone().requires_grad_(t.is_floating_point()) for _, t in states.named_tensors(state)]
        leaves = [xs.clone().requires_grad_(xs.is_floating_point()), *parts]
        given = iter(parts)
        try:
            with verification.switched("never"):  # it is here that the two are compared
                ys, end = Recurrent(cell, engine=engine)(
                    leaves[0], states.map_state(lambda _, given=given: next(given), state)
                )
        except EngineError:
            return
        results = {"y": ys, "state": end}
        leaves = [t for t in (*leaves, *cell.parameters()) if t.requires_grad]
        total = sum(t.sum() for _, t in states.named_tensors(results) if t.requires_grad)
        if isinstance(total, Tensor):
            grads = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
            results["a gradient"] = list(grads)
        found.append(results)
    _demand_equal(
        found[0],
        found[1],
        "NAME differs between the compiled step and its Python: the step depends on something that is neither a tensor"
        " nor an attribute of the module (a global variable, a file, the time), or treadle has a bug",
    )


def gradients(subject: _Subject) -> None:
    """Gradients with respect to x, state and parameters equal finite differences, in float64."""
    cell = subject.cell(torch.float64)
    x, state = subject.x(2, torch.float64), subject.state(cell, 2)
    parameters = {
        name: p.detach().clone() for name, p in cell.named_parameters() if p.is_floating_point() and p.requires_grad
    }
    parts = [tensor for _, tensor in states.named_tensors(state)]
    inputs = [t.detach().clone().requires_grad_(t.is_floating_point()) for t in (x, *parts, *parameters.values())]

    def step(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        given = iter(rest[: len(parts)])
        torch.manual_seed(3)
        values = dict(zip(parameters, rest[len(parts) :], strict=True))
        before = states.map_state(lambda _: next(given), state)
        y, after = torch.func.functional_call(cell, values, (x, before))
        return tuple(t for t in (y, *(t for _, t in states.named_tensors(after))) if t.is_floating_point())

    outputs = step(*inputs)
    if not any(output.requires_grad for output in outputs):
        raise CellError(
            "no output depends on x, the state or a parameter by a gradient: look for detach(), .data or"
            " no_grad in forward"
        )
    try:
        torch.autograd.gradcheck(step, inputs, fast_mode=True, atol=1e-5, rtol=1e-3)
    except GradcheckError as error:
        raise CellError(
            f"gradients differ from finite differences ({str(error).splitlines()[0]}): look for detach(), .data,"
            " no_grad, rounding, or a custom backward"
        ) from None


def precision(subject: _Subject) -> None:
    """Everything follows the dtype of the parameters and of x."""
    for dtype in (torch.float64, torch.float32):
        cell = subject.cell(dtype)
        if not any(p.is_floating_point() for p in cell.parameters()):
            continue  # with nothing to convert there is nothing to follow
        result = _seeded(cell, subject.x(2, dtype), subject.initial(cell, 2))
        for name, tensor in states.named_tensors(result):
            if tensor.is_floating_point() and tensor.dtype != dtype:
                raise CellError(
                    f"{name} is {tensor.dtype} in a cell of {dtype}: make new tensors with x.new_zeros(...)"
                    " or zeros_like"
                )


def device(subject: _Subject) -> None:
    """No tensor is made on a fixed device; tried on PyTorch's ``meta`` device, which every machine has."""
    cell = subject.cell().to("meta")
    x = subject.x(2, subject.dtype(cell)).to("meta")
    try:
        y, state = cell(x, states.initial_state(cell, x))
    except NotImplementedError as error:
        raise CellError(
            f"an operation of the step has no meta kernel, so its shapes cannot be known ahead: {error}"
        ) from None
    except RuntimeError as error:
        raise CellError(
            f"the step does not run where its parameters are ({str(error).splitlines()[0]}): make tensors with"
            " device=x.device, and register constants as buffers"
        ) from None
    for name, tensor in states.named_tensors({"y": y, "state": state}):
        if tensor.device.type != "meta":
            raise CellError(
                f"{name} is on {tensor.device}, though cell and x are elsewhere: make tensors with device=x.device"
            )


def finite(subject: _Subject) -> None:
    """Ordinary inputs give no infinity and no NaN, in values and gradients, over some steps."""
    cell = subject.cell()
    xs = subject.xs(2, 20, subject.dtype(cell))
    xs = xs if subject.tokens else (3 * xs).requires_grad_()
    ys, end = Recurrent(cell)(xs)
    for name, tensor in states.named_tensors({"y": ys, "state": end}):
        if not tensor.isfinite().all():
            raise CellError(
                f"{name} is not finite after 20 steps of inputs around ±3: look for a division, log or exp"
                " without a bound"
            )
    ys.sum().backward()
    for name, tensor in [("x", xs), *cell.named_parameters()]:
        if tensor.grad is not None and not tensor.grad.isfinite().all():
            raise CellError(
                f"the gradient of {name} is not finite after 20 steps: look for sqrt, log, norm or division at 0"
            )


def copies(subject: _Subject) -> None:
    """A copy and a pickled cell are the same cell."""
    cell = subject.cell()
    x, state = subject.x(2, subject.dtype(cell)), subject.state(cell, 2)
    expected = _seeded(cell, x, state)
    try:
        pickled = pickle.loads(pickle.dumps(cell))
    except Exception as error:
        raise CellError(
            f"the cell cannot be pickled ({error}): define its class at the top of a module, keep no lambdas"
            " or open files in it"
        ) from None
    for way, other in (("pickled", pickled), ("deep-copied", copy.deepcopy(cell))):
        why = f"NAME differs in a {way} cell: "
        why += "everything that a step uses must be a parameter, a buffer or an attribute"
        _demand_equal(expected, _seeded(other, x, state), why)


CHECKS: tuple[Callable[[_Subject], None], ...] = (
    *(contract, state_form, rows, nothing_hidden, step_is_sequence, program, gradients, precision, device, finite),
    copies,
)
