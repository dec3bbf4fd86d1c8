"""Random numbers for all steps before the first one, as the cell's own Python would draw them step by step."""

import torch
from torch import Tensor

from treadle.compiler import interpreter
from treadle.compiler.program import BATCH, Value
from treadle.engines.engine import Engine
from treadle.engines.layout import Layout


def draw(random: tuple[Value, ...], layout: Layout, known: dict[Value, Tensor], engine: Engine) -> dict[Value, Tensor]:
    """What a program draws at each step, in that order, with rows as the layout has them; an engine may be faster."""
    if not random:
        return {}
    # Generators of other devices give other numbers all at once than step by step.
    drawn = _masks_of(random, layout, engine) if layout.device.type == "cpu" else None
    drawn = _filled(random, layout) if drawn is None else drawn
    drawn = _step_by_step(random, layout, known) if drawn is None else drawn
    return {v: layout.packed(t).movedim(0, v.batch_axis) for v, t in zip(random, drawn, strict=True)}


def _masks_of(random: tuple[Value, ...], layout: Layout, engine: Engine) -> list[Tensor] | None:
    """[T, B, ...] of each, if all are masks that can be drawn at once."""
    dtype = random[0].dtype
    shares = [share for value in random if (share := _share_of(value)) is not None]
    if len(shares) < len(random) or any(value.dtype != dtype for value in random):
        return None
    sizes = [layout.batch * value.row_numel for value in random]
    drawn = engine.masks(shares, sizes, layout.steps) if dtype == torch.float32 else None
    drawn = masks(shares, sizes, layout.steps, dtype) if drawn is None else drawn
    shapes = [[layout.batch if dim is BATCH else dim for dim in value.shape] for value in random]
    return [
        mask.reshape(layout.steps, *shape).movedim(value.batch_axis + 1, 1)
        for value, mask, shape in zip(random, drawn, shapes, strict=True)
    ]


def masks(shares: list[float], sizes: list[int], steps: int, dtype: torch.dtype) -> list[Tensor]:
    """Zeros and ones, [steps, n] of each: see `Engine.masks`."""
    # The generator gives one number after another: all steps in one call are the same numbers as step by step.
    parts = zip(shares, sizes, strict=True)
    row = torch.cat([torch.full((n,), share, dtype=dtype, device="cpu") for share, n in parts])
    return list(torch.bernoulli(row.expand(steps, -1).contiguous()).split(sizes, 1))


def _filled(random: tuple[Value, ...], layout: Layout) -> list[Tensor] | None:
    """[T, B, ...] of each, if all fill memory with numbers, as dropout does: step after step, but nothing else."""
    if not all(map(_fills_memory, random)):
        return None
    shapes = [[layout.batch if dim is BATCH else dim for dim in value.shape] for value in random]
    drawn = [
        torch.empty(layout.steps, *shape, dtype=value.dtype, device=layout.device)
        for value, shape in zip(random, shapes, strict=True)
    ]
    fills = [(value.call.function, value.call.arguments[1:]) for value in random]
    for step in zip(*drawn, strict=True):
        for (fill, numbers), memory in zip(fills, step, strict=True):
            fill(memory, *numbers)
    return [memory.movedim(value.batch_axis + 1, 1) for value, memory in zip(random, drawn, strict=True)]


def _fills_memory(value: Value) -> bool:
    """Whether a value is what a random generator writes over memory, given numbers alone."""
    call = value.call
    given = call.arguments[1:]
    return (
        call.fills
        and not call.options
        and value.inputs[0].op == "full"
        and all(isinstance(n, int | float) for n in given)
    )


def _step_by_step(random: tuple[Value, ...], layout: Layout, known: dict[Value, Tensor]) -> list[Tensor]:
    """[T, B, ...] of each."""
    fixed = {value: tensor for value, tensor in known.items() if not value.has_rows}
    operands = [operand for value in random for operand in value.inputs]
    interpreter.evaluate(operands, fixed, layout.batch, layout.device)
    steps = []
    for _ in range(layout.steps):
        now = dict(fixed)
        interpreter.evaluate(random, now, layout.batch, layout.device)
        steps.append([now[value].movedim(value.batch_axis, 0) for value in random])
    return [torch.stack(parts) for parts in zip(*steps, strict=True)]


def _share_of(value: Value) -> float | None:
    """The probability of ones, where a value is drawn by `torch.bernoulli` from one that is the same everywhere."""
    call = value.call
    plain = call.function is torch.ops.aten.bernoulli.default and len(call.arguments) == 1 and not call.options
    return value.inputs[0].number if plain and value.inputs[0].op == "full" else None
