"""Nests that compute each feature by itself, with the products that are fused into them."""

from treadle.compiler import program as p
from treadle.engines.gpu.write.context import Context
from treadle.engines.gpu.write.expressions import Spot, Variable, number_at, variables_of
from treadle.engines.gpu.write.products import accumulators
from treadle.engines.gpu.write.stores import store
from treadle.engines.passes.indices import root_index
from treadle.engines.passes.loop_nests import Nest

_MANY = 4
"""Of more slots, the accumulators take so many registers that tiles are half as wide."""


def write_fused(context: Context, nest: Nest) -> None:
    """A nest that runs on the accumulators of its products."""
    tiling, (units,) = context.tiling, nest.domain
    most = max(len(fused.slots) for fused in nest.fused)
    most = max(tiling.least, tiling.columns // (2 if most > _MANY else 1))
    with context.shared(units, tiling.least, most) as tile:
        tiles = accumulators(context, nest.fused, tile, units)
        variables = [Variable(tile.features, True)]
        _write_body(context, Spot(nest, variables, tile.mask, tile.width, tile.is_only, tiles))


def write_plain(context: Context, nest: Nest) -> None:
    """A nest without products."""
    tiling = context.tiling
    if not nest.domain:
        with context.page.under("if part == 0:" if tiling.parts > 1 else ""):
            _write_body(context, Spot(nest, [], "", 1, tiling.parts == 1))
        return
    total = p.numel(nest.domain)
    with context.shared(total, tiling.least) as tile:
        variables = variables_of(context, tile.features, nest.domain)
        _write_body(context, Spot(nest, variables, tile.mask, tile.width, tile.is_only))


def _write_body(context: Context, spot: Spot) -> None:
    for root in spot.nest.roots:
        value, index = root_index(root, spot.nest)
        store(context, number_at(context, value, index, spot), root, value, index, spot)
