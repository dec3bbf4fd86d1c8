"""Puts down the nodes of a graph of ONNX and its constants, each under a name of its own."""

from typing import Any

import numpy as np
import torch

TYPES = {torch.float32: 1, torch.float64: 11, torch.int64: 7, torch.int32: 6, torch.bool: 9, torch.uint8: 2}
TYPES |= {torch.int8: 3, torch.int16: 5}
"""What ONNX calls the types of tensors, as whole numbers."""


class Writer:
    """The nodes and constants of a graph; a graph inside another one has constants in the outer one.

    Args:
        outer: the writer of the graph around it.
    """

    def __init__(self, outer: "Writer | None" = None):
        self.nodes: list[Any] = []
        self.initializers: list[Any] = [] if outer is None else outer.initializers
        self._constants: dict[Any, str] = {} if outer is None else outer._constants
        self._counts: dict[str, int] = {} if outer is None else outer._counts

    def name(self, hint: str) -> str:
        """A name that nothing has yet."""
        number = self._counts[hint] = self._counts.get(hint, -1) + 1
        return f"{hint}_{number}"

    def node(self, kind: str, *inputs: str, outputs: int = 1, output: str = "", **attributes: Any) -> Any:
        """Put down a node; gives the name of its output, or names if it has several."""
        from onnx import helper

        names = [output] if output else [self.name(kind.lower()) for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if len(names) == 1 else names

    def constant(self, numbers: Any, dtype: Any = None, name: str = "") -> str:
        """A constant; those that are alike are one."""
        from onnx import numpy_helper

        array = np.array(numbers, dtype)
        key = (array.tobytes(), array.shape, str(array.dtype), name)
        if key not in self._constants:
            self._constants[key] = name or self.name("constant")
            self.initializers.append(numpy_helper.from_array(array, self._constants[key]))
        return self._constants[key]

    def indices(self, *numbers: int) -> str:
        """Whole numbers in a row, as ONNX takes shapes and axes."""
        return self.constant(numbers, np.int64)
