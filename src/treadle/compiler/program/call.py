"""A call that a program keeps as it was made: PyTorch's own operation, into which the compiler does not look."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from treadle.compiler.program.shapes import BATCH


@dataclasses.dataclass(frozen=True)
class Operand:
    """The place of an operand among the arguments of a call."""

    index: int

    def __repr__(self) -> str:
        return f"#{self.index}"


@dataclasses.dataclass(frozen=True)
class Call:
    """One of PyTorch's operations with its arguments: an `Operand` for each tensor, `BATCH` for the number of rows.

    ``draw`` says which of the step's draws of random numbers it is, None if it draws none: no two draws are one call.
    """

    function: torch._ops.OpOverload
    arguments: tuple[Any, ...]
    options: tuple[tuple[str, Any], ...] = ()
    draw: int | None = None

    def __str__(self) -> str:
        given = [*map(str, self.arguments), *(f"{name}={part}" for name, part in self.options)]
        return f"{self.function}({', '.join(given)})"

    def __call__(self, operands: Sequence[Tensor], rows: int, device: torch.device | None = None) -> Any:
        """What it gives for these operands."""

        def unpack(tree: Any) -> Any:
            if isinstance(tree, Operand):
                return operands[tree.index]
            if isinstance(tree, tuple):
                return [unpack(part) for part in tree]
            return rows if tree is BATCH else tree

        options = {name: unpack(part) for name, part in self.options}
        if device is not None and any(argument.name == "device" for argument in self.function._schema.arguments):
            options["device"] = device
        return self.function(*unpack(self.arguments), **options)
