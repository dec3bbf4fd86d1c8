"""The layers of Keras around recurrent ones: what treats steps alike, changes shapes, or looks at several steps."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from treadle.cells.activations import function_of
from treadle.files.description import kept_in_files
from treadle.interop.keras_in.layer import KerasLayer, Masked


@kept_in_files("treadle.NamedActivation")
class NamedActivation(nn.Module):
    """A function of each number by its name in `treadle.cells.ACTIVATIONS`.

    Args:
        name: of the function.
    """

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        """Of each number."""
        return function_of(self.name)(x)


def activation(name: str) -> nn.Module:
    """The module of an activation by its name in Keras."""
    over_features = {"softmax": nn.Softmax, "log_softmax": nn.LogSoftmax}
    if name in over_features:
        return over_features[name](-1)
    return nn.LeakyReLU(0.2) if name == "leaky_relu" else NamedActivation(name)


@kept_in_files("treadle.KerasStepwise")
class Stepwise(KerasLayer):
    """A layer that treats every step alike: a module over the last axis. The mask passes.

    Args:
        module: what is done with each step.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, value: Masked) -> Masked:
        """Of [B, …, features]."""
        return Masked(self.module(value.x), value.mask)

    def step(self) -> nn.Module:
        """The module."""
        return self.module


@kept_in_files("treadle.KerasCustom")
class CustomLayer(KerasLayer):
    """A layer that Keras does not have, by a module that the caller gave. No mask passes.

    Args:
        module: called with the values that the layer reads.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, *values: Masked) -> Masked:
        """Of one value or several."""
        return Masked(self.module(*(value.x for value in values)))


@kept_in_files("treadle.KerasEmbedding")
class KerasEmbedding(KerasLayer):
    """Rows of a table by their numbers.

    Args:
        module: the table.
        mask_zero: whether number 0 is padding.
    """

    def __init__(self, module: nn.Embedding, mask_zero: bool):
        super().__init__()
        self.module, self.mask_zero = module, mask_zero

    def forward(self, value: Masked) -> Masked:
        """Of whole numbers [B, …], which may be floats."""
        numbers = value.x.long()
        return Masked(self.module(numbers), numbers != 0 if self.mask_zero else None)

    def step(self) -> nn.Module | None:
        """The table; with a mask, nothing: steps that are left out are for whole sequences."""
        return None if self.mask_zero else self.module


@kept_in_files("treadle.KerasMasking")
class KerasMasking(KerasLayer):
    """Masks, and sets to zero, the steps of which every feature has one value.

    Args:
        mask_value: that value.
    """

    def __init__(self, mask_value: float):
        super().__init__()
        self.mask_value = mask_value

    def forward(self, value: Masked) -> Masked:
        """Of [B, T, features]."""
        mask = (value.x != self.mask_value).any(-1)
        return Masked(torch.where(mask[..., None], value.x, 0.0), mask)


@kept_in_files("treadle.KerasNorm")
class KerasNorm(KerasLayer):
    """Batch normalisation over the last axis; with the moments that were learned, outside of training.

    Args:
        module: of the features.
    """

    def __init__(self, module: nn.BatchNorm1d):
        super().__init__()
        self.module = module

    def forward(self, value: Masked) -> Masked:
        """Of [B, …, features]."""
        if self.training and value.mask is not None:
            raise ValueError("batch normalisation of masked steps cannot be trained here: call eval()")
        flat = value.x.reshape(-1, value.x.shape[-1])
        return Masked(self.module(flat).reshape(value.x.shape), value.mask)


@kept_in_files("treadle.KerasShape")
class KerasShape(KerasLayer):
    """Other shapes of the same numbers.

    Args:
        kind: ``"Flatten"``, ``"Reshape"`` to sizes, ``"Permute"`` of axes, or ``"RepeatVector"`` so many times.
        numbers: the sizes, axes (from 1 on) or times.
    """

    def __init__(self, kind: str, numbers: Sequence[int] = ()):
        super().__init__()
        self.kind, self.numbers = kind, list(numbers)

    def forward(self, value: Masked) -> Masked:
        """Of [B, …]; only repeating keeps no mask that there was, and neither do the others."""
        x = value.x
        if self.kind == "Flatten":
            return Masked(x.reshape(x.shape[0], math.prod(x.shape[1:])))
        if self.kind == "Reshape":
            return Masked(x.reshape(x.shape[0], *self.numbers))
        if self.kind == "Permute":
            return Masked(x.permute(0, *self.numbers))
        return Masked(x[:, None].expand(-1, self.numbers[0], -1))


@kept_in_files("treadle.KerasTimeDistributed")
class TimeDistributed(KerasLayer):
    """A layer applied to every step by itself.

    Args:
        layer: the layer.
    """

    def __init__(self, layer: KerasLayer):
        super().__init__()
        self.layer = layer

    def forward(self, value: Masked) -> Masked:
        """Of [B, T, …]: all steps at once, as rows."""
        B, T = value.x.shape[:2]
        found = self.layer(Masked(value.x.reshape(B * T, *value.x.shape[2:])))
        if not isinstance(found, Masked):
            raise ValueError("a layer with several outputs cannot be applied to every step")
        return Masked(found.x.reshape(B, T, *found.x.shape[1:]), value.mask)

    def step(self) -> nn.Module | None:
        """That of the layer, if it treats rows alike whatever their axes."""
        return self.layer.step() if isinstance(self.layer, Stepwise) else None


@kept_in_files("treadle.KerasConv1D")
class KerasConv1D(KerasLayer):
    """A convolution over time; the mask ends here, as it does in Keras.

    Args:
        module: the convolution, without padding.
        padding: ``"valid"``, ``"same"`` or ``"causal"``.
        activation: the module that bends its outputs.
    """

    def __init__(self, module: nn.Conv1d, padding: str, activation: nn.Module):
        super().__init__()
        self.module, self.padding, self.activation = module, padding, activation

    def forward(self, value: Masked) -> Masked:
        """Of [B, T, features]."""
        x = value.x.transpose(1, 2)
        reach = self.module.dilation[0] * (self.module.kernel_size[0] - 1)
        if self.padding == "causal":
            x = F.pad(x, (reach, 0))
        elif self.padding == "same":
            x = F.pad(x, _same(x.shape[-1], reach + 1, self.module.stride[0]))
        return Masked(self.activation(self.module(x).transpose(1, 2)))


def _same(steps: int, reach: int, stride: int) -> tuple[int, int]:
    """What stands before and behind the steps so that as many come out as a stride leaves."""
    short = max((-(-steps // stride) - 1) * stride + reach - steps, 0)
    return short // 2, short - short // 2


@kept_in_files("treadle.KerasPooling")
class KerasPooling(KerasLayer):
    """The largest number, or the mean, of several steps or of all.

    Args:
        kind: ``"max"`` or ``"average"``.
        size: how many steps; None for all.
        stride: how many steps on.
        same: whether padding keeps the steps that a stride leaves, as ``padding="same"`` says; the largest number only.
        keepdims: whether time stays, of all steps.
    """

    def __init__(self, kind: str, size: int | None = None, stride: int = 1, same: bool = False, keepdims: bool = False):
        super().__init__()
        self.kind, self.size, self.stride, self.same, self.keepdims = kind, size, stride, same, keepdims

    def forward(self, value: Masked) -> Masked:
        """Of [B, T, features]."""
        if self.size is None:
            return Masked(self._of_all(value))
        x = value.x.transpose(1, 2)
        if self.same:
            x = F.pad(x, _same(x.shape[-1], self.size, self.stride), value=-math.inf)
        pool = F.max_pool1d if self.kind == "max" else F.avg_pool1d
        return Masked(pool(x, self.size, self.stride).transpose(1, 2))

    def _of_all(self, value: Masked) -> Tensor:
        x, mask = value
        if self.kind == "max":
            return x.amax(1, self.keepdims)
        if mask is None:
            return x.mean(1, self.keepdims)
        counted = mask[..., None].to(x.dtype)
        return torch.where(mask[..., None], x, 0.0).sum(1, self.keepdims) / counted.sum(1, self.keepdims)
