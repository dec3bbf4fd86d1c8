"""Operations that move numbers and compute none: views, parts, concatenations."""

from collections.abc import Sequence
from typing import Any

import torch

from treadle.compiler import program as p
from treadle.compiler.operations.table import HANDLERS, NotRowwise, Unknown, axis_of, common, feature_axis, handler
from treadle.compiler.program import BATCH, Value, cast, full


@handler("view", "reshape", "_unsafe_view", "_reshape_alias")
def view(value: Value, shape: Sequence[Any], *_: Any) -> Value:
    """Another shape; the batch has to stay an axis of its own, with as much before it as before."""
    shape = list(shape)
    if -1 in shape:
        known = [dim for dim in shape if dim != -1]
        if value.has_rows and BATCH not in known:
            if p.numel(known) != value.row_numel:
                raise NotRowwise("it lays the batch axis and features into one")
            shape[shape.index(-1)] = BATCH
        else:
            have = value.row_numel
            shape[shape.index(-1)] = have // max(p.numel(dim for dim in known if dim is not BATCH), 1)
    if value.has_rows:
        if shape.count(BATCH) != 1:
            raise NotRowwise("it lays the batch axis and features into one")
        before = p.numel(value.shape[: value.batch_axis])
        if p.numel(shape[: shape.index(BATCH)]) != before and value.row_numel:
            raise NotRowwise("it mixes the batch axis with features")
    return p.reshape(value, shape)


@handler("unsqueeze")
def unsqueeze(value: Value, dim: int) -> Value:
    """An axis of one more."""
    dim = dim % (len(value.shape) + 1)
    return p.reshape(value, (*value.shape[:dim], 1, *value.shape[dim:]))


@handler("squeeze")
def _squeeze(value: Value, dim: Any = None) -> Value:
    dims = range(len(value.shape)) if dim is None else [dim] if isinstance(dim, int) else dim
    dims = {axis_of(value, d) for d in dims}
    return p.reshape(value, [d for i, d in enumerate(value.shape) if not (i in dims and d == 1)])


@handler("transpose")
def _transpose(value: Value, a: int, b: int) -> Value:
    axes = list(range(len(value.shape)))
    if axes:
        axes[a], axes[b] = axes[b], axes[a]
    return p.permute(value, axes)


