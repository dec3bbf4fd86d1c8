"""A graph that was read from a file of another library, as a module: nodes that read values by name, and give some."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from treadle.errors import InteropError
from treadle.files.description import kept_in_files


@kept_in_files("treadle.GraphNode")
@dataclasses.dataclass(frozen=True)
class Node:
    """A node of a graph: an operator, the names of what it reads and gives, and its attributes.

    Nodes stand in an order in which they can run. The empty name is that of an input that is left out.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


class GraphNetwork(nn.Module):
    """A graph of nodes; called with the graph's inputs in their order, it gives the graph's outputs in theirs.

    A subclass says in `run` what a node does.

    Attributes:
        inputs: the names of what the graph reads, in their order.
        outputs: of what it gives.
        report: how far the network agrees with the file that it was read from; None of one that was loaded.
    """

    part = "node"
    """What a node is called in messages."""

    def __init__(self, nodes: tuple[Node, ...], inputs: tuple[str, ...], outputs: tuple[str, ...]):
        super().__init__()
        self.nodes, self.inputs, self.outputs = nodes, inputs, outputs
        self.report: Any = None

    def constants(self) -> dict[str, Any]:
        """The values that are there before the first node runs."""
        return {}

    def run(self, number: int, node: Node, known: Mapping[str, Any]) -> Any:
        """What a node gives: a value, or a tuple of several."""
        raise NotImplementedError

    def entered(self, name: str, value: Any) -> Any:
        """An input of the graph as the nodes read it."""
        return torch.as_tensor(value)

    def forward(self, *inputs: Any) -> Any:
        """The graph's outputs: a tensor, or a tuple of several.

        Args:
            inputs: tensors or arrays, in the order of the graph's inputs (``self.inputs``).

        Raises:
            InteropError: another number of inputs, or a node fails on them.
        """
        known = self.values(*inputs)
        results = tuple(known[name] for name in self.outputs)
        return results[0] if len(results) == 1 else results

    def values(self, *inputs: Any) -> dict[str, Any]:
        """All values by name, as the nodes give them."""
        if len(inputs) != len(self.inputs):
            raise InteropError(
                f"the graph reads {len(self.inputs)} inputs ({', '.join(self.inputs)}), but {len(inputs)} were passed"
            )
        known: dict[str, Any] = {"": None} | self.constants()
        known |= {name: self.entered(name, value) for name, value in zip(self.inputs, inputs, strict=True)}
        for number, node in enumerate(self.nodes):
            try:
                found = self.run(number, node, known)
            except InteropError:
                raise
            except (RuntimeError, ValueError, IndexError, KeyError, TypeError) as error:
                first = (str(error).splitlines() or [type(error).__name__])[0]
                raise InteropError(
                    f"{self.part} {node.name} ({node.kind}) fails on what it is given: {first}"
                ) from error
            several = type(found) is tuple  # a named tuple is one value
            known |= dict(zip(node.outputs, found if several else (found,), strict=False))
            known[""] = None
        return known
