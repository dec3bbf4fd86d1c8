"""A change of one layer, carried through a network: whoever reads a wider row gets weights for the new features.

A module that mixes features (a cell, a linear layer, a convolution) reads wider rows with new weights that start as
they are told to, most often at zero, and gives what it gave. A module that treats every feature alike hands them on.
So a network that is a wiring of both goes on doing what it did.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from treadle import state as states
from treadle.adapt.patterns import close_to, names_it
from treadle.adapt.places import Places, appended, joined, placed, same
from treadle.adapt.resize import resized_hidden, resized_inputs
from treadle.adapt.transplant import STARTED, Start
from treadle.control.loop import ClosedLoop
from treadle.errors import AdaptError
from treadle.running.dropin import GRU, LSTM, RNN
from treadle.running.recurrent import Recurrent
from treadle.seq2seq import Bidirectional, EncoderDecoder
from treadle.wiring import Graph, NoisyStateCell, Stack
from treadle.wiring.graph import Delayed, Node, Read, StateField, Sum, label, leaves
from treadle.wiring.sizes import as_number, as_size, is_cell, output_size

HANDING_ON = (
    *(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardtanh),
    *(nn.Tanh, nn.Sigmoid, nn.Hardsigmoid, nn.Hardswish, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Threshold),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.Upsample),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
    *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d),
)
"""Modules without numbers of their own that treat every feature, or every channel, alike."""

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
DROP_INS = {nn.LSTM: LSTM, nn.GRU: GRU, nn.RNN: RNN}
KNOWN = (Recurrent, Bidirectional, Graph, NoisyStateCell, nn.Sequential, nn.RNNBase)
"""Networks of parts whose connections are known."""

Change = Callable[[str, nn.Module, Any], tuple[nn.Module, Places] | None]


class Carrier:
    """Makes the changed copy of a network.

    Args:
        start: how weights for new features start.
        change: what to make of a part itself: from its path, the part, once it reads what it is to read, and what it
            reads, to the changed part and the places of what that gives; None for a part that is not to be changed.
    """

    def __init__(self, start: Start = "zeros", change: Change | None = None):
        self.start: Start = start
        self.change = change or (lambda path, module, places: None)
        self._done: dict[int, tuple[nn.Module, Places, nn.Module, Places]] = {}

    def carry(self, path: str, module: nn.Module, places: Places) -> tuple[Any, Places]:
        """The copy of a part that reads rows with these places, and the places of what it gives."""
        if id(module) in self._done:  # the same part, at work in two places
            _, before, new, gives = self._done[id(module)]
            if not same(before, places):
                raise AdaptError(
                    f"{path!r} is the same {type(module).__name__} as another part, which reads other rows from now on:"
                    " give each a module of its own first"
                )
            return new, gives
        changed = self.change(path, module, places)
        carried = next((carried for kinds, carried in _CARRIED if isinstance(module, kinds)), _part)
        new, gives = carried(self, path, module, places) if changed is None else changed
        self._done[id(module)] = (module, places, new, gives)
        return new, gives

    def again(self) -> "Carrier":
        """One that has made no more than this one so far."""
        other = Carrier(self.start, self.change)
        other._done = dict(self._done)
        return other


def _part(carrier: Carrier, path: str, module: nn.Module, places: Places) -> tuple[Any, Places]:
    if is_cell(module):
        return (copy.deepcopy(module) if places is None else resized_inputs(path, module, places, carrier.start)), None
    return read_wider(path, module, places, carrier.start)


def read_wider(path: str, module: Any, places: Places, start: Start) -> tuple[Any, Places]:
    """A copy of a memoryless module that reads rows with these places, and the places of what it gives."""
    new = copy.deepcopy(module)
    if places is None:
        return new, None
    if isinstance(module, nn.Linear):
        new.weight, new.in_features = wider(module.weight, {1: places}, start), len(places)
        return new, None
    if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)) and module.groups == 1:
        axis = 0 if isinstance(module, TRANSPOSED) else 1
        new.weight, new.in_channels = wider(module.weight, {axis: places}, start), len(places)
        return new, None
    if isinstance(module, HANDING_ON) or (isinstance(module, nn.PReLU) and module.num_parameters == 1):
        return new, places
    if isinstance(module, nn.PReLU):
        new.weight, new.num_parameters = wider(module.weight, {0: places}, module.init), len(places)
        return new, places
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            if getattr(module, name) is not None:
                setattr(new, name, wider(getattr(module, name), {0: places}, value))
        new.num_features = len(places)
        return new, places
    kind, where = type(module).__name__, f"{path!r} is" if path else "this is"
    if isinstance(module, nn.LayerNorm | nn.RMSNorm | nn.GroupNorm | nn.Softmax | nn.LogSoftmax):
        why = "takes all features together, so new ones would change what becomes of the old: replace it first"
    elif isinstance(module, nn.Embedding):
        why = "reads tokens, not features: td.adapt.grow_vocabulary gives it more of them"
    elif isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)):
        why = f"has {module.groups} groups, into which new channels do not divide: transplant its weights"
    elif isinstance(module, nn.Flatten | nn.Unflatten):
        why = "changes what is a feature: grow what comes before and behind it by itself, with at="
    else:
        why = "is not known to td.adapt: name the parts that are, with at= and readers="
    raise AdaptError(f"{where} a {kind} and would read {len(places)} features; a {kind} {why}")


@torch.no_grad()
def wider(old: Tensor, axes: dict[int, Tensor], start: Start | float) -> Any:
    """A parameter (or buffer) with its numbers at their places, and new ones that start as told."""
    shape = tuple(len(axes[axis]) if axis in axes else size for axis, size in enumerate(old.shape))
    if isinstance(start, float | int):
        new = old.new_full(shape, start)
    else:
        (axis,) = axes
        how: Start = "xavier" if start == "fresh" else start
        new = STARTED[how](old.detach(), old, shape, axis)
    placed(old.detach(), new, axes)
    return nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new


def is_plain(module: nn.Sequential) -> bool:
    """Whether a sequence calls its parts one after another, and not in a ``forward`` of a user's own."""
    return type(module).forward is nn.Sequential.forward


