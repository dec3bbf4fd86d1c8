"""Deep interactive object selection: a fully convolutional VGG-16 that reads an image and clicks."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from treadle.adapt import bilinear_upsampling_
from treadle.errors import ShapeError
from treadle.recipes.segment.grid import Grid
from treadle.recipes.segment.vgg import CHANNELS, normalised, vgg_features

CUT_OFF = 255.0
"""Pixels from a click beyond which all are equally far."""
MAPS = 2
"""Maps of distances: to clicks on the object, and to clicks on the background."""


def check_outputs(outputs: int) -> None:
    """Refuse a number of maps of scores that no loss goes with."""
    if outputs not in (1, 2):
        raise ShapeError(f"outputs is 2 (softmax) or 1 (Euclidean), but {outputs!r} was passed")


def check_read(x: Tensor) -> None:
    """Refuse what no network for clicks reads: all but [B, 5, H, W]."""
    if x.ndim != 4 or x.shape[1] != 3 + MAPS or 0 in x.shape[2:]:
        raise ShapeError(
            f"the network reads [B, {3 + MAPS}, H, W], an image and {MAPS} maps of distances, but was given"
            f" {list(x.shape)}"
        )


class ClickFCN(nn.Module):
    """Deep interactive object selection: an FCN on VGG-16 with five input channels and two output maps.

    It reads red, green and blue from 0 to 255 and two maps of Euclidean distances, to the nearest click on the object
    and on the background, cut off at 255. ``features`` is VGG-16 with torchvision's numbers, whose first convolution
    has five input channels; ``fc6`` has VGG's 7x7 kernel; ``score`` gives two maps in place of 21 classes; ``upscore``
    brings them to the size of the image. Where a map has to be cropped follows from kernels, strides and paddings
    (`Grid`), and is right for every size of image.

    Args:
        skips: False is FCN-32s; True adds the scores of the third and fourth pooling, which is FCN-8s.
        outputs: 2 for softmax over background and object; 1 for one number that a Euclidean loss takes to 0 or 1.
        channels: channels of VGG's five blocks.
        fc_channels: channels of ``fc6`` and ``fc7``. VGG has 4096.
        margin: False keeps sizes with paddings of 1 and 3; True gives conv1_1 a padding of 100 and fc6 none, as the
            authors of FCN did, at several times the cost. Both have the same parameters.
        dropout: after ``fc6`` and ``fc7``, in training.
        cut_off: truncation of distances, in pixels.

    Raises:
        ShapeError: ``outputs`` is neither 1 nor 2.

    Source: Xu, Price, Cohen, Yang and Huang, *Deep interactive object selection*, CVPR 2016; Long, Shelhamer and
    Darrell, *Fully convolutional networks for semantic segmentation*, CVPR 2015.

    Example:
        >>> import torch
        >>> from treadle.recipes.segment import ClickFCN
        >>> network = ClickFCN(channels=(4, 4, 8, 8, 8), fc_channels=16)
        >>> network(torch.rand(2, 5, 61, 97) * 255).shape
        torch.Size([2, 2, 61, 97])
    """

    def __init__(
        self,
        skips: bool = False,
        outputs: int = 2,
        channels: tuple[int, ...] = CHANNELS,
        fc_channels: int = 4096,
        margin: bool = False,
        dropout: float = 0.5,
        cut_off: float = CUT_OFF,
    ):
        super().__init__()
        check_outputs(outputs)
        self.skips, self.outputs, self.channels, self.fc_channels = skips, outputs, tuple(channels), fc_channels
        self.margin, self.dropout, self.cut_off = margin, dropout, cut_off
        self.features: nn.Sequential = vgg_features(3 + MAPS, self.channels, 100 if margin else 1)
        self.fc6 = nn.Conv2d(self.channels[-1], fc_channels, 7, padding=0 if margin else 3)
        self.fc7 = nn.Conv2d(fc_channels, fc_channels, 1)
        self.score = nn.Conv2d(fc_channels, outputs, 1)
        for layer in (self.fc6, self.fc7):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
        nn.init.xavier_uniform_(self.score.weight)  # zeros would keep all gradients from the layers below
        nn.init.zeros_(self.score.bias)  # pyright: ignore[reportArgumentType]

        def upsampling(factor: int) -> nn.ConvTranspose2d:
            return bilinear_upsampling_(nn.ConvTranspose2d(outputs, outputs, 2 * factor, factor, bias=False))

        if skips:
            self.upscore2, self.upscore_pool4, self.upscore = upsampling(2), upsampling(2), upsampling(8)
            # Poolings give activations of hundreds; their scores start at nothing and are learned.
            self.score_pool4 = nn.Conv2d(self.channels[3], outputs, 1)
            self.score_pool3 = nn.Conv2d(self.channels[2], outputs, 1)
            for layer in (self.score_pool4, self.score_pool3):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
        else:
            self.upscore = upsampling(32)

    def forward(self, x: Tensor) -> Tensor:
        """Scores for an image and its clicks.

        Args:
            x: [B, 5, H, W]: red, green and blue from 0 to 255, and the maps of `distance_maps`.

        Returns:
            [B, outputs, H, W].

        Raises:
            ShapeError: another number of axes or channels, or no pixel.
        """
        check_read(x)
        y = self.features[0](torch.cat([normalised(x[:, :3]), self.scaled(x[:, 3:])], 1))
        return self._after_first(y, x.shape[2:])

    def scaled(self, maps: Tensor) -> Tensor:
        """Distances as the network reads them: from -2 at a click to 2, where all is far, like a pixel of ImageNet."""
        return maps.clamp(max=self.cut_off) * (4 / self.cut_off) - 2

    def see(self, images: Tensor) -> Tensor:
        """What conv1_1 gives of the images alone: it is linear, so that a click leaves this part as it was.

        Nothing behind conv1_1 is so: this is all that an FCN with five channels can keep from click to click.
        """
        return self._first(normalised(images), slice(3), bias=True)

    def compare(self, seen: Tensor, maps: Tensor) -> tuple[Tensor, ...]:
        """Nothing: this network learns of clicks from their maps only."""
        return ()

    def answer(
        self, seen: Tensor, maps: Tensor, similar: tuple[Tensor, ...] = (), selected: Tensor | None = None
    ) -> Tensor:
        """Scores [B, outputs, H, W] for what was seen and clicked; this network does not ask what was selected."""
        return self._after_first(seen + self._first(self.scaled(maps), slice(3, None)), maps.shape[2:])

    def _first(self, x: Tensor, channels: slice, bias: bool = False) -> Tensor:
        """What conv1_1 gives of some of its channels."""
        first = self.features[0]
        assert isinstance(first, nn.Conv2d)
        return F.conv2d(x, first.weight[:, channels], first.bias if bias else None, padding=first.padding)

    def _after_first(self, y: Tensor, size: tuple[int, ...]) -> Tensor:
        """All behind conv1_1: scores of the size of the image."""
        grid = Grid().through(self.features[0])
        pooled = []
        for module in list(self.features)[1:]:
            y, grid = module(y), grid.through(module)
            if isinstance(module, nn.MaxPool2d):
                pooled.append((y, grid))
        for layer in (self.fc6, self.fc7):
            y, grid = F.dropout(layer(y).relu(), self.dropout, self.training), grid.through(layer)
        y = self.score(y)
        if self.skips:
            y, grid = self._add(self.upscore2, y, grid, self.score_pool4, *pooled[3])
            y, grid = self._add(self.upscore_pool4, y, grid, self.score_pool3, *pooled[2])
        y, grid = self.upscore(y), grid.through(self.upscore)
        top = grid.position_of(Grid())
        return y[..., top : top + size[0], top : top + size[1]]

    def _add(
        self, up: nn.ConvTranspose2d, y: Tensor, grid: Grid, score: nn.Conv2d, pooled: Tensor, at: Grid
    ) -> tuple[Tensor, Grid]:
        """Scores made twice as dense, plus those of an earlier pooling, where both lie over each other."""
        y, grid = up(y), grid.through(up)
        other = score(pooled)
        first = grid.position_of(at)
        if first >= 0:  # the scores reach farther up and left
            y, grid = y[..., first:, first:], at
        else:
            other = other[..., -first:, -first:]
        height, width = (min(a, b) for a, b in zip(y.shape[2:], other.shape[2:], strict=True))
        return y[..., :height, :width] + other[..., :height, :width], grid
