"""Training for interactive segmentation: drawn clicks, and clicks into the network's own errors."""

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from treadle.adapt import freeze, parameter_groups
from treadle.errors import DataError
from treadle.recipes.segment.augmentation import augment
from treadle.recipes.segment.click_fcn import ClickFCN
from treadle.recipes.segment.clicks import (
    IGNORED,
    Click,
    ClickSampling,
    add_click,
    distance_maps,
    next_click,
    no_clicks,
)
from treadle.recipes.segment.images import Example, fitted
from treadle.recipes.segment.segmenter import probabilities
from treadle.recipes.segment.two_stage import Seen, TwoStageNetwork
from treadle.training.batches import Epochs
from treadle.training.budget import EarlyStopping
from treadle.training.evaluate import total_loss
from treadle.training.memory import require_memory
from treadle.training.sequences import IGNORED as UNANSWERED
from treadle.training.training_loop import Step, train

PAPER_SIZE = 500
"""Pixels of a side of the images for which the paper gives lengths."""
REFINED = 0.9
"""The share of steps that learn from the clicks of a simulated user."""
ROUNDS = 8
"""The most clicks of a simulated user before a step; fewer are likelier."""
VALIDATED = 3
"""Clicks after which the network is validated."""
VIEWS = 1_000
"""Views of examples that are trained on, where features are kept: several of each, if there are fewer examples."""
MOST_KEPT = 2 * 2**30
"""Bytes of features that are kept in memory."""


class ClickBatch(NamedTuple):
    """A batch for one training step."""

    x: Tensor
    """Images [B, 3, H, W] from 0 to 255."""
    maps: Tensor
    """Distances to the drawn clicks [B, 2, H, W]."""
    y: Tensor
    """[B, H*W] labels, -100 where nothing counts; or [B, H*W, 1] numbers, NaN where nothing counts."""
    masks: NDArray[np.uint8]
    """[B, H, W]"""
    seen: Any
    """What the first stage has seen in the images, if that is kept."""
    lengths: Tensor
    """[B], pixels."""
    resets: None = None


BYTES_PER_PIXEL = 2048
"""Of a batch: what VGG's first layers keep for the gradient, and as much again."""