def _sequential(carrier: Carrier, path: str, module: nn.Sequential, places: Places) -> tuple[Any, Places]:
    if not is_plain(module):
        raise AdaptError(
            f"{path or 'this network'!r} is a {type(module).__name__}, a Sequential with a forward of your own: name a"
            " part of it with at="
        )
    parts = {}
    for name, part in module._modules.items():  # a part may stand in two places
        parts[name], places = carrier.carry(_within(path, name), part, places) if part is not None else (None, places)
    held, module._modules = module._modules, {}  # parts are not copied twice
    try:
        new = copy.deepcopy(module)
    finally:
        module._modules = held
    for name, part in parts.items():
        new.add_module(name, part)
    return new, places


def _recurrent(carrier: Carrier, path: str, module: Recurrent, places: Places) -> tuple[Any, Places]:
    cell, gives = carrier.carry(_within(path, "cell"), module.cell, places)
    held, module.cell = module.cell, nn.Identity()  # the cell is not copied twice
    try:
        new = copy.deepcopy(module)
    finally:
        module.cell = held
    new.cell = cell
    if isinstance(new, ClosedLoop):
        new._followers = {}
        if places is not None:
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


def _noisy(carrier: Carrier, path: str, module: NoisyStateCell, places: Places) -> tuple[Any, Places]:
    cell, gives = carrier.carry(_within(path, "cell"), module.cell, places)
    return NoisyStateCell(cell, module.deviation, module.dropout), gives


def _both_ways(carrier: Carrier, path: str, module: Bidirectional, places: Places) -> tuple[Any, Places]:
    ahead, gives_ahead = carrier.carry(_within(path, "ahead"), module.ahead, places)
    back, gives_back = carrier.carry(_within(path, "back"), module.back, places)
    sizes = [features_out(part) or 0 for part in (module.ahead, module.back)]
    return Bidirectional(ahead, back), joined([(gives_ahead, sizes[0]), (gives_back, sizes[1])])


