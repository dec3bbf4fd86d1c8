"""Data sets of examples, read or made on demand: folders of images and masks, generated scenes."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from treadle.errors import DataError
from treadle.recipes.segment.clicks import IGNORED
from treadle.recipes.segment.images import SUFFIXES, Example, fitted, fitting_size, read_image, read_mask, resize_mask
from treadle.recipes.segment.scenes import make_scene

SMALLEST_OBJECT = 16
"""Pixels that an object has at least, to be an example, in the image as it is used: scaled down."""
SMALLEST_WIDTH = 3
"""Pixels of a side of a square that fits into it: what is thinner may be lost in a smaller view of it."""
TOO_SMALL = f"no object of {SMALLEST_OBJECT} pixels or more, {SMALLEST_WIDTH} wide"


class Examples(Sequence[Example]):
    """A data set of examples, each read or made on demand."""

    def __init__(self, items: Sequence[Any], make: Any):
        self.items, self.make = items, make

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Examples(self.items[index], self.make)
        return self.make(self.items[index])

    def __iter__(self) -> Iterator[Example]:
        return (self.make(item) for item in self.items)

    def chosen(self, indices: Sequence[int]) -> "Examples":
        """Some of them."""
        return Examples([self.items[i] for i in indices], self.make)


def split(examples: Examples, share: float, seed: int) -> tuple[Examples, Examples]:
    """Training and validation set, a share of the images; the objects of an image stay together.

    Raises:
        DataError: all examples are of one image.

    Example:
        >>> from treadle.recipes.segment import scenes, split
        >>> training, held_out = split(scenes(10), 0.2, seed=0)
        >>> len(training), len(held_out)
        (8, 2)
    """
    groups: dict[Any, list[int]] = {}
    for i, item in enumerate(examples.items):
        groups.setdefault(id(item[0]) if isinstance(item, tuple) else item, []).append(i)
    if len(groups) < 2:
        raise DataError("all examples are of one image, so none is left for the validation set: add another image")
    order = np.random.default_rng([seed, 4]).permutation(len(groups))
    count = min(max(1, round(share * len(groups))), len(groups) - 1)
    of_images = list(groups.values())
    chosen = [of_images[i] for i in order]
    judges, rest = (sorted(i for group in part for i in group) for part in (chosen[:count], chosen[count:]))
    return examples.chosen(rest), examples.chosen(judges)


def scenes(count: int, size: int = 128, seed: int = 0, test: bool = False) -> Examples:
    """Generated scenes; see `make_scene`.

    Example:
        >>> from treadle.recipes.segment import scenes
        >>> len(scenes(10, 64))
        10
    """
    return Examples([(seed << 32) + i for i in range(count)], lambda item: make_scene(item, size, test))


def read_folder(folder: str | os.PathLike[str], longest: int | None = None) -> Examples:
    """Images with masks: ``images/NAME.jpg`` and ``masks/NAME.png`` in a folder.

    Every object of a mask is an example, except those of fewer than 16 pixels or less than 3 pixels wide after scaling.
    `read_mask` describes masks; they belong to images that are turned upright. All masks are read and checked here,
    before any training.

    Larger images are scaled down until their longer side has ``longest`` pixels.

    Raises:
        DataError: an image without a mask or a mask without an image, one of another size than the other, a damaged
            file, nothing at all.
        OSError: a folder cannot be read.
    """
    folder = Path(folder)
    found = {}
    for kind in ("images", "masks"):
        if not (folder / kind).is_dir():
            raise DataError(
                f"{folder} has no folder {kind!r}: it needs images/NAME.jpg (or .png, …) and masks/NAME.png, or"
                " name a COCO file that ends in .json"
            )
        found[kind] = {}
        for path in sorted((folder / kind).iterdir()):
            if path.suffix.lower() in SUFFIXES:
                if path.stem in found[kind]:
                    raise DataError(f"{path} and {found[kind][path.stem]} have the same name: rename one")
                found[kind][path.stem] = path
    images, masks = found["images"], found["masks"]
    for stem in sorted(images.keys() ^ masks.keys()):
        there, missing = (images, "masks") if stem in images else (masks, "images")
        raise DataError(
            f"{there[stem]} has no counterpart in {folder / missing}: add one of the same name, or remove it"
        )
    if not images:
        raise DataError(f"{folder / 'images'} has no image: it needs files that end in {', '.join(SUFFIXES)}")
    items = []
    for stem in sorted(images):
        mask = read_mask(masks[stem])
        _example(images[stem], mask, 1, longest)  # sizes and the image itself
        used = scaled_mask(mask, longest)
        names = [int(name) for name in np.unique(used) if 0 < name < IGNORED and is_large_enough(used == name)]
        items += [(images[stem], masks[stem], name) for name in names]
    if not items:
        raise DataError(f"{folder / 'masks'} has {TOO_SMALL}{of_scaled_images(longest)}")
    return Examples(items, lambda item: _example(item[0], read_mask(item[1]), item[2], longest))


def scaled_mask(mask: NDArray[np.uint8], longest: int | None) -> NDArray[np.uint8]:
    """A mask as it is used."""
    height, width = mask.shape
    size = (height, width) if longest is None else fitting_size((height, width), longest)
    return mask if size == mask.shape else resize_mask(mask, size)


def is_large_enough(region: NDArray[np.bool_]) -> bool:
    """Whether an object can be an example."""
    if region.sum() < SMALLEST_OBJECT or min(region.shape) < SMALLEST_WIDTH:
        return False
    for _ in range(SMALLEST_WIDTH - 1):  # what is left has all of a square below and to the right of it
        region = region[1:] & region[:-1]
        region = region[:, 1:] & region[:, :-1]
    return bool(region.any())


def of_scaled_images(longest: int | None) -> str:
    """What a message says of the size at which images are used."""
    return "" if longest is None else f", in images whose longer side is scaled down to {longest} pixels"


def _example(path: Path, mask: NDArray[np.uint8], target: int, longest: int | None) -> Example:
    return fitted(Example(read_image(path), mask, target, f"{path}, object {target}"), longest)
