"""Evaluation: a simulated user clicks into the largest error until the mask is good."""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from treadle.errors import DataError
from treadle.recipes.segment.clicks import IGNORED, next_click
from treadle.recipes.segment.images import Example
from treadle.recipes.segment.segmenter import Segmenter

MOST_CLICKS = 20
"""Maximum number of clicks per object."""
TARGETS = (0.85, 0.90)
"""The target IoUs, as usually reported."""


def iou(predicted: NDArray[np.bool_], mask: NDArray[np.uint8]) -> float:
    """Intersection over union of a selection [H, W] and a mask that is 1 on the object, 0 elsewhere, 255 ignored.

    Example:
        >>> import numpy as np
        >>> from treadle.recipes.segment import iou
        >>> iou(np.array([[True, True, True]]), np.array([[1, 0, 255]], np.uint8))
        0.5
    """
    counts = mask != IGNORED
    predicted, truth = predicted & counts, mask == 1
    union = (predicted | truth).sum()
    return float((predicted & truth).sum() / union) if union else 1.0


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The IoU after each click, by example."""

    names: tuple[str, ...]
    ious: NDArray[np.float64]
    """[N, clicks]: after the first, second, … click."""

    def clicks_to(self, target: float) -> NDArray[np.int64]:
        """[N]: clicks that each example took to reach the target IoU; the maximum if it never did."""
        reached = self.ious >= target
        return np.where(reached.any(1), reached.argmax(1) + 1, self.ious.shape[1])

    def failures(self, target: float) -> int:
        """Number of examples that never reached it."""
        return int((~(self.ious >= target).any(1)).sum())

    def mean_iou(self) -> NDArray[np.float64]:
        """[clicks]: the mean over examples."""
        return self.ious.mean(0)

    def as_dict(self) -> dict[str, object]:
        """All figures, as JSON has them."""
        return {
            "examples": len(self.names),
            "most clicks": self.ious.shape[1],
            "clicks": {f"{t:.2f}": float(self.clicks_to(t).mean()) for t in TARGETS},
            "never": {f"{t:.2f}": self.failures(t) for t in TARGETS},
            "mean IoU by clicks": [round(float(value), 4) for value in self.mean_iou()],
        }


def evaluate(
    segmenter: Segmenter,
    examples: Iterable[Example],
    clicks: int = MOST_CLICKS,
    follow: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Evaluate by a simulated user, who selects the object of each example, each click into the largest error.

    ``clicks`` is the maximum per object; ``follow`` is called with the number of examples done.

    Raises:
        DataError: there is no example, or one without an object.

    Source: Xu et al. 2016, section 4; the next click as in Li, Chen and Koltun, *Interactive image segmentation with
    latent diversity*, CVPR 2018.

    Example:
        >>> from treadle.recipes.segment import Segmenter, TwoStageNetwork, evaluate, make_scene
        >>> segmenter = Segmenter(TwoStageNetwork(channels=(4, 4, 8, 8, 8), width=8), size=64)
        >>> evaluate(segmenter, [make_scene(0, 64, test=True)], clicks=3).ious.shape
        (1, 3)
    """
    names, rows = [], []
    for done, example in enumerate(examples, start=1):
        mask = example.mask
        if not (mask == 1).any():
            raise DataError(f"{example.name or f'example {done}'} has no object to select")
        session, row = segmenter.session(example.image), []
        for _ in range(clicks):
            click = next_click(session.mask, mask)
            row.append(iou(session.click(click), mask) if click else 1.0)
        names.append(example.name)
        rows.append(row)
        follow(done)
    if not rows:
        raise DataError("there is no example to evaluate on")
    return Evaluation(tuple(names), np.array(rows))


def summary(evaluation: Evaluation) -> str:
    """The figures in two lines."""
    most = evaluation.ious.shape[1]
    clicks = ", ".join(
        f"{evaluation.clicks_to(t).mean():.2f} clicks to {t:.0%} IoU ({evaluation.failures(t)} never in {most})"
        for t in TARGETS
    )
    ious = evaluation.mean_iou()
    means = ", ".join(f"{ious[n - 1]:.1%} after {n}" for n in (1, 2, 3, 5, 10, 20) if n <= most)
    return f"{len(evaluation.names)} objects: {clicks}\nmean IoU: {means}"