def _graph(carrier: Carrier, path: str, graph: Graph, places: Places) -> tuple[Any, Places]:
    if type(graph) not in (Graph, Stack):
        raise AdaptError(f"{path!r} is a {type(graph).__name__}, a Graph of your own: build it anew and transplant")
    # What is read late from further up is known once it is there; what a node gives follows from what it reads.
    late = _read_before_they_come(graph)
    gives: dict[str, Places] = {}
    nodes: dict[str, Any] = {}
    for _ in range(len(graph.connections) + 1):
        attempt = carrier.again()
        nodes, found = _nodes(attempt, path, graph, places, gives)
        settled = all(same(found[name], gives.get(name)) for name in late)
        gives = found
        if settled:
            carrier._done |= attempt._done
            break
    else:
        raise AdaptError(
            f"{path or 'the graph'!r} feeds features back to where they come from, so there is no end to them"
        )
    sizes = {name: _size_after(handle.size, gives.get(name)) for name, handle in graph._handles.items() if name != "x"}
    x_size = _size_after(graph.x.size, places)

    def outputs() -> Places:
        sums = _Reads(graph, gives | {"x": places}, nodes)
        return joined([(sums.places("the outputs", read), _first(read.size)) for read in graph._outputs])

    if isinstance(graph, Stack):
        new: Graph = Stack([nodes[f"layer{k}"] for k in range(graph.num_layers)], graph.wiring, dropout=graph.dropout)
        if _structure(new) != _structure(graph):
            raise AdaptError(
                f"{path or 'the stack'!r} is wired {graph.wiring!r}, where layers of equal size add up: these sizes"
                " would"
                " connect it otherwise than before; grow its layers together"
            )
        return new, outputs()
    given = outputs()  # before anything is wired: it says of sums of other sizes what to do
    return _wired(graph, nodes, sizes, as_number(x_size)), given


def _read_before_they_come(graph: Graph) -> list[str]:
    """The nodes that others read, late, which come before them; or that read themselves."""
    found, there = [], {"x"}
    for name, connection in graph.connections.items():
        read = leaves([*connection.reads, *(read for _, read in connection.previous)])
        found += [leaf.name for leaf in read if leaf.name not in there]
        there.add(name)
    return found


def _nodes(
    carrier: Carrier, path: str, graph: Graph, x: Places, assumed: dict[str, Places]
) -> tuple[dict[str, Any], dict[str, Places]]:
    """The changed nodes in order, and the places of what each gives; ``assumed`` of those that come later."""
    nodes: dict[str, Any] = {}
    gives: dict[str, Places] = {}
    for name, connection in graph.connections.items():
        sums = _Reads(graph, assumed | gives | {"x": x}, nodes)
        module = graph._modules[name]
        assert module is not None
        reads = joined([(sums.places(name, read), _first(read.size)) for read in connection.reads])
        nodes[name], gives[name] = carrier.carry(_within(path, name), module, reads)
        for field, read in connection.previous:
            handed, own = sums.places(name, read), _field_places(module, nodes[name], field)
            if not same(handed, own):
                raise AdaptError(
                    f"layer {name!r} steps from {label(read)} as its previous {field}, so both grow or neither: grow"
                    " them"
                    " together, to one size"
                )
    return nodes, gives


class _Reads:
    """The places of what is read in a graph."""

    def __init__(self, graph: Graph, gives: dict[str, Places], nodes: dict[str, Any]):
        self.graph, self.gives, self.nodes = graph, gives, nodes

    def places(self, reader: str, read: Read) -> Places:
        match read:
            case StateField():
                return _field_places(self.graph._modules[read.name], self.nodes[read.name], read.field)
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


def _first(size: Any) -> int:
    return size[0] if size else 0


def _size_after(size: Any, places: Places) -> Any:
    return size if places is None or not size else (len(places), *size[1:])


def _structure(graph: Graph) -> Any:
    reads = [(n, [*map(label, c.reads)], [(f, label(r)) for f, r in c.previous]) for n, c in graph.connections.items()]
    return reads, [*map(label, graph._outputs)]


def _wired(graph: Graph, nodes: dict[str, Any], sizes: dict[str, Any], input_size: Any) -> Graph:
    """A graph of other nodes that are connected as those of ``graph``."""
    new = Graph(input_size)
    there: dict[str, Node] = {"x": new.x}

    def moved(read: Any) -> Any:
        match read:
            case Sum():
                return Sum(tuple(moved(part) for part in read.parts), None)
            case Delayed():
                return (there.get(read.name) or new.later(read.name, sizes[read.name])).delayed(read.k)
            case StateField():
                return there[read.name].state(read.field)
        return there[read.name]

    for name, connection in graph.connections.items():
        previous = {field: moved(read) for field, read in connection.previous}
        there[name] = new.add(name, nodes[name], [moved(read) for read in connection.reads], previous)
    return new.outputs(*map(moved, graph._outputs))


