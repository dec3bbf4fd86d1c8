"""A change of one layer, carried through a network: whoever reads a wider row gets weights for the new features.

A module that mixes features (a cell, a linear layer, a convolution) reads wider rows with new weights that start as
they are told to, most often at zero, and gives what it gave. A module that treats every feature alike hands them on.
So a network that is a wiring of both goes on doing what it did.
"""

import copy
from typing import Any

from torch import nn

from treadle import state as states
from treadle.adapt.carrier import Carrier, Change
from treadle.adapt.carry_graph import carried_graph
from treadle.adapt.carry_rnn import carried_rnn
from treadle.adapt.features import features_out
from treadle.adapt.parts import copied_without, is_plain, within
from treadle.adapt.places import Changed, Places, appended, joined, placed
from treadle.adapt.resize import resized_inputs
from treadle.adapt.starts import Start
from treadle.adapt.wider import read_wider
from treadle.control.loop import ClosedLoop
from treadle.errors import AdaptError
from treadle.running.bidirectional import Bidirectional
from treadle.running.recurrent import Recurrent
from treadle.wiring import Graph, NoisyStateCell
from treadle.wiring.sizes import is_cell


def carrier(start: Start = "zeros", change: Change | None = None) -> Carrier:
    """A `Carrier` that knows every network whose parts are connected in a known way.

    Args:
        start: how weights for new features start.
        change: what to make of a part itself; see `Carrier`.
    """
    kinds = [
        *((nn.RNNBase, carried_rnn), (nn.Sequential, _sequential), (Recurrent, _recurrent)),
        *((Bidirectional, _both_ways), (NoisyStateCell, _noisy), (Graph, carried_graph), (nn.Module, _part)),
    ]
    return Carrier(kinds, start, change)


def _part(carrier: Carrier, path: str, module: nn.Module, places: Places) -> Changed:
    if is_cell(module):
        return (copy.deepcopy(module) if places is None else resized_inputs(path, module, places, carrier.start)), None
    return read_wider(path, module, places, carrier.start)


def _sequential(carrier: Carrier, path: str, module: nn.Sequential, places: Places) -> Changed:
    if not is_plain(module):
        raise AdaptError(
            f"{path or 'this network'!r} is a {type(module).__name__}, a Sequential with a forward of your own: name a"
            " part of it with at="
        )
    parts = {}
    for name, part in module._modules.items():  # a part may stand in two places
        parts[name], places = carrier.carry(within(path, name), part, places) if part is not None else (None, places)
    new = copied_without(module, module, parts)
    for name, part in parts.items():
        new.add_module(name, part)
    return new, places


def _recurrent(carrier: Carrier, path: str, module: Recurrent, places: Places) -> Changed:
    cell: Any
    cell, gives = carrier.carry(within(path, "cell"), module.cell, places)
    new = copied_without(module, module, ["cell"])
    new.cell = cell
    if isinstance(new, ClosedLoop) and places is not None:
        new.readings = type(new.readings)(len(places))
    if new.learn_initial_state:
        begins = {name.replace(".", "|"): row[0] for name, row in states.named_tensors(cell.initial_state(1))}
        for name, row in module.initial.items():
            like = begins[name]
            if like.shape != row.shape:
                along = {
                    a: appended(o, n) for a, (o, n) in enumerate(zip(row.shape, like.shape, strict=True)) if o != n
                }
                begun = like.detach().clone()
                placed(row.detach(), begun, along)  # pyright: ignore[reportArgumentType]
                new.initial[name] = nn.Parameter(begun, row.requires_grad)
    return new, gives


def _noisy(carrier: Carrier, path: str, module: NoisyStateCell, places: Places) -> Changed:
    cell, gives = carrier.carry(within(path, "cell"), module.cell, places)
    return NoisyStateCell(cell, module.deviation, module.dropout), gives


def _both_ways(carrier: Carrier, path: str, module: Bidirectional, places: Places) -> Changed:
    ahead, gives_ahead = carrier.carry(within(path, "ahead"), module.ahead, places)
    back, gives_back = carrier.carry(within(path, "back"), module.back, places)
    sizes = [features_out(part) or 0 for part in (module.ahead, module.back)]
    return Bidirectional(ahead, back), joined([(gives_ahead, sizes[0]), (gives_back, sizes[1])])
