"""A training step without the optimiser: forward, and the gradients of x and of all parameters."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from treadle.state import named_tensors

Forward = Callable[[Any, Tensor], dict[str, Tensor]]
"""(module, x) -> outputs and final states by name."""


def recurrent_outputs(module: Any, x: Tensor) -> dict[str, Tensor]:
    """Of a `treadle.Recurrent`: what it gives, and every tensor of the final state."""
    ys, state = module(x)
    return {"ys": ys, **dict(named_tensors(state))}


@dataclass
class Training:
    """A module, how it is called, and its data; gradients come from above into all outputs and final states."""

    module: nn.Module
    forward: Forward
    x: Tensor
    cotangents: dict[str, Tensor]

    def __call__(self) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
        """One forward and one backward pass: what is timed."""
        x = self.x.detach().requires_grad_()
        outputs = self.forward(self.module, x)
        above = [self.cotangents[name].to(output.dtype) for name, output in outputs.items()]
        return outputs, torch.autograd.grad(list(outputs.values()), [x, *self.module.parameters()], above)

    def values(self) -> dict[str, Tensor]:
        """Everything that a pass computes, by name."""
        outputs, gradients = self()
        names = ["x", *(name for name, _ in self.module.named_parameters())]
        return outputs | {f"d {name}": gradient for name, gradient in zip(names, gradients, strict=True)}

    def double(self, module: nn.Module | None = None) -> "Training":
        """The same in float64, with a copy of the module; or of another module, which may run otherwise."""
        module = copy.deepcopy(self.module if module is None else module).double()
        above = {name: cotangent.double() for name, cotangent in self.cotangents.items()}
        return Training(module, self.forward, self.x.double(), above)


def draw(module: nn.Module, forward: Forward, x: Tensor) -> Training:
    """With random gradients from above for whatever the module gives."""
    with torch.no_grad():
        shapes = {name: output.shape for name, output in forward(module, x).items()}
    random = torch.Generator().manual_seed(1)
    return Training(module, forward, x, {name: torch.randn(shape, generator=random) for name, shape in shapes.items()})


def inputs(T: int, B: int, I: int) -> Tensor:
    """The same random sequences [T, B, I] whenever they are asked for."""
    return torch.randn(T, B, I, generator=torch.Generator().manual_seed(2))