def _over_time(carrier: Carrier, path: str, module: Any, places: Places) -> tuple[Any, Places]:
    """torch.nn's recurrent networks and the drop-ins: through the cells that they are made of."""
    theirs = type(module) in DROP_INS
    if not theirs and type(module) not in DROP_INS.values():
        raise AdaptError(f"{path!r} is a {type(module).__name__}, an RNN of your own: build it anew and transplant")
    names = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
    if theirs:
        arguments = {name: getattr(module, name) for name in names}
        extra = {nn.LSTM: "proj_size", nn.RNN: "nonlinearity"}.get(type(module))
        arguments |= {extra: getattr(module, extra)} if extra else {}
        ours = DROP_INS[type(module)](**arguments)
        parameters = dict(module.named_parameters())
        if parameters.keys() != dict(ours.named_parameters()).keys():
            raise AdaptError(f"{path!r} has other parameters than one that is built anew, such as those of pruning")
        for name, parameter in parameters.items():
            setattr(ours, name, parameter)
        ours.train(module.training)
    else:
        ours, arguments = module, module.constructor_arguments()
    cells = ours._cells()
    if ours.bidirectional:
        new_cells, gives = [], places
        for k in range(0, len(cells), 2):
            both = [carrier.carry(path, cell, gives) for cell in cells[k : k + 2]]
            new_cells += [new for new, _ in both]
            gives = joined([(out, cell.output_size) for (_, out), cell in zip(both, cells[k : k + 2], strict=True)])
    else:
        stack, gives = _graph(carrier, path, Stack(cells, ours.wiring, dropout=ours.dropout), places)
        new_cells = stack.cells
    input_size = module.input_size if places is None else len(places)
    hidden_size = getattr(new_cells[0], "hidden_size", module.hidden_size)
    if any(getattr(cell, "hidden_size", hidden_size) != hidden_size for cell in new_cells):
        raise AdaptError(f"{path!r} is a {type(module).__name__}, whose layers are of one size: grow them together")
    like = next(module.parameters())
    sizes = {"input_size": input_size, "hidden_size": hidden_size}
    new = type(module)(**(arguments | sizes), device=like.device, dtype=like.dtype)
    if getattr(new, "cell", None) is not None:
        new.layers = nn.ModuleList(new_cells)
        return new, gives
    suffixes = [
        f"l{k}{end}" for k in range(new.num_layers) for end in (("", "_reverse") if new.bidirectional else ("",))
    ]
    with torch.no_grad():
        for suffix, cell in zip(suffixes, new_cells, strict=True):
            for name, parameter in cell.named_parameters():
                getattr(new, f"{name}_{suffix}").copy_(parameter)
    return new, gives


_CARRIED: tuple[tuple[Any, Callable[..., tuple[Any, Places]]], ...] = (
    (nn.RNNBase, _over_time),
    (nn.Sequential, _sequential),
    (Recurrent, _recurrent),
    (Bidirectional, _both_ways),
    (NoisyStateCell, _noisy),
    (Graph, _graph),
)


