"""Where what a nest has computed goes: outputs, states, buffers, sums over rows."""

from treadle.compiler.program import Value
from treadle.engines.gpu.lower.scratch import Key
from treadle.engines.gpu.write.context import Context, Held, is_whole
from treadle.engines.gpu.write.expressions import Spot
from treadle.engines.passes.indices import Affine, Index, flat
from treadle.engines.passes.loop_nests import Buffer, Carry, Output, Root


def store(context: Context, number: str, root: Root, shape: Value, index: Index, spot: Spot) -> None:
    """Store the numbers of a root, which are those of a value of this shape at an index."""
    for sink in root.sinks:
        place = flat(index, shape.shape, len(spot.nest.domain), sink.strides)
        place = (place[0] + sink.offset, *place[1:])
        match sink.to:
            case Output(number=which):
                _to_output(context, number, which, place, spot)
            case Carry():
                _to_state(context, number, sink.to, place, spot)
            case Buffer(value=value):
                _to_buffer(context, number, value, place, spot)
            case _:
                _to_sum(context, number, sink.to.number, place, spot)


def _to_output(context: Context, number: str, which: int, place: Affine, spot: Spot) -> None:
    address, _ = spot.address(context.output(which), place)
    features = f" & {spot.mask}[None, :]" if spot.mask else ""
    context.page.line(f"tl.store({address}, {number}, mask=live[:, None]{features})")


def _to_state(context: Context, number: str, carry: Carry, place: Affine, spot: Spot) -> None:
    """Rows that no longer run keep the state that they have."""
    if carry not in context.in_memory:
        if not _has_all(context, carry, place, spot) or spot.width != context.held[carry].width:
            context.missed.add(carry)
        context.after[carry] = number
        return
    context.is_dirty = True
    to, _ = spot.address(context.behind(carry), place)
    late, _ = spot.address(context.before(carry), place)
    mask = f", mask={spot.mask}[None, :]" if spot.mask else ""
    context.page.line(f"tl.store({to}, tl.where(live[:, None], {number}, tl.load({late}{spot.masks})){mask})")


def _to_buffer(context: Context, number: str, value: Value, place: Affine, spot: Spot) -> None:
    if value not in context.in_memory:
        if not _has_all(context, value, place, spot):
            context.missed.add(value)
        context.held[value] = Held(number, spot.width)
        return
    context.is_dirty = True
    address, _ = spot.address(context.buffer(value), place)
    mask = f", mask={spot.mask}[None, :]" if spot.mask else ""
    context.page.line(f"tl.store({address}, {number}{mask})")


def _has_all(context: Context, key: Key, place: Affine, spot: Spot) -> bool:
    """Whether a tile has all numbers of a row."""
    size = context.scratch.size[key]
    one = size == 1 and not any(place)
    return spot.is_only and (one or is_whole(place, spot.nest.domain, size))


def _to_sum(context: Context, number: str, which: int, place: Affine, spot: Spot) -> None:
    """Added to the sum of all steps before; each program has its own."""
    fixed, within = spot.place(place)
    page, at = context.page, f"base + {context.scratch.sums[which]} + {fixed}"
    total = page.new(f"tl.sum(tl.where(live[:, None], {number}, 0.0), 0)", "total")
    if within:
        at, mask = f"{at} + {within}", f", mask={spot.mask}"
        page.line(f"tl.store({at}, tl.load({at}{mask}, other=0.0) + {total}{mask})")
    else:
        at = f"{at} + tl.arange(0, 1)"
        page.line(f"tl.store({at}, tl.load({at}) + {total})")
