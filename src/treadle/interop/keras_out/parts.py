"""A network as the parts that stand above each other, each of which is a layer in Keras."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from treadle import cells
from treadle.errors import InteropError
from treadle.interop.keras_in.layers import KerasEmbedding, Stepwise
from treadle.interop.keras_in.network import KerasNetwork
from treadle.interop.keras_in.recurrent import KerasBidirectional, KerasRNN
from treadle.running.bidirectional import Bidirectional
from treadle.running.dropin import DropIn
from treadle.running.recurrent import Recurrent
from treadle.wiring import Stack

CELLS = {cells.LSTMCell: "LSTM", cells.GRUCell: "GRU", cells.RNNCell: "SimpleRNN"}


@dataclasses.dataclass(frozen=True)
class Part:
    """What becomes one layer.

    Attributes:
        name: where it is in the network.
        module: a layer without memory, or None.
        ahead: a cell that runs over time, or None.
        back: one that runs from the other end, if it does so in both directions.
        every: whether it gives the output of every step; None where the caller says so.
    """

    name: str
    module: nn.Module | None = None
    ahead: Any = None
    back: Any = None
    every: bool | None = None

    @property
    def is_recurrent(self) -> bool:
        """Whether it runs over time."""
        return self.ahead is not None

    def run(self, xs: Tensor) -> Tensor:
        """The part alone over [B, T, …], or over [B, …] behind one that gives no more."""
        if self.module is not None:
            return self.module(xs)
        ys, _ = Recurrent(self.ahead)(xs) if self.back is None else Bidirectional(self.ahead, self.back)(xs)
        if self.every:
            return ys
        size = self.ahead.output_size
        return ys[:, -1] if self.back is None else torch.cat([ys[:, -1, :size], ys[:, 0, size:]], -1)


def refuse(name: str, why: str) -> InteropError:
    """The refusal of a part."""
    return InteropError(f"Keras has no such network: {name}: {why}; td.interop.to_onnx writes any")


def parts_of(network: Any, name: str = "the network") -> Iterator[Part]:
    """The parts of a network, from the first to the last.

    Raises:
        InteropError: a part that Keras does not have, and why.
    """
    if isinstance(network, nn.Sequential):
        for child, module in network.named_children():
            yield from parts_of(module, f"part {child}")
    elif isinstance(network, Recurrent):
        if network.learn_initial_state:
            raise refuse(name, "its initial state is learned, and that of Keras is zeros")
        yield from _of_cell(network.cell, name)
    elif isinstance(network, Bidirectional):
        yield _both(network, name)
    elif isinstance(network, DropIn):
        yield from _of_drop_in(network, name)
    elif isinstance(network, KerasNetwork):
        for node, layer in network.chain():
            yield from _of_keras(layer, f"layer {node.name}")
    elif hasattr(network, "initial_state"):
        yield from _of_cell(network, name)
    elif isinstance(network, nn.Module):
        yield Part(name, module=network)
    else:
        raise TypeError(f"to_keras writes a network, but was given a {type(network).__name__}")


def _of_keras(layer: Any, name: str) -> Iterator[Part]:
    """The parts of a layer that was read from Keras."""
    if isinstance(layer, Stepwise):
        yield from parts_of(layer.module, name)
    elif isinstance(layer, KerasEmbedding) and not layer.mask_zero:
        yield Part(name, module=layer.module)
    elif isinstance(layer, KerasRNN) and not layer.go_backwards and not layer.return_state:
        yield Part(name, ahead=layer.network.cell, every=layer.return_sequences)
    elif isinstance(layer, KerasBidirectional) and layer.is_usual:
        cells = [one.network.cell for one in (layer.ahead, layer.back)]
        yield Part(name, None, *cells, every=layer.ahead.return_sequences)
    else:
        raise refuse(name, "what it does besides is not written back")


def _of_cell(cell: Any, name: str) -> Iterator[Part]:
    if isinstance(cell, Stack):
        if cell.wiring != "stack":
            raise refuse(name, f"its layers are wired as {cell.wiring!r}")
        for n, layer in enumerate(cell.cells):
            if n and cell.dropout:
                yield Part(f"the dropout of {name}", module=nn.Dropout(cell.dropout))
            yield from _of_cell(layer, f"layer{n} of {name}")
    else:
        _check(cell, name)
        yield Part(name, ahead=cell)


def _check(cell: Any, name: str) -> None:
    if type(cell) not in CELLS:
        raise refuse(name, f"it has no {type(cell).__name__}")
    if getattr(cell, "proj_size", 0):
        raise refuse(name, "its hidden state is a projection")
    own, other = getattr(cell, "activation", None), getattr(cell, "output_activation", None)
    if other is not None and other != own:
        raise refuse(name, "its cell state and its candidate have activations of their own")


def _both(network: Bidirectional, name: str) -> Part:
    ahead, back = network.ahead, network.back
    for one in (ahead, back):
        if not isinstance(one, Recurrent):
            raise refuse(name, "its directions read in both directions themselves")
        if one.learn_initial_state:
            raise refuse(name, "its initial state is learned, and that of Keras is zeros")
        _check(one.cell, name)
    return Part(name, ahead=ahead.cell, back=back.cell)


def _of_drop_in(network: Any, name: str) -> Iterator[Part]:
    if not network.bidirectional:
        yield from parts_of(network.recurrent(), name)
        return
    networks = network.directions()
    for n, pair in enumerate(zip(networks[::2], networks[1::2], strict=True)):
        if n and network.dropout:
            yield Part(f"the dropout of {name}", module=nn.Dropout(network.dropout))
        for one in pair:
            _check(one.cell, name)
        yield Part(f"layer{n} of {name}", ahead=pair[0].cell, back=pair[1].cell)


def input_of(parts: list[Part]) -> tuple[int | None, torch.dtype]:
    """The features that the first part reads (None: whole numbers), and the precision of the weights."""
    weights = [weight for part in parts for one in (part.module, part.ahead) if one for weight in one.parameters()]
    if not weights or weights[0].dtype not in (torch.float32, torch.float64):
        raise InteropError("Keras' network would have no weights, or some that are neither float32 nor float64")
    for part in parts:
        if isinstance(part.module, nn.Embedding):
            return None, weights[0].dtype
        if part.is_recurrent:
            return part.ahead.input_size, weights[0].dtype
        for attribute in ("in_features", "normalized_shape"):
            if hasattr(part.module, attribute):
                size: Any = getattr(part.module, attribute)
                return (size if isinstance(size, int) else size[-1]), weights[0].dtype
    raise InteropError("no part says how many features it reads")
