"""PyTorch's recurrent networks as treadle's, and back: parameters of the same names and shapes, both sides run."""

from typing import Any

import torch
from torch import nn

from treadle import cells
from treadle.errors import InteropError
from treadle.interop.report import check_agreement, relative_difference
from treadle.interop.sequential import as_recurrent
from treadle.running.dropin import GRU, LSTM, RNN
from treadle.running.recurrent import Recurrent
from treadle.wiring import Stack

_CELLS = {nn.LSTM: cells.LSTMCell, nn.GRU: cells.GRUCell, nn.RNN: cells.RNNCell}
_CELLS |= {nn.LSTMCell: cells.LSTMCell, nn.GRUCell: cells.GRUCell, nn.RNNCell: cells.RNNCell}
_DROP_INS = {nn.LSTM: LSTM, nn.GRU: GRU, nn.RNN: RNN}
_TOLERANCE = 1e-5


def from_torch(module: nn.Module) -> Any:
    """A network of treadle with the weights of one of PyTorch's.

    An `nn.LSTM`, `nn.GRU` or `nn.RNN` becomes a `treadle.Recurrent` of a `treadle.Stack`; one that reads in both
    directions becomes the drop-in (`treadle.LSTM`, …), because its layers meet at every level. An `nn.LSTMCell`,
    `nn.GRUCell` or `nn.RNNCell` becomes a `treadle.Recurrent` of the cell of that name. Both sides are run
    and compared.

    Args:
        module: of PyTorch's own classes; subclasses may do something else.

    Raises:
        TypeError: another module.
        InteropError: both sides differ.

    Example:
        >>> import torch, treadle as td
        >>> rnn = td.interop.from_torch(torch.nn.LSTM(3, 5, num_layers=2, batch_first=True))
        >>> ys, state = rnn(torch.randn(2, 7, 3))
        >>> sorted(state)
        ['layer0', 'layer1']
    """
    kind: Any = type(module)
    if kind not in _CELLS:
        raise TypeError(
            f"from_torch takes an nn.LSTM, nn.GRU, nn.RNN or one of their cells, but was given a {kind.__name__}: write"
            " its step as a cell instead"
        )
    with torch.no_grad():
        network = _drop_in(module) if isinstance(module, nn.RNNBase) else _of_cell(module)
        check_agreement(_difference(network, module), _TOLERANCE, "the network", done="given back")
    return network


def _drop_in(module: Any) -> Any:
    kind: Any = _DROP_INS[type(module)]
    drop_in = kind(**kind.torch_arguments(module)).to(module.weight_ih_l0.device, module.weight_ih_l0.dtype)
    drop_in.load_state_dict(module.state_dict())
    drop_in.train(module.training)
    return drop_in if module.bidirectional else drop_in.recurrent()


def _of_cell(module: Any) -> Recurrent:
    options: dict[str, Any] = {"bias": module.bias, "device": module.weight_ih.device, "dtype": module.weight_ih.dtype}
    if isinstance(module, nn.RNNCell):
        options["nonlinearity"] = module.nonlinearity
    cell = _CELLS[type(module)](module.input_size, module.hidden_size, **options)  # pyright: ignore[reportArgumentType]
    cell.load_state_dict(module.state_dict())
    return Recurrent(cell).train(module.training)


def to_torch(network: Any) -> nn.Module:
    """An `nn.LSTM`, `nn.GRU` or `nn.RNN` with the weights of a network of treadle.

    Args:
        network: a drop-in, or a `treadle.Recurrent` of an LSTMCell, GRUCell or RNNCell, or of a `treadle.Stack` of cells of
            one of these kinds and one hidden size, wired as ``"stack"``.

    Raises:
        InteropError: PyTorch has no such network, and why; or both sides differ.

    Example:
        >>> import treadle as td
        >>> td.interop.to_torch(td.Recurrent(td.Stack([td.GRUCell(3, 5), td.GRUCell(5, 5)])))
        GRU(3, 5, num_layers=2, batch_first=True)
    """  # noqa: E501
    is_drop_in = type(network) in _DROP_INS.values()
    module = _torch_of_drop_in(network) if is_drop_in else _torch_of(as_recurrent(network))
    with torch.no_grad():
        check_agreement(_difference(network, module), _TOLERANCE, "PyTorch's network", done="given back")
    return module


