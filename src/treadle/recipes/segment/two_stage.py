"""The two-stage network: VGG-16 reads the image once, and a light head runs for each click."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from treadle.errors import ShapeError
from treadle.recipes.segment.click_fcn import CUT_OFF, MAPS, check_outputs, check_read
from treadle.recipes.segment.vgg import BLOCK_ENDS, CHANNELS, normalised, vgg_features

REACHES = (4.0, 12.0, 36.0)
"""Pixels over which the closeness to a click falls to a third, for the head to see where clicks are."""
GRIP = 1.5
"""Pixels over which a click's own say falls to a third."""


class Seen(NamedTuple):
    """What the first stage has seen in images; no click changes it."""

    image: Tensor
    """[B, 3, H, W], normalised."""
    levels: tuple[Tensor, ...]
    """Features of the second to the fifth block, [B, C, h, w] each: how each position differs from the mean of its
    image, as a direction of length 1."""


class TwoStageNetwork(nn.Module):
    """Two stages: VGG-16 reads the image once, and a light head runs for each click.

    The first stage is VGG-16's convolutions on red, green and blue. The features at clicks are compared with those of
    every position of the image. The head reads these similarities, features, the closeness of clicks and the pixels.
    So a click costs a product and a few small convolutions.

    The mask before the newest click is read, too, with how much more each position is like the selected ones than like
    the rest.

    Clicks are always right: a learned ``grip`` says how much a click adds to its own pixel's score, and less to those
    around it. A network that ignored a click would be clicked at the same place again.

    Inputs are those of `ClickFCN` and the mask; outputs are the same.

    Source: of the mask that is read again, Sofiiuk, Petrov and Konushin, *Reviving iterative training with mask
    guidance for interactive segmentation*, ICIP 2022.

    Args:
        outputs: 2 for softmax over background and object; 1 for one number that a Euclidean loss takes to 0 or 1.
        channels: channels of VGG's five blocks.
        width: channels of the head, 4 or more.
        cut_off: truncation of distances, in pixels.

    Raises:
        ShapeError: ``outputs`` is neither 1 nor 2, or ``width`` is less than 4.

    Example:
        >>> import torch
        >>> from treadle.recipes.segment import TwoStageNetwork
        >>> network = TwoStageNetwork(channels=(4, 4, 8, 8, 8), width=8)
        >>> network(torch.rand(2, 5, 61, 97) * 255).shape
        torch.Size([2, 2, 61, 97])
    """

    def __init__(
        self, outputs: int = 2, channels: tuple[int, ...] = CHANNELS, width: int = 32, cut_off: float = CUT_OFF
    ):
        super().__init__()
        check_outputs(outputs)
        if width < 4:
            raise ShapeError(f"the head has 4 channels or more, but width={width!r} was passed")
        self.outputs, self.channels, self.width, self.cut_off = outputs, tuple(channels), width, cut_off
        self.features: nn.Sequential = vgg_features(3, self.channels)
        levels, places, alike = len(BLOCK_ENDS) - 1, MAPS * (len(REACHES) + 1) + 1, MAPS + 1
        self.reduce = nn.ModuleList([nn.Conv2d(size, width, 1) for size in self.channels[1:]])
        self.coarse = nn.Sequential(
            *convolved((levels - 1) * width + alike * levels + places, 2 * width),
            *(part for dilation in (2, 4, 8) for part in convolved(2 * width, 2 * width, dilation)),
        )
        self.middle = nn.Sequential(*convolved(3 * width + alike + places, width))
        self.fine = nn.Sequential(
            *convolved(width + 3 + places, width // 2),
            *convolved(width // 2, width // 2),
            nn.Conv2d(width // 2, outputs, 3, padding=1),
        )
        self.grip = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, selected: Tensor | None = None) -> Tensor:
        """Scores for an image and its clicks.

        Args:
            x: [B, 5, H, W]: red, green and blue from 0 to 255, and the maps of `distance_maps`, which are 0 at clicks.
            selected: [B, 1, H, W], probabilities before the newest click; nothing was selected if it is None.

        Returns:
            [B, outputs, H, W].

        Raises:
            ShapeError: another number of axes or channels, or no pixel.
        """
        check_read(x)
        seen, maps = self.see(x[:, :3]), x[:, 3:]
        return self.answer(seen, maps, self.compare(seen, maps), selected)

    def see(self, images: Tensor) -> Seen:
        """The first stage: images [B, 3, H, W] from 0 to 255, without clicks."""
        image = y = normalised(images)
        levels = []
        for i, module in enumerate(list(self.features)[: BLOCK_ENDS[-1] + 1]):
            y = module(y)
            if i in BLOCK_ENDS[1:]:
                levels.append(F.normalize(y - y.mean((2, 3), keepdim=True), dim=1, eps=1e-6))
        return Seen(image, tuple(levels))

    def compare(self, seen: Seen, maps: Tensor) -> tuple[Tensor, ...]:
        """How similar each position is to the most similar clicked one, on the object and on the background.

        Of maps [B, 2, H, W], 0 at clicks, it is a map of cosines [B, 2, h, w] a level, 0 where there is no click.
        """
        found = [level.new_zeros(len(level), MAPS, *level.shape[2:]) for level in seen.levels]
        clicks = (maps == 0).nonzero()
        for row in range(len(maps)):
            for sign in range(MAPS):
                rows, columns = clicks[(clicks[:, 0] == row) & (clicks[:, 1] == sign), 2:].T
                if len(rows):
                    for level, similar in zip(seen.levels, found, strict=True):
                        similar[row, sign] = similar_to(level[row], maps.shape[2:], rows, columns)
        return tuple(found)

    def compare_one(
        self, seen: Seen, similar: tuple[Tensor, ...], click: tuple[int, int], sign: int, first: bool
    ) -> tuple[Tensor, ...]:
        """What `compare` gives with one more click in the only image: it alone is compared with what there was before.

        The click is a row and a column; its sign is 0 for the object, 1 for the background, and it may be the first.
        """
        rows, columns = (torch.tensor([at]) for at in click)
        found = [one.clone() for one in similar]
        for level, one in zip(seen.levels, found, strict=True):
            new = similar_to(level[0], seen.image.shape[2:], rows, columns)
            one[0, sign] = new if first else torch.maximum(one[0, sign], new)
        return tuple(found)

    def answer(self, seen: Seen, maps: Tensor, similar: tuple[Tensor, ...], selected: Tensor | None = None) -> Tensor:
        """The second stage: scores [B, outputs, H, W] for what was seen, clicked and selected before the last click."""
        if selected is None:
            selected = torch.zeros_like(maps[:, :1])
        similar = tuple(
            torch.cat([one, like_selected(level, selected)], 1) for one, level in zip(similar, seen.levels, strict=True)
        )
        sizes = [seen.image.shape[2:], *(level.shape[2:] for level in seen.levels)]
        closeness = [(-maps / reach).exp() for reach in REACHES]
        places = torch.cat([*closeness, maps.clamp(max=self.cut_off) / 128, selected], 1)
        second, fourth = (F.avg_pool2d(places, n, n, ceil_mode=True) for n in (2, 4))
        reduced = [layer(level * level.shape[1] ** 0.5) for layer, level in zip(self.reduce, seen.levels, strict=True)]
        at_fourth = [laid_over(one, sizes[2]) for one in reduced[1:] + list(similar[1:])]
        at_fourth.append(F.avg_pool2d(similar[0], 2, 2, ceil_mode=True))
        y = self.coarse(torch.cat([*at_fourth, fourth], 1))
        y = self.middle(torch.cat([laid_over(y, sizes[1]), reduced[0], similar[0], second], 1))
        scores = self.fine(torch.cat([laid_over(y, sizes[0]), seen.image, places], 1))
        near = (-maps / GRIP).exp()
        # In units of a good beginning: of logarithms of odds, or of numbers from 0 to 1.
        said = (10 if self.outputs == 2 else 1) * self.grip * (near[:, :1] - near[:, 1:])
        return torch.cat([scores[:, :-1], scores[:, -1:] + said], 1)


def convolved(takes: int, gives: int, dilation: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size, a norm over groups of channels (the head learns faster), a rectifier."""
    convolution = nn.Conv2d(takes, gives, 3, padding=dilation, dilation=dilation)
    return [convolution, nn.GroupNorm(math.gcd(gives // 2, 8), gives), nn.ReLU()]


def similar_to(level: Tensor, size: tuple[int, ...], rows: Tensor, columns: Tensor) -> Tensor:
    """The cosine between each position [C, h, w] and the most similar of some pixels of an image of a size."""
    stride = stride_of(level, size)
    clicked = level[:, rows // stride[0], columns // stride[1]]
    return (clicked.T @ level.flatten(1)).amax(0).view(level.shape[1:])


def like_selected(level: Tensor, selected: Tensor) -> Tensor:
    """How much more each position [B, C, h, w] is like what is selected [B, 1, H, W] than like the rest [B, 1, h, w].

    A difference of cosines with means. With nothing selected, it says how little each position is like the whole.
    """
    stride = stride_of(level, selected.shape[2:])
    inside = F.avg_pool2d(selected, stride, stride, ceil_mode=True)
    whole, within = level.sum((2, 3), keepdim=True), (level * inside).sum((2, 3), keepdim=True)
    means = [F.normalize(one, dim=1, eps=1e-3) for one in (within, whole - within)]
    return (level * (means[0] - means[1])).sum(1, keepdim=True)


def stride_of(level: Tensor, size: tuple[int, ...]) -> list[int]:
    """Pixels of an image of a size for one position of a map, down and to the right: poolings halve, and round up."""
    return [2 ** max(0, math.ceil(math.log2(big / small))) for big, small in zip(size, level.shape[-2:], strict=True)]


def laid_over(y: Tensor, size: tuple[int, ...]) -> Tensor:
    """A map made denser, by 2 as often as it takes to reach a size, and cropped there.

    Poolings round up, so the map may reach beyond the size, at the bottom and on the right.
    """
    factor = 1
    while y.shape[2] * factor < size[0] or y.shape[3] * factor < size[1]:
        factor *= 2
    if factor > 1:
        y = F.interpolate(y, scale_factor=factor, mode="bilinear", align_corners=False)
    return y[..., : size[0], : size[1]]
