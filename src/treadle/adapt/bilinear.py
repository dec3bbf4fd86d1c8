"""Bilinear initialisation of transposed convolutions."""

from typing import TypeVar

import torch
from torch import nn

from treadle.errors import ShapeError

T = TypeVar("T", nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@torch.no_grad()
def bilinear_upsampling_(conv_transpose: T) -> T:
    """Set a transposed convolution's weights, in place, so that it enlarges each channel by linear interpolation.

    Along each axis, the weight at distance d from the kernel's middle is 1 - d / stride, and the kernel is the product
    over the axes: linear in one dimension, bilinear in two. Each channel is enlarged by itself; the bias is 0.

    Args:
        conv_transpose: a transposed convolution with as many channels coming out as going in, in one group or in as
            many as there are channels, and along each axis a kernel of 2 · stride, or of 2 · stride - 1.

    Returns:
        The same module.

    Raises:
        ShapeError: channels, groups or a kernel with which nothing can be interpolated.
        TypeError: it is no transposed convolution.

    Source: the weights of Long, Shelhamer and Darrell, *Fully Convolutional Networks for Semantic Segmentation*, 2015.

    Example:
        >>> import torch, treadle as td
        >>> twice = td.adapt.bilinear_upsampling_(torch.nn.ConvTranspose2d(2, 2, 4, stride=2, padding=1))
        >>> image = torch.arange(4.0).expand(1, 2, 4, 4)
        >>> twice(image)[0, 1, 3, 1:-1].tolist()
        [0.25, 0.75, 1.25, 1.75, 2.25, 2.75]
    """
    if not isinstance(conv_transpose, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        raise TypeError(
            f"bilinear_upsampling_ takes a transposed convolution, but was given a {type(conv_transpose).__name__}"
        )
    takes, gives, groups = conv_transpose.in_channels, conv_transpose.out_channels, conv_transpose.groups
    if takes != gives or groups not in (1, takes):
        raise ShapeError(
            f"interpolation keeps channels apart, but this takes {takes} and gives {gives} in {groups}"
            f" groups: pass ConvTranspose({takes}, {takes}, …), with groups=1 or groups={takes}"
        )
    weight = conv_transpose.weight
    kernel = torch.ones((), device=weight.device, dtype=torch.float64)
    for size, stride, dilation in zip(
        conv_transpose.kernel_size, conv_transpose.stride, conv_transpose.dilation, strict=True
    ):
        if (size + 1) // 2 != stride or dilation != 1:
            raise ShapeError(
                f"a kernel of {size} with stride {stride} and dilation {dilation} does not interpolate: pass"
                f" kernel_size={2 * stride - stride % 2}, stride={stride}, dilation=1"
            )
        distance = torch.arange(size, device=weight.device, dtype=torch.float64) - (size - 1) / 2
        kernel = kernel[..., None] * (1 - distance.abs() / stride)
    weight.zero_()
    channels = torch.arange(takes, device=weight.device)
    weight[channels, 0 if groups > 1 else channels] = kernel.to(weight)
    if conv_transpose.bias is not None:
        conv_transpose.bias.zero_()
    return conv_transpose
