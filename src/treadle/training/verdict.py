"""Predicted numbers judged beside what simpler models say of the same."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from treadle.errors import DataError
from treadle.training.scores import Errors, last_of
from treadle.training.task import Verdict, require_finite

THE_MEAN = "always predicting the training set's mean"
LINEAR = "linear model of the same inputs"


class Rival(NamedTuple):
    """A simpler model that a network has to beat."""

    name: str
    """In scores: ``mean_absolute_error_of_linear``."""
    words: str
    """In the sentence; empty to leave it out there."""
    said: Sequence[Tensor]
    """What it says of each sequence, [T, …] in units; NaN where it says nothing."""


def verdict(
    said: Sequence[Tensor], true: Sequence[Tensor], rivals: Sequence[Rival], what: str, *, last_of_each: str = ""
) -> Verdict:
    """Judge numbers.

    Args:
        said: of each sequence, [T, …] in units.
        true: what is true, of the same shapes; NaN where nothing is known.
        rivals: simpler models; the last of them is what the network is compared with.
        what: how the sentence calls the numbers.
        last_of_each: of what the last steps count for themselves, ``"series"``; of nothing if it is empty.

    Raises:
        DataError: there is no truth that all say something of; the network says what is not finite.
    """
    for rival in rivals:  # compared where all of them say something
        true = [torch.where(one.isnan(), float("nan"), other) for one, other in zip(rival.said, true, strict=True)]
    errors = Errors.of(torch.cat(list(said)), torch.cat(list(true)))
    if not errors.count:
        raise DataError(f"there are no {what} with a target to compare them with")
    require_finite(f"the {what}", math.isfinite(errors.absolute))
    scores, words = dict(errors.scores), [f"{errors} over {errors.count} {what}"]
    for rival in rivals:
        others = Errors.of(torch.cat(list(rival.said)), torch.cat(list(true))).scores
        scores |= {f"{name}_of_{rival.name}": value for name, value in others.items()}
        words += [f"{rival.words}: {others['mean_absolute_error']:.4g}"] if rival.words else []
    skill, compared = _better(scores["mean_absolute_error"], scores[f"mean_absolute_error_of_{rivals[-1].name}"])
    scores["better_by"] = skill
    words.append(compared)
    if last_of_each:
        last = Errors.of(*last_of(said, true))
        scores |= {f"{name}_at_last_step": value for name, value in list(last.scores.items())[:2]}
        words.append(f"at the last step of each {last_of_each}: {last}")
    return Verdict("; ".join(words), scores)


def _better(error: float, than: float) -> tuple[float, str]:
    """The skill: by which share an error is smaller than another, and the same in words."""
    if not than:
        return (float("-inf") if error else 0.0), "which is exact"
    skill = 1 - error / than
    return skill, f"{100 * abs(skill):.1f} % {'better' if skill >= 0 else 'worse'}"
