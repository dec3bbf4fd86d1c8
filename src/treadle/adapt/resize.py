"""A cell at another size, whatever its class: how its parameters are laid out is found out, and then put to the test.

A cell is described by the arguments of its constructor, so it can be built at any size. Which axes of its parameters
grow with the size, and in how many blocks (the gates), shows when it is built at both. Old numbers go to their places
in the blocks; then both cells are run, and what the new one makes of the old features has to be what the old one makes
of them. So there is no case for any class, a cell of one's own is grown like the library's, and a cell that cannot be
grown without a change, such as one that normalises over its units, is refused because it was seen to change.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from treadle import state as states
from treadle.adapt.places import STARTED, Places, Start, appended, joined, placed
from treadle.errors import AdaptError, ModelFileError
from treadle.files.description import arguments_of

SIZES = {"input": ("input_size", "input_channels"), "hidden": ("hidden_size", "hidden_channels")}
"""What constructors call the two sizes."""

STEPS = 3
"""How many steps are looked at: in the first, nothing comes from a state that starts at zero."""


def resized_inputs(path: str, cell: Any, places: Tensor, start: Start) -> Any:
    """A cell that reads wider rows; what it makes of the old features is what it made of them."""
    old, make = _maker(path, cell, "input")
    new_size = len(places)
    for order in ("first", "last"):
        new = make(new_size)
        axes = _axes(path, cell, new, old, new_size, places, order)
        with torch.no_grad():
            for (name, before), (_, after) in zip(_tensors(cell), _tensors(new), strict=True):
                fresh = after.clone()
                where_new = placed(before, after, axes[name])
                if where_new.any():
                    (axis,) = axes[name]
                    begun = STARTED[start](before.detach(), fresh, tuple(after.shape), axis)
                    after.copy_(torch.where(where_new, begun, after))
        if _agree(cell, new, places, silent=start != "zeros"):
            return new
    raise AdaptError(
        f"{_called(path, cell)} cannot be given more inputs: with weights of zeros for the new ones it does not do what"
        " it did, so it mixes its inputs in other ways than by weights"
    )


def resized_hidden(path: str, cell: Any, size: int) -> Any:
    """A cell of more units; the old ones do what they did, because nothing leads from the new ones to them."""
    old, make = _maker(path, cell, "hidden")
    if size < old:
        raise AdaptError(f"{_called(path, cell)} has {old} units and cannot shrink to {size}: pass {old} or more")
    places = appended(old, size)
    if places is None:
        return copy.deepcopy(cell)
    for order in ("first", "last"):
        try:
            new = make(size)
        except Exception as error:
            raise AdaptError(f"{_called(path, cell)} cannot have {size} units: {error}") from error
        axes = _axes(path, cell, new, old, size, places, order)
        where_new, new_columns = {}, {}
        with torch.no_grad():
            for (name, before), (_, after) in zip(_tensors(cell), _tensors(new), strict=True):
                new_columns[name] = _new_columns(after, axes[name])
                where_new[name] = placed(before, after, axes[name])
                if len(axes[name]) > 1:  # weights [to, from]: nothing leads from new units to old ones
                    to, source = min(axes[name]), max(axes[name])
                    old_to, new_from = axes[name][to] >= 0, axes[name][source] < 0
                    shape = [1] * after.ndim
                    shape[to] = -1
                    crossing = old_to.reshape(shape).to(after.device)
                    shape[to], shape[source] = 1, -1
                    after.masked_fill_(crossing & new_from.reshape(shape).to(after.device), 0)
        # Columns first: once nothing reads a new unit, what makes it may be anything.
        for where in (new_columns, where_new):
            _silence(cell, new, where)
        if _agree(cell, new, None):
            return new
    raise AdaptError(
        f"{_called(path, cell)} cannot be given more units without a change of what the old ones do: they act on each"
        " other in other ways than by weights, as through a norm over all of them; replace it by a new one, or"
        " transplant its weights"
    )


def rebuilt(path: str, cell: Any, input_size: int, output_size: int) -> Any:
    """A cell of the same class and options, with fresh weights; of ``output_size`` units, or of as many as there were
    where the output is a projection of them."""
    _, make = _maker(path, cell, "input")
    new = make(input_size)
    if getattr(new, "proj_size", 0):
        return new
    _, make = _maker(path, new, "hidden")
    return make(output_size)


def _called(path: str, module: Any) -> str:
    return f"{path!r}, a {type(module).__name__}," if path else f"this {type(module).__name__}"


def _maker(path: str, cell: Any, which: str) -> tuple[int, Callable[[int], Any]]:
    """The size of a cell, and a function that rebuilds it at another."""
    try:
        arguments = arguments_of(cell)
    except ModelFileError as error:
        raise AdaptError(f"{_called(path, cell)} cannot be built with another size: {error}") from error
    name = next((name for name in SIZES[which] if name in arguments), None)
    if name is None:
        raise AdaptError(
            f"{_called(path, cell)} cannot be built with another size: its __init__ takes no {SIZES[which][0]}"
        )
    old, like = arguments[name], next(cell.parameters(), torch.empty(0))

    def make(size: int) -> Any:
        def argument(value: Any) -> Any:
            if which == "hidden" and isinstance(value, nn.PReLU) and value.num_parameters == old > 1:
                return nn.PReLU(size)  # a slope for each unit
            return copy.deepcopy(value) if isinstance(value, nn.Module) else value

        new = type(cell)(**{k: argument(v) for k, v in (arguments | {name: size}).items()})
        return new.to(device=like.device, dtype=like.dtype if like.is_floating_point() else None)

    return old, make


def _tensors(cell: nn.Module) -> list[tuple[str, Tensor]]:
    return [*cell.named_parameters(), *cell.named_buffers()]


def _axes(
    path: str, cell: nn.Module, new: nn.Module, old_size: int, new_size: int, places: Tensor, order: str
) -> dict[str, dict[int, Tensor]]:
    """For every tensor, the places along each axis that grows."""
    before, after = _tensors(cell), dict(_tensors(new))
    if [name for name, _ in before] != list(after):
        raise AdaptError(
            f"{_called(path, cell)} has parameters that a newly built one has not, such as those of pruning"
        )
    found: dict[str, dict[int, Tensor]] = {}
    for name, tensor in before:
        found[name] = {}
        for axis, (short, long) in enumerate(zip(tensor.shape, after[name].shape, strict=True)):
            if short == long:
                continue
            blocks, rest = divmod(long - short, new_size - old_size)
            others = short - blocks * old_size
            if rest or others < 0:
                raise AdaptError(
                    f"{_called(path, cell)} cannot be grown from {old_size} to {new_size}: axis {axis} of {name} goes"
                    f" from {short} to {long}, which are not whole blocks of these sizes, as where units are divided"
                    " into heads"
                )
            parts: list[tuple[Places, int]] = [(places, old_size)] * blocks
            whole = joined([*parts, (None, others)] if order == "first" else [(None, others), *parts])
            assert whole is not None
            found[name][axis] = whole
    return found


def _double(cell: Any) -> Any:
    return copy.deepcopy(cell).double().eval()


def _inputs(cell: Any) -> Tensor:
    random = torch.Generator().manual_seed(0)
    size = cell.input_size
    row = size if isinstance(size, tuple) else (size,)
    like = next(cell.parameters(), torch.empty(0))
    return torch.randn(STEPS, 2, *row, generator=random, dtype=torch.float64).to(like.device)


def _course(cell: Any, xs: Tensor) -> list[Tensor]:
    """Outputs and states of a few steps from the initial state."""
    state, found = cell.initial_state(xs.shape[1]), []
    for x in xs:
        y, state = cell(x, state)
        found += [y, *(tensor for _, tensor in states.named_tensors(state))]
    return found


def _old_part(new: Tensor, old: Tensor) -> Tensor:
    for axis, size in enumerate(old.shape):
        new = new.narrow(axis, 0, size)
    return new


def _agree(cell: Any, new: Any, places: Places, silent: bool = False) -> bool:
    """Whether a cell does what it did, as far as it did it; new inputs may be anything, or are ``silent``."""
    first, second = _double(cell), _double(new)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        xs = _inputs(second)
        seen = xs
        if places is not None:
            there = places >= 0
            seen = torch.empty(STEPS, 2, int(there.sum()), *xs.shape[3:], dtype=xs.dtype, device=xs.device)
            seen[:, :, places[there].to(xs.device)] = xs[:, :, there.to(xs.device)]
            if silent:
                xs[:, :, ~there.to(xs.device)] = 0
        try:
            expected, given = _course(first, seen), _course(second, xs)
        except RuntimeError:
            return False
        return all(
            new.ndim == old.ndim
            and all(n >= o for n, o in zip(new.shape, old.shape, strict=True))
            and torch.allclose(_old_part(new, old).double(), old.double(), rtol=1e-9, atol=1e-9)
            for old, new in zip(expected, given, strict=True)
        )


def _new_columns(after: Tensor, axes: dict[int, Tensor]) -> Tensor:
    """Where the weights of a tensor [to, from, ...] lead from what is new."""
    found = torch.zeros(after.shape, dtype=torch.bool, device=after.device)
    for axis, places in axes.items():
        if axis > 0:
            found |= (places < 0).to(after.device).reshape([-1 if k == axis else 1 for k in range(after.ndim)])
    return found


def _silence(cell: Any, new: Any, where_new: dict[str, Tensor]) -> None:
    """Set to zero what still leads from new units to old ones, such as the columns of a projection: whatever of the new
    numbers has a gradient from what the old units do."""
    double = _double(new)
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        for parameter in double.parameters():
            parameter.requires_grad_(True)
        xs = _inputs(cell)
        random = torch.Generator().manual_seed(1)
        total = torch.zeros((), dtype=torch.float64, device=xs.device)
        with torch.no_grad():
            expected = _course(_double(cell), xs)
        for old, made in zip(expected, _course(double, xs), strict=True):
            if made.is_floating_point():
                weight = torch.randn(old.shape, generator=random, dtype=torch.float64).to(old.device)
                total = total + (_old_part(made, old) * weight).sum()
        names = [name for name, _ in double.named_parameters()]
        gradients = torch.autograd.grad(total, list(double.parameters()), allow_unused=True)
    with torch.no_grad():
        for name, gradient in zip(names, gradients, strict=True):
            if gradient is not None:
                new.get_parameter(name).masked_fill_(where_new[name] & (gradient != 0), 0)
