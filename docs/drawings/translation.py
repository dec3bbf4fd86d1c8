"""What translators learned: right or not by length, and what one looks at."""

from typing import Any

import torch

from treadle.recipes.translate import Learning, Translator, make_pairs, split
from treadle.recipes.translate.tasks import LONGEST
from treadle.show.lengths import accuracy_by_length, lengths_figure
from treadle.training.budget import ShareDone

from .learned import Learned
from .plots import themed


def learn_lengths() -> dict[str, list[tuple[int, float]]]:
    """The share of exactly right answers by length, up to twice the longest length of the training set."""
    found = {}
    for task in ("reverse", "sort"):
        torch.manual_seed(0)
        pairs = make_pairs(task, 50_000)
        translator = Translator.new(pairs)
        list(Learning(translator, *split(pairs, 0.02)).steps(ShareDone(steps=300)))
        test = make_pairs(task, 2_000, test=True)
        shares = accuracy_by_length([len(pair.source) for pair in test], translator.exact(test))
        found[task] = [(length, round(share, 3)) for length, share in shares]
    return found


def lengths() -> str:
    """What the guide about sequence to sequence shows."""
    return themed(lengths_figure(LENGTHS.data(), LONGEST))


def _as_often_right(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """On average over the lengths, within a tenth."""
    means = [
        {name: sum(share for _, share in shares) / len(shares) for name, shares in one.items()} for one in (old, new)
    ]
    return means[0].keys() == means[1].keys() and all(abs(means[0][name] - means[1][name]) < 0.1 for name in means[0])


LENGTHS = Learned("lengths", learn_lengths, same=_as_often_right)