class Learning:
    """Training of a network for interactive segmentation.

    A tenth of the steps is trained on clicks as the paper draws them, the others on those of a simulated user: one in
    the middle of the object, and up to seven more, each in the middle of the network's largest error. The loss weighs
    wrong and uncertain pixels, which are mostly at edges: see `focal_loss`.

    If the first stage of a `TwoStageNetwork` is frozen, its features of an image are computed once and kept in memory:
    about a thousand views of the examples are then used repeatedly, instead of a new view each time.

    Args:
        model: a `ClickFCN` or a `TwoStageNetwork`; frozen parts stay frozen. It is trained in place, unless a rate is
            0: then a copy with that part frozen is trained. ``learning.model`` is the network that is trained.
        examples: the training set.
        validation: the validation set, which decides which weights are best; scaled down to the size of training.
        size: side of the training crops, in pixels.
        rows: batch size.
        learning_rate: the peak learning rate.
        trunk_rate: learning rate of VGG's convolutions, as a factor of ``learning_rate``; 0 freezes them.
        first_rate: the same for the first of them, which in a `ClickFCN` reads the clicks; by default ``trunk_rate``.
        weight_decay: weight decay of kernels.
        refine: whether to train on a simulated user's clicks, too.
        patience: early stopping after this many validations without a new best.
        seed: random seed of views, clicks and order.

    Raises:
        DataError: there is no example, or one without an object.
        ShapeError: no memory holds a batch.
    """

    def __init__(
        self,
        model: ClickFCN | TwoStageNetwork,
        examples: Sequence[Example],
        validation: Sequence[Example] = (),
        *,
        size: int = 128,
        rows: int = 8,
        learning_rate: float = 1e-3,
        trunk_rate: float = 1.0,
        first_rate: float | None = None,
        weight_decay: float = 1e-4,
        refine: bool = True,
        patience: int | None = None,
        seed: int = 0,
    ):
        if not examples:
            raise DataError("there is no example to train on")
        together = min(rows, len(examples))
        needed = BYTES_PER_PIXEL * together * size**2
        require_memory(needed, f"a batch of {together:,} pieces of {size}x{size} pixels", "pass fewer `rows`")
        shares = {"features.0": trunk_rate if first_rate is None else first_rate, "features": trunk_rate}
        if not all(shares.values()):

            def learns(name: str) -> bool:
                return next((share > 0 for part, share in shares.items() if name.startswith(f"{part}.")), True)

            model = freeze(model, [name for name, _ in model.named_parameters() if learns(name)])
        self.model, self.size, self.learning_rate, self.seed = model, size, learning_rate, seed
        self._examples, self._refine, self._rows = examples, refine, rows
        self._sampling = ClickSampling().scaled(size / PAPER_SIZE)
        self._keeps = isinstance(model, TwoStageNetwork) and not any(
            p.requires_grad for p in model.features.parameters()
        )
        self._kept: dict[tuple[int, int], Seen] = {}
        self._views: dict[tuple[int, int], Example] = {}
        self._bytes = 0
        self.batches = Epochs(self._plan, self._example, batch_of=self._batch)
        self._validation = [
            self._drawn(fitted(example, size), np.random.default_rng([seed, 1, i]))
            for i, example in enumerate(validation)
        ]
        self.stopping = EarlyStopping(patience)
        rates = {part: learning_rate * share for part, share in shares.items()}
        groups = parameter_groups(model, weight_decay, rates=rates)
        self.optimiser = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.99))
        self.done = 0
        """Steps done when it is over."""

    def _plan(self, epoch: int) -> list[list[tuple[int, int]]]:
        order = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self._examples)).tolist()
        items = [(epoch, i) for i in order]
        return [items[i : i + self._rows] for i in range(0, len(items), self._rows)]

    def _example(self, item: tuple[int, int]) -> tuple[Example, list[Click], tuple[int, int]]:
        epoch, i = item
        view = epoch % max(1, VIEWS // len(self._examples)) if self._keeps else epoch
        key = view, i
        found = self._views.get(key)
        if found is None:
            found = augment(self._examples[i], self.size, np.random.default_rng([self.seed, 2, view, i]))
            if self._keeps and self._bytes < MOST_KEPT:
                self._views[key] = found
                self._bytes += found.image.nbytes + found.instances.nbytes
        return *self._drawn(found, np.random.default_rng([self.seed, 3, epoch, i])), key

    def _drawn(self, example: Example, random: np.random.Generator) -> tuple[Example, list[Click]]:
        try:
            return example, self._sampling.draw(example.mask, example.others, random)
        except DataError as error:
            raise DataError(f"{example.name or 'an example'}: {error}") from None

    def _batch(self, items: list[tuple[Example, list[Click], tuple[int, int]]]) -> ClickBatch:
        batch = self._collate([(example, clicks) for example, clicks, _ in items])
        if not self._keeps:
            return batch
        found = [self._seen(key, batch.x[i : i + 1]) for i, (_, _, key) in enumerate(items)]
        image = torch.cat([seen.image for seen in found])
        levels = tuple(torch.cat(parts) for parts in zip(*(seen.levels for seen in found), strict=True))
        return batch._replace(seen=Seen(image, levels))

    @torch.no_grad()
    def _seen(self, key: tuple[int, int], image: Tensor) -> Seen:
        """What the frozen trunk has seen in a view, kept in half the precision if there is room."""
        kept = self._kept.get(key)
        if kept is None:
            seen = self.model.see(image)
            assert isinstance(seen, Seen)
            kept = Seen(seen.image, tuple(level.bfloat16() for level in seen.levels))
            size = sum(tensor.nbytes for tensor in (kept.image, *kept.levels))
            if self._bytes + size <= MOST_KEPT:
                self._kept[key], self._bytes = kept, self._bytes + size
        return Seen(kept.image, tuple(level.float() for level in kept.levels))

    def _collate(self, items: Sequence[tuple[Example, list[Click]]]) -> ClickBatch:
        x = torch.stack([example.image for example, _ in items]).float()
        maps = torch.stack([distance_maps(clicks, x.shape[2:]) for _, clicks in items])
        masks = np.stack([example.mask for example, _ in items])
        labels = torch.from_numpy(masks).flatten(1).long()
        if self.model.outputs == 2:
            y = labels.masked_fill(labels == IGNORED, UNANSWERED)
        else:
            y = labels.float().masked_fill(labels == IGNORED, float("nan"))[..., None]
        return ClickBatch(x, maps, y, masks, None, torch.full((len(items),), labels.shape[1]))

    def _scores(self, seen: Any, maps: Tensor, selected: Tensor | None = None) -> Tensor:
        return self.model.answer(seen, maps, self.model.compare(seen, maps), selected)

    def _run(self, model: Any, batch: ClickBatch, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        maps, selected = batch.maps, None
        seen = batch.seen if batch.seen is not None else model.see(x)
        if self._refine and torch.rand(()) < REFINED:
            fewer = 1 / torch.arange(1.0, ROUNDS + 1)
            maps, selected = self._clicked(batch, seen, 1 + int(torch.multinomial(fewer, 1)))
        return self._scores(seen, maps, selected).flatten(2).movedim(1, 2), None

    @torch.no_grad()
    def _clicked(self, batch: ClickBatch, seen: Any, rounds: int) -> tuple[Tensor, Tensor]:
        """Maps of the clicks of a simulated user, and what was selected before the last of them."""
        maps = torch.stack([no_clicks(mask.shape) for mask in batch.masks])
        selected = torch.zeros(len(maps), 1, *maps.shape[2:])
        self.model.eval()
        for i in range(rounds):
            if i:
                selected = probabilities(self._scores(seen, maps, selected))[:, None]
            predicted = (selected[:, 0] > 0.5).numpy()
            for row, (one, mask) in enumerate(zip(predicted, batch.masks, strict=True)):
                click = next_click(one, mask)
                if click is not None:
                    maps[row] = add_click(maps[row], click)
        self.model.train()
        return maps, selected

    @torch.no_grad()
    def validate(self, model: Any) -> float:
        """1 minus the IoU after some clicks of a simulated user, the mean over the validation set.

        The IoU is that of probabilities, not of a mask: it ranks networks even if neither selects anything yet.
        """
        missing = 0.0
        for i, (example, clicks) in enumerate(self._validation):
            batch = self._collate([(example, clicks)])
            seen = self._seen((-1, i), batch.x) if self._keeps else model.see(batch.x)
            maps, selected = self._clicked(batch, seen, VALIDATED)
            model.eval()
            found = probabilities(self._scores(seen, maps, selected))[0]
            there, object_ = (torch.from_numpy(one) for one in (example.mask != IGNORED, example.mask == 1))
            shared, either = found * object_, torch.maximum(found, object_.float()) * there
            missing += 1 - (shared.sum() / either.sum().clamp(min=1)).item()
        return missing / len(self._validation)

    def steps(self, share_done: Callable[[int], float], **options: Any) -> Generator[Step, None, None]:
        """Train, one step per iteration; the network has the best weights at the end.

        Args:
            share_done: from the number of steps done to the fraction of training that is over.
            **options: ``checkpoint``, ``checkpoint_at``, ``about`` and ``evaluating``, as of `treadle.training.train`.
        """
        every = max(min(len(self.batches), 200), 20)
        self.done = yield from train(
            self.model,
            self.batches,
            self.optimiser,
            share_done,
            learning_rate=self.learning_rate,
            loss_of=focal_loss,
            run=self._run,
            validate=self.validate if self._validation else None,
            evaluate_at=lambda step: step % every == 0,
            stopping=self.stopping,
            **options,
        )
        self.model.eval()


def focal_loss(ys: Tensor, y: Tensor, gamma: float = 2.0) -> tuple[Tensor, Tensor]:
    """Cross-entropy in which a pixel weighs as much as it is wrong: (1 - p)^gamma, for the probability p of its label.

    The weights of each image are scaled so that their mean is 1: an image whose object is nearly right still counts as
    much as another, and what it has to learn, the pixels along the edge, gets all of it. Weights have no gradients.

    Of scores [B, T, K] and labels [B, T], -100 where there is none, it gives the weighted sum and how many labels there
    are; of numbers [B, T, K], the squared errors, which all weigh the same. A ``gamma`` of 0 is plain cross-entropy.

    Source: Lin et al., *Focal loss for dense object detection*, ICCV 2017; scaled as in Sofiiuk, Barinova and Konushin,
    *AdaptIS*, ICCV 2019.

    Example:
        >>> import torch
        >>> from treadle.recipes.segment.segmenter_training import focal_loss
        >>> sure_and_unsure = torch.tensor([[[9.0, 0.0], [0.0, 0.0]]])
        >>> total, count = focal_loss(sure_and_unsure, torch.tensor([[0, 0]]))
        >>> round((total / count).item(), 3), count.item()  # of ln 2 = 0.693, as if there were none but the unsure one
        (0.693, 2)
    """
    if y.is_floating_point():
        return total_loss(ys, y)
    each = F.cross_entropy(ys.movedim(2, 1), y, ignore_index=UNANSWERED, reduction="none")
    there = y != UNANSWERED
    with torch.no_grad():
        weights = (1 - (-each).exp()).pow(gamma) * there
        weights *= there.sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp(min=1e-6)
    return (each * weights).sum(), there.sum()
