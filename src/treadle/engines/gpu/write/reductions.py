"""Nests that reduce features: sums and maxima."""

from collections.abc import Callable

from treadle.compiler import program as p
from treadle.engines.gpu.write.context import Context
from treadle.engines.gpu.write.expressions import NO_VARIABLE, Spot, Variable, number_at, variables_of
from treadle.engines.gpu.write.stores import store
from treadle.engines.passes.indices import ROW, Index, root_index, variables
from treadle.engines.passes.loop_nests import Nest, Root

Placed = Callable[[list[Variable], list[Variable]], list[Variable]]
"""The loop variables of a nest in order, from those of the loop around the tile, and from those of the tile."""


def write_reduction(context: Context, nest: Nest) -> None:
    """A reduction; its tiles go over what is reduced, or over what is kept, whichever is more."""
    kept = [n for n in range(len(nest.domain)) if n not in nest.reduced]
    count, terms = (p.numel(nest.domain[n] for n in axes) for axes in (kept, nest.reduced))
    across = terms >= count
    outer, inner = (kept, nest.reduced) if across else (nest.reduced, kept)

    def placed(outside: list[Variable], inside: list[Variable]) -> list[Variable]:
        found = [NO_VARIABLE] * len(nest.domain)
        for axes, given in ((outer, outside), (inner, inside)):
            for n, variable in zip(axes, given, strict=False):
                found[n] = variable
        return found

    domains = tuple(nest.domain[n] for n in outer), tuple(nest.domain[n] for n in inner)
    (_write_across if across else _write_along)(context, nest, domains, placed)


def _write_across(context: Context, nest: Nest, domains: tuple[tuple[int, ...], ...], placed: Placed) -> None:
    """One kept number after another, each from tiles over all its terms."""
    page, tiling, (kept, reduced) = context.page, context.tiling, domains
    count, terms = p.numel(kept), p.numel(reduced)
    which = page.name("q") if count > 1 else ""
    with page.under(f"for {which} in range({count}):" if which else ""):
        outside = variables_of(context, which, kept, False) if which else []
        width = tiling.width(terms, tiling.least)
        totals = _totals(context, nest, width)
        with page.tiles(terms, width) as tile:
            inside = variables_of(context, tile.features, reduced)
            spot = Spot(nest, placed(outside, inside), tile.mask, width, tile.is_only and not which)
            _add(context, totals, spot)
        for root, total in zip(nest.roots, totals, strict=True):
            form = "tl.sum({0}, 1)[:, None]" if root.value.op == "sum" else "f.largest({0})"
            whole = page.new(form.format(total), "all")
            spot = Spot(nest, placed(outside, []), "", 1, not which)
            store(context, whole, root, root_index(root, nest)[0], _kept_index(root, nest), spot)


def _write_along(context: Context, nest: Nest, domains: tuple[tuple[int, ...], ...], placed: Placed) -> None:
    """Tiles over what is kept, to which one term after another is added."""
    page, tiling, (reduced, kept) = context.page, context.tiling, domains
    count, terms = p.numel(kept), p.numel(reduced)
    with page.tiles(count, tiling.width(count)) as tile:
        inside = variables_of(context, tile.features, kept)
        totals = _totals(context, nest, tile.width)
        which = page.name("q")
        with page.under(f"for {which} in range({terms}):"):
            outside = variables_of(context, which, reduced, False)
            _add(context, totals, Spot(nest, placed(outside, inside), tile.mask, tile.width, False))
        for root, total in zip(nest.roots, totals, strict=True):
            spot = Spot(nest, placed([], inside), tile.mask, tile.width, False)
            store(context, total, root, root_index(root, nest)[0], _kept_index(root, nest), spot)


def _totals(context: Context, nest: Nest, width: int) -> list[str]:
    shape = f"[{context.tiling.rows}, {width}]"
    return [context.page.new(f"tl.full({shape}, {_neutral(root)}, {context.type})") for root in nest.roots]


def _neutral(root: Root) -> str:
    return "0.0" if root.value.op == "sum" else "float('-inf')"


def _add(context: Context, totals: list[str], spot: Spot) -> None:
    """Add the terms of a tile to the totals of the roots."""
    page = context.page
    for root, total in zip(spot.nest.roots, totals, strict=True):
        value, index = root_index(root, spot.nest)
        term = f"tl.where({spot.mask}[None, :], {number_at(context, value, index, spot)}, {_neutral(root)})"
        if root.value.op == "sum":
            page.line(f"{total} = {total} + {term}")
        else:
            page.line(f"{total} = tl.maximum({total}, {term}, propagate_nan=tl.PropagateNan.ALL)")


def _kept_index(root: Root, nest: Nest) -> Index:
    """Where what is reduced is stored: its index without the axes that are gone."""
    inside, _ = root_index(root, nest)
    zero, gone = (0,) * (len(nest.domain) + 1), {n + 1 for n in nest.reduced}
    return tuple(
        axis if axis is ROW else zero if any(axis[n] for n in gone) else axis for axis in variables(inside.shape)
    )
