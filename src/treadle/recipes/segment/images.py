"""Images and masks from files, and what is refused."""

import dataclasses
import io
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from treadle.atomic import regular
from treadle.errors import DataError
from treadle.recipes.segment.clicks import IGNORED, check_same_size
from treadle.recipes.segment.needs import need

MOST_PIXELS = 50_000_000
"""Of an image or mask that is read."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""What is taken for an image in a folder."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""What is read, whatever a file is called: Pillow knows others, for some of which it starts programs (PostScript)."""
ORIENTATION = 0x0112
"""EXIF's number for how a camera was held."""


@dataclasses.dataclass(frozen=True)
class Example:
    """An image and an object in it.

    Attributes:
        image: [3, H, W], red, green and blue as bytes.
        instances: [H, W], bytes: the number of the object at each pixel, 0 for background, 255 for ignored pixels.
        target: the number of the object to select.
        name: where it is from.
    """

    image: Tensor
    instances: NDArray[np.uint8]
    target: int = 1
    name: str = ""

    def __post_init__(self) -> None:
        check_same_size(self.instances.shape, self.image.shape[1:], f"the mask of {self.name or 'an example'}")

    @property
    def mask(self) -> NDArray[np.uint8]:
        """[H, W]: 1 on the object, 0 elsewhere, 255 for ignored pixels."""
        return np.where(self.instances == IGNORED, IGNORED, self.instances == self.target).astype(np.uint8)

    @property
    def others(self) -> NDArray[np.uint8]:
        """[H, W]: the other objects."""
        return np.where(self.instances == self.target, 0, self.instances)


def read_image(source: str | os.PathLike[str] | bytes, name: str = "") -> Tensor:
    """Read an image: JPEG, PNG, WebP, BMP, TIFF, GIF (its first picture) or PPM.

    Grey images become three equal channels, palettes colours, and what is transparent is dropped; the orientation that
    a camera notes is followed.

    Args:
        source: a path, or the content of a file.
        name: its name in messages.

    Returns:
        [3, H, W] bytes.

    Raises:
        DataError: it is damaged or no image, has 16 or more bits a channel, or more than 50 million pixels.
        OSError: the file cannot be read.
    """
    image = _open(source, name)
    return torch.from_numpy(np.array(image.convert("RGB"))).movedim(2, 0).contiguous()


def read_mask(source: str | os.PathLike[str] | bytes, name: str = "") -> NDArray[np.uint8]:
    """Read a mask: an image of one channel, or with a palette, in which each object has a number of its own.

    0 is the background, and 255 marks ignored pixels, as in PASCAL VOC. If a mask has only the values 0 and 255, or 0,
    128 and 255 as in GrabCut's, 255 is the object, and 128 marks ignored pixels.

    Returns:
        [H, W]: numbers of objects.

    Raises:
        DataError: as for images; and it is a JPEG, has colours, or no object.
        OSError: the file cannot be read.
    """
    name = name or _name_of(source)
    image = _open(source, name, exact=True)
    if image.mode == "1":
        image = image.convert("L")
    if image.mode not in ("L", "P"):
        values = np.array(image.convert("RGB"))
        if (values != values[..., :1]).any():
            raise DataError(
                f"{name} has colours, but the values of a mask are numbers of objects: save it with one channel of 8"
                " bits, or with a palette"
            )
        image = image.convert("RGB").getchannel(0)
    values = np.array(image)
    found = set(np.unique(values).tolist())
    if 255 in found and found <= {0, 128, 255}:
        values = np.select([values == 255, values == 128], [1, IGNORED], 0).astype(np.uint8)
    if not set(np.unique(values).tolist()) - {0, IGNORED}:
        raise DataError(f"{name} has no object: some of its pixels must have another value than 0")
    return values


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width of an image as `read_image` will give it, from its header alone."""

    def upright(image: Any) -> tuple[int, int]:
        width, height = image.size
        on_its_side = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
        return (width, height) if on_its_side else (height, width)

    return _open(path, "", read=upright)


def _whole(image: Any) -> Any:
    image.load()
    image.info.pop("transparency", None)  # it is dropped, and Pillow would warn of it
    return need("PIL.ImageOps", "pillow").exif_transpose(image)


def _open(
    source: str | os.PathLike[str] | bytes, name: str, exact: bool = False, read: Callable[[Any], Any] = _whole
) -> Any:
    """What is read of an image that may be read; ``exact`` if its numbers have to be those that were saved."""
    pillow = need("PIL.Image", "pillow")
    name = name or _name_of(source)
    too_large = f"more than {MOST_PIXELS:,} in all: scale it down"
    with io.BytesIO(source) if isinstance(source, bytes) else open(regular(source), "rb") as stream:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", pillow.DecompressionBombWarning)  # the limit here is lower
                opened = pillow.open(stream, formats=FORMATS)
            with opened as image:
                width, height = image.size
                if width * height > MOST_PIXELS:
                    raise DataError(f"{name} is {width:,}x{height:,} pixels, {too_large}")
                if exact and image.format in ("JPEG", "MPO"):
                    raise DataError(
                        f"{name} is a JPEG, which changes numbers a little, so that the object of a pixel is not"
                        " certain: save masks as PNG"
                    )
                deep = any("16" in str(tile[3]) for tile in image.tile)
                if image.mode.startswith(("I", "F")) or deep:
                    raise DataError(
                        f"{name} has more than 8 bits a channel, but is read with 8: convert it to 8 bits, with the"
                        " brightness that you want to see"
                    )
                return read(image)
        except (DataError, MemoryError):
            raise
        except pillow.DecompressionBombError:
            raise DataError(f"{name} has more pixels than can be meant, {too_large}") from None
        except pillow.UnidentifiedImageError:
            raise DataError(f"{name} is damaged, or no image of a kind that is read: {', '.join(FORMATS)}") from None
        except Exception as error:  # Pillow's readers raise whatever they stumble over
            raise DataError(f"{name} is damaged: Pillow cannot read it ({type(error).__name__}: {error})") from None


def _name_of(source: object) -> str:
    return "the image" if isinstance(source, bytes) else str(source)


def encode_png(pixels: NDArray[np.uint8], **options: int) -> bytes:
    """Pixels [H, W] or [H, W, channels] as a PNG file."""
    stream = io.BytesIO()
    need("PIL.Image", "pillow").fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG", **options)
    return stream.getvalue()


def resize(example: Example, size: tuple[int, int]) -> Example:
    """An example of another size [H, W]; its mask keeps its numbers."""
    if tuple(size) == example.instances.shape:
        return example
    instances = resize_mask(example.instances, size)
    return dataclasses.replace(example, image=resize_image(example.image, size), instances=instances)


def resize_mask(mask: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A mask of another size [H, W], which keeps its numbers."""
    numbers = torch.from_numpy(np.ascontiguousarray(mask))[None, None].float()
    return F.interpolate(numbers, size, mode="nearest-exact")[0, 0].to(torch.uint8).numpy()


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bytes [3, H, W] of another size."""
    if tuple(size) == tuple(image.shape[1:]):
        return image
    floats = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0]
    return floats.round().clamp(0, 255).to(torch.uint8)


def fitted(example: Example, longest: int | None) -> Example:
    """An example whose longer side is not longer than ``longest``; as it is, if there is no limit."""
    height, width = example.instances.shape
    return example if longest is None else resize(example, fitting_size((height, width), longest))


def fitting_size(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """A size [H, W] of the same shape, whose longer side is not longer than ``longest``."""
    factor = min(1.0, longest / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
