"""Where a network's data came from: the columns of its tables beside those that it reads, and how sets were split."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Source:
    """The roles of a table's columns, and the split, as a model file keeps them.

    Attributes:
        series_id: the column that says to which series or sequence a row belongs; None if there is none.
        time: the column of times; None if there is none.
        answers: the columns of what is to be predicted, also of labels.
        sequences: whether rows of a flat table were read as labelled sequences.
        split: ``"time"`` or ``"series"``; None where neither has a meaning.
        seed: random seed of a split by series.

    Example:
        >>> from treadle.training import Source
        >>> Source.from_json(Source(series_id="unit", answers=("rul",)).as_json())
        Source(series_id='unit', time=None, answers=('rul',), sequences=False, split=None, seed=0)
    """

    series_id: str | None = None
    time: str | None = None
    answers: tuple[str, ...] = ()
    sequences: bool = False
    split: str | None = None
    seed: int = 0

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return dataclasses.asdict(self) | {"answers": list(self.answers)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Source":
        """The inverse of `as_json`.

        Raises:
            ValueError: something is of another type.
        """
        found = cls(**{**values, "answers": tuple(values["answers"])})
        texts = [found.series_id, found.time, *found.answers]
        if not all(text is None or isinstance(text, str) for text in texts) or None in found.answers:
            raise ValueError("columns of the table")
        if type(found.sequences) is not bool or type(found.seed) is not int or found.seed < 0:
            raise ValueError("the split")
        if found.split not in (None, "time", "series"):
            raise ValueError(f"split is {found.split!r:.40}")
        return found
