"""Products: the accumulators of a tile, whose weights stay or are read at each step."""

import dataclasses
from collections.abc import Sequence

from treadle.compiler.program import Value
from treadle.engines.gpu.lower.tiling import Mode, Products
from treadle.engines.gpu.write.context import Context, Held, Rows
from treadle.engines.gpu.write.page import Tile
from treadle.engines.passes.loop_nests import Fused


def write_product(context: Context, product: Value) -> None:
    """A product by itself, into its buffer."""
    context.is_dirty = True
    context.missed.add(product)  # it is written tile by tile
    total = product.row_numel
    with context.shared(total, context.tiling.least) as tile:
        tiles = accumulators(context, [Fused(product, (0,))], tile, total)
        to = context.buffer(product).at(tile.features)
        context.page.line(f"tl.store({to}, {tiles[product, 0]}, mask={tile.mask}[None, :])")


def accumulators(context: Context, products: Sequence[Fused], tile: Tile, units: int) -> dict[tuple[Value, int], str]:
    """The names of what products are at columns slot + feature, by product and slot.

    Args:
        units: how many columns each slot has.
    """
    found: dict[tuple[Value, int], str] = {}
    for fused in products:
        for slot, name in zip(fused.slots, _accumulated(context, fused, tile, units), strict=True):
            found[fused.product, slot] = name
    return found


def _accumulated(context: Context, fused: Fused, tile: Tile, units: int) -> list[str]:
    page, tiling, product = context.page, context.tiling, fused.product
    operand, offset = _left(context, product.inputs[0])
    K: int = product.inputs[1].shape[0]  # pyright: ignore[reportAssignmentType]
    held = _held_left(context, operand, offset, K)
    depth = held.width if held else tiling.depth_of(K)
    names = [page.new(f"tl.zeros([{tiling.rows}, {tile.width}], {context.type})", "acc") for _ in fused.slots]
    stays = _stay(context, tile, tiling.bytes_of(product, tile.width, len(fused.slots), depth))
    loop = page.name("k0") if depth < K and not stays else ""
    with page.under(f"for {loop} in range(0, {K}, {depth}):" if loop else ""):
        for begin in [loop] if loop else range(0, K, depth):  # weights that stay have a name for each depth
            k = page.new(f"{begin} + tl.arange(0, {depth})" if begin else f"tl.arange(0, {depth})", "k")
            if held is None:
                rows = context.rows_of(operand)
                rows = Rows(f"{rows.base} + {offset}", rows.row)
                mask = f"mask=live[:, None] & ({k} < {K})[None, :], other=0.0"
                left = page.new(f"tl.load({rows.at(k)}, {mask})", "left")
            elif depth != K:  # what lies beyond is anything, NaN perhaps
                left = page.new(f"tl.where(({k} < {K})[None, :], {held.name}, 0.0)", "left")
            else:
                left = held.name
            if tiling.products is Products.BFLOAT16:
                left = page.new(f"{left}.to(tl.bfloat16)", "left")
            elif tiling.products is Products.ROUNDED:
                left = page.new(f"f.as_bfloat16({left})", "left")
            for name, slot in zip(names, fused.slots, strict=True):
                at = _Weights(product, slot, depth, begin if stays and isinstance(begin, int) else None)
                page.line(f"{name} = tl.dot({left}, {_right(context, at, k, tile, units)}, {name}{_how(context)})")
    return names


def _how(context: Context) -> str:
    if context.is_double:
        return ", input_precision='ieee', out_dtype=tl.float64"
    match context.tiling.products:
        case Products.BFLOAT16:
            return ""
        case Products.TF32:
            return ", input_precision='tf32'"
    return ", input_precision='ieee'"


def _left(context: Context, operand: Value) -> tuple[Value, int]:
    """What a left operand is a part of that has memory of its own, and where it begins there."""
    offset = 0
    while operand not in context.rows_in_memory:
        if operand.op == "slice":
            offset += operand.slice.start * (operand.slice.axis == 1)
        operand = operand.inputs[0]
    return operand, offset


def _held_left(context: Context, operand: Value, offset: int, K: int) -> Held | None:
    """The left operand as registers have it; None if it is in memory."""
    key = context.key_of(operand)
    if key is None or key in context.in_memory:
        return None
    held = context.held.get(key)
    if held is None or offset or context.scratch.size[key] != K or not 1 < K <= context.tiling.columns:
        context.missed.add(key)
        return None
    return held


def _stay(context: Context, tile: Tile, size: int) -> bool:
    """Whether the weights of a product, so many bytes, are read once, before the first step."""
    if not tile.is_one or context.tiling.mode is Mode.STEPS or context.resident + size > context.tiling.resident:
        return False
    context.resident += size
    return True


@dataclasses.dataclass(frozen=True)
class _Weights:
    """A tile of the weights of a product.

    Args:
        slot: its first column.
        depth: its rows.
        stays_from: its first row, if it stays; None if it is read at each step.
    """

    product: Value
    slot: int
    depth: int
    stays_from: int | None


def _right(context: Context, weights: _Weights, k: str, tile: Tile, units: int) -> str:
    """The name of a tile of weights, whose rows are ``k`` unless it stays."""
    number, (K, N) = context.products.index(weights.product), weights.product.inputs[1].shape
    features, mask, begin = tile.features, tile.mask, weights.stays_from
    if begin is not None:
        start = "" if tile.is_only else f"part * {tile.width} + "
        k, features = f"{begin} + tl.arange(0, {weights.depth})", f"({start}tl.arange(0, {tile.width}))"
        mask = f"({features} < {units})"
    place = f"m{number} + {weights.slot} + (({k})[:, None] * {N} + ({features})[None, :])"
    text = f"tl.load({place}, mask=(({k}) < {K})[:, None] & {mask}[None, :], other=0.0)"
    if begin is None:
        return context.page.new(text, "w")
    name = f"w{number}_{weights.slot}" + (f"_{begin}" if begin else "")
    context.prologue.append(f"{name} = {text}")
    return name
