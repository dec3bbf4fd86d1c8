"""One module that reads more features, or gives more."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from treadle.adapt.parts import CONVOLUTIONS, HANDING_ON, TRANSPOSED, first
from treadle.adapt.places import STARTED, Changed, Places, Start, appended, placed
from treadle.adapt.resize import resized_hidden
from treadle.errors import AdaptError
from treadle.torch_internals import BatchNorm
from treadle.wiring.sizes import as_size, output_size


def read_wider(path: str, module: Any, places: Places, start: Start) -> Changed:
    """A copy of a memoryless module that reads rows with these places, and the places of what it gives."""
    new = copy.deepcopy(module)
    if places is None:
        return new, None
    if isinstance(module, nn.Linear):
        new.weight, new.in_features = wider(module.weight, {1: places}, start), len(places)
        return new, None
    if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)) and module.groups == 1:
        axis = 0 if isinstance(module, TRANSPOSED) else 1
        new.weight, new.in_channels = wider(module.weight, {axis: places}, start), len(places)
        return new, None
    if isinstance(module, HANDING_ON) or (isinstance(module, nn.PReLU) and module.num_parameters == 1):
        return new, places
    if isinstance(module, nn.PReLU):
        new.weight, new.num_parameters = wider(module.weight, {0: places}, module.init), len(places)
        return new, places
    if isinstance(module, BatchNorm):
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            if getattr(module, name) is not None:
                setattr(new, name, wider(getattr(module, name), {0: places}, value))
        new.num_features = len(places)
        return new, places
    kind, where = type(module).__name__, f"{path!r} is" if path else "this is"
    if isinstance(module, nn.LayerNorm | nn.RMSNorm | nn.GroupNorm | nn.Softmax | nn.LogSoftmax):
        why = "takes all features together, so new ones would change the result of the old ones: replace it first"
    elif isinstance(module, nn.Embedding):
        why = "reads tokens, not features: td.adapt.grow_vocabulary gives it more of them"
    elif isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)):
        why = f"has {module.groups} groups, into which new channels do not divide: transplant its weights"
    elif isinstance(module, nn.Flatten | nn.Unflatten):
        why = "changes what is a feature: grow what comes before and behind it by itself, with at="
    else:
        why = "is not known to td.adapt: name the parts that are, with at= and readers="
    raise AdaptError(f"{where} a {kind} and would read {len(places)} features; a {kind} {why}")


@torch.no_grad()
def wider(old: Tensor, axes: dict[int, Tensor], start: Start | float) -> Any:
    """A parameter (or buffer) with its numbers at their places, and new ones that start as told."""
    shape = tuple(len(axes[axis]) if axis in axes else size for axis, size in enumerate(old.shape))
    if isinstance(start, float | int):
        new = old.new_full(shape, start)
    else:
        (axis,) = axes
        how: Start = "xavier" if start == "fresh" else start
        new = STARTED[how](old.detach(), old, shape, axis)
    placed(old.detach(), new, axes)
    return nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new


def grown_cell(path: str, module: Any, size: int) -> Changed:
    """A cell of ``size`` units, and the places of what it gives."""
    new = resized_hidden(path, module, size)
    before, after = (first(as_size(output_size(cell, None))) for cell in (module, new))
    return new, appended(before, after)


def grown_layer(path: str, module: Any, size: int, start: Start) -> Changed:
    """A linear layer or convolution with ``size`` outputs, and their places."""
    new, convolution = copy.deepcopy(module), not isinstance(module, nn.Linear)
    old = module.out_channels if convolution else module.out_features
    places = appended(old, size)
    if places is None:
        return new, None
    if convolution and module.groups > 1:
        raise AdaptError(
            f"{path!r} is a {type(module).__name__} of {module.groups} groups, and with {size} channels the old ones"
            " would lie in others: transplant its weights"
        )
    axis = 1 if isinstance(module, TRANSPOSED) else 0
    new.weight = wider(module.weight, {axis: places}, start)
    if module.bias is not None:
        new.bias = wider(module.bias, {0: places}, "mean" if start == "mean" else 0.0)
    setattr(new, "out_channels" if convolution else "out_features", size)
    return new, places
