"""Any wiring: nodes that read each other, now or some steps ago."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from treadle.errors import ShapeError, StateError
from treadle.protocol import State, cell_in_place_of, first_weight
from treadle.wiring.sizes import Size, as_number, as_size, concatenated, is_cell, output_size, words


@dataclasses.dataclass(frozen=True)
class Node:
    """The output of a node of a `Graph` at this step; what `Graph.add` returns."""

    name: str
    size: Size

    def delayed(self, k: int = 1) -> Delayed:
        """This node's output ``k`` steps ago; zeros before there was one.

        Raises:
            ShapeError: ``k`` is not a positive whole number, or the size of the output is not known.
        """
        if not isinstance(k, int) or k < 1:
            raise ShapeError(f"{self.name} can be read 1 or more steps late, but k={k!r} was passed")
        if self.size is None:
            raise ShapeError(
                f"{self.name} is read {k} steps late, so its size must be known before the first step: give its cell an"
                " attribute output_size, or the graph an input_size"
            )
        return Delayed(self.name, self.size, k)

    def state(self, field: str) -> StateField:
        """A field of this node's state after this step, such as ``low.state("c")``."""
        return StateField(self.name, None, field)


@dataclasses.dataclass(frozen=True)
class Delayed:
    """A node's output ``k`` steps ago."""

    name: str
    size: Size
    k: int


@dataclasses.dataclass(frozen=True)
class StateField:
    """A field of a node's state after this step."""

    name: str
    size: Size
    field: str


@dataclasses.dataclass(frozen=True)
class Sum:
    """Reads added up."""

    parts: tuple[Read, ...]
    size: Size


Read: TypeAlias = Node | Delayed | StateField | Sum
Reads: TypeAlias = Read | Sequence[Read]


def sum_of(*reads: Read) -> Sum:
    """A read that adds others of equal size: ``g.add("high", cell, reads=td.sum_of(low, g.x))``.

    Raises:
        ShapeError: nothing to add, or sizes that differ.

    Example:
        >>> import torch, treadle as td
        >>> g = td.Graph(4)
        >>> low = g.add("low", td.GRUCell(4, 4), reads=g.x)
        >>> high = g.add("high", td.GRUCell(4, 4), reads=td.sum_of(low, g.x))
        >>> _ = g.outputs(td.sum_of(high, low))
    """
    if not reads or not all(isinstance(read, Node | Delayed | StateField | Sum) for read in reads):
        raise ShapeError(f"sum_of takes one or more nodes, delayed nodes or sums, but was given {reads!r:.80}")
    sizes = {read.size for read in reads if read.size is not None}
    if len(sizes) > 1:
        raise ShapeError(
            f"only equal sizes add up, but these are {describe(reads)}: put a Linear node before one of them"
        )
    return Sum(tuple(reads), sizes.pop() if sizes else None)


def label(read: Read) -> str:
    """A read as people write it: ``low``, ``low(t-1)``, ``low.c``, ``(low + x)``."""
    match read:
        case Delayed():
            return f"{read.name}(t-{read.k})"
        case StateField():
            return f"{read.name}.{read.field}"
        case Sum():
            return f"({' + '.join(map(label, read.parts))})"
        case _:
            return read.name


def describe(reads: Sequence[Read]) -> str:
    """Reads with their sizes: ``low (64) + x (40)``."""
    return " + ".join(f"{label(read)} ({words(read.size)})" for read in reads)


def leaves(reads: Sequence[Read]) -> list[Node | Delayed | StateField]:
    """All reads inside sums, in order."""
    return [leaf for read in reads for leaf in (leaves(read.parts) if isinstance(read, Sum) else [read])]


@dataclasses.dataclass(frozen=True)
class Connection:
    """How one node sits in a graph."""

    name: str
    reads: tuple[Read, ...]
    previous: tuple[tuple[str, Read], ...]
    has_memory: bool

    @property
    def all_reads(self) -> tuple[Read, ...]:
        """What the node reads, and what its previous state is taken from."""
        return (*self.reads, *(read for _, read in self.previous))


