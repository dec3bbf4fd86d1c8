"""The derivative of a section: its vector-Jacobian product, traced like the step itself, and what to keep for it.

PyTorch's autograd runs once over the interpreter of the section, on tensors without numbers, and what it does is noted
as a program. That program reads values of the forward pass. Each of them is kept, or computed again from what is kept:
a minimum cut through the forward pass decides, with the bytes of a value as the price of keeping it, and a price on
computing what is expensive again. A product is never computed twice.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from treadle.caches import kept_while_used
from treadle.compiler import interpreter
from treadle.compiler import program as p
from treadle.compiler.fission import Section
from treadle.compiler.neutral import neutral
from treadle.compiler.program import Value
from treadle.compiler.tracer import Tracer
from treadle.compiler.walk import preorder

# What it costs to compute one number again, in bytes kept: a logarithm takes about as long as storing and reading one.
_PRICE_EXPENSIVE, _PRICE_CHEAP = 3.6, 0.3


@dataclasses.dataclass(frozen=True)
class Derivative:
    """The backward pass of a section.

    Cotangents are the placeholders of the gradients that come from above, for each output and each new state.
    """

    section: Section
    wanted: tuple[Value, ...]
    output_cotangents: tuple[Value, ...]
    state_cotangents: tuple[Value, ...]
    gradients: tuple[Value | None, ...]  # of each wanted input; None where none flows
    state_gradients: tuple[Value, ...]
    saved: tuple[Value, ...]  # what the forward pass keeps, beside the section's inputs, outputs and states
    contractions: tuple[Value, ...]  # sums over all rows and steps: gradients of what all rows share are made of these


def _cotangents(values: Iterable[Value], kind: str) -> tuple[Value, ...]:
    return tuple(p.placeholder(f"gradient/{kind}{i}", v.shape, v.dtype) for i, v in enumerate(values))


@kept_while_used
def derive(section: Section, wanted: tuple[Value, ...]) -> Derivative:
    """Derive a section with respect to some of its inputs, and to its old states."""
    wanted = tuple(v for v in wanted if v.dtype.is_floating_point)
    tracer = Tracer()
    tracer.keep_gradients = True
    out_cotangents, new_cotangents = _cotangents(section.outputs, "output"), _cotangents(section.new, "state")
    with neutral(), tracer:
        known: dict[Value, Any] = {
            v: tracer.tensor(v, requires_grad=v in wanted or v in section.old) for v in (*section.inputs, *section.old)
        }
        sources = [known[v] for v in (*wanted, *section.old)]
        interpreter.evaluate((*section.outputs, *section.new), known, tracer.rows)
        pairs = [
            (known[v], tracer.tensor(c))
            for v, c in zip((*section.outputs, *section.new), (*out_cotangents, *new_cotangents), strict=True)
            if known[v].requires_grad
        ]
        differentiable = [s for s in sources if s.requires_grad]
        flowing: Iterator[Any] = iter(
            torch.autograd.grad(_Seed.apply(pairs, *(a for a, _ in pairs)), differentiable, allow_unused=True)
            if pairs
            else [None] * len(differentiable)
        )
        results = [next(flowing) if s.requires_grad else None for s in sources]
    found = zip(results, (*wanted, *section.old), strict=True)
    gradients = [None if r is None else p.expand(r.value, v.shape) for r, v in found]
    gradients, of_states = tuple(gradients[: len(wanted)]), gradients[len(wanted) :]
    state_gradients = tuple(
        p.full(0, v.shape, v.dtype) if g is None else g for g, v in zip(of_states, section.old, strict=True)
    )
    everything = [g for g in (*gradients, *state_gradients) if g is not None]
    contractions = tuple(v for v in p.ordered(everything) if v.op in p.CONTRACTIONS)
    saved = _choose_saved(section, everything, (*out_cotangents, *new_cotangents))
    return Derivative(section, wanted, out_cotangents, new_cotangents, gradients, state_gradients, saved, contractions)


class _Seed(torch.autograd.Function):
    """A number whose gradients with respect to tensors are their cotangents.

    Given to PyTorch as such, cotangents would be compared with the tensors by means of its symbolic shapes, and
    loading those takes longer than all else that we do.
    """

    @staticmethod
    def forward(ctx: Any, pairs: Any, *tensors: Any) -> Any:
        ctx.pairs = pairs
        return torch.zeros((), device="cpu")

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        return (None, *(c for _, c in ctx.pairs))


def _choose_saved(section: Section, gradients: Iterable[Value], cotangents: Iterable[Value]) -> tuple[Value, ...]:
    """The forward values to keep: a minimum cut between products and the derivative."""
    everything = p.ordered(gradients)
    from_above = set(cotangents)
    backward: set[Value] = set()
    for value in everything:
        if value in from_above or not backward.isdisjoint(value.inputs):
            backward.add(value)
    given = {*section.inputs, *section.old, *section.new, *section.outputs}
    # In an order that is the same in every process: kernels are kept on disk by what they compute, in order.
    needed = dict.fromkeys(
        operand
        for value in everything
        if value in backward
        for operand in value.inputs
        if operand not in backward and operand.has_rows and operand not in given
    )
    contractions = [value for value in everything if value.op in p.CONTRACTIONS and value not in backward]
    needed |= dict.fromkeys(v for value in contractions for v in value.inputs if v not in given)
    if not needed:
        return ()
    flow = _Flow()
    for value in p.between(given, needed):
        if not value.has_rows or value.op == "full":
            continue
        # Engines keep booleans as floats.
        size = value.row_numel * max(value.dtype.itemsize, 4)
        flow.edge(("in", value), ("out", value), size)
        for operand in value.inputs:
            if operand not in given and operand.has_rows and operand.op != "full":
                flow.edge(("out", operand), ("in", value), math.inf)
        if value.op in ("dot", "opaque"):
            flow.edge("source", ("in", value), math.inf)
        elif value.op in p.ELEMENTWISE or value.op in p.REDUCTIONS:
            price = _PRICE_EXPENSIVE if value.op in p.EXPENSIVE else _PRICE_CHEAP
            count = value.inputs[0].row_numel if value.op in p.REDUCTIONS else value.row_numel
            flow.edge("source", ("in", value), price * count * value.dtype.itemsize / 4)
    for value in needed:
        flow.edge(("out", value), "sink", math.inf)
    return tuple(
        sorted((node[1] for node in flow.cut("source", "sink") if node != "source"), key=lambda v: v.row_numel)
    )


class _Flow:
    """Maximum flow by blocking flows (Dinic, 1970), which is also the minimum cut."""

    def __init__(self) -> None:
        self.numbers: dict[object, int] = {}
        self.edges: list[list[int]] = []
        """Of each node, the numbers of its edges; edge ``e ^ 1`` is edge ``e`` the other way round."""
        self.to: list[int] = []
        self.capacity: list[float] = []

    def edge(self, a: object, b: object, capacity: float) -> None:
        a, b = self._number(a), self._number(b)
        self.edges[a].append(len(self.to))
        self.edges[b].append(len(self.to) + 1)
        self.to += [b, a]
        self.capacity += [capacity, 0.0]

    def _number(self, node: object) -> int:
        if node not in self.numbers:
            self.numbers[node] = len(self.edges)
            self.edges.append([])
        return self.numbers[node]

    def cut(self, source: object, sink: object) -> list[tuple[str, Value]]:
        """The nodes whose inner edge is cut: as close to the sink as a minimum allows."""
        first, last = self._number(source), self._number(sink)
        while last in (levels := self._levels(first)):
            self._block(levels, first, last)
        # Whatever can still reach the sink lies behind the cut.
        behind = set(preorder([last], lambda n: [self.to[e] for e in self.edges[n] if self._has_room(e ^ 1)]))
        return [
            node
            for node, number in self.numbers.items()
            if isinstance(node, tuple)
            and node[0] == "in"
            and number not in behind
            and self.numbers["out", node[1]] in behind
        ]

    def _has_room(self, edge: int) -> bool:
        return self.capacity[edge] > 1e-9

    def _levels(self, first: int) -> dict[int, int]:
        """How many edges away each node is, by edges that have room."""
        levels, waiting = {first: 0}, collections.deque([first])
        while waiting:
            node = waiting.popleft()
            for edge in self.edges[node]:
                if self._has_room(edge) and self.to[edge] not in levels:
                    levels[self.to[edge]] = levels[node] + 1
                    waiting.append(self.to[edge])
        return levels

    def _block(self, levels: dict[int, int], first: int, last: int) -> None:
        """Send what can be sent by paths on which every edge leads one level on."""
        tried = [0] * len(self.edges)  # of each node, how many of its edges lead nowhere any more
        path: list[int] = []
        node = first
        while True:
            if node == last:
                amount = min(self.capacity[edge] for edge in path)
                for edge in path:
                    self.capacity[edge] -= amount
                    self.capacity[edge ^ 1] += amount
                full = next(i for i, edge in enumerate(path) if not self._has_room(edge))
                node = self.to[path[full] ^ 1]
                del path[full:]
            ahead = self.edges[node][tried[node]] if tried[node] < len(self.edges[node]) else None
            if ahead is None:
                if not path:
                    return
                node = self.to[path.pop() ^ 1]
                tried[node] += 1
            elif self._has_room(ahead) and levels.get(self.to[ahead]) == levels[node] + 1:
                path.append(ahead)
                node = self.to[ahead]
            else:
                tried[node] += 1
