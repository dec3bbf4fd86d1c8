import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.tolerances import assert_close
from treadle.adapt import bilinear_upsampling_
from treadle.errors import ShapeError

KINDS = {1: (nn.ConvTranspose1d, "linear"), 2: (nn.ConvTranspose2d, "bilinear"), 3: (nn.ConvTranspose3d, "trilinear")}


@pytest.mark.parametrize("axes", KINDS)
@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("groups", [1, 3])
def test_it_enlarges_as_interpolation_does_away_from_the_edge(axes, stride, groups):
    kind, mode = KINDS[axes]
    kernel = 2 * stride - stride % 2
    module = kind(3, 3, kernel, stride, padding=stride // 2, groups=groups, dtype=torch.float64)
    assert bilinear_upsampling_(module) is module
    x = torch.randn(2, 3, *[5, 4, 6][:axes], dtype=torch.float64)
    expected = F.interpolate(x, scale_factor=float(stride), mode=mode, align_corners=False)
    inside = (..., *[slice(stride, -stride)] * axes)
    assert_close(module(x)[inside], expected[inside])


@pytest.mark.parametrize("stride", [2, 3])
def test_a_kernel_of_odd_size_keeps_the_pixels_and_halves_between_them(stride):
    module = bilinear_upsampling_(nn.ConvTranspose1d(1, 1, 2 * stride - 1, stride, padding=stride - 1).double())
    x = torch.randn(1, 1, 5, dtype=torch.float64)
    size = 4 * stride + 1
    assert_close(module(x), F.interpolate(x, size=size, mode="linear", align_corners=True))


def test_the_axes_may_differ_and_a_constant_stays_one():
    module = bilinear_upsampling_(nn.ConvTranspose2d(2, 2, (64, 4), (32, 2)))
    y = module(torch.ones(1, 2, 4, 6))
    assert_close(y[..., 32:-32, 2:-2], torch.ones_like(y[..., 32:-32, 2:-2]))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.ConvTranspose2d(3, 2, 4, 2), "takes 3 and gives 2"),
        (nn.ConvTranspose2d(4, 4, 4, 2, groups=2), "groups=4"),
        (nn.ConvTranspose2d(2, 2, 3, 3), r"pass kernel_size=5, stride=3"),
        (nn.ConvTranspose2d(2, 2, 4, 2, dilation=2), "dilation=1"),
    ],
)
def test_refusals_change_nothing(module, message):
    before = module.weight.clone()
    with pytest.raises(ShapeError, match=message):
        bilinear_upsampling_(module)
    assert torch.equal(module.weight, before)


def test_another_module():
    with pytest.raises(TypeError, match="given a Conv2d"):
        bilinear_upsampling_(nn.Conv2d(1, 1, 3))