def _within(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def finished(old: nn.Module, new: Any, replaced: str | None = None) -> Any:
    """A changed copy of a network, with what is known of it by name: modes, what is frozen, what is one and the same.

    Args:
        old: the network.
        new: its copy.
        replaced: the path of a part that has nothing to do with the old one, though it has its name.

    Raises:
        AdaptError: weights that were one have come apart.
    """
    modes = dict(old.named_modules())
    for name, module in new.named_modules():
        if name in modes:
            module.training = modes[name].training
    groups: dict[int, list[str]] = {}
    for name, parameter in old.named_parameters(remove_duplicate=False):
        if replaced is not None and names_it(replaced, name):
            continue
        groups.setdefault(id(parameter), []).append(name)
        try:
            new.get_parameter(name).requires_grad_(parameter.requires_grad)
        except AttributeError:
            continue
    for first, *others in groups.values():
        for name in others:
            one, other = new.get_parameter(first), new.get_parameter(name)
            if one is other:
                continue
            if one.shape != other.shape:
                raise AdaptError(
                    f"{first} and {name} are one weight, but would be {list(one.shape)} and {list(other.shape)}:"
                    " untie them"
                    " first, or change both in one way"
                )
            owner, _, attribute = name.rpartition(".")
            setattr(new.get_submodule(owner), attribute, one)
    return new


def grown_cell(path: str, module: Any, size: int) -> tuple[Any, Places]:
    """A cell of ``size`` units, and the places of what it gives."""
    new = resized_hidden(path, module, size)
    before, after = (as_size(output_size(cell, None)) or (0,) for cell in (module, new))
    return new, appended(before[0], after[0])


def grown_layer(path: str, module: Any, size: int, start: Start) -> tuple[Any, Places]:
    """A linear layer or convolution with ``size`` outputs, and their places."""
    new, convolution = copy.deepcopy(module), not isinstance(module, nn.Linear)
    old = module.out_channels if convolution else module.out_features
    places = appended(old, size)
    if places is None:
        return new, None
    if convolution and module.groups > 1:
        raise AdaptError(
            f"{path!r} is a {type(module).__name__} of {module.groups} groups, and with {size} channels the old ones"
            " would lie in others: transplant its weights"
        )
    axis = 1 if isinstance(module, TRANSPOSED) else 0
    new.weight = wider(module.weight, {axis: places}, start)
    if module.bias is not None:
        new.bias = wider(module.bias, {0: places}, "mean" if start == "mean" else 0.0)
    setattr(new, "out_channels" if convolution else "out_features", size)
    return new, places


def features_in(module: Any) -> int | None:
    """How many features, or channels, a module reads; None if it does not say."""
    if isinstance(module, nn.Sequential):
        return next((n for part in module if (n := features_in(part)) is not None), None)
    for name in ("in_features", "in_channels", "input_size", "num_features"):
        found = getattr(module, name, None)
        if found is not None:
            return _first(found) if isinstance(found, tuple) else found
    return module.num_parameters if isinstance(module, nn.PReLU) and module.num_parameters > 1 else None


def features_out(module: Any) -> int | None:
    """How many features, or channels, a module gives; None if it does not say."""
    if isinstance(module, nn.Sequential):
        return next((n for part in reversed(module) if (n := features_out(part)) is not None), None)
    if isinstance(module, nn.RNNBase):
        return (module.proj_size or module.hidden_size) * (2 if module.bidirectional else 1)
    for name in ("out_features", "out_channels", "output_size", "num_features"):
        found = getattr(module, name, None)
        if found is not None:
            return _first(found) if isinstance(found, tuple) else found
    if isinstance(module, nn.LayerNorm | nn.RMSNorm) and len(module.normalized_shape) == 1:
        return module.normalized_shape[0]
    return module.num_parameters if isinstance(module, nn.PReLU) and module.num_parameters > 1 else None


def is_known(module: nn.Module) -> bool:
    """Whether it is known how the parts of a module are connected, or whether it is a part itself."""
    own = isinstance(module, EncoderDecoder) or (not is_cell(module) and next(module.children(), None) is not None)
    if isinstance(module, nn.Sequential) and not is_plain(module):
        return False
    return isinstance(module, KNOWN) or not own


def outermost(network: nn.Module, path: str) -> str:
    """The path of the outermost part on the way to a part of which it is known how it is connected."""
    names = path.split(".") if path else []
    for k in range(len(names) + 1):
        if is_known(network.get_submodule(".".join(names[:k]))):
            return ".".join(names[:k])
    return path


def at_path(network: nn.Module, at: Any) -> str:
    """A path, once there is a part of that name.

    Raises:
        AdaptError: there is none.
    """
    names = [name for name, _ in network.named_modules() if name]
    if not isinstance(at, str) or (at and at not in names):
        raise AdaptError(f"at={at!r} is no part of this {type(network).__name__}{close_to(str(at), names)}")
    return at


def with_part(network: nn.Module, path: str, part: Any) -> Any:
    """A copy of a network in which another part stands at a path."""
    if not path:
        return part
    owner_path, _, name = path.rpartition(".")
    owner = network.get_submodule(owner_path)
    held, owner._modules[name] = owner._modules[name], None  # what is replaced is not copied
    try:
        new = copy.deepcopy(network)
    finally:
        owner._modules[name] = held
    new.get_submodule(owner_path)._modules[name] = part
    return new
