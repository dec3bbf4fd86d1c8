"""Clicks: their positions, distance maps, and simulated users."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from treadle.errors import DataError
from treadle.recipes.segment.click_fcn import CUT_OFF
from treadle.recipes.segment.needs import need

IGNORED = 255
"""The label of pixels that are ignored."""


class Click(NamedTuple):
    """A click of a user."""

    row: int
    """From the top, from 0."""
    column: int
    """From the left, from 0."""
    positive: bool = True
    """Whether it says what is the object, or what is not."""


def check_click(click: Click, size: Sequence[int]) -> None:
    """Refuse a click outside an image of [H, W] pixels."""
    height, width = size
    if not (0 <= click.row < height and 0 <= click.column < width):
        raise DataError(
            f"a click in row {click.row}, column {click.column} lies outside the image, which has rows 0 to"
            f" {height - 1} and columns 0 to {width - 1}"
        )


def no_clicks(size: Sequence[int]) -> Tensor:
    """The maps before the first click [2, H, W]: everything is far from everything."""
    return torch.full((2, *size), CUT_OFF)


def add_click(maps: Tensor, click: Click) -> Tensor:
    """Maps [2, H, W] with one more click. Only distances to it are computed: each pixel keeps the smaller one."""
    check_click(click, maps.shape[1:])
    rows = torch.arange(maps.shape[1], dtype=maps.dtype, device=maps.device)[:, None] - click.row
    columns = torch.arange(maps.shape[2], dtype=maps.dtype, device=maps.device) - click.column
    maps = maps.clone()
    one = maps[0 if click.positive else 1]
    torch.minimum(one, (rows.square() + columns.square()).sqrt(), out=one)
    return maps


def distance_maps(clicks: Sequence[Click], size: Sequence[int]) -> Tensor:
    """How far every pixel is from the nearest click on the object, and on the background.

    Args:
        clicks: any number, of both kinds.
        size: [H, W].

    Returns:
        [2, H, W], Euclidean distances in pixels, cut off at 255.

    Raises:
        DataError: a click lies outside the image.

    Example:
        >>> from treadle.recipes.segment import Click, distance_maps
        >>> maps = distance_maps([Click(0, 0), Click(0, 3, positive=False)], (2, 4))
        >>> maps[0, 0].tolist(), maps[1, 0].tolist()
        ([0.0, 1.0, 2.0, 3.0], [3.0, 2.0, 1.0, 0.0])
    """
    maps = no_clicks(size)
    for click in clicks:
        maps = add_click(maps, click)
    return maps


@dataclasses.dataclass(frozen=True)
class ClickSampling:
    """How training clicks are drawn, following the paper; lengths in pixels of images of about 500.

    Attributes:
        positives: maximum number of clicks on the object; there is at least one.
        near: maximum number of clicks scattered over the background near the object.
        on_others: maximum number of clicks on each other object.
        around: clicks spread around the object.
        margin: the least distance to the edge of the object; half of it, and so on, where the object is too thin.
        spacing: the least distance of one click to another.
        band: how far from the object the background counts as near.

    Source: Xu et al. 2016, section 3.2, whose values are the defaults.
    """

    positives: int = 5
    near: int = 10
    on_others: int = 5
    around: int = 10
    margin: float = 5.0
    spacing: float = 10.0
    band: float = 40.0

    def scaled(self, factor: float) -> "ClickSampling":
        """The same for images that are so many times as large."""
        return dataclasses.replace(
            self, margin=self.margin * factor, spacing=self.spacing * factor, band=self.band * factor
        )

    def draw(
        self, mask: NDArray[np.uint8], others: NDArray[np.uint8] | None, random: np.random.Generator
    ) -> list[Click]:
        """Clicks for an object: some inside, and some outside by one of three strategies, chosen at random.

        The strategies: scattered over the background near the object; on each of the other objects; spread around the
        object, each as far from those before it as can be.

        Args:
            mask: [H, W], 1 on the object, 0 elsewhere, 255 where pixels are ignored.
            others: [H, W], another number for each other object, 0 where none is, 255 where pixels are ignored; or
                None.
            random: the random generator.

        Raises:
            DataError: there is no object.
        """
        inside = mask == 1
        if not inside.any():
            raise DataError("the mask has no object to click on: it needs a pixel that is 1")
        clicks = self._strewn(self._within(inside), int(random.integers(1, self.positives + 1)), random, True)
        background = mask == 0
        if not background.any():
            return clicks
        strategies = ["near", "around"]
        names = [] if others is None else [int(n) for n in np.unique(others[background]) if n not in (0, IGNORED)]
        if names:
            strategies.append("others")
        match strategies[int(random.integers(len(strategies)))]:
            case "near":
                band = background & (away_from(inside) <= self.band)
                where = self._within(band if band.any() else background)
                return clicks + self._strewn(where, int(random.integers(self.near + 1)), random, False)
            case "others":
                for name in names:
                    assert others is not None
                    where = self._within(background & (others == name))
                    clicks += self._strewn(where, int(random.integers(self.on_others + 1)), random, False)
                return clicks
        return clicks + self._around(inside, background, random)

    def _within(self, region: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A region without its margin, or with as much of a margin as leaves something of it."""
        depth, margin = distance(region), self.margin
        while margin > 1 and not (depth > margin).any():
            margin /= 2
        within = depth > margin
        return within if within.any() else region

    def _strewn(self, where: NDArray[np.bool_], count: int, random: np.random.Generator, positive: bool) -> list[Click]:
        rows, columns = np.nonzero(where)
        free = np.ones(len(rows), dtype=bool)
        clicks: list[Click] = []
        while len(clicks) < count and free.any():
            i = int(random.choice(np.nonzero(free)[0]))
            clicks.append(Click(int(rows[i]), int(columns[i]), positive))
            free &= np.hypot(rows - rows[i], columns - columns[i]) >= self.spacing
            free[i] = False
        return clicks

    def _around(
        self, inside: NDArray[np.bool_], background: NDArray[np.bool_], random: np.random.Generator
    ) -> list[Click]:
        away = away_from(inside)
        ring = background & (away <= self.band)
        beyond = ring & (away > self.margin)
        rows, columns = np.nonzero(beyond if beyond.any() else ring)
        if not len(rows):
            return []
        clicks, i = [], int(random.integers(len(rows)))
        nearest = np.full(len(rows), np.inf)
        for _ in range(self.around):
            clicks.append(Click(int(rows[i]), int(columns[i]), False))
            nearest = np.minimum(nearest, np.hypot(rows - rows[i], columns - columns[i]))
            i = int(nearest.argmax())
            if nearest[i] < max(self.spacing, 1):
                break
        return clicks


