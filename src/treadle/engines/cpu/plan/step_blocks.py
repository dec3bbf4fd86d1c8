"""Blocks of live steps: all of them in one call, from the state and back to it."""

import torch
from torch import Tensor

from treadle.engines.cpu.machine.recipe import Recipe
from treadle.engines.cpu.plan.live_operands import LiveOperands
from treadle.engines.cpu.plan.rows import Role, TensorKey, keys_of, tensors_of_layout
from treadle.engines.layout import Layout

__all__ = ["StepBlocks"]

_MOST_BLOCKS = 16
_X, _Y = TensorKey(Role.ROWS), TensorKey(Role.OUTPUT)


class StepBlocks:
    """Blocks of steps, by recipes that are written once for each size.

    Args:
        operands: what they compute with.
    """

    def __init__(self, operands: LiveOperands):
        self.operands = operands
        self._states = keys_of(Role.START, len(operands.state))
        self._recipes: dict[tuple[int, int], Recipe] = {}

    def run(self, layout: Layout, xs: Tensor, ys: Tensor) -> None:
        """All steps on [N, ...], into ``ys``; the state moves on."""
        recipe = self._recipe(layout)
        tensors = tensors_of_layout(layout, recipe.tensors, None)
        recipe.follow({**tensors, _X: xs, _Y: ys, **dict(zip(self._states, self.operands.state, strict=True))})

    def _recipe(self, layout: Layout) -> Recipe:
        key = layout.steps, torch.get_num_threads()
        found = self._recipes.get(key)
        if found is None:
            found = Recipe()
            x, y, *states = (found.tensor(key)[0] for key in (_X, _Y, *self._states))
            self.operands.one.compiled.write_down(found, layout, self.operands.arguments(x, y, states))
            if len(self._recipes) >= _MOST_BLOCKS:
                self._recipes.pop(next(iter(self._recipes)))
            self._recipes[key] = found
        return found
