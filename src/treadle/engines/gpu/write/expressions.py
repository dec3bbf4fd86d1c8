"""Values of a nest, each as a tile: what it is made of, down to what is loaded."""

import dataclasses

import torch

from treadle.compiler import program as p
from treadle.compiler.program import Value
from treadle.engines.gpu.write.context import Context, Rows, is_whole
from treadle.engines.passes.evaluation import evaluated
from treadle.engines.passes.indices import Affine, Index, flat
from treadle.engines.passes.loop_nests import Nest

_UNARY = {
    "neg": "-{0}", "abs": "tl.abs({0})", "exp": "tl.exp({0})", "expm1": "f.expm1({0})", "log": "tl.log({0})",
    "log1p": "f.log1p({0})", "sqrt": "tl.sqrt({0})", "rsqrt": "(1 / tl.sqrt({0}))", "sin": "tl.sin({0})",
    "cos": "tl.cos({0})", "tanh": "f.tanh({0})", "sigmoid": "f.sigmoid({0})", "logsigmoid": "f.logsigmoid({0})",
    "erf": "tl.erf({0})", "floor": "tl.floor({0})", "ceil": "tl.ceil({0})", "round": "f.rounded({0})",
    "trunc": "tl.where({0} < 0, tl.ceil({0}), tl.floor({0}))", "sign": "f.sign({0})", "reciprocal": "(1 / {0})",
    "not": "({0} == 0)",
}  # fmt: skip
_BINARY = {
    "add": "({0} + {1})", "sub": "({0} - {1})", "mul": "({0} * {1})", "div": "({0} / {1})", "pow": "f.power({0}, {1})",
    "maximum": "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "minimum": "tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "eq": "({0} == {1})", "ne": "({0} != {1})", "lt": "({0} < {1})", "le": "({0} <= {1})", "gt": "({0} > {1})",
    "ge": "({0} >= {1})", "and": "({0} & {1})", "or": "({0} | {1})",
}  # fmt: skip
OPERATIONS = _UNARY | _BINARY | {"where": "tl.where({0}, {1}, {2})"}
_IN_FLOAT32 = {"tanh": "f.tanh_float32({0})", "sqrt": "tl.sqrt_rn({0})"}


@dataclasses.dataclass(frozen=True)
class Variable:
    """A loop variable of a nest: its name, and whether it is a tile of numbers rather than one; 0 if it has none."""

    name: str
    is_tile: bool = False


NO_VARIABLE = Variable("0")


@dataclasses.dataclass
class Spot:
    """Where a nest is computed.

    Args:
        variables: its loop variables.
        mask: which features of the tile there are; empty if all are.
        width: of the tile.
        is_only: whether the tile has all features of the nest.
        tiles: the accumulators of products, by product and slot.
    """

    nest: Nest
    variables: list[Variable]
    mask: str
    width: int
    is_only: bool
    tiles: dict[tuple[Value, int], str] = dataclasses.field(default_factory=dict)
    values: dict[tuple[Value, Index], str] = dataclasses.field(default_factory=dict)

    def place(self, place: Affine) -> tuple[str, str]:
        """A place as a number, and what of it varies within the tile; empty if nothing does."""
        fixed, within = [str(place[0])], []
        for coefficient, variable in zip(place[1:], self.variables, strict=True):
            if coefficient and variable is not NO_VARIABLE:
                term = variable.name if coefficient == 1 else f"{coefficient} * {variable.name}"
                (within if variable.is_tile else fixed).append(term)
        return f"({' + '.join(fixed)})", f"({' + '.join(within)})" if within else ""

    def address(self, rows: Rows, place: Affine) -> tuple[str, bool]:
        """The addresses of a place in rows, and whether they vary within the tile."""
        fixed, within = self.place(place)
        moved = rows if fixed == "(0)" else dataclasses.replace(rows, base=f"({rows.base} + {fixed})")
        return (moved.at(within), True) if within else (f"{moved.base} + {moved.row}[:, None]", False)

    @property
    def masks(self) -> str:
        """The mask of features as arguments of a load; empty if there is none."""
        return f", mask={self.mask}[None, :], other=0.0" if self.mask else ""


def variables_of(context: Context, features: str, domain: tuple[int, ...], is_tile: bool = True) -> list[Variable]:
    """The loop variables of a domain, from the name of a number that runs over all of it."""
    found: list[Variable] = []
    rest = features
    for n, size in enumerate(reversed(domain)):
        if n == len(domain) - 1:
            found.insert(0, Variable(rest, is_tile))
        else:
            found.insert(0, Variable(context.page.new(f"{rest} % {size}", "i"), is_tile))
            rest = context.page.new(f"{rest} // {size}", "i")
    return found


def number_at(context: Context, value: Value, index: Index, spot: Spot) -> str:
    """A value as numbers, over the whole tile; of truth values, ones and zeros."""
    full = f"tl.broadcast_to({value_at(context, value, index, spot)}, [{context.tiling.rows}, {spot.width}])"
    if value.dtype == torch.bool:
        return context.page.new(f"tl.where({full}, 1.0, 0.0).to({context.type})")
    return context.page.new(full)