def next_click(predicted: NDArray[np.bool_], mask: NDArray[np.uint8]) -> Click | None:
    """Where a user would click next: in the middle of the largest error.

    Errors are split into connected components, of missing object and of wrong object. In the largest one, the pixel
    farthest from its edge and from that of the image is clicked.

    Args:
        predicted: [H, W], what is selected so far.
        mask: [H, W], 1 on the object, 0 elsewhere, 255 where pixels are ignored.

    Returns:
        None if there is no error.

    Raises:
        DataError: the sizes differ.

    Example:
        >>> import numpy as np
        >>> from treadle.recipes.segment import next_click
        >>> mask = np.zeros((9, 9), np.uint8)
        >>> mask[2:7, 2:7] = 1
        >>> next_click(np.zeros((9, 9), bool), mask)
        Click(row=4, column=4, positive=True)
    """
    ndimage = need("scipy.ndimage", "scipy")
    check_same_size(mask.shape, predicted.shape)
    best, middle = 0, None
    for positive in (True, False):
        wrong = (mask == 1) & ~predicted if positive else (mask == 0) & predicted
        pieces, count = ndimage.label(wrong)
        if not count:
            continue
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        if sizes.max() > best:
            best, piece = int(sizes.max()), pieces == sizes.argmax()
            depth = distance(piece)
            row, column = np.unravel_index(depth.argmax(), depth.shape)
            middle = Click(int(row), int(column), positive)
    return middle


def distance(region: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How deep each pixel lies in a region: the distance to the nearest pixel outside, beyond the image included."""
    return away_from(~np.pad(region, 1))[1:-1, 1:-1]


def away_from(region: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How far each pixel is from a region that is not empty."""
    return need("scipy.ndimage", "scipy").distance_transform_edt(~region)


def check_same_size(mask: Sequence[int], image: Sequence[int], name: str = "the mask") -> None:
    """Refuse a mask of another size than its image's."""
    if tuple(mask) != tuple(image):
        advice = "make them the same size"
        if tuple(mask) == tuple(image)[::-1]:
            advice = "one of them lies on its side; images are turned upright as their cameras noted (EXIF), so turn"
            advice += " the mask as the image is seen"
        raise DataError(
            f"{name} is {mask[1]}x{mask[0]} pixels (width x height), but its image is {image[1]}x{image[0]}: {advice}"
        )
