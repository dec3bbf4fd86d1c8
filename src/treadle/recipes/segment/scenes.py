"""Generated scenes, without a download: objects of several parts over the photographs bundled with scikit-image.

An object has a body and may have limbs, with the outlines of ellipses, boxes, polygons or something smooth, and marks
on them. Each part has a texture of its own or that of another part: a piece of a photograph (sometimes of the one that
is behind it), a grey texture in colours, stripes or blotches, or a colour. Light falls on it from a side; its edge is
sharp or soft. Beside it may lie others, some of them made alike, and they may cover each other. The photographs of
scenes of the test set are others than those of the training set.
"""

import functools
import math
import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from treadle.recipes.segment.images import Example, read_image
from treadle.recipes.segment.needs import need

PHOTOGRAPHS = {
    False: ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "hubble_deep_field.jpg"),
    True: ("rocket.jpg", "ihc.png", "retina.jpg"),
}
"""Of the training set, and of the test set."""
TEXTURES = {False: ("brick.png", "gravel.png", "camera.png"), True: ("grass.png", "coins.png")}
"""The same, in grey."""
SMALLEST, LARGEST = 0.03, 0.5
"""The share of the image that the visible part of an object takes."""


def make_scene(seed: int, size: int = 128, test: bool = False) -> Example:
    """A scene of [size, size] pixels, the same for the same arguments.

    Scenes of the test set use other photographs, and differ from the training scene of the same seed.

    Raises:
        TreadleError: scikit-image is not installed.

    Example:
        >>> from treadle.recipes.segment import make_scene
        >>> scene = make_scene(0, 64)
        >>> scene.image.shape, scene.mask.shape
        (torch.Size([3, 64, 64]), (64, 64))
    """
    random = np.random.default_rng([seed, test])
    while True:
        behind = int(random.integers(len(PHOTOGRAPHS[test])))
        image = background(random, size, test, behind)
        instances = np.zeros((size, size), np.uint8)
        count = int(random.integers(1, 5))
        looks: list[list[Tensor]] = []
        for name in range(1, count + 1):
            alike = looks and random.random() < 0.3
            looks.append(looks[-1] if alike else look(random, size, test, behind))
            cover, painted = thing(random, size, looks[-1])
            if random.random() < 0.3:
                image = image * (1 - shadow(random, cover))
            image = image + cover * (painted - image)
            instances[cover.numpy() >= 0.5] = name
        shares = [(instances == name).mean() for name in range(1, count + 1)]
        targets = [name for name, share in enumerate(shares, start=1) if SMALLEST <= share <= LARGEST]
        if targets:
            break
    image = finish(random, image)
    target = int(random.choice(targets))
    return Example(image, instances, target, f"scene {seed}{' of the test set' if test else ''}")


def background(random: np.random.Generator, size: int, test: bool, behind: int) -> Tensor:
    """A piece of a photograph [3, size, size], from 0 to 1; sometimes of two, and sometimes out of focus."""
    photos = pictures(PHOTOGRAPHS[test])
    image = recoloured(random, piece(random, photos[behind : behind + 1], size, 0.3), 0.15)
    if random.random() < 0.3:
        other = recoloured(random, piece(random, photos, size, 0.3), 0.15)
        image = torch.where(half(random, size), other, image)
    if random.random() < 0.25:
        image = blurred(image, random.uniform(0.005, 0.03) * size)
    return image


def look(random: np.random.Generator, size: int, test: bool, behind: int) -> list[Tensor]:
    """What the parts of an object are made of, [3, size, size] each, from 0 to 1: one to three textures."""
    return [texture(random, size, test, behind) for _ in range(int(random.choice([1, 2, 3], p=[0.4, 0.35, 0.25])))]


def thing(random: np.random.Generator, size: int, made_of: list[Tensor]) -> tuple[Tensor, Tensor]:
    """An object: how much of each pixel it covers [size, size], and what it looks like [3, size, size]."""
    centre, radius = random.uniform(0.15, 0.85, 2) * size, random.uniform(0.12, 0.38) * size
    softness = random.uniform(0.6, 1.6) if random.random() < 0.7 else random.uniform(1.6, 4.0)
    cover, painted = outline(random, size, centre, radius, softness), made_of[0]

    def any_of() -> Tensor:
        return made_of[int(random.integers(len(made_of)))]

    if random.random() < 0.5:  # the body has marks
        for _ in range(int(random.integers(1, 4))):
            at = centre + random.normal(0, 0.5, 2) * radius
            mark = outline(random, size, at, radius * random.uniform(0.2, 0.7), softness)
            painted = painted + mark * (any_of() - painted)
    if random.random() < 0.5:  # and limbs, the middles of which lie near its edge
        for _ in range(int(random.integers(1, 5))):
            angle = random.uniform(0, 2 * math.pi)
            at = centre + np.array([math.sin(angle), math.cos(angle)]) * radius * random.uniform(0.5, 1.0)
            limb = outline(random, size, at, radius * random.uniform(0.3, 0.8), softness, squeeze=(0.2, 0.8))
            if random.random() < 0.5:  # before the body
                painted = painted + limb * (any_of() - painted)
            else:
                painted = torch.where(cover >= limb, painted, any_of())
            cover = torch.maximum(cover, limb)
    return cover, (painted * light(random, cover)).clamp(0, 1)