@handler("slice")
def _slice(value: Value, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Value:
    dim = axis_of(value, dim)
    size = value.shape[dim]
    if size is BATCH:
        if start in (None, 0) and step == 1 and (end is None or end is BATCH or end == 2**63 - 1):
            return value
        raise NotRowwise("it picks rows")
    start = 0 if start is None else start
    end = size if end is None else end
    start, end = (min(max(i + size if i < 0 else i, 0), size) for i in (start, end))
    return p.slice_(value, dim, start, end, step)


@handler("slice_backward")
def _slice_backward(g: Value, sizes: Sequence[Any], dim: int, start: int, end: int, step: int) -> Value:
    dim = axis_of(g, dim)
    if sizes[dim] is BATCH:
        return g
    start = min(max(start + sizes[dim] if start < 0 else start, 0), sizes[dim])
    if step != 1:
        spread = p.pad(unsqueeze(g, dim + 1), dim + 1, 0, step - 1)
        spread = p.reshape(spread, (*g.shape[:dim], g.shape[dim] * step, *g.shape[dim + 1 :]))
        g = p.slice_(spread, dim, 0, sizes[dim] - start)
    return p.pad(g, dim, start, sizes[dim] - start - g.shape[dim])


@handler("select")
def select(value: Value, dim: int, index: int) -> Value:
    """One place of an axis, which is then gone."""
    dim = feature_axis(value, dim, "the choice of one row: it")
    index = index % value.shape[dim]
    one = p.slice_(value, dim, index, index + 1)
    return p.reshape(one, (*value.shape[:dim], *value.shape[dim + 1 :]))


@handler("select_backward")
def _select_backward(g: Value, sizes: Sequence[Any], dim: int, index: int) -> Value:
    dim = dim % len(sizes)
    return p.pad(unsqueeze(g, dim), dim, index % sizes[dim], sizes[dim] - index % sizes[dim] - 1)


@handler("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes")
def _split(value: Value, sizes: Any, dim: int = 0) -> tuple[Value, ...]:
    dim = feature_axis(value, dim, "the split")
    if isinstance(sizes, int):
        sizes = [min(sizes, value.shape[dim] - start) for start in range(0, value.shape[dim], sizes)]
    parts, start = [], 0
    for size in sizes:
        parts.append(p.slice_(value, dim, start, start + size))
        start += size
    return tuple(parts)


@handler("unbind")
def _unbind(value: Value, dim: int = 0) -> tuple[Value, ...]:
    dim = feature_axis(value, dim, "the unbinding")
    return tuple(select(value, dim, i) for i in range(value.shape[dim]))


@handler("cat", "concat")
def _cat(parts: Sequence[Value], dim: int = 0) -> Value:
    parts = [part for part in parts if part.shape != (0,)]
    parts = common(*parts)
    dim = feature_axis(parts[0], dim, "the concatenation")
    return p.cat([_with_rows_of(part, parts, dim) for part in parts], dim)


def _with_rows_of(part: Value, parts: Sequence[Value], dim: int) -> Value:
    """Concatenation does not broadcast, but what stands for a batch of one traced row must not slip through."""
    for other in parts:
        if any(a is not b and a != b for i, (a, b) in enumerate(zip(part.shape, other.shape, strict=True)) if i != dim):
            raise NotRowwise("it puts parts with and without a batch axis together")
    return part


@handler("stack")
def _stack(parts: Sequence[Value], dim: int = 0) -> Value:
    dim = dim % (len(parts[0].shape) + 1)
    return p.cat([unsqueeze(part, dim) for part in common(*parts)], dim)


@handler("expand")
def _expand(value: Value, sizes: Sequence[Any], implicit: bool = False) -> Value:
    lead = len(sizes) - len(value.shape)
    shape = [value.shape[i - lead] if size == -1 else size for i, size in enumerate(sizes)]
    return p.expand(value, shape)


@handler("repeat")
def _repeat(value: Value, repeats: Sequence[Any]) -> Value:
    value = p.reshape(value, (*[1] * (len(repeats) - len(value.shape)), *value.shape))
    for dim, times in enumerate(repeats):
        if times is BATCH:
            value = p.expand(value, (*value.shape[:dim], BATCH, *value.shape[dim + 1 :]))
        elif times != 1:
            value = p.cat([value] * times, feature_axis(value, dim, "the repetition"))
    return value


@handler("roll")
def _roll(value: Value, shifts: Any, dims: Any = ()) -> Value:
    shifts, dims = ([x] if isinstance(x, int) else x for x in (shifts, dims))
    if not dims:
        raise Unknown("of all axes as if they were one")
    for shift, dim in zip(shifts, dims, strict=True):
        dim = feature_axis(value, dim, "the rolling")
        size = value.shape[dim]
        start = -shift % max(size, 1)
        value = p.cat([p.slice_(value, dim, start, size), p.slice_(value, dim, 0, start)], dim)
    return value


@handler("_to_copy", "to", "type_as")
def _to_copy(value: Value, *_: Any, dtype: Any = None, device: Any = None, **__: Any) -> Value:
    if device is not None and torch.device(device).type not in ("cpu", "meta"):
        raise Unknown(f"to another device ({device})")
    return value if dtype is None else cast(value, dtype)


@handler("constant_pad_nd")
def _constant_pad(value: Value, pads: Sequence[int], fill: Any = 0) -> Value:
    for i in range(len(pads) // 2):
        dim = feature_axis(value, len(value.shape) - 1 - i, "the padding")
        for position, size in enumerate(pads[2 * i : 2 * i + 2]):
            if size < 0:
                start, stop = (-size, value.shape[dim]) if position == 0 else (0, value.shape[dim] + size)
                value = p.slice_(value, dim, start, stop)
            elif size:
                more = full(fill, (*value.shape[:dim], size, *value.shape[dim + 1 :]), value.dtype)
                value = p.cat([more, value] if position == 0 else [value, more], dim)
    return value


HANDLERS |= {"permute": p.permute, "t": lambda value: p.permute(value, range(len(value.shape))[::-1])}
HANDLERS |= dict.fromkeys(
    ("clone", "contiguous", "alias", "lift_fresh", "lift_fresh_copy", "view_as"), lambda value, *_, **__: value
)