def value_at(context: Context, value: Value, index: Index, spot: Spot) -> str:
    """The name of a value at an index."""
    return evaluated(
        (value, index),
        context.schedule,
        spot.nest,
        context.readable,
        spot.values,
        lambda value, index, operands: _computed(context, value, index, operands, spot),
    )


def _computed(context: Context, value: Value, index: Index, operands: list[str], spot: Spot) -> str:
    new = context.page.new
    if context.schedule.is_loaded(value, spot.nest):
        loaded = _loaded(context, value, index, spot)
        return new(f"{loaded} != 0", "b") if value.dtype == torch.bool else loaded
    if value.op == "full":
        if value.dtype == torch.bool:
            return new(f"tl.full([1, 1], {int(value.number)}, tl.int1)")
        return new(f"tl.full([1, 1], {_literal(value.number)}, {context.type})")
    if value.op == "embedding":
        return _embedded(context, value, index, spot)
    if value.op == "cast":
        if value.dtype == torch.bool:
            return new(f"{operands[0]} != 0", "b")
        from_bool = value.inputs[0].dtype == torch.bool
        return new(f"tl.where({operands[0]}, 1.0, 0.0).to({context.type})") if from_bool else operands[0]
    if value.op not in p.ELEMENTWISE:
        return operands[0]
    form = OPERATIONS[value.op] if context.is_double else _IN_FLOAT32.get(value.op) or OPERATIONS[value.op]
    return new(form.format(*operands))


def _literal(number: float) -> str:
    number = float(number)
    return repr(number) if number == number and abs(number) != float("inf") else f"float('{number}')"


def _loaded(context: Context, value: Value, index: Index, spot: Spot) -> str:
    """What was computed before: from accumulators, registers or memory."""
    place = flat(index, value.shape, len(spot.nest.domain))
    if value in context.products and value not in context.schedule.buffers:
        return spot.tiles[value, place[0]]
    if value in context.kernel.invariants:
        fixed, within = spot.place(place)
        name = f"v{context.kernel.invariants.index(value)}"
        if within:
            return context.page.new(f"tl.load({name} + {fixed} + {within}[None, :]{spot.masks})")
        return context.page.new(f"tl.load({name} + {fixed} + tl.arange(0, 1)[None, :])")
    key = context.key_of(value)
    if key is not None and key not in context.in_memory:
        held = context.held.get(key)
        if held is not None:
            one = context.scratch.size[key] == 1 and not any(place)
            whole = spot.is_only and held.width == spot.width
            if one or (whole and is_whole(place, spot.nest.domain, context.scratch.size[key])):
                return held.name
        context.missed.add(key)
        return context.page.new(f"tl.zeros([1, 1], {context.type})")
    if key is None and context.tiling.ahead and spot.is_only and spot.nest.domain:
        ahead = _loaded_ahead(context, value, place, spot)
        if ahead:
            return ahead
    rows = context.rows_of(value)
    address, varies = spot.address(rows, place)
    masks = ["live[:, None]"] * rows.is_outside + [f"{spot.mask}[None, :]"] * (varies and bool(spot.mask))
    return context.page.new(f"tl.load({address}" + (f", mask={' & '.join(masks)}, other=0.0" if masks else "") + ")")


def _loaded_ahead(context: Context, value: Value, place: Affine, spot: Spot) -> str:
    """What was loaded while the step before ran, where a place is a run of features; empty elsewhere."""
    number, total = context.kernel.streams.index(value), p.numel(spot.nest.domain)
    if not is_whole((0, *place[1:]), spot.nest.domain, total):
        return ""
    key = (number, place[0], total, spot.width)
    if key not in context.early:
        n, size, features = len(context.early), max(value.row_numel, 1), f"tl.arange(0, {spot.width})"
        rows = Rows(f"s{number} + second * {size} + {place[0]}", f"(r * {size})")
        mask = f"soon[:, None] & ({features} < {total})[None, :]"
        load = f"ahead_{n} = tl.load({rows.at(features)}, mask={mask}, other=0.0)"
        context.early_lines += [f"now_{n} = ahead_{n}", load]
        context.early[key] = f"now_{n}"
    return context.early[key]


def _embedded(context: Context, value: Value, index: Index, spot: Spot) -> str:
    """Features of the row of a table that a whole number names; numbers outside read its first or last row."""
    table, which = value.inputs
    stream, invariant = context.kernel.streams.index(which), context.kernel.invariants.index(table)
    new = context.page.new
    number = new(f"tl.load(s{stream} + first + r, mask=live, other=0)", "id")
    number = new(f"tl.minimum(tl.maximum({number}, 0), {table.shape[0] - 1}).to(tl.int32)", "id")  # pyright: ignore
    place = flat(index, value.shape, len(spot.nest.domain))
    address, varies = spot.address(Rows(f"v{invariant}", f"({number} * {table.shape[1]})"), place)
    return new(f"tl.load({address}{spot.masks if varies else ''})")
