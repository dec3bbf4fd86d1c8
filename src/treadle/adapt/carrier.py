"""Who carries a change through a network: part by part, the same part only once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from torch import nn

from treadle.adapt.places import Changed, Places, same
from treadle.adapt.starts import Start
from treadle.errors import AdaptError

Change: TypeAlias = Callable[[str, Any, Places], Changed | None]
Carry: TypeAlias = "Callable[[Carrier, str, Any, Places], Changed]"


@dataclasses.dataclass(frozen=True)
class _Done:
    """What was made of a part: kept with the part itself, so that its identity belongs to nothing else."""

    part: nn.Module
    reads: Places
    new: nn.Module
    gives: Places


class Carrier:
    """Makes the changed copy of a network.

    Args:
        kinds: how the change is carried through parts of each class; the first class that fits counts.
        start: how weights for new features start.
        change: what to make of a part itself: from its path, the part, and what it is to read from now on, to the
            changed part and the places of what that gives; None for a part that is not to be changed.
    """

    def __init__(self, kinds: Sequence[tuple[type, Carry]], start: Start = "zeros", change: Change | None = None):
        self.kinds = kinds
        self.start: Start = start
        self.change = change or (lambda path, module, places: None)
        self._done: dict[int, _Done] = {}

    def carry(self, path: str, module: nn.Module, places: Places) -> Changed:
        """The copy of a part that reads rows with these places, and the places of what it gives."""
        done = self._done.get(id(module))
        if done is not None:  # the same part, at work in two places
            if not same(done.reads, places):
                raise AdaptError(
                    f"{path!r} is the same {type(module).__name__} as another part, which reads other rows from now on:"
                    " give each a module of its own first"
                )
            return done.new, done.gives
        changed = self.change(path, module, places)
        if changed is None:
            changed = next(carry for kind, carry in self.kinds if isinstance(module, kind))(self, path, module, places)
        self._done[id(module)] = _Done(module, places, *changed)
        return changed

    def again(self) -> Carrier:
        """One that has made no more than this one so far, for an attempt."""
        other = Carrier(self.kinds, self.start, self.change)
        other.adopt(self)
        return other

    def adopt(self, other: Carrier) -> None:
        """Take over all that another one has made."""
        self._done |= other._done