def _torch_of_drop_in(network: Any) -> nn.Module:
    wired = f"its layers are wired as {network.wiring!r}" if network.wiring != "stack" else ""
    _refuse(wired or ("" if network.cell is None else "its cells are no longer the classic ones"))
    kind = next(torch_kind for torch_kind, own in _DROP_INS.items() if type(network) is own)
    module = kind(**network.torch_arguments(network)).to(network.weight_ih_l0.device, network.weight_ih_l0.dtype)
    module.load_state_dict(network.state_dict())
    return module.train(network.training)


def _refuse(reason: str) -> None:
    if reason:
        raise InteropError(f"PyTorch has no such network: {reason}; td.interop.to_onnx writes any")


def _torch_of(network: Recurrent) -> nn.Module:
    cell: Any = network.cell
    layers: list[Any] = cell.cells if isinstance(cell, Stack) else [cell]
    wiring = cell.wiring if isinstance(cell, Stack) else "stack"
    _refuse(f"its layers are wired as {wiring!r}" if wiring != "stack" else _why_not(layers))
    first = layers[0]
    kind: Any = next(torch_kind for torch_kind, own in _CELLS.items() if type(first) is own)
    options: dict[str, Any] = {"bias": first.bias, "batch_first": network.batch_first, "num_layers": len(layers)}
    options["dropout"] = getattr(cell, "dropout", 0.0)
    if kind is nn.RNN:
        options["nonlinearity"] = first.nonlinearity
    if getattr(first, "proj_size", 0):
        options["proj_size"] = first.proj_size
    module = kind(first.input_size, first.hidden_size, **options)
    module.to(first.weight_ih.device, first.weight_ih.dtype)
    with torch.no_grad():
        for number, layer in enumerate(layers):
            for name, parameter in layer.named_parameters():
                getattr(module, f"{name}_l{number}").copy_(parameter)
    return module.train(network.training)


def _why_not(layers: list[Any]) -> str:
    """Why PyTorch has no network of these layers; empty if it has."""
    first = layers[0]
    if type(first) not in _CELLS.values():
        return f"it has no {type(first).__name__}"
    unusual = [reason for layer in layers for reason in _own_equations(layer)]
    if unusual:
        return unusual[0]
    for layer in layers[1:]:
        if type(layer) is not type(first):
            return f"layers of {type(first).__name__} and {type(layer).__name__} lie above each other"
        for what in ("hidden_size", "bias", "proj_size", "nonlinearity"):
            one, other = getattr(first, what, None), getattr(layer, what, None)
            if one != other:
                return f"{what} is {one} in one layer and {other} in another"
    return ""


def _own_equations(cell: Any) -> list[str]:
    """Which options give a classic cell other equations than PyTorch's."""
    theirs = {
        "nonlinearity": ("tanh", "relu"), "activation": ("tanh",), "gate_activation": ("sigmoid",),
        "output_activation": (None, "tanh"), "reset_after": (True,),
    }  # fmt: skip
    found = [(name, getattr(cell, name, usual[0]), usual) for name, usual in theirs.items()]
    return [f"{name} is {value!r:.60}" for name, value, usual in found if value not in usual]


def _difference(one: Any, other: Any) -> float:
    """Of outputs and final states, in evaluation mode: two rows of five steps, from a state that is not zero."""
    modes = [(module, module.training) for module in (one, other)]
    try:
        one.eval()
        other.eval()
        return _run_both(one, other)
    finally:
        for module, training in modes:
            module.train(training)


def _run_both(one: Any, other: Any) -> float:
    theirs, ours = (other, one) if type(other) in _CELLS else (one, other)
    weight = next(theirs.parameters())
    xs = torch.randn(5, 2, theirs.input_size, generator=torch.Generator().manual_seed(0)).to(weight)
    if not isinstance(theirs, nn.RNNBase):
        state: Any = None
        ys = []
        for x in xs:
            state = theirs(x, state)
            ys.append(state[0] if isinstance(state, tuple) else state)
        found, after = ours(xs.transpose(0, 1))
        ends = list(state) if isinstance(state, tuple) else [state]
        return relative_difference([found, *after], [torch.stack(ys, 1), *ends])
    xs = xs.transpose(0, 1) if theirs.batch_first else xs
    wanted, end = theirs(xs)
    found, after = ours(xs)
    ends = list(end) if isinstance(end, tuple) else [end]
    if type(ours) in _DROP_INS.values():
        given = list(after) if isinstance(after, tuple) else [after]
    else:
        given = _stacked(after)
    return relative_difference([found, *given], [wanted, *ends])


def _stacked(after: Any) -> list[torch.Tensor]:
    layers = list(after.values()) if isinstance(after, dict) else [after]
    return [torch.stack(parts) for parts in zip(*layers, strict=True)]
