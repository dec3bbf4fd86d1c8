"""What was made of a network last: shared as long as the network is as it was then, made once more when it is not."""

import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from torch import nn

from treadle.compiler.module_contents import tensors_of
from treadle.protocol import is_lazy
from treadle.running.likeness import Likeness, likeness

T = TypeVar("T")

HELD_BYTES = 1 << 26
"""What is made of networks up to this size is kept for those to come; of a larger one while somebody has it."""


class MadeLast(Generic[T]):
    """What was made last, by network; a network is compared with its copy before each use, number by number.

    Args:
        make: from a network and, where it differs from what it was in its numbers alone, what was made of it last.
        copy_of: the copy of the network that is in what was made.

    Example:
        >>> import torch, treadle as td
        >>> from treadle.running.copies import evaluated_copy
        >>> from treadle.running.made_last import MadeLast
        >>> copies = MadeLast(lambda network, before: evaluated_copy(network), lambda copied: copied)
        >>> cell = td.GRUCell(3, 4)
        >>> first = copies.of(cell)
        >>> copies.of(cell) is first
        True
        >>> _ = torch.nn.init.zeros_(cell.weight_hh)
        >>> copies.of(cell) is first
        False
    """

    def __init__(self, make: Callable[[Any, T | None], T], copy_of: Callable[[T], nn.Module]):
        self._make, self._copy_of = make, copy_of
        self._held: weakref.WeakKeyDictionary[Any, T] = weakref.WeakKeyDictionary()
        self._used: weakref.WeakKeyDictionary[Any, weakref.ref[T]] = weakref.WeakKeyDictionary()

    def of(self, network: Any) -> T:
        """What is made of a network as it is now."""
        reference = self._used.get(network)
        found = None if reference is None else reference()
        like = Likeness.OTHER if found is None else likeness(network, self._copy_of(found))
        if found is not None and like is Likeness.SAME:
            return found
        made = self._make(network, found if like is Likeness.OTHER_NUMBERS else None)
        self._held.pop(network, None)
        self._used[network] = weakref.ref(made)
        if not is_lazy(network) and sum(tensor.nbytes for tensor in tensors_of(network).values()) <= HELD_BYTES:
            self._held[network] = made
        return made
