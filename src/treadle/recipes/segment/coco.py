"""COCO's JSON of images with objects: polygons, or run lengths."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from treadle.atomic import regular
from treadle.errors import DataError
from treadle.recipes.segment.clicks import IGNORED, check_same_size
from treadle.recipes.segment.examples import TOO_SMALL, Examples, is_large_enough, of_scaled_images, scaled_mask
from treadle.recipes.segment.images import MOST_PIXELS, Example, fitted, image_size, read_image


def read_coco(path: str | os.PathLike[str], images: str | os.PathLike[str], longest: int | None = None) -> Examples:
    """Images with objects as COCO's JSON has them: polygons, or runs, compressed or not.

    Every annotation is an example, except crowds, whose pixels are ignored, and objects of fewer than 16 pixels or less
    than 3 pixels wide after scaling. Of images, only the sizes are read here.

    Args:
        path: the JSON file.
        images: the folder of its images.
        longest: larger images are scaled down until their longer side has so many pixels.

    Raises:
        DataError: the file is not what COCO has, names an image that is not there or of another size, or one outside
            the folder.
        OSError: a file cannot be read.
    """
    path, folder = Path(regular(path)), Path(images)
    try:
        content = json.loads(path.read_bytes())
        files = {image["id"]: image for image in content["images"]}
        annotations: dict[Any, list[Any]] = {}
        for annotation in content["annotations"]:
            annotations.setdefault(annotation["image_id"], []).append(annotation)
        names = {
            key: (str(image["file_name"]), int(image["height"]), int(image["width"])) for key, image in files.items()
        }
        for name, height, width in names.values():
            if min(height, width) < 1 or height * width > MOST_PIXELS:
                raise ValueError(f"the image {name!r} of {width}x{height} pixels")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise DataError(
            f"{path} is not a COCO file of instances, with 'images' and 'annotations'"
            f" ({type(error).__name__}: {str(error)[:80]})"
        ) from None
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder} with the images of {path}: pass it as `images`")
    items = []
    for key, of_image in annotations.items():
        if key not in names:
            raise DataError(f"{path} has an annotation of image {key!r}, which it does not list")
        name, height, width = names[key]
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise DataError(f"{path} names the image {name!r}, which lies outside {folder}")
        if not (folder / name).is_file():
            raise DataError(f"{path} names the image {name!r}, which is not in {folder}")
        check_same_size((height, width), image_size(folder / name), f"what {path} says of {name!r}")
        found = CocoImage(path, folder / name, (height, width), tuple(of_image))
        items += [(found, i) for i in found.objects(longest)]
    if not items:
        raise DataError(f"{path} has {TOO_SMALL}{of_scaled_images(longest)}")
    return Examples(items, lambda item: fitted(item[0].example(item[1]), longest))


@dataclasses.dataclass(frozen=True)
class CocoImage:
    """An image and its annotations."""

    source: Path
    path: Path
    size: tuple[int, int]
    annotations: tuple[Any, ...]

    def region(self, index: int) -> NDArray[np.bool_]:
        """The pixels of an annotation [H, W]."""
        annotation = self.annotations[index]
        try:
            return coco_region(annotation["segmentation"], self.size)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            name = annotation.get("id", index) if isinstance(annotation, dict) else index
            raise DataError(f"{self.source}: the segmentation of annotation {name!r} is damaged ({error})") from None

    def objects(self, longest: int | None = None) -> list[int]:
        """The annotations that are examples, in an image that is scaled down."""

        def used(index: int) -> NDArray[np.bool_]:
            return scaled_mask(self.region(index).astype(np.uint8), longest) > 0

        return [
            i
            for i, annotation in enumerate(self.annotations)
            if not annotation.get("iscrowd") and is_large_enough(used(i))
        ]

    def example(self, index: int) -> Example:
        """The example of one annotation: its pixels are 1, other objects have numbers of their own."""
        instances = np.zeros(self.size, np.uint8)
        for i, annotation in enumerate(self.annotations):
            if i != index:
                instances[self.region(i)] = IGNORED if annotation.get("iscrowd") else min(i + 2, IGNORED - 1)
        instances[self.region(index)] = 1
        name = f"{self.path}, annotation {self.annotations[index].get('id', index)}"
        return Example(read_image(self.path), instances, 1, name)


def coco_region(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels [H, W] of a segmentation as COCO has it: a list of polygons, or runs.

    A pixel is of a polygon ``[x, y, x, y, …]`` if its middle is; corners are given in pixels from the upper left corner
    of the image. Runs, as numbers or COCO's string, go down the columns, of pixels outside and inside by turns.

    Example:
        >>> from treadle.recipes.segment.coco import coco_region
        >>> coco_region([[1, 0, 3, 0, 3, 2, 1, 2]], (3, 4)).astype(int).tolist()
        [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
        >>> coco_region({"size": [2, 2], "counts": [1, 2, 1]}, (2, 2)).astype(int).tolist()
        [[0, 1], [1, 0]]
    """
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        if tuple(segmentation["size"]) != size:
            raise ValueError(f"runs of {segmentation['size']} pixels in an image of {list(size)}")
        runs = np.array(_uncompressed(counts) if isinstance(counts, str) else counts, dtype=np.int64)
        if (runs < 0).any() or runs.sum() != size[0] * size[1]:
            raise ValueError(f"runs of {runs.sum()} pixels in an image of {size[0] * size[1]}")
        return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size[::-1]).T
    found = np.zeros(size, bool)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("neither polygons nor runs")
    for polygon in segmentation:
        corners = np.array(polygon, dtype=np.float64)
        if corners.ndim != 1 or len(corners) < 6 or len(corners) % 2 or not np.isfinite(corners).all():
            raise ValueError("a polygon needs x and y of three corners or more")
        found |= _polygon(corners.reshape(-1, 2), size)
    return found


def _polygon(corners: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels whose middle lies inside, where a line to the left crosses the edge an odd number of times."""
    height, width = size
    inside = np.zeros(size, bool)
    for (x, y), (x2, y2) in zip(corners, np.roll(corners, -1, 0), strict=True):
        low, high = sorted((y, y2))
        first, last = (int(np.clip(np.ceil(at - 0.5), 0, height)) for at in (low, high))
        rows = np.arange(first, last)  # whose middles lie between both ends
        if len(rows):
            crossing = x + (rows + 0.5 - y) * (x2 - x) / (y2 - y)
            inside[rows] ^= np.arange(width) + 0.5 >= crossing[:, None]
    return inside


def _uncompressed(text: str) -> list[int]:
    """Runs from COCO's string: 5 bits a character, the lowest first; from the fourth, less the one two before."""
    runs: list[int] = []
    i = 0
    while i < len(text):
        value = shift = 0
        while True:
            bits = ord(text[i]) - 48
            if not 0 <= bits < 64:
                raise ValueError(f"the character {text[i]!r} in runs")
            value |= (bits & 31) << shift
            shift, i = shift + 5, i + 1
            if not bits & 32:
                break
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs
