"""Other views of an example; image and mask always move together."""

import dataclasses

import numpy as np
import torch

from treadle.recipes.segment.images import Example, resize


def augment(example: Example, size: int, random: np.random.Generator) -> Example:
    """A square piece of an example that has its object in it, turned left to right by chance, in other colours.

    It is [size, size]; where it reaches beyond the image nothing counts.

    Example:
        >>> import numpy as np
        >>> from treadle.recipes.segment import make_scene
        >>> from treadle.recipes.segment.augmentation import augment
        >>> augment(make_scene(0, 100), 64, np.random.default_rng(0)).mask.shape
        (64, 64)
    """
    rows, columns = np.nonzero(example.instances == example.target)
    height, width = example.instances.shape
    if len(rows):
        # At least the object with some surroundings, at most the whole image.
        extent = max(np.ptp(rows), np.ptp(columns)) + 1
        side = random.uniform(min(1.3 * extent, max(height, width)), max(height, width))
        middle = [(one.min() + one.max()) / 2 + random.uniform(-0.5, 0.5) * (side - extent) for one in (rows, columns)]
        example = cut(example, [round(at - side / 2) for at in middle], max(1, round(side)))
    example = smaller(example, size)
    if random.random() < 0.5:
        instances = np.ascontiguousarray(example.instances[:, ::-1])
        example = dataclasses.replace(example, image=example.image.flip(2), instances=instances)
    gain = torch.from_numpy(random.uniform(0.85, 1.15, (3, 1, 1))).float() * random.uniform(0.8, 1.2)
    image = ((example.image.float() - 128) * gain + 128 + random.uniform(-20, 20)).round().clamp(0, 255)
    return dataclasses.replace(example, image=image.to(torch.uint8))


def smaller(example: Example, size: int) -> Example:
    """A square example in another size. What is left of a thin object that would be lost is one pixel."""
    found = resize(example, (size, size))
    rows, columns = np.nonzero(example.instances == example.target)
    if len(rows) and not (found.instances == found.target).any():
        middle, side = len(rows) // 2, len(example.instances)
        found.instances[rows[middle] * size // side, columns[middle] * size // side] = found.target
    return found


def cut(example: Example, corner: list[int], side: int) -> Example:
    """A square piece, from a corner [row, column]. Beyond the image lie grey and pixels that do not count."""
    height, width = example.instances.shape
    image = torch.full((3, side, side), 124, dtype=torch.uint8)
    instances = np.full((side, side), 255, np.uint8)
    top, left = corner
    inside = [slice(max(0, at), min(length, at + side)) for at, length in ((top, height), (left, width))]
    there = [slice(s.start - at, s.stop - at) for s, at in zip(inside, corner, strict=True)]
    image[:, there[0], there[1]] = example.image[:, inside[0], inside[1]]
    instances[there[0], there[1]] = example.instances[inside[0], inside[1]]
    return dataclasses.replace(example, image=image, instances=instances)
