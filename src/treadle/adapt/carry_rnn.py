"""A change carried through `torch.nn`'s LSTM, GRU and RNN and the drop-ins: through the cells that they are made of."""

from typing import Any

import torch
from torch import nn

from treadle.adapt.carrier import Carrier
from treadle.adapt.carry_graph import carried_graph
from treadle.adapt.places import Changed, Places, joined
from treadle.errors import AdaptError
from treadle.running.dropin import GRU, LSTM, RNN, DropIn
from treadle.wiring import Stack

DROP_INS: dict[type[nn.RNNBase], type[DropIn]] = {nn.LSTM: LSTM, nn.GRU: GRU, nn.RNN: RNN}


def carried_rnn(carrier: Carrier, path: str, network: Any, places: Places) -> Changed:
    """The copy of a network whose input has these places, and the places of what it gives."""
    if type(network) in DROP_INS:
        ours = _as_drop_in(path, network)
        arguments = ours.torch_arguments(network)
    elif type(network) in DROP_INS.values():
        ours, arguments = network, network.constructor_arguments()
    else:
        raise AdaptError(f"{path!r} is a {type(network).__name__}, an RNN of your own: build it anew and transplant")
    if ours.bidirectional:
        cells, gives = _both_directions(carrier, path, ours.cells(), places)
    else:
        layers = Stack(ours.cells(), ours.wiring, dropout=ours.dropout)
        stack, gives = carried_graph(carrier, path, layers, places)
        assert isinstance(stack, Stack)
        cells = stack.cells
    hidden_size = getattr(cells[0], "hidden_size", network.hidden_size)
    if any(getattr(cell, "hidden_size", hidden_size) != hidden_size for cell in cells):
        raise AdaptError(f"{path!r} is a {type(network).__name__}, whose layers are of one size: grow them together")
    arguments |= {"input_size": network.input_size if places is None else len(places), "hidden_size": hidden_size}
    like = next(network.parameters())
    return _filled(type(network)(**arguments, device=like.device, dtype=like.dtype), cells), gives


def _as_drop_in(path: str, network: nn.RNNBase) -> DropIn:
    """One of PyTorch's networks as the drop-in with the same parameters."""
    kind = DROP_INS[type(network)]
    ours, parameters = kind(**kind.torch_arguments(network)), dict(network.named_parameters())
    if parameters.keys() != dict(ours.named_parameters()).keys():
        raise AdaptError(f"{path!r} has other parameters than one that is built anew, such as those of pruning")
    for name, parameter in parameters.items():
        setattr(ours, name, parameter)
    return ours.train(network.training)


def _both_directions(carrier: Carrier, path: str, cells: list[Any], places: Places) -> tuple[list[Any], Places]:
    """The changed cells of a bidirectional network, both directions of a layer together, and the places it gives."""
    found = []
    for k in range(0, len(cells), 2):
        both = [carrier.carry(path, cell, places) for cell in cells[k : k + 2]]
        places = joined([(gives, cell.output_size) for (_, gives), cell in zip(both, cells[k : k + 2], strict=True)])
        found += [new for new, _ in both]
    return found, places


@torch.no_grad()
def _filled(network: Any, cells: list[Any]) -> Any:
    """A network with the weights of these cells."""
    if getattr(network, "cell", None) is not None:
        network.layers = nn.ModuleList(cells)
        return network
    for suffix, cell in zip(DropIn.suffixes(network), cells, strict=True):
        for name, parameter in cell.named_parameters():
            getattr(network, f"{name}_{suffix}").copy_(parameter)
    return network
