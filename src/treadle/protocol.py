"""The contract that everything else builds on: a cell is one step.

Dimension letters, here and everywhere: ``B`` rows of a batch, ``T`` time steps, ``I`` input features, ``H`` hidden
features, ``L`` layers.
"""

from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

State: TypeAlias = Any
"""What a cell remembers: a `NamedTuple` of tensors (``B`` first); of a wiring, a dict of them by layer name."""


@runtime_checkable
class Cell(Protocol):
    """One step of a network with memory. Any `torch.nn.Module` with these two methods is a cell.

    A cell may also say its sizes, in the attributes ``input_size`` and ``output_size`` (integers, or tuples where a
    row is not flat); wirings then check their arithmetic before anything runs.

    Example:
        >>> import torch, treadle as td
        >>> class Adder(torch.nn.Module):
        ...     def initial_state(self, batch_size):
        ...         return (torch.zeros(batch_size, 3),)
        ...     def forward(self, x, state):
        ...         total = state[0] + x
        ...         return total, (total,)
        >>> isinstance(Adder(), td.Cell)
        True
        >>> ys, state = td.Recurrent(Adder())(torch.ones(1, 4, 3))
        >>> ys[0, :, 0]
        tensor([1., 2., 3., 4.])
    """

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One step: input ``x`` [B, I] and the state before it give the output [B, H] and the state after it."""
        ...

    def initial_state(self, batch_size: int) -> State:
        """The state before the first step, for ``batch_size`` rows."""
        ...


def first_weight(module: nn.Module) -> Tensor | None:
    """The first parameter that is a float, whose precision and device are those of the module; None without one.

    As ``module.parameters()`` would find it, in a fraction of the time: this is asked in every pass.
    """
    for parameter in module._parameters.values():
        if parameter is not None and parameter.is_floating_point():
            return parameter
    for child in module._modules.values():
        found = None if child is None else first_weight(child)
        if found is not None:
            return found
    return None


def example_input(cell: Any, batch_size: int) -> Tensor | None:
    """Zeros such as one step of a cell reads; None where the cell does not say what it reads (``input_size``)."""
    size = getattr(cell, "input_size", None)
    if size is None:
        return None
    weight, row = first_weight(cell), (size,) if isinstance(size, int) else tuple(size)
    weight = torch.empty(0, device="cpu") if weight is None else weight
    return torch.zeros(batch_size, *row, dtype=weight.dtype if row else torch.long, device=weight.device)


def cell_in_place_of(module: Any) -> str:
    """The cell to pass where somebody passed a recurrent network or cell of PyTorch's, as text; empty for the rest."""
    for kind, types in {"LSTM": (nn.LSTM, nn.LSTMCell), "GRU": (nn.GRU, nn.GRUCell)}.items():
        if isinstance(module, types):
            return f"td.{kind}Cell"
    return "td.RNNCell" if isinstance(module, nn.RNNBase | nn.RNNCellBase) else ""


def is_lazy(module: nn.Module) -> bool:
    """Whether parameters of a module wait for what it reads first, to take their sizes from that (`nn.LazyLinear`)."""
    return any(map(nn.parameter.is_lazy, [*module.parameters(), *module.buffers()]))


@torch.no_grad()
def materialise(cell: nn.Module, x: Tensor, state: State) -> None:
    """Run a cell of lazy modules once, so that its parameters have their sizes; statistics and masks stay out of it."""
    training = {module: module.training for module in cell.modules()}
    cell.eval()
    try:
        cell(x, state)
    finally:
        for module, mode in training.items():
            module.training = mode
