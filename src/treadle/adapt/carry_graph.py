"""A change carried through a graph, whose nodes may read each other late, and so in circles."""

from typing import Any

from torch import nn

from treadle.adapt.carrier import Carrier
from treadle.adapt.features import first
from treadle.adapt.parts import within
from treadle.adapt.places import Changed, Places, appended, joined, same
from treadle.errors import AdaptError
from treadle.wiring import Graph, Stack
from treadle.wiring.graph import Read, StateField, Sum, label, leaves
from treadle.wiring.sizes import Size


def carried_graph(carrier: Carrier, path: str, graph: Graph, places: Places) -> Changed:
    """The copy of a graph whose input has these places, and the places of what it gives."""
    if type(graph) not in (Graph, Stack):
        raise AdaptError(f"{path!r} is a {type(graph).__name__}, a Graph of your own: build it anew and transplant")
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
                f"nobody knows the size of {label(read)}, which {reader!r} reads: give the graph an input_size"
            )
        return found


def _field_places(old: Any, new: Any, field: str) -> Places:
    before, after = (getattr(cell.initial_state(1), field) for cell in (old, new))
    return appended(before.shape[1], after.shape[1])


def _size_after(size: Size, places: Places) -> Size:
    return size if places is None or not size else (len(places), *size[1:])