class Graph(nn.Module):
    """Any wiring of cells and memoryless modules; a cell itself.

    Nodes are stepped in the order in which they were added. A node reads outputs of nodes added before it at this
    step, and outputs of any node (itself and later ones included) some steps late. Several reads are
    concatenated along the features; `sum_of` adds them instead.

    State: a dict with the state of each node that has memory, by the node's name. For each node that is read with a
    delay, ``"NAME.delayed"`` is a tuple of its last outputs, the latest first.

    Args:
        input_size: ``I``, features of x; a tuple where a row is not flat, such as ``(3, 32, 32)``; ``()`` where a row
            is one number, such as a token; ``None`` if it is not known, which leaves sums and sizes unchecked until
            the first step.

    Raises:
        ShapeError: sizes that do not fit, as soon as that is known, with the arithmetic.

    Example:
        A character model whose lower layer also hears, one step late, what the upper one concluded.

        >>> import torch, treadle as td
        >>> g = td.Graph(())                                        # x(t) is one token
        >>> embedded = g.add("embedded", torch.nn.Embedding(100, 16), reads=g.x)
        >>> upper = g.later("high", 32)                             # is added below
        >>> low = g.add("low", td.LSTMCell(48, 32), reads=[embedded, upper.delayed()])
        >>> high = g.add("high", td.GRUCell(48, 32), reads=[low, embedded])
        >>> scores = g.add("scores", torch.nn.Linear(32, 100), reads=high)
        >>> g = g.outputs(scores)
        >>> ys, state = td.Recurrent(g)(torch.randint(100, (2, 7)))
        >>> ys.shape, sorted(state)
        (torch.Size([2, 7, 100]), ['high', 'high.delayed', 'low'])
    """

    def __init__(self, input_size: int | tuple[int, ...] | None):
        super().__init__()
        self.x = Node("x", as_size(input_size))
        self.connections: dict[str, Connection] = {}
        self._handles: dict[str, Node] = {"x": self.x}
        self._outputs: tuple[Read, ...] = ()
        self._delays: dict[str, int] = {}  # how many past outputs are kept, by node
        self._state_names: frozenset[str] = frozenset()

    @property
    def input_size(self) -> int | tuple[int, ...] | None:
        """What the graph takes: a number of features, a tuple, or ``None`` if it is not known."""
        return as_number(self.x.size)

    @property
    def output_size(self) -> int | tuple[int, ...] | None:
        """What the graph gives: a number of features, a tuple, or ``None`` if it is not known."""
        return as_number(concatenated([read.size for read in self._outputs], "the outputs")) if self._outputs else None

    @property
    def nodes(self) -> Mapping[str, Node]:
        """All that can be read, by name: the input ``x`` and the nodes, those that `later` announced included."""
        return MappingProxyType(self._handles)

    @property
    def output_reads(self) -> tuple[Read, ...]:
        """What the graph gives, as `outputs` was told; nothing before that."""
        return self._outputs

    @property
    def all_reads(self) -> list[Node | Delayed | StateField]:
        """Everything that any node or the output reads."""
        return leaves([*(read for c in self.connections.values() for read in c.all_reads), *self._outputs])

    def later(self, name: str, size: int | tuple[int, ...]) -> Node:
        """Announce a node that is added later, so that nodes before it can read it with a delay: top-down feedback.

        Args:
            name: its name.
            size: the features of its output.
        """
        self._check_open(name)
        node = Node(self._checked_name(name), as_size(size))
        if self._handles.setdefault(name, node) != node:
            raise ShapeError(
                f"node {name!r} has {words(self._handles[name].size)} features, but is announced with"
                f" {words(node.size)}"
            )
        return self._handles[name]

    def add(self, name: str, module: nn.Module, reads: Reads, previous: Mapping[str, Read] | None = None) -> Node:
        """Add a node and say what it reads.

        Args:
            name: how errors, states and pictures call it.
            module: a cell, or a memoryless module (such as Linear, Embedding, PReLU, Dropout) that is called with its
                input alone.
            reads: one read or several: ``g.x``, a node, ``node.delayed(k)``, ``node.state(field)``, `sum_of`.
            previous: for a cell, fields of its previous state that are not its own: ``{"h": low.state("h")}`` steps
                from the hidden state that ``low`` has just reached. This is how ``"relay"`` is made.

        Returns:
            The node, to be read by others.

        Raises:
            ShapeError: the sizes of what it reads do not add up to what it takes.
            ValueError: a name that is taken or a read of a node that is not there.
            TypeError: a module of `torch.nn` that has memory but is not a cell, such as `torch.nn.GRUCell`.
        """
        self._check_open(name)
        if not isinstance(module, nn.Module):
            raise TypeError(f"node {name!r} must be a torch.nn.Module, but is a {type(module).__name__}")
        if isinstance(module, nn.RNNBase | nn.RNNCellBase):
            raise TypeError(
                f"node {name!r} is torch.nn's {type(module).__name__}, which would forget its state at every step: pass"
                f" a treadle cell, such as {cell_in_place_of(module)}"
            )
        if is_cell(module) and hasattr(module, "session"):
            raise TypeError(
                f"node {name!r} is a {type(module).__name__}, which runs over time: a graph steps cells, pass its .cell"
            )
        if name in self.connections:
            raise ValueError(f"there is a node {name!r} already: node names must differ")
        self._checked_name(name)
        reads, previous = self._checked_reads(name, reads), dict(previous or {})
        for field, read in previous.items():
            (previous[field],) = self._checked_reads(name, read)
            self._check_previous(name, module, field, previous[field])
        size = self._size_of(name, module, reads)
        promised = self._handles.get(name)
        if promised is not None and size not in (None, promised.size):
            raise ShapeError(
                f"node {name!r} was announced with {words(promised.size)} features, but gives {words(size)}"
            )
        node = promised or Node(name, size)
        self.add_module(name, module)
        self._handles[name] = node
        self.connections[name] = Connection(name, reads, tuple(previous.items()), is_cell(module))
        return node

    def outputs(self, *reads: Read) -> Graph:
        """Set the output of the graph; several reads are concatenated. Completes the graph, and returns it.

        Raises:
            ValueError: a node of `later` that was never added, or a read of a node that is not there.
        """
        self._check_open("the outputs")
        missing = [name for name in self._handles if name != "x" and name not in self.connections]
        if missing:
            raise ValueError(f"node {missing[0]!r} was announced with later(...), but never added")
        checked = self._checked_reads("the outputs", reads)
        concatenated([read.size for read in checked], f"the outputs read {describe(checked)}")
        self._outputs = checked
        for leaf in self.all_reads:
            if isinstance(leaf, Delayed):
                self._delays[leaf.name] = max(self._delays.get(leaf.name, 0), leaf.k)
        with_memory = {name for name, connection in self.connections.items() if connection.has_memory}
        self._state_names = frozenset(with_memory | {f"{name}.delayed" for name in self._delays})
        return self

    def rewired(
        self,
        nodes: Mapping[str, nn.Module] | None = None,
        rename: Mapping[str, str] | None = None,
        sizes: Mapping[str, Size] | None = None,
    ) -> Graph:
        """Another graph whose nodes are connected as those of this one, which stays as it is.

        Args:
            nodes: the modules to replace, by the name of their node. The others are shared by both graphs.
            rename: ``{"low": "inserted"}`` puts a node ``inserted`` after ``low``, which reads ``low`` alone; all nodes
                that read the output of ``low``, now or with a delay, read that of ``inserted``. Its module is in
                ``nodes``. States are still read from ``low`` itself.
            sizes: what nodes give with their new modules, where that is another size; under ``"x"`` the new size of the
                input.

        Raises:
            ShapeError: the sizes of what a node reads do not add up to what its new module takes.

        Example:
            >>> import torch, treadle as td
            >>> g = td.Graph(4)
            >>> low = g.add("low", td.GRUCell(4, 4), reads=g.x)
            >>> g = g.outputs(g.add("high", td.GRUCell(4, 4), reads=low))
            >>> print(td.Graph.extra_repr(g.rewired({"between": torch.nn.Tanh()}, rename={"low": "between"})))
            low reads x
            between reads low
            high reads between
            gives high
        """
        nodes, rename = dict(nodes or {}), dict(rename or {})
        sizes = {name: node.size for name, node in self.nodes.items()} | dict(sizes or {})
        new = Graph(sizes["x"])

        def moved(read: Read) -> Read:
            match read:
                case Sum():
                    return sum_of(*map(moved, read.parts))
                case StateField():
                    return new.nodes[read.name].state(read.field)
            name = rename.get(read.name, read.name)
            if isinstance(read, Delayed):
                size = sizes[read.name]
                assert size is not None  # or it could not have been read late
                return (new.nodes.get(name) or new.later(name, size)).delayed(read.k)
            return new.nodes[name]

        def follow(name: str) -> None:
            if name in rename:
                new.add(rename[name], nodes[rename[name]], new.nodes[name])

        follow("x")
        for name, connection in self.connections.items():
            module = nodes[name] if name in nodes else self.get_submodule(name)
            previous = {field: moved(read) for field, read in connection.previous}
            new.add(name, module, [moved(read) for read in connection.reads], previous)
            follow(name)
        new.outputs(*map(moved, self.output_reads)).training = self.training
        return new

    def initial_state(self, batch_size: int) -> dict[str, State]:
        """The state of every node with memory, and zeros for what is read late."""
        state = {
            name: self._cell(name).initial_state(batch_size) for name, c in self.connections.items() if c.has_memory
        }
        parameter = first_weight(self) if self._delays else None
        parameter = torch.empty(0, device="cpu") if parameter is None else parameter
        for name, k in self._delays.items():
            size = self._handles[name].size or ()
            dtype = torch.long if name == "x" and size == () else parameter.dtype  # x of that size is a token
            past = [torch.zeros(batch_size, *size, device=parameter.device, dtype=dtype) for _ in range(k)]
            state[f"{name}.delayed"] = tuple(past)
        return state

    def forward(self, x: Tensor, state: dict[str, State] | None = None) -> tuple[Tensor, dict[str, State]]:
        """One step of every node: ``x`` [B, I] and the state give the output and the next state.

        Raises:
            StateError: the state is not one of this graph.
        """
        if not self._outputs:
            raise ValueError("the graph is not complete: say what it gives with outputs(node)")
        if state is None:
            state = self.initial_state(x.shape[0])
        if not isinstance(state, Mapping) or state.keys() != self._state_names:
            has = sorted(state) if isinstance(state, Mapping) else type(state).__name__
            raise StateError(
                f"the state of this wiring is a dict of {sorted(self._state_names)}, but it was given {has}"
            )
        values: dict[str, Tensor] = {"x": x}
        after: dict[str, State] = {}
        for name, connection in self.connections.items():
            read = _gather(connection.reads, values, state, after)
            if not connection.has_memory:
                values[name] = self._cell(name)(read)
                continue
            before = state[name]
            if connection.previous:
                handed = {field: _value(r, values, state, after) for field, r in connection.previous}
                if not hasattr(before, "_replace"):
                    raise StateError(
                        f"state {name} must be the cell's own named tuple, but is a {type(before).__name__}"
                    )
                before = before._replace(**handed)
            values[name], after[name] = self._cell(name)(read, before)
        for name, k in self._delays.items():
            past = state[f"{name}.delayed"]
            if values[name].is_floating_point() != past[0].is_floating_point():
                raise ShapeError(
                    f"{name} is read late and one number a row, which is kept as {past[0].dtype}, but it is"
                    f" {values[name].dtype}: a graph of input size () reads whole numbers; give floats as [B,"
                    " 1], nodes too"
                )
            # In the past's own dtype: tokens may come as any whole numbers, and autocast narrows what cells give.
            after[f"{name}.delayed"] = (values[name].to(past[0].dtype), *past[: k - 1])
        return _gather(self._outputs, values, state, after), after

    def extra_repr(self) -> str:
        """Who reads what, for ``print``."""
        lines = []
        for name, c in self.connections.items():
            steps_from = "".join(f", {field} from {label(read)}" for field, read in c.previous)
            lines.append(f"{name} reads {', '.join(map(label, c.reads))}{steps_from}")
        return "\n".join([*lines, f"gives {', '.join(map(label, self._outputs))}"] if self._outputs else lines)

    def _check_open(self, what: str) -> None:
        if self._outputs:
            raise ValueError(f"{what!r} comes after outputs(...): the graph is complete; add everything before that")

    def _cell(self, name: str) -> Any:
        return self._modules[name]

    def _checked_name(self, name: str) -> str:
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"a node's name is a word of letters, digits and underscores, but is {name!r}")
        if name == "x" or (name not in self._handles and hasattr(self, name)):
            raise ValueError(f"a node cannot be called {name!r}: graphs use that name themselves")
        return name

    def _checked_reads(self, reader: str, reads: Reads) -> tuple[Read, ...]:
        """The reads as a tuple, once each is known to be of this graph and there in time."""
        checked = tuple(self._sized(read) for read in (reads if isinstance(reads, Sequence) else (reads,)))
        if not checked:
            raise ValueError(f"{reader!r} reads nothing: pass a node, or the input as g.x")
        for read in checked:
            if not isinstance(read, Node | Delayed | StateField | Sum):
                raise TypeError(f"{reader!r} can read nodes, delayed nodes, states and sums, but not {read!r:.60}")
        for leaf in leaves(checked):
            handle = self._handles.get(leaf.name)
            if handle is None or (not isinstance(leaf, StateField) and leaf.size != handle.size):
                raise ValueError(
                    f"{reader!r} reads {label(leaf)}, which is not a node of this graph: add it first, to this graph"
                )
            if leaf.name != "x" and leaf.name not in self.connections and not isinstance(leaf, Delayed):
                raise ValueError(
                    f"{reader!r} reads {label(leaf)} of this step, but that node comes later: read it with"
                    " .delayed(), or add it first"
                )
            if isinstance(leaf, StateField) and not self._has_state(leaf.name):
                raise ValueError(f"{reader!r} reads {label(leaf)}, but {leaf.name!r} has no state")
        return checked

    def _sized(self, read: Any) -> Any:
        """A read with the sizes of the states in it, which only the graph can know."""
        if isinstance(read, StateField) and self._has_state(read.name):
            return dataclasses.replace(read, size=self._field_size(read.name, self._cell(read.name), read.field))
        return sum_of(*map(self._sized, read.parts)) if isinstance(read, Sum) else read

    def _has_state(self, name: str) -> bool:
        return name in self.connections and self.connections[name].has_memory

    def _field_size(self, owner: str, module: Any, field: str) -> tuple[int, ...]:
        state = module.initial_state(0)
        if field not in getattr(state, "_fields", ()):
            raise ShapeError(
                f"{owner!r} is a {type(module).__name__}, whose state has no field {field!r}: it has"
                f" {', '.join(getattr(state, '_fields', ())) or 'no named fields'}"
            )
        return tuple(getattr(state, field).shape[1:])

    def _check_previous(self, name: str, module: nn.Module, field: str, read: Read) -> None:
        if not is_cell(module):
            raise ShapeError(
                f"node {name!r} has no memory, so there is no previous {field!r} to take from {label(read)}"
            )
        own, given = self._field_size(name, module, field), read.size
        if given is not None and own != given:
            raise ShapeError(
                f"layer {name!r} steps from {label(read)} ({words(given)}) as its previous {field}, but its own {field}"
                f" has {words(own)}: give both layers the same size"
            )

    def _size_of(self, name: str, module: nn.Module, reads: tuple[Read, ...]) -> Size:
        """The size of a new node's output, or the arithmetic of why it cannot take what it reads."""
        text = describe(reads)
        total = concatenated([read.size for read in reads], f"layer {name!r} reads {text}")
        kind, what = type(module).__name__, "its cell" if is_cell(module) else "it"
        reading = f"layer {name!r} reads {text}" + (f" = {words(total)}" if len(reads) > 1 else "")
        reading += " features" if total else ""
        expected = as_size(getattr(module, "input_size", None) or getattr(module, "in_features", None))
        if total is not None and expected is not None and total != expected:
            gives = getattr(module, "hidden_size", None) or getattr(module, "out_features", None)
            better = f"{kind}({words(total)}, {gives})" if gives else f"a {kind} that takes {words(total)}"
            raise ShapeError(f"{reading}, but {what} expects {words(expected)}: pass {better}")
        try:
            return output_size(module, total)
        except Exception as error:
            raise ShapeError(f"{reading}, but {kind} cannot take them: {str(error).splitlines()[0]}") from error


def _value(read: Read, values: Mapping[str, Tensor], before: Mapping[str, Any], after: Mapping[str, Any]) -> Tensor:
    match read:
        case Node():
            return values[read.name]
        case Delayed():
            return before[f"{read.name}.delayed"][read.k - 1]
        case StateField():
            return getattr(after[read.name], read.field)
    total = _value(read.parts[0], values, before, after)
    for part in read.parts[1:]:
        total = total + _value(part, values, before, after)
    return total


def _gather(
    reads: tuple[Read, ...], values: Mapping[str, Tensor], before: Mapping[str, Any], after: Mapping[str, Any]
) -> Tensor:
    parts = [_value(read, values, before, after) for read in reads]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)
