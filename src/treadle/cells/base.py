"""What treadle's own cells share: sizes, the initial state, and the refusal of inputs that do not fit.

Nothing here is needed to be a cell; see `treadle.Cell`.
"""

import math
from inspect import signature
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from treadle.errors import ShapeError, StateError
from treadle.protocol import first_weight


class RecurrentCell(nn.Module):
    """The base of treadle's cells: a subclass names its parameters in ``__init__`` and writes its step in ``forward``.

    The state starts as zeros, one tensor of ``state_shape`` per row for each field of ``State``.

    Args:
        input_size: ``I``, features of the input.
        hidden_size: ``H``, features of the hidden state.

    Raises:
        ShapeError: a size is not a positive whole number.
    """

    State: ClassVar[Any]
    """The `NamedTuple` that the cell remembers; its fields are in the docstring of the cell."""

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.input_size = positive("input_size", input_size)
        self.hidden_size = positive("hidden_size", hidden_size)

    @property
    def output_size(self) -> int | tuple[int, ...]:
        """Features of the output, after the batch axis."""
        return self.hidden_size

    def state_shape(self, field: str) -> tuple[int, ...]:
        """The shape of one row of a field of the state."""
        return (self.hidden_size,)

    def initial_state(self, batch_size: int) -> Any:
        """Zeros for ``batch_size`` rows, on the device and in the dtype of the parameters."""
        parameter = first_weight(self)
        parameter = torch.empty(0, device="cpu") if parameter is None else parameter
        return self.State(*(parameter.new_zeros(batch_size, *self.state_shape(field)) for field in self.State._fields))

    def checked(self, x: Tensor, state: Any) -> Any:
        """The state that a step starts from (``None`` is the initial one), once it and ``x`` are known to fit.

        Raises:
            ShapeError: ``x`` is not [B, I] of floats.
            StateError: the state has other fields, rows or sizes.
        """
        name, features = type(self).__name__, self.input_size
        row_shape = features if isinstance(features, tuple) else (features,)
        if x.shape[1:] != row_shape or x.ndim == 0:
            wanted = ", ".join(map(str, ("B", *row_shape)))
            raise ShapeError(
                f"{name} takes one step of [{wanted}], but x is {list(x.shape)}; td.Recurrent runs whole sequences"
            )
        if not x.is_floating_point():
            raise ShapeError(
                f"{name} reads features, which are floats, but x is {x.dtype}: pass x.float(), or embed tokens"
            )
        if state is None:
            return self.initial_state(x.shape[0])
        if not isinstance(state, (tuple, list)) or len(state) != len(self.State._fields):
            got = f"{len(state)} parts" if isinstance(state, (tuple, list)) else type(state).__name__
            raise StateError(f"the state of {name} is ({', '.join(self.State._fields)}), but it was given {got}")
        for field, part in zip(self.State._fields, state, strict=True):
            if part.shape != (x.shape[0], *self.state_shape(field)):
                wanted = [x.shape[0], *self.state_shape(field)]
                raise StateError(f"state {field} of {name} is {list(part.shape)}, but with this x it must be {wanted}")
        return state

    def reset_parameters(self) -> None:
        """Draw the cell's own parameters again, uniformly from ±1/√H, as `torch.nn.LSTM` does.

        Modules in it start as they say themselves: a slope of `PReLU` that was drawn around zero would be no slope.
        """
        uniform(self.parameters(recurse=False), self.hidden_size)
        for module in self.children():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()

    def extra_repr(self) -> str:
        """The sizes, and the numbers, words and switches that are not the usual ones, for ``print``."""
        given = [
            (name, getattr(self, name, one.default), one) for name, one in signature(type(self)).parameters.items()
        ]
        unusual = [
            f", {name}={value!r}"
            for name, value, one in given
            if isinstance(value, bool | int | float | str) and one.default not in (one.empty, value)
        ]
        return f"{self.input_size}, {self.hidden_size}{''.join(unusual)}"


def positive(name: str, value: int) -> int:
    """``value`` if it is a positive whole number."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ShapeError(f"{name} must be a positive whole number, but is {value!r}")
    return value


def empty(*sizes: int, device: Any = None, dtype: torch.dtype | None = None) -> nn.Parameter:
    """A parameter whose values are drawn later."""
    return nn.Parameter(torch.empty(*sizes, device=device, dtype=dtype))


def uniform(parameters: Any, hidden_size: int) -> None:
    """Draw every parameter uniformly from ±1/√H, in the order given; on "meta" there is nothing to draw."""
    bound = 1 / math.sqrt(hidden_size)
    for parameter in parameters:
        if not parameter.is_meta:  # has no numbers, and `torch.func.vmap` forbids to draw any
            nn.init.uniform_(parameter, -bound, bound)
