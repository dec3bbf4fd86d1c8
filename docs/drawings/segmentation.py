"""Interactive segmentation: an image and two maps of clicks go in, a mask comes out."""

import base64
import io
from typing import Any

import numpy as np

from treadle.recipes.segment import Click, distance_maps, make_scene, next_click

from .canvas import Canvas
from .learned import Learned

SCENE, PIXELS = 1, 128
BESIDE = (Click(100, 30, positive=False), Click(52, 108, positive=False))
RULES = """.on { fill: #2fc79a; stroke: #ffffff; stroke-width: 2 }
.off { fill: #e0413a; stroke: #ffffff; stroke-width: 2 }
"""
SIDE, LEFT, MASK = 150, 24, 546


def make_images() -> dict[str, Any]:
    """A generated scene, the maps of some clicks on it, and the mask that is wanted, as addresses of images."""
    scene = make_scene(SCENE, PIXELS)
    first = next_click(np.zeros_like(scene.mask, bool), scene.mask)  # into the middle of the object
    clicks = [first, *BESIDE]
    near = 255 * np.exp(-distance_maps(clicks, (PIXELS, PIXELS)).numpy() / 24)
    return {
        "clicks": [list(click) for click in clicks],
        "image": address(scene.image.permute(1, 2, 0).numpy(), "JPEG", quality=85),
        "positive": address(near[0], "JPEG", quality=70),
        "negative": address(near[1], "JPEG", quality=70),
        "mask": address(255 * (scene.mask == 1), "PNG"),
    }


def address(pixels: np.ndarray, kind: str, **options: int) -> str:
    """An image that lies in the text of its address."""
    from PIL import Image  # one of the extra "vision"

    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def segmentation() -> str:
    """The picture as SVG."""
    images = IMAGES.data()
    title = (
        "Interactive segmentation: an image of three channels and two maps, of clicks on the object and on the"
        " background, go into a network; out comes a mask; a click where it is wrong changes it"
    )
    sheet = Canvas(720, 598, title, RULES)
    rows = {
        "image": (52, "image: red, green, blue"),
        "positive": (232, "clicks on the object"),
        "negative": (412, "clicks on the background"),
    }
    for name, (y, words) in rows.items():
        _image(sheet, LEFT, y, images[name])
        sheet.text(LEFT, y - 10, words, "small left")
        sheet.arrow(
            [(LEFT + SIDE + 8, y + SIDE / 2), (286, y + SIDE / 2), (286, 307), (320, 307)], head=name == "image"
        )
    for row, column, positive in images["clicks"]:
        place = LEFT + (column + 0.5) * SIDE / PIXELS, 52 + (row + 0.5) * SIDE / PIXELS
        sheet.circle(*place, 7, kind="on" if positive else "off")
    sheet.text(LEFT + SIDE + 20, 112, "3 channels", "small faint left")
    sheet.text(LEFT + SIDE + 20, 296, "1 channel", "small faint left")
    sheet.text(LEFT + SIDE + 20, 506, "1 channel", "small faint left")
    sheet.box(402, 307, 160, 92, "network", "reads 5 channels")
    sheet.arrow([(482, 307), (MASK - 8, 307)])
    _image(sheet, MASK, 232, images["mask"])
    sheet.text(MASK + SIDE, 222, "the mask that is wanted", "small right")
    sheet.arrow(
        [(MASK + SIDE / 2, 232 + SIDE + 8), (MASK + SIDE / 2, 487), (LEFT + SIDE + 130, 487)], "late", dashed=True
    )
    sheet.text(MASK + SIDE / 2 - 12, 474, "wrong somewhere? click there", "small late right")
    return sheet.svg()


def _image(sheet: Canvas, x: float, y: float, address: str) -> None:
    size = f'x="{x}" y="{y}" width="{SIDE}" height="{SIDE}"'
    sheet.add(f'<image {size} href="{address}"/>')
    sheet.add(f'<rect class="grid" {size}/>')


IMAGES = Learned("segmentation", make_images, same=lambda old, new: old.keys() == new.keys())
