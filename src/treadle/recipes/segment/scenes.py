"""Scenes that need no download: textured shapes over real photographs, those that come with scikit-image.

An object has the outline of an ellipse, a box, a polygon or something smooth; its texture is a piece of another
photograph, a grey texture in a colour, or a colour; it may have two parts. Several objects may cover each other. The
photographs of scenes to judge by are others than those of scenes to learn from.
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
"""To learn from, and to judge by."""
TEXTURES = {False: ("brick.png", "gravel.png", "camera.png"), True: ("grass.png", "coins.png")}
"""The same, in grey."""
SMALLEST, LARGEST = 0.03, 0.5
"""The share of the image that the visible part of an object takes."""


def make_scene(seed: int, size: int = 128, test: bool = False) -> Example:
    """A scene, the same for the same arguments.

    Args:
        seed: any whole number.
        size: pixels of a side.
        test: whether it is to be judged by: of other photographs, and never the scene of the same seed.

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
        image = background(random, size, test)
        instances = np.zeros((size, size), np.uint8)
        count = int(random.integers(1, 5))
        for name in range(1, count + 1):
            cover = outline(random, size)
            image = image + cover * (texture(random, size, test) - image)
            instances[cover.numpy() >= 0.5] = name
        shares = [(instances == name).mean() for name in range(1, count + 1)]
        targets = [name for name, share in enumerate(shares, start=1) if SMALLEST <= share <= LARGEST]
        if targets:
            break
    image = finish(random, image)
    target = int(random.choice(targets))
    return Example(image, instances, target, f"scene {seed}{' to judge by' if test else ''}")


def background(random: np.random.Generator, size: int, test: bool) -> Tensor:
    """A piece of a photograph [3, size, size], from 0 to 1."""
    return recoloured(random, piece(random, photographs(test), size, 0.5), 0.15)


def texture(random: np.random.Generator, size: int, test: bool) -> Tensor:
    """What an object is made of [3, size, size], from 0 to 1; sometimes of two parts."""
    whole = _one_texture(random, size, test)
    if random.random() < 0.3:
        angle, (y, x) = random.uniform(0, 2 * math.pi), random.uniform(0.3, 0.7, 2) * size
        rows, columns = np.mgrid[:size, :size]
        side = torch.from_numpy((rows - y) * math.sin(angle) + (columns - x) * math.cos(angle) > 0)
        whole = torch.where(side, _one_texture(random, size, test), whole)
    return whole


def _one_texture(random: np.random.Generator, size: int, test: bool) -> Tensor:
    kind = random.random()
    colour = torch.from_numpy(random.uniform(0, 1, (3, 1, 1))).float()
    if kind < 0.5:
        return recoloured(random, piece(random, photographs(test), size, random.uniform(0.1, 0.6)), 0.4)
    if kind < 0.8:
        grey = piece(random, textures(test), size, random.uniform(0.15, 0.6))
        other = torch.from_numpy(random.uniform(0, 1, (3, 1, 1))).float()
        return colour + grey * (other - colour)
    shade = torch.linspace(-0.5, 0.5, size)[:, None] * random.uniform(-0.6, 0.6)
    noise = torch.from_numpy(random.normal(0, random.uniform(0, 0.08), (3, size, size))).float()
    return (colour + shade + noise).clamp(0, 1)


def outline(random: np.random.Generator, size: int) -> Tensor:
    """How much of each pixel an object covers [size, size], from 0 to 1."""
    centre, radius = random.uniform(0.15, 0.85, 2) * size, random.uniform(0.12, 0.38) * size
    squeeze, turn = random.uniform(0.45, 1.0), random.uniform(0, math.pi)
    rows, columns = np.mgrid[:size, :size]
    y, x = rows - centre[0], columns - centre[1]
    u = (math.cos(turn) * x + math.sin(turn) * y) / radius
    v = (math.cos(turn) * y - math.sin(turn) * x) / (radius * squeeze)
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
    softness = random.uniform(0.6, 1.6) / (radius * squeeze)
    return torch.from_numpy(np.clip(0.5 + (1 - edge) / softness, 0, 1)).float()


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
def photographs(test: bool) -> tuple[Tensor, ...]:
    """Photographs in colour, [3, H, W] bytes each."""
    return tuple(_sample(name) for name in PHOTOGRAPHS[test])


@functools.cache
def textures(test: bool) -> tuple[Tensor, ...]:
    """Grey textures, in three equal channels."""
    return tuple(_sample(name) for name in TEXTURES[test])


def _sample(name: str) -> Tensor:
    folder = os.path.dirname(need("skimage.data", "scikit-image").__file__)
    return read_image(os.path.join(folder, name))