def light(random: np.random.Generator, cover: Tensor) -> Tensor:
    """How bright light from a side makes each pixel [size, size] of something round; 1 is as it was."""
    round_ = blurred(cover[None], random.uniform(0.05, 0.12) * len(cover))[0]
    down, right = torch.gradient(round_ * len(cover))
    angle = random.uniform(0, 2 * math.pi)
    slope = (down * math.sin(angle) + right * math.cos(angle)) / 5
    return (1 + random.uniform(0, 0.6) * slope).clamp(0.3, 1.7)


def shadow(random: np.random.Generator, cover: Tensor) -> Tensor:
    """How much darker [size, size] it is beside an object."""
    size = len(cover)
    by = [int(random.integers(0, max(size // 12, 1) + 1)), int(random.integers(-(size // 12), size // 12 + 1))]
    return random.uniform(0.2, 0.7) * blurred(cover.roll(by, (0, 1))[None], random.uniform(0.01, 0.05) * size)[0]


def half(random: np.random.Generator, size: int) -> Tensor:
    """One side of a straight line [size, size]."""
    angle, (y, x) = random.uniform(0, 2 * math.pi), random.uniform(0.3, 0.7, 2) * size
    rows, columns = np.mgrid[:size, :size]
    return torch.from_numpy((rows - y) * math.sin(angle) + (columns - x) * math.cos(angle) > 0)


def texture(random: np.random.Generator, size: int, test: bool, behind: int) -> Tensor:
    """What a part is made of [3, size, size], from 0 to 1."""
    photos, kind = pictures(PHOTOGRAPHS[test]), random.random()
    if kind < 0.15:  # hardly different from what is behind it
        return recoloured(random, piece(random, photos[behind : behind + 1], size, random.uniform(0.1, 0.6)), 0.25)
    if kind < 0.45:
        return recoloured(random, piece(random, photos, size, random.uniform(0.1, 0.6)), 0.4)
    one, other = colour(random, test), colour(random, test)
    if kind < 0.65:
        grey = piece(random, pictures(TEXTURES[test]), size, random.uniform(0.15, 0.6))
        return one + grey * (other - one)
    if kind < 0.85:
        return one + pattern(random, size) * (other - one)
    shade = torch.linspace(-0.5, 0.5, size)[:, None] * random.uniform(-0.6, 0.6)
    noise = torch.from_numpy(random.normal(0, random.uniform(0, 0.08), (3, size, size))).float()
    return (one + shade + noise).clamp(0, 1)


def colour(random: np.random.Generator, test: bool) -> Tensor:
    """A colour [3, 1, 1], from 0 to 1: one of a photograph's, or any."""
    if random.random() < 0.6:
        photo = pictures(PHOTOGRAPHS[test])[int(random.integers(len(PHOTOGRAPHS[test])))]
        row, column = (int(random.integers(length)) for length in photo.shape[1:])
        return photo[:, row, column, None, None].float() / 255
    return torch.from_numpy(random.uniform(0, 1, (3, 1, 1))).float()


def pattern(random: np.random.Generator, size: int) -> Tensor:
    """Stripes that wind, or blotches [size, size], from 0 to 1."""
    cells = int(random.integers(4, 17))
    noise = torch.from_numpy(random.normal(0, 1, (1, 1, cells, cells))).float()
    noise = F.interpolate(noise, (size, size), mode="bicubic")[0, 0]
    if random.random() < 0.5:
        angle, waves = random.uniform(0, math.pi), random.uniform(4, 14)
        rows, columns = np.mgrid[:size, :size] / size
        along = torch.from_numpy(rows * math.sin(angle) + columns * math.cos(angle)).float()
        noise = (2 * math.pi * waves * along + random.uniform(0, 2) * noise).sin()
    return (noise * random.uniform(1, 6)).sigmoid()


def outline(
    random: np.random.Generator,
    size: int,
    centre: NDArray[np.float64],
    radius: float,
    softness: float,
    squeeze: tuple[float, float] = (0.45, 1.0),
) -> Tensor:
    """How much of each pixel a part covers [size, size], from 0 to 1.

    ``radius`` is that of its longer axis, ``squeeze`` between what the shorter one lies as a share of it; over
    ``softness`` pixels its edge goes from 0 to 1.
    """
    squeezed, turn = random.uniform(*squeeze), random.uniform(0, math.pi)
    rows, columns = np.mgrid[:size, :size]
    y, x = rows - centre[0], columns - centre[1]
    u = (math.cos(turn) * x + math.sin(turn) * y) / radius
    v = (math.cos(turn) * y - math.sin(turn) * x) / (radius * squeezed)
    kind, angle = random.integers(4), np.arctan2(v, u)
    if kind == 0:
        edge = np.hypot(u, v)
    elif kind == 1:
        edge = np.maximum(np.abs(u), np.abs(v)) * 1.1
    elif kind == 2:  # a polygon: between its corners the edge is straight
        corners = int(random.integers(3, 8))
        at = np.sort((np.arange(corners) + random.uniform(0.1, 0.9, corners)) * 2 * math.pi / corners) - math.pi
        reach = random.uniform(0.55, 1.15, corners)
        edge = np.hypot(u, v) / _polygon(angle, at, reach)
    else:
        waves = sum(
            random.normal(0, 0.25 / n) * np.cos(n * angle + random.uniform(0, 2 * math.pi)) for n in range(1, 7)
        )
        edge = np.hypot(u, v) / np.maximum(0.85 + waves, 0.2)
    # The edge is where it is 1; a pixel away from it, that changes by about 1 / radius.
    return torch.from_numpy(np.clip(0.5 + (1 - edge) * radius * squeezed / softness, 0, 1)).float()


def _polygon(angle: NDArray[Any], at: NDArray[Any], reach: NDArray[Any]) -> NDArray[Any]:
    """The distance from the middle to the edge of a polygon, by angle."""
    after = np.searchsorted(at, angle) % len(at)
    before = after - 1
    first, second = at[before], at[after]
    gap = (second - first) % (2 * math.pi)
    part = (angle - first) % (2 * math.pi)
    a, b = reach[before], reach[after]
    straight = np.sin(gap) * a * b / np.maximum(a * np.sin(part) + b * np.sin(gap - part), 1e-3)
    return np.where(gap < math.pi - 0.1, straight, np.minimum(a, b)).clip(0.05, 1.5)


def piece(random: np.random.Generator, photos: tuple[Tensor, ...], size: int, least: float) -> Tensor:
    """A square piece of a photograph, scaled to a size; at least a share of its shorter side."""
    photo = photos[int(random.integers(len(photos)))]
    shortest = min(photo.shape[1:])
    side = int(random.uniform(min(least, 1), 1) * shortest)
    top, left = (int(random.integers(length - side + 1)) for length in photo.shape[1:])
    cut = photo[None, :, top : top + side, left : left + side].float() / 255
    if random.random() < 0.5:
        cut = cut.flip(3)
    return F.interpolate(cut, (size, size), mode="bilinear", antialias=True)[0].clamp(0, 1)


def blurred(image: Tensor, deviation: float) -> Tensor:
    """An image [C, H, W] out of focus."""
    blur = need("scipy.ndimage", "scipy").gaussian_filter
    return torch.from_numpy(blur(image.numpy(), (0, deviation, deviation), mode="nearest"))


def recoloured(random: np.random.Generator, image: Tensor, strength: float) -> Tensor:
    """Other brightness, contrast and colours."""
    gain = torch.from_numpy(random.uniform(1 - strength, 1 + strength, (3, 1, 1))).float()
    lift = torch.from_numpy(random.uniform(-strength, strength, (3, 1, 1))).float() / 2
    return ((image - 0.5) * gain + 0.5 + lift).clamp(0, 1)


def finish(random: np.random.Generator, image: Tensor) -> Tensor:
    """What a camera adds: blur, noise, bytes."""
    if random.random() < 0.3:
        kernel = torch.tensor([0.25, 0.5, 0.25])
        image = F.pad(image[:, None], (1, 1, 1, 1), mode="replicate")
        image = F.conv2d(image, (kernel[:, None] * kernel)[None, None])[:, 0]
    noise = torch.from_numpy(random.normal(0, random.uniform(0, 0.03), image.shape)).float()
    return ((image + noise) * 255).round().clamp(0, 255).to(torch.uint8)


@functools.cache
def pictures(names: tuple[str, ...]) -> tuple[Tensor, ...]:
    """Pictures that come with scikit-image, [3, H, W] bytes each; grey ones in three equal channels."""
    folder = os.path.dirname(need("skimage.data", "scikit-image").__file__)
    return tuple(read_image(os.path.join(folder, name)) for name in names)
