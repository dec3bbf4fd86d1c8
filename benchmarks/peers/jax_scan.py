"""`jax.lax.scan` over a cell, one scan a layer, with the gradients of everything; all of it under one `jax.jit`."""

from typing import Any

import jax
import numpy as np
import torch
from jax import lax
from torch import Tensor

from benchmarks.peers.jax_cells import CELLS
from benchmarks.training import Training


class JaxTraining:
    """The same work as a `Training` of a `td.Recurrent` over a `td.Stack`, with the same parameters and data."""

    def __init__(self, cell: str, layers: int, training: Training):
        self.cell = CELLS[cell]
        self.parameters: list[dict[str, Any]] = [{} for _ in range(layers)]
        for name, parameter in training.module.named_parameters():
            _, layer, rest = name.split(".", 2)  # cell.layer0.weight_ih
            self.parameters[int(layer.removeprefix("layer"))][rest] = _array(parameter)
        self.xs = _array(training.x)
        self.output_names = list(training.cotangents)
        self.above = [_array(above) for above in training.cotangents.values()]
        self.key = jax.random.key(0)
        self.with_noise = jax.jit(self._value_and_gradients)
        self.drawn = jax.jit(lambda *given: self._value_and_gradients(*given[:-1], self._draw(given[-1])))

    def __call__(self) -> None:
        """One forward and one backward pass: what is timed."""
        jax.block_until_ready(self.drawn(self.parameters, self.xs, self.above, self.key))

    def values(self, noise: list[list[Tensor]] | None = None) -> dict[str, Tensor]:
        """Everything that a pass computes, named as `Training` names it; with the given masks [T, B, H] if any."""
        masks = self._no_noise() if noise is None else [[_array(mask) for mask in layer] for layer in noise]
        outputs, (by_layer, d_x) = self.with_noise(self.parameters, self.xs, self.above, masks)
        gradients = {
            f"d cell.layer{i}.{name}": gradient for i, layer in enumerate(by_layer) for name, gradient in layer.items()
        }
        named = dict(zip(self.output_names, outputs, strict=True)) | {"d x": d_x} | gradients
        return {name: torch.from_numpy(np.array(value)) for name, value in named.items()}

    def _forward(self, parameters: list[dict[str, Any]], xs: Any, noise: Any) -> list[Any]:
        finals = []
        for layer, masks in zip(parameters, noise, strict=True):
            hidden_size = layer["weight_hh" if "weight_hh" in layer else "hidden_sieve.weight"].shape[1]
            zeros = (jax.numpy.zeros((xs.shape[1], hidden_size)),) * self.cell.fields

            def step(state: Any, now: Any, layer: Any = layer) -> Any:
                state = self.cell.step(layer, now[0], state, now[1])
                return state, state[0]

            final, xs = lax.scan(step, zeros, (xs, masks))
            finals += final
        return [xs, *finals]

    def _value_and_gradients(self, parameters: Any, xs: Any, above: Any, noise: Any) -> Any:
        outputs, pull_back = jax.vjp(lambda *given: self._forward(*given, noise), parameters, xs)
        return outputs, pull_back(above)

    def _draw(self, key: Any) -> Any:
        """All masks at once, before the loop, which is the fast way to draw them in JAX."""
        shape = (*self.xs.shape[:2], self.xs.shape[2])  # layers are as wide as the input
        keys = iter(jax.random.split(key, max(1, len(self.parameters) * len(self.cell.keep))))
        return [[jax.random.bernoulli(next(keys), p, shape) for p in self.cell.keep] for _ in self.parameters]

    def _no_noise(self) -> list[list[Any]]:
        return [[] for _ in self.parameters]


def _array(tensor: Tensor) -> Any:
    return jax.numpy.asarray(tensor.detach().numpy())
