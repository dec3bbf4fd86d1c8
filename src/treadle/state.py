"""States as values: walk them, cut them from the graph, pick rows, and find out whose they are.

A state is a tensor, a (named) tuple or a dict of states; a wiring's state is a dict from layer name to the layer's
state. Nothing in treadle knows more about states than the functions of this file.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from treadle.errors import CellError, StateError
from treadle.protocol import State
from treadle.torch_internals import register_namedtuple

T = TypeVar("T")

__all__ = ["detach", "select"]


def kept_in_files(kind: type[T]) -> type[T]:
    """A class of states that `torch.load` takes without ``weights_only=False``, and that `torch.export` writes.

    It must be a plain named tuple: making one runs no code.
    """
    torch.serialization.add_safe_globals([kind])
    register_namedtuple(kind, serialized_type_name=f"treadle.{kind.__name__}")
    return kind


def map_state(function: Callable[..., Tensor], state: State, *others: State) -> State:
    """Apply ``function`` to every tensor of ``state`` (with the tensors at the same places of ``others``)."""
    if isinstance(state, Tensor):
        return function(state, *others)
    if isinstance(state, (tuple, list)):
        if others:
            parts = [map_state(function, *group) for group in zip(state, *others, strict=True)]
        else:
            parts = [function(part) if isinstance(part, Tensor) else map_state(function, part) for part in state]
        # A named tuple's constructor takes its fields one by one, a plain tuple's takes them all.
        return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    if type(state) is dict and not others:  # which takes less time to find out than whether it is a mapping
        return {name: map_state(function, part) for name, part in state.items()}
    if isinstance(state, Mapping):
        return {name: map_state(function, part, *(other[name] for other in others)) for name, part in state.items()}
    raise StateError(
        f"a state is made of tensors, tuples, named tuples and dicts, but this one holds {type(state).__name__}"
        f" ({state!r:.60}): turn it into a tensor whose first axis is the batch"
    )


def named_tensors(state: State) -> list[tuple[str, Tensor]]:
    """Every tensor of a state with its name: ``"layer0/h"``, ``"h"``, or ``"0"`` in a plain tuple."""
    if isinstance(state, Tensor):
        return [("state", state)]
    found: list[tuple[str, Tensor]] = []
    _collect(state, "", found)
    return found


def tensors_of(state: State) -> list[Tensor]:
    """Every tensor of a state, in the order of `named_tensors`."""
    found: list[Tensor] = []
    map_state(lambda tensor: found.append(tensor) or tensor, state)
    return found


def _collect(state: State, before: str, found: list[tuple[str, Tensor]]) -> None:
    if isinstance(state, (tuple, list)):
        parts = zip(getattr(state, "_fields", None) or map(str, range(len(state))), state, strict=True)
    elif type(state) is dict or isinstance(state, Mapping):
        parts = state.items()
    else:
        map_state(lambda tensor: tensor, state)  # raises, with the explanation
        raise AssertionError
    for name, part in parts:
        if isinstance(part, Tensor):
            found.append((f"{before}{name}", part))
        else:
            _collect(part, f"{before}{name}/", found)


def rebuild(like: State, tensors: Mapping[str, Tensor]) -> State:
    """The inverse of `named_tensors`: a state of the structure of ``like`` from tensors by name."""
    return with_tensors(like, [tensors[name] for name, _ in named_tensors(like)])


def with_tensors(like: State, tensors: Iterable[Tensor]) -> State:
    """A state of the structure of ``like`` from tensors in the order of `named_tensors`."""
    values = iter(tensors)
    return map_state(lambda _: next(values), like)


def belonging(like: State, tensors: Mapping[str, Tensor], owner: str) -> State:
    """`rebuild`, once it is known that the tensors have the names and sizes of ``like``."""
    expected = dict(named_tensors(like))
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors or name not in expected or tensors[name].shape != expected[name].shape:
            has, needs = (shape(of[name]) if name in of else "nothing" for of in (tensors, expected))
            raise StateError(
                f"state {name} is {has} in what was kept, but {owner} has {needs} there: it is the state of another"
                " network"
            )
    return rebuild(like, tensors)


def rows_of(tensor: Tensor) -> Any:
    """A tensor as what rows are copied from and to in the least time: an array on its memory, where there is such."""
    return tensor.numpy() if tensor.device.type == "cpu" and tensor.dtype in _IN_NUMPY else tensor


_IN_NUMPY = frozenset({torch.float32, torch.float64, torch.int64, torch.int32, torch.bool, torch.float16, torch.uint8})


def detach(state: State) -> State:
    """The same state, cut from the graph that computed it: the gradient will not reach further back.

    Args:
        state: any cell's or wiring's state; ``None``, the initial one, stays ``None``.

    Example:
        Carry the state of an endless stream from window to window, with the gradient ending at each window's start.

        >>> import torch, treadle as td
        >>> rnn, state = td.Recurrent(td.GRUCell(2, 3)), None
        >>> for window in torch.randn(4, 1, 5, 2):
        ...     ys, state = rnn(window, state)
        ...     state = td.detach(state)
        >>> state.h.requires_grad
        False
    """
    return None if state is None else map_state(Tensor.detach, state)


def kept(state: State) -> State:
    """The same state, cut from the graph and in memory of its own: it may be a view of all that a sequence gave."""
    return None if state is None else map_state(lambda tensor: tensor.detach().clone(), state)


def select(state: State, rows: Any) -> State:
    """The state of some rows, in the order given.

    Args:
        state: any cell's or wiring's state, for ``B`` rows.
        rows: a list or tensor of row numbers (negative ones count from the end), a boolean mask of length ``B``, or a
            slice. A single number gives a batch of one.

    Raises:
        StateError: a row that the state does not have; a mask of another length.

    Example:
        >>> import torch, treadle as td
        >>> state = td.LSTMState(h=torch.arange(6.).reshape(3, 2), c=torch.zeros(3, 2))
        >>> td.select(state, [2, 0]).h
        tensor([[4., 5.],
                [0., 1.]])
    """
    batch_size = batch_size_of(state)
    if isinstance(rows, slice):
        rows = list(range(batch_size))[rows]
    rows = as_tensor(rows)
    if rows.numel() == 0 and rows.dtype != torch.bool:
        rows = rows.long()
    rows = rows.reshape(-1)
    if rows.dtype == torch.bool:
        if len(rows) != batch_size:
            raise StateError(f"the mask has {len(rows)} entries, but the state has {batch_size} rows: pass one per row")
        rows = rows.nonzero()[:, 0]
    if rows.is_floating_point() or rows.is_complex():
        raise StateError(f"rows are whole numbers or a boolean mask, but these are {rows.dtype}")
    rows = rows.long()  # in uint8, counting from the end would wrap around
    wrong = rows[(rows < -batch_size) | (rows >= batch_size)]
    if len(wrong):
        raise StateError(
            f"row {int(wrong[0])} was asked for, but the state has {batch_size} rows, 0 to {batch_size - 1}"
        )
    rows = rows % max(batch_size, 1)
    return map_state(lambda tensor: tensor.index_select(0, rows.to(tensor.device)), state)


def as_tensor(values: Any) -> Tensor:
    """Lists and arrays as a tensor on the CPU, whatever the default device is; a tensor as it is."""
    return values if isinstance(values, Tensor) else torch.as_tensor(values, device="cpu")


def batch_size_of(state: State) -> int:
    """How many rows a state has."""
    for name, tensor in named_tensors(state):
        if tensor.ndim == 0:
            raise StateError(f"state {name} has no axes: the first axis of every tensor of a state is the batch")
        return tensor.shape[0]
    return 0


def has_rows(state: State, rows: int | None) -> bool:
    """Whether a state has so many rows; what is no state has none."""
    try:
        return batch_size_of(state) == rows
    except StateError:
        return False


def where(mask: Tensor, chosen: State, other: State) -> State:
    """Per row: ``chosen`` where ``mask`` [B] is true, else ``other``. Gradients flow only into the one taken."""

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(mask.reshape(-1, *[1] * (b.ndim - 1)), a, b)

    return map_state(pick, chosen, other)


def initial_state(cell: Any, x: Tensor) -> State:
    """The initial state of a cell for the rows of ``x``: on its device and, where both are floats, in its dtype."""

    device, dtype = x.device, x.dtype

    def follow(tensor: Tensor) -> Tensor:
        # Mostly nothing is to be done, and asking takes less time than `Tensor.to` needs to find that out.
        if tensor.dtype is dtype and tensor.device == device:
            return tensor
        both_float = dtype.is_floating_point and tensor.is_floating_point()
        return tensor.to(device, dtype if both_float else tensor.dtype)

    return map_state(follow, cell.initial_state(x.shape[0]))


def takes_hx(rnn: Any) -> bool:
    """Whether a network takes and gives its state as PyTorch's ``hx``, as `treadle.LSTM` does: it says which is which.

    Not by a part that is called ``recurrent``, which a user's own module may have.
    """
    return callable(getattr(rnn, "states_of", None)) and callable(getattr(rnn, "hx_of", None))


def is_around_one(rnn: Any) -> bool:
    """Whether a method ``recurrent()`` gives it over time, as that of drop-ins does, and of what was read from ONNX."""
    return callable(getattr(type(rnn), "recurrent", None))


def over_time(rnn: Any) -> Any:
    """The network that keeps its states by name: of a drop-in such as `treadle.LSTM`, its ``recurrent()``.

    Raises:
        ValueError: it is bidirectional, so that it has no state to carry.
    """
    return rnn.recurrent() if is_around_one(rnn) else rnn


def by_name(rnn: Any, state: Any) -> State:
    """A state as ``over_time(rnn)`` keeps it, from the form in which ``rnn`` gives it: a drop-in, as its ``hx``."""
    return rnn.states_of(state) if takes_hx(rnn) else state


def as_given(rnn: Any, state: State) -> Any:
    """The inverse of `by_name`."""
    return rnn.hx_of(state) if takes_hx(rnn) else state


def check_state(state: State, like: State, batch_size: int, owner: str) -> State:
    """Refuse a state that is not of the structure, rows, sizes and precision of ``like``; return it in its containers.

    Plain tuples are taken where the cell has named ones, so that ``(h, c)`` works.
    """
    state = _adopt(state, like, owner)
    for (name, tensor), (_, reference) in zip(named_tensors(state), named_tensors(like), strict=True):
        if tensor.shape[1:] != reference.shape[1:] or not tensor.ndim:
            raise StateError(
                f"state {name} is {shape(tensor)}, but {owner} has {shape(reference)} there: it is the state"
                " of another network"
            )
        if tensor.shape[0] != batch_size:
            raise StateError(
                f"the input has {batch_size} rows, but state {name} has {tensor.shape[0]}: pass the state of"
                " the same rows"
                " (td.select picks rows), or None for the initial one"
            )
        if tensor.dtype != reference.dtype and not torch.is_autocast_enabled(tensor.device.type):
            raise StateError(
                f"state {name} is {tensor.dtype}, but the input calls for {reference.dtype}: convert one of"
                " them with .to()"
            )
        if tensor.device != reference.device:
            raise StateError(
                f"state {name} is on {tensor.device}, but the input is on {reference.device}: move it with .to()"
            )
    return state


def check_results(cell: Any, returned: Any) -> tuple[Tensor, State]:
    """What a step returned, once it is known to be an output and a state."""
    name = type(cell).__name__
    if not isinstance(returned, (tuple, list)) or len(returned) != 2:
        what = "a Tensor" if isinstance(returned, Tensor) else f"a {type(returned).__name__}"
        what = f"{len(returned)} things" if isinstance(returned, (tuple, list)) else what
        raise CellError(
            f"{name}.forward returned {what}, but a step returns two: its output and the state after it. What else is"
            " wanted of every step belongs into the state: return_states=True gives it"
        )
    y, after = returned
    if not isinstance(y, Tensor):
        raise CellError(
            f"the output of {name} is a {type(y).__name__}, but has to be one tensor [B, ...]: join its parts with"
            " torch.cat, or put them into the state: return_states=True gives them"
        )
    return y, after


def check_kept(cell: Any, after: State, before: State) -> State:
    """The state after a step, once it is known to have kept the form of the one before it."""
    name = type(cell).__name__
    old, new = dict(named_tensors(before)), dict(named_tensors(after))
    if old.keys() != new.keys():
        raise StateError(
            f"{name} was given a state of {sorted(old)}, but returned one of {sorted(new)}: a step must keep its form"
        )
    for field, tensor in new.items():
        if tensor.shape != old[field].shape:
            raise StateError(
                f"{name} was given state {field} as {list(old[field].shape)}, but returned"
                f" {list(tensor.shape)}: a step must keep"
                " the shape of its state"
            )
        if tensor.dtype != old[field].dtype and not torch.is_autocast_enabled(tensor.device.type):
            raise StateError(
                f"{name} was given state {field} as {old[field].dtype}, but returned {tensor.dtype}: a step"
                " must keep the dtype of"
                " its state"
            )
    return after


def _adopt(state: State, like: State, owner: str, path: str = "state") -> State:
    """``state`` in the containers of ``like``, or an error that names the first place where they differ."""
    if isinstance(like, Tensor):
        if not isinstance(state, Tensor):
            raise StateError(f"{path} is a {type(state).__name__}, but {owner} keeps one tensor there")
        return state
    if isinstance(like, Mapping):
        if not isinstance(state, Mapping) or set(state) != set(like):
            has = f"has {sorted(state)}" if isinstance(state, Mapping) else f"is a {type(state).__name__}"
            raise StateError(
                f"{path} {has}, but {owner} keeps a dict of {sorted(like)} there: it is the state of another network"
            )
        return {name: _adopt(state[name], part, owner, f"{path}[{name!r}]") for name, part in like.items()}
    fields = getattr(like, "_fields", None) or tuple(map(str, range(len(like))))
    same_names = not hasattr(state, "_fields") or not hasattr(like, "_fields") or state._fields == like._fields
    if not isinstance(state, (tuple, list)) or len(state) != len(like) or not same_names:
        has = getattr(state, "_fields", None) or (
            f"{len(state)} parts" if isinstance(state, (tuple, list)) else type(state).__name__
        )
        raise StateError(
            f"{path} has {_words(has)}, but {owner} keeps {_words(fields)} there: it is the state of another network"
        )
    parts = [_adopt(s, part, owner, f"{path}.{name}") for s, part, name in zip(state, like, fields, strict=True)]
    return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)


def _words(fields: Any) -> str:
    return fields if isinstance(fields, str) else f"({', '.join(fields)})"


def shape(tensor: Tensor | torch.Size | tuple[int, ...]) -> str:
    """A shape as the messages write it: ``[32, 5, 128]``."""
    return str(list(tensor.shape if isinstance(tensor, Tensor) else tensor))


def sizes(features: int | Iterable[int]) -> tuple[int, ...]:
    """The axes of a row: what a cell says in ``input_size``, as a tuple."""
    return (features,) if isinstance(features, int) else tuple(features)
