"""A change of one layer, carried through a network: whoever reads a wider row gets weights for the new features.

A module that mixes features (a cell, a linear layer, a convolution) reads wider rows with new weights that start as
they are told to, most often at zero, and gives what it gave. A module that treats every feature alike hands them on.
So a network that is a wiring of both goes on doing what it did.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import nn

from treadle import state as states
from treadle.adapt.parts import copied_without, features_out, first, is_plain, within
from treadle.adapt.places import Changed, Places, Start, appended, joined, placed, same
from treadle.adapt.resize import resized_inputs
from treadle.adapt.wider import read_wider
from treadle.control.loop import ClosedLoop
from treadle.errors import AdaptError
from treadle.running.bidirectional import Bidirectional
from treadle.running.dropin import GRU, LSTM, RNN, DropIn
from treadle.running.recurrent import Recurrent
from treadle.running.reversed import Reversed
from treadle.wiring import Graph, MeanCell, NoisyStateCell, Stack
from treadle.wiring.graph import Read, StateField, Sum, label, leaves
from treadle.wiring.sizes import Size, is_cell

Change: TypeAlias = Callable[[str, Any, Places], Changed | None]


@dataclasses.dataclass(frozen=True)
class _Done:
    """What was made of a part: kept with the part itself, so that its identity belongs to nothing else."""

    part: nn.Module
    reads: Places
    new: nn.Module
    gives: Places


class Carrier:
    """Makes the changed copy of a network, part by part, the same part only once.

    Args:
        start: how weights for new features start.
        change: what to make of a part itself: from its path, the part, and what it is to read from now on, to the
            changed part and the places of what that gives; None for a part that is not to be changed.
    """

    def __init__(self, start: Start = "zeros", change: Change | None = None):
        self.start: Start = start
        self.change = change or (lambda path, module, places: None)
        self._done: dict[int, _Done] = {}

    def carry(self, path: str, module: nn.Module, places: Places) -> Changed:
        """The copy of a part that reads rows with these places, and the places of what it gives."""
        done = self._done.get(id(module))
        if done is not None:  # the same part, at work in two places
            if not same(done.reads, places):
                raise AdaptError(
                    f"{path!r} is the same {type(module).__name__} as another part, but the two would read different"
                    " features: give each a module of its own first"
                )
            return done.new, done.gives
        changed = self.change(path, module, places)
        if changed is None:
            changed = next(carry for kind, carry in _KINDS if isinstance(module, kind))(self, path, module, places)
        self._done[id(module)] = _Done(module, places, *changed)
        return changed

    def again(self) -> Carrier:
        """One that has made no more than this one so far, for an attempt."""
        other = Carrier(self.start, self.change)
        other.adopt(self)
        return other

    def adopt(self, other: Carrier) -> None:
        """Take over all that another one has made."""
        self._done |= other._done


DROP_INS: dict[type[nn.RNNBase], type[DropIn]] = {nn.LSTM: LSTM, nn.GRU: GRU, nn.RNN: RNN}


def carried_rnn(carrier: Carrier, path: str, network: Any, places: Places) -> Changed:
    """The copy of a network whose input has these places, and the places of what it gives."""
    if type(network) in DROP_INS:
        ours = _as_drop_in(path, network)
        arguments = ours.torch_arguments(network)
    elif type(network) in DROP_INS.values():
        ours, arguments = network, network.constructor_arguments()
    else:
        raise AdaptError(
            f"{path!r} is a {type(network).__name__}, an RNN of your own: build a new one and transplant the weights"
        )
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
        raise AdaptError(f"{path!r} has parameters that a newly built one has not, such as those of pruning")
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


def carried_graph(carrier: Carrier, path: str, graph: Graph, places: Places) -> Changed:
    """The copy of a graph whose input has these places, and the places of what it gives."""
    if type(graph) not in (Graph, Stack):
        raise AdaptError(
            f"{path!r} is a {type(graph).__name__}, a Graph of your own: build a new one and transplant the weights"
        )
    # What is read late from further up is known once it is there; what a node gives follows from what it reads.
    late = _read_before_they_come(graph)
    gives: dict[str, Places] = {}
    nodes: dict[str, nn.Module] = {}
    for _ in range(len(graph.connections) + 1):
        attempt = carrier.again()
        nodes, found = _nodes(attempt, path, graph, places, gives)
        settled = all(same(found[name], gives.get(name)) for name in late)
        gives = found
        if settled:
            carrier.adopt(attempt)
            break
    else:
        raise AdaptError(
            f"{path or 'the graph'!r} feeds features back to where they come from, so there is no end to them"
        )
    rows = gives | {"x": places}

    def outputs() -> Places:
        sums = _Reads(graph, rows, nodes)
        return joined([(sums.places("the outputs", read), first(read.size)) for read in graph.output_reads])

    if isinstance(graph, Stack):
        new: Graph = Stack([nodes[f"layer{k}"] for k in range(graph.num_layers)], graph.wiring, dropout=graph.dropout)
        if Graph.extra_repr(new) != Graph.extra_repr(graph):  # who reads what
            raise AdaptError(
                f"{path or 'the stack'!r} is wired {graph.wiring!r}, where layers of equal size add up: these sizes"
                " would connect it otherwise than before; grow its layers together"
            )
        return new, outputs()
    given = outputs()  # before anything is wired: it says of sums of other sizes what to do
    sizes = {name: _size_after(node.size, rows.get(name)) for name, node in graph.nodes.items()}
    return graph.rewired(nodes, sizes=sizes), given


def _read_before_they_come(graph: Graph) -> list[str]:
    """The nodes that others read, late, which come before them; or that read themselves."""
    found, there = [], {"x"}
    for name, connection in graph.connections.items():
        found += [leaf.name for leaf in leaves(connection.all_reads) if leaf.name not in there]
        there.add(name)
    return found


def _nodes(
    carrier: Carrier, path: str, graph: Graph, x: Places, assumed: dict[str, Places]
) -> tuple[dict[str, nn.Module], dict[str, Places]]:
    """The changed nodes in order, and the places of what each gives; ``assumed`` of those that come later."""
    nodes: dict[str, nn.Module] = {}
    gives: dict[str, Places] = {}
    for name, connection in graph.connections.items():
        sums = _Reads(graph, assumed | gives | {"x": x}, nodes)
        module = graph.get_submodule(name)
        reads = joined([(sums.places(name, read), first(read.size)) for read in connection.reads])
        nodes[name], gives[name] = carrier.carry(within(path, name), module, reads)
        for field, read in connection.previous:
            handed, own = sums.places(name, read), _field_places(module, nodes[name], field)
            if not same(handed, own):
                raise AdaptError(
                    f"layer {name!r} steps from {label(read)} as its previous {field}, so both grow or neither: grow"
                    " them together, to one size"
                )
    return nodes, gives


class _Reads:
    """The places of what is read in a graph."""

    def __init__(self, graph: Graph, gives: dict[str, Places], nodes: dict[str, nn.Module]):
        self.graph, self.gives, self.nodes = graph, gives, nodes

    def places(self, reader: str, read: Read) -> Places:
        match read:
            case StateField():
                return _field_places(self.graph.get_submodule(read.name), self.nodes[read.name], read.field)
            case Sum():
                found = [self.places(reader, part) for part in read.parts]
                if not all(same(part, found[0]) for part in found):
                    raise AdaptError(
                        f"{reader!r} reads the sum {label(read)}, whose parts have one size: they grow together, to one"
                        " size, or not at all"
                    )
                return found[0]
        found = self.gives.get(read.name)
        if found is not None and not read.size:
            raise AdaptError(
                f"the size of {label(read)}, which {reader!r} reads, is not known: give the graph an input_size"
            )
        return found


def _field_places(old: Any, new: Any, field: str) -> Places:
    before, after = (getattr(cell.initial_state(1), field) for cell in (old, new))
    return appended(before.shape[1], after.shape[1])


def _size_after(size: Size, places: Places) -> Size:
    return size if places is None or not size else (len(places), *size[1:])


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


def _mean(carrier: Carrier, path: str, module: MeanCell, places: Places) -> Changed:
    if places is None:
        return copy.deepcopy(module), None
    return MeanCell(len(places)).to(next(module.buffers())), places  # it treats every feature alike


def _both_ways(carrier: Carrier, path: str, module: Bidirectional, places: Places) -> Changed:
    ahead, gives_ahead = carrier.carry(within(path, "ahead"), module.ahead, places)
    back, gives_back = carrier.carry(within(path, "back"), module.back, places)
    sizes = [features_out(part) or 0 for part in (module.ahead, module.back)]
    return Bidirectional(ahead, back), joined([(gives_ahead, sizes[0]), (gives_back, sizes[1])])


def _backwards(carrier: Carrier, path: str, module: Reversed, places: Places) -> Changed:
    network, gives = carrier.carry(within(path, "network"), module.network, places)
    return Reversed(network), gives


_KINDS: tuple[tuple[type, Callable[[Carrier, str, Any, Places], Changed]], ...] = (
    *((nn.RNNBase, carried_rnn), (nn.Sequential, _sequential), (Recurrent, _recurrent)),
    *(
        (Bidirectional, _both_ways),
        (Reversed, _backwards),
        (NoisyStateCell, _noisy),
        (MeanCell, _mean),
        (Graph, carried_graph),
        (nn.Module, _part),
    ),
)
"""How a change is carried through parts of each class; the first class that fits counts."""
