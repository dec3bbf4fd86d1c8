"""Where the positions of a feature map lie in the image: the arithmetic from which every crop is derived."""

import dataclasses
from fractions import Fraction
from typing import Any

from torch import nn

from treadle.errors import ShapeError


@dataclasses.dataclass(frozen=True)
class Grid:
    """The centres of a feature map's positions: position i lies at ``offset + stride * i`` pixels from the first.

    Layers are followed one by one: a convolution or pooling of kernel k, stride s and padding p looks at positions
    ``s*i - p`` to ``s*i - p + k - 1``, whose middle is ``s*i - p + (k-1)/2``; a transposed one writes position i to
    ``s*i - p`` to ``s*i - p + k - 1``, and so lays its outputs s times as densely.

    Attributes:
        stride: pixels from one position to the next.
        offset: where position 0 lies; a half lies between two pixels, a negative one outside the image.

    Example:
        >>> from torch import nn
        >>> from treadle.recipes.segment.grid import Grid
        >>> Grid().through(nn.Conv2d(3, 8, 3, padding=1)).through(nn.MaxPool2d(2))
        Grid(stride=Fraction(2, 1), offset=Fraction(1, 2))
    """

    stride: Fraction = Fraction(1)
    offset: Fraction = Fraction(0)

    def through(self, module: nn.Module) -> "Grid":
        """The grid of what a layer makes of a map on this grid. Modules without a kernel leave it as it is."""
        if isinstance(module, nn.Sequential):
            grid = self
            for part in module:
                grid = grid.through(part)
            return grid
        if not hasattr(module, "kernel_size"):
            return self
        if _one(module, "dilation", 1) != 1:
            raise ShapeError(f"{module} is dilated, which this arithmetic does not follow: use a dilation of 1")
        kernel, stride, padding = _one(module, "kernel_size", 1), _one(module, "stride", 1), _one(module, "padding", 0)
        middle = Fraction(kernel - 1, 2) - padding
        if isinstance(module, nn.ConvTranspose2d):
            # Output j gets from input i what lies at j = stride*i + middle, so j lies where i = (j - middle) / stride.
            return Grid(self.stride / stride, self.offset - self.stride * middle / stride)
        return Grid(self.stride * stride, self.offset + self.stride * middle)

    def position_of(self, other: "Grid") -> int:
        """Which position of this grid lies where position 0 of another of the same stride does."""
        position = (other.offset - self.offset) / self.stride
        if self.stride != other.stride or position.denominator != 1:
            raise ShapeError(
                f"a map with stride {self.stride} and offset {self.offset} cannot be laid over one with stride"
                f" {other.stride} and offset {other.offset}: choose kernels and paddings whose positions coincide"
            )
        return position.numerator


def _one(module: nn.Module, name: str, default: int) -> int:
    value: Any = getattr(module, name, default)
    if isinstance(value, tuple):
        if len(set(value)) != 1:
            raise ShapeError(f"{module} has a {name} that differs between height and width: make it square")
        value = value[0]
    return int(value)
