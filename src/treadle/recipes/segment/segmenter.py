"""A trained network, and its sessions: an image, the clicks so far, and the mask after each."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from treadle.errors import DataError, ModelFileError, ShapeError
from treadle.files import model_file
from treadle.recipes.segment.click_fcn import ClickFCN
from treadle.recipes.segment.clicks import Click, add_click, check_click, no_clicks
from treadle.recipes.segment.images import fitting_size, resize_image
from treadle.recipes.segment.two_stage import TwoStageNetwork

NETWORKS = (ClickFCN, TwoStageNetwork)
"""What a model file may hold."""
LARGEST_SIDE = 4096
"""Pixels of the longer side at which a network may look at images."""


def looked_at(size: int) -> int:
    """The size at which a two-stage network is to look at images, if it has learned from pieces of a size.

    Half as large again: most of such pieces are less than a whole image, so that objects in them are larger than in one
    that is scaled down to the same size.
    """
    return min(size * 3 // 2, LARGEST_SIDE)


class Segmenter:
    """A network for interactive segmentation, with the size to which images are scaled.

    Args:
        model: a `ClickFCN` or a `TwoStageNetwork`.
        size: larger images are scaled down until their longer side has so many pixels, and the mask up again.
        learned_at: side of the training crops, in pixels; scenes to evaluate it on are as large. As ``size``, if it is
            None.

    Raises:
        ShapeError: the size is no number of pixels.

    Example:
        >>> from treadle.recipes.segment import Click, Segmenter, TwoStageNetwork, make_scene
        >>> network = TwoStageNetwork(channels=(4, 4, 8, 8, 8), width=8)  # yours has learned something
        >>> session = Segmenter(network, size=64).session(make_scene(0, 96).image)
        >>> session.click(Click(40, 50)).shape
        (96, 96)
        >>> mask = session.click(Click(3, 5, positive=False))
        >>> session.undo()
        >>> session.clicks
        [Click(row=40, column=50, positive=True)]
    """

    def __init__(self, model: ClickFCN | TwoStageNetwork, size: int = 128, learned_at: int | None = None):
        learned_at = size if learned_at is None else learned_at
        for name, pixels in (("size", size), ("learned_at", learned_at)):
            if not isinstance(pixels, int) or not 1 <= pixels <= LARGEST_SIDE:
                raise ShapeError(f"{name} is from 1 to {LARGEST_SIDE} pixels, but {pixels!r} was passed")
        self.model, self.size, self.learned_at = model.eval(), size, learned_at

    def session(self, image: Tensor) -> "ClickSession":
        """Start a session with an image [3, H, W] of bytes. The network reads it here, once.

        Raises:
            DataError: it is no such image.
        """
        return ClickSession(self, image)

    def save(self, path: str | os.PathLike[str], **notes: Any) -> None:
        """Write network and size to one model file.

        Raises:
            OSError: the file cannot be written.
        """
        model_file.save(path, self.model, {"segmenter": {"size": self.size, "learned_at": self.learned_at, **notes}})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Segmenter":
        """Read what `save` wrote. Nothing that the file names is imported or run.

        Raises:
            ModelFileError: the file is damaged, or holds something else.
            OSError: the file cannot be read.
        """
        notes = model_file.read_notes(path)
        if "segmenter" not in notes:
            raise ModelFileError(
                f"{path} does not hold a network that segments by clicks: make one with"
                " 'treadle segment fit DATA -o MODEL'"
            )
        model = model_file.load(path, cells=NETWORKS)
        model_file.require_finite(path, model)
        try:
            if not isinstance(model, NETWORKS):
                raise ValueError(f"a {type(model).__name__}")
            return cls(model, notes["segmenter"]["size"], notes["segmenter"].get("learned_at"))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(f"{path} is damaged: its notes do not fit its network ({error})") from None


class Answer(NamedTuple):
    """What a session knows after a click: nothing of it is computed again for the next one, nor by undoing one."""

    click: Click | None
    maps: Tensor
    similar: tuple[Tensor, ...]
    selected: Tensor
    """[1, 1, h, w]: probabilities at the size at which the network looks. Those of a large image are made of these when
    they are asked for: kept for each click, they would fill the memory."""


class ClickSession:
    """An image and the clicks so far. Each click is a step from one state to the next.

    What does not depend on clicks (features of the image) is computed once; what a click does not change of the rest
    (distances to other clicks, similarities to them) is kept; undoing goes back to the state before. The state has no
    gradients.
    """

    @torch.inference_mode()
    def __init__(self, segmenter: Segmenter, image: Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8 or 0 in image.shape:
            raise DataError(
                f"an image is [3, H, W] bytes, but was {list(image.shape)} of {image.dtype}: read_image makes one"
            )
        self.model = segmenter.model
        self.size = (int(image.shape[1]), int(image.shape[2]))
        self._inner = fitting_size(self.size, segmenter.size)
        self._seen = self.model.see(resize_image(image, self._inner)[None].float())
        maps = no_clicks(self._inner)
        similar = self.model.compare(self._seen, maps[None])  # pyright: ignore[reportArgumentType]
        nothing = torch.zeros(1, 1, *self._inner)
        self._answers = [Answer(None, maps, similar, nothing)]

    @property
    def kept_bytes(self) -> int:
        """Bytes of memory: features of the image, and what each click keeps."""
        seen = self._seen if isinstance(self._seen, tuple) else (self._seen,)
        parts = [*seen, *((answer.maps, *answer.similar, answer.selected) for answer in self._answers)]
        return sum(one.nbytes for part in parts for one in (part if isinstance(part, tuple) else (part,)))

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_answers": list(self._answers)}  # whatever copies this, the copy goes on by itself

    @property
    def clicks(self) -> list[Click]:
        """The clicks so far, in order."""
        return [answer.click for answer in self._answers[1:] if answer.click is not None]

    @property
    def probability(self) -> NDArray[np.float32]:
        """[H, W], the probability that a pixel is of the object; 0 before the first click."""
        selected = self._answers[-1].selected
        if self._inner != self.size:
            selected = F.interpolate(selected, self.size, mode="bilinear")
        return selected[0, 0].numpy()

    @property
    def mask(self) -> NDArray[np.bool_]:
        """[H, W], where the object is."""
        return self.probability > 0.5

    @torch.inference_mode()
    def click(self, click: Click) -> NDArray[np.bool_]:
        """Add a click.

        Returns:
            The mask [H, W].

        Raises:
            DataError: it lies outside the image.
        """
        check_click(click, self.size)
        before = self._answers[-1]
        inner = Click(*scaled_position(click, self.size, self._inner), click.positive)
        maps = add_click(before.maps, inner)
        similar = self._similar(before.similar, inner)
        scores = self.model.answer(self._seen, maps[None], similar, before.selected)  # pyright: ignore
        self._answers.append(Answer(click, maps, similar, probabilities(scores)[None]))
        return self.mask

    def _similar(self, before: tuple[Tensor, ...], click: Click) -> tuple[Tensor, ...]:
        if isinstance(self.model, ClickFCN):
            return before
        first = all(other.positive != click.positive for other in self.clicks)
        sign = 0 if click.positive else 1
        return self.model.compare_one(self._seen, before, (click.row, click.column), sign, first)  # pyright: ignore

    def undo(self) -> None:
        """Undo the last click. The network computes nothing; without a click nothing happens."""
        if len(self._answers) > 1:
            self._answers.pop()

    def clear(self) -> None:
        """Remove all clicks."""
        del self._answers[1:]


def probabilities(scores: Tensor) -> Tensor:
    """[B, H, W] from scores [B, 2, H, W] (softmax), or [B, 1, H, W] of a Euclidean loss (cut to 0 to 1)."""
    return (scores[:, 1] - scores[:, 0]).sigmoid() if scores.shape[1] == 2 else scores[:, 0].clamp(0, 1)


def scaled_position(click: Click, size: Sequence[int], to: Sequence[int]) -> tuple[int, int]:
    """The pixel of an image of another size that holds the middle of a clicked one."""
    row, column = (int((at + 0.5) * b / a) for at, a, b in zip((click.row, click.column), size, to, strict=True))
    return min(row, to[0] - 1), min(column, to[1] - 1)
